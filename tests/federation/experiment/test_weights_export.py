"""`fedrecon weights export`: weights that others can use, and a card that says what they are."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import federation
from federation.cli import main
from recon import open_weights

from ..fake_sites import SMALL, trained_run, write_file, write_site

TINY = [
    *SMALL, "--set", "federation.rounds=2", "--set", "personal.steps=2",
    "--set", "evaluation.arms=['zero_filled', 'local']",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("federation")
    for name in ("north", "south"):
        path = write_site(folder / "sites", name)
        license = 'license = "CC BY 4.0"\n' if name == "north" else ""
        text = path.read_text().replace("[data]", f'[acquisition]\nmodel = "Prisma"\n{license}\n[data]')
        path.write_text(text)
    return trained_run(folder, TINY)


def test_exported_weights_of_a_site_are_the_network_that_it_uses(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, mask = tmp_path / "out", (np.arange(20) % 2 == 0) | (abs(np.arange(20) - 10) < 4)
    assert main(["weights", "export", str(run), "--site", "north", "--out", str(out)]) == 0
    file = out / "fedavg_north.safetensors"
    assert sorted(path.name for path in out.iterdir()) == ["MODEL.md", file.name]
    write_file(tmp_path / "scan.h5", mask=mask)
    expected = federation.load(run, site="north")(tmp_path / "scan.h5")
    np.testing.assert_array_equal(federation.load(file)(tmp_path / "scan.h5"), expected)
    capsys.readouterr()
    assert main(["weights", str(file)]) == 0
    card = capsys.readouterr().out
    assert "the network that the site north uses" in card and "(personal stage), included" in card
    assert "initial values" not in card and open_weights(file).limits["matrix"] == 24


def test_the_card_says_what_the_weights_are(run: Path, tmp_path: Path) -> None:
    assert main(["weights", "export", str(run), "--out", str(tmp_path / "before")]) == 0
    assert "Not evaluated: run `fedrecon evaluate" in (tmp_path / "before" / "MODEL.md").read_text()
    evaluated = Path(shutil.copytree(run, tmp_path / "run"))
    assert main(["evaluate", str(evaluated), "--jobs", "1"]) == 0
    assert main(["weights", "export", str(evaluated), "--out", str(tmp_path / "out")]) == 0
    card = (tmp_path / "out" / "MODEL.md").read_text()
    for words in (
        "# fedavg.safetensors: fedavg",
        "| north | MRI | Prisma | measured | 2 persons in 2 files | 1 person in 1 file | 1 person in 1 file |",
        "- north: CC BY 4.0\n- south: not stated",
        "- 2 sites, 2 of at most 2 rounds of 2 steps at each site, batches of ",
        "not included: name a site to export it",
        "parameters that every site keeps have their initial values",
        "| site | zero_filled | local | fedavg |",
        "| south | ",
        "- Training scans: acceleration at most ",
        "not for diagnosis",
        'name = "fedavg"',
    ):
        assert words in card, words
    assert str(tmp_path) not in card and "patient" not in card


def test_training_starts_from_exported_weights(run: Path, tmp_path: Path) -> None:
    assert main(["weights", "export", str(run), "--out", str(tmp_path / "out")]) == 0
    command = ["train", "fedavg", "--sites", str(run.parent / "sites"), "--out", str(tmp_path / "on")]
    start = ["--start-from", str(tmp_path / "out" / "fedavg.safetensors")]
    short = ["--set", "federation.rounds=1", "--set", "training.steps_per_round=1", "--jobs", "1"]
    assert main([*command, *start, *short]) == 0
    assert main(["weights", "export", str(tmp_path / "on"), "--out", str(tmp_path / "again")]) == 0
    card = (tmp_path / "again" / "MODEL.md").read_text()
    assert "started from `base.safetensors@sha256:" in card and str(tmp_path) not in card


def test_what_cannot_be_exported_is_one_line(run: Path, tmp_path: Path, fails: Callable[..., str]) -> None:
    assert "--out is missing" in fails("weights", "export", run)
    assert "RUN is missing" in fails("weights", "export", "--out", tmp_path / "out")
    assert "weights: out goes with `fedrecon weights export" in fails("weights", "brain-mri", "--out", tmp_path / "out")
    assert "has no site 'east'" in fails("weights", "export", run, "--site", "east", "--out", tmp_path / "out")
    assert "is not a run folder" in fails("weights", "export", tmp_path, "--out", tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    assert "found a folder with files" in fails("weights", "export", run, "--out", tmp_path / "full")
    assert not (tmp_path / "out").exists()
