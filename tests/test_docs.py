"""README and documentation: commands, links and pictures exist, every public room is documented, the site builds."""

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from federation.cli.main import _parser

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
OURS = [README, *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "howto").glob("*.md"))]
BESIDE = ("data_manifests", "federation/recipes/library", "federation/deploy")
PAGES = [*OURS, *(ROOT / room / "README.md" for room in BESIDE)]
BLOCKS = [block for page in PAGES for block in page.read_text("utf-8").split("\n```")[1::2]]
COMMANDS = sorted({line for block in BLOCKS for line in block.splitlines() if line.startswith("fedrecon ")})


def test_the_readme_is_short_and_starts_with_the_demo_and_the_tests() -> None:
    lines = README.read_text("utf-8").splitlines()
    assert len(lines) <= 120
    assert {"make demo", "make test"} <= {line.split("#")[0].strip() for line in lines[:10]}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_pages_exists(command: str) -> None:
    assert callable(_parser().parse_args(shlex.split(command, comments=True)[1:]).run)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_and_picture_of_a_page_exists(page: Path) -> None:
    text = page.read_text("utf-8")
    targets = re.findall(r"\]\(([^)\s]+)\)|\{image\} (\S+)", text)
    files = [link or image for link, image in targets if not (link or image).startswith("http")]
    assert [file for file in files if not (page.parent / file.split("#")[0]).exists()] == []


def test_pictures_are_small_and_used() -> None:
    text = "".join(page.read_text("utf-8") for page in PAGES)
    pictures = [file for file in (ROOT / "docs" / "pictures").iterdir() if file.suffix in (".png", ".svg")]
    assert {file.suffix for file in pictures} == {".png", ".svg"}
    assert [
        file.name for file in pictures if file.stat().st_size > 200_000 or f"pictures/{file.name}" not in text
    ] == []


@pytest.mark.parametrize("package", ["physics", "recon", "federation"])
def test_every_room_with_public_names_is_on_a_page_of_the_api(package: str) -> None:
    stub = ast.parse((ROOT / package / "__init__.pyi").read_text("utf-8"))
    pages = "".join(page.read_text("utf-8") for page in (ROOT / "docs" / "api").glob("*.rst"))
    documented = re.findall(rf"^\.\. facade:: {package} (.*)$", pages, re.MULTILINE)
    rooms = sorted({line.module or "" for line in stub.body if isinstance(line, ast.ImportFrom)})
    assert sorted(" ".join(documented).split()) == rooms


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_needs_no_network(tmp_path: Path) -> None:
    settings = ("-q", "-W", "--keep-going", "-D", "nb_execution_mode=off", "-d", tmp_path / "doctrees")
    command = (sys.executable, "-m", "sphinx", *settings, "-c", "docs", ".", tmp_path / "site")
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (built.returncode, built.stderr) == (0, "")
    pages = sorted((tmp_path / "site").rglob("*.html"))
    texts = {page.relative_to(tmp_path / "site").as_posix(): page.read_text("utf-8") for page in pages}
    assert "notebooks/04_one_round.html" in texts and "federation/deploy/SECURITY.html" in texts
    assert 'id="physics.CartesianMRI"' in texts["docs/api/mri.html"]
    loaded = re.compile(r"<(?:script|img|link|iframe)\b[^>]*(?:src|href)=\"https?:", re.IGNORECASE)
    assert [name for name, text in texts.items() if loaded.search(text)] == []
