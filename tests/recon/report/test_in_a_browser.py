"""The report in a browser: nothing is wider than the page, and its script works under its own policy."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from recon import write_report, write_site_report

from .example_results import PICTURES, SITES, example_results

pytestmark = pytest.mark.slow

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--virtual-time-budget=2000", "--dump-dom",
)  # fmt: skip
#: Elements that end right of the page or outside their drawing, unless they scroll for themselves.
MEASURE = """
  const page = document.documentElement, beyond = [];
  for (const one of document.querySelectorAll("body *")) {
    const frame = one.getBoundingClientRect(), drawing = one.closest("svg");
    if (one.closest(".scroll, pre, details, .hidden, .view") || !frame.width) continue;
    const end = drawing ? drawing.getBoundingClientRect().right : page.clientWidth;
    const text = !drawing && getComputedStyle(one).display !== "inline" && one.scrollWidth > one.clientWidth + 1;
    if (text || frame.right > end + 1 || frame.left < -1) beyond.push(one.outerHTML.slice(0, 120));
  }
  const shown = [...document.querySelectorAll(".slice")].filter(slice => slice.getBoundingClientRect().height);
  const found = {width: innerWidth, scroll: page.scrollWidth, beyond,
    slices: shown.map(s => s.innerText.split("\\n")[0]),
    least: Math.min(...shown.flatMap(s => [...s.querySelectorAll("img")].map(i => i.parentElement.clientWidth)))};
"""


def in_browser(page: Path, width: int, script: str = "", *, own_script: bool = True) -> dict[str, Any]:
    """What ``MEASURE`` finds after the page has run its own script, if it may, and then ``script``."""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
    if not own_script:
        text = re.sub(r"<script>.*?</script>", "", text, flags=re.S)
    mark = "document.body.dataset.found = JSON.stringify(found);"
    copy = page.with_name("measured.html")
    copy.write_text(text.replace("</body>", f"<script>{{{script}{MEASURE}{mark}}}</script></body>"))
    return json.loads(html.unescape(re.search(r'data-found="(.*?)"', dump(copy, width))[1]))  # type: ignore[index]


def dump(page: Path, width: int) -> str:
    if BROWSER is None:
        pytest.skip("no chromium")
    command = [BROWSER, *OPTIONS, f"--user-data-dir={page.parent / 'profile'}", f"--window-size={width},2000"]
    done = subprocess.run([*command, page.absolute().as_uri()], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """The shared report of sites and arms with long names."""
    results = example_results()
    long = "a_site_with_a_name_of_sixty_four_letters_as_long_as_manifests_do"
    arms = {
        arm if arm != "tv" else "fedavg_mri_finetuned": {
            "sites": {long if site == "north" else site: scores for site, scores in entry["sites"].items()}
        }
        for arm, entry in results["arms"].items()
    }
    for part in ("sites", "pictures"):
        results[part] = {long if site == "north" else site: value for site, value in results[part].items()}
    for slices in results["pictures"].values():
        for one in slices:
            one["images"]["fedavg_mri_finetuned"] = one["images"].pop("tv")
    results["curves"] = [row | {"site": long if row["site"] == "north" else row["site"]} for row in results["curves"]]
    results["arms"] = arms
    return write_report(tmp_path, results)


@pytest.mark.parametrize("width", [500, 1400])
def test_nothing_is_wider_than_the_page(page: Path, width: int) -> None:
    found = in_browser(page, width)
    assert found["width"] == width
    assert found["beyond"] == [] and found["scroll"] <= width
    assert found["least"] >= 140  # pictures in which something can be seen


@pytest.mark.parametrize("width", [500, 1400])
def test_the_report_of_a_site_fits_too(tmp_path: Path, width: int) -> None:
    found = in_browser(write_site_report(tmp_path, example_results(), "clinic"), width)
    assert found["beyond"] == [] and found["scroll"] <= width


def test_one_slice_is_shown_at_a_time_and_all_without_the_script(page: Path) -> None:
    open_sites = len(SITES) - 1
    assert [name.split()[0] for name in in_browser(page, 500)["slices"]] == ["Median"] * open_sites
    choose = 'for (const one of document.querySelectorAll(".tools button:nth-of-type(2)")) one.click();'
    assert [name.split()[0] for name in in_browser(page, 500, choose)["slices"]] == ["Worst"] * open_sites
    without = in_browser(page, 500, own_script=False)
    assert [name.split()[0] for name in without["slices"]] == ["Median", "Worst"] * open_sites
    assert without["beyond"] == [] and without["scroll"] <= 500


def test_cursor_and_zoom_are_those_of_all_pictures_of_a_site(page: Path) -> None:
    script = """
      const [first, second] = document.querySelectorAll(".slices"), view = first.querySelectorAll(".view")[2];
      const frame = view.getBoundingClientRect();
      const at = {clientX: frame.left + 0.25 * frame.width, clientY: frame.top + 0.5 * frame.height, bubbles: true};
      for (const name of ["pointermove", "pointerdown", "pointerup"]) view.dispatchEvent(new PointerEvent(name, at));
      const read = box => [...box.querySelectorAll(".slice:not([hidden]) .view")].map(one => [
        getComputedStyle(one.querySelector("img")).transform, getComputedStyle(one, "::before").left,
        one.clientWidth].join(" "));
      document.body.dataset.read = JSON.stringify([read(first), read(second), first.querySelector(".spot").innerText]);
    """
    in_browser(page, 1400, script)
    dumped = dump(page.with_name("measured.html"), 1400)
    found, other, spot = json.loads(html.unescape(re.search(r'data-read="(.*?)"', dumped)[1]))  # type: ignore[index]
    assert len(found) == PICTURES and len(set(found)) == 1
    matrix, line, width = re.fullmatch(r"matrix\((.*)\) (.*)px (\d+)", found[0]).groups()  # type: ignore[union-attr]
    scale, _, _, _, left, _ = map(float, matrix.split(","))
    assert scale == 2 and left == pytest.approx(-0.25 * float(width), abs=1)  # the point stays where it was
    assert float(line) == pytest.approx(0.25 * float(width), abs=1)
    assert spot == "row 8, column 3"  # of 16 x 12 pixels
    assert other[0].startswith("matrix(1,") or other[0].startswith("none")


def test_the_policy_of_the_page_lets_its_script_run(page: Path) -> None:
    assert dump(page, 500).count('<div class="tools">') == len(SITES) - 1
