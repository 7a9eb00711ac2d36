"""The report: its numbers, what leaves a site, and that the page is whole, safe and self-contained."""

import base64
import errno
import hashlib
import io
import json
import math
import os
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from recon import DataError, psnr, summarize, text_table, write_report, write_site_report
from recon.evaluation.metrics import METRICS
from recon.report.charts import Series, dot_plot, line_chart, nice_ticks
from recon.report.pictures import ERROR_MAGNIFICATION, gray_png, signed_png, site_pictures
from recon.report.results import PUBLISHED, score_rows
from recon.report.style import _DARK, _LIGHT
from recon.report.text import byte_count, duration, number

from .example_results import ARMS, PICTURES, example_results


@pytest.fixture
def results():
    return example_results()


class Page(HTMLParser):
    """Checks that elements close in order and collects texts, attributes and images."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], set(), [], ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data


FIXED = {*PUBLISHED, "curves", "pictures", "reference", "volumes", "volume", *METRICS}
FIXED |= {
    "coils",
    "mask_family",
    "effective_acceleration",
    "noise_std",
    "split",
    "train",
    "validation",
    "test",
}
FIXED |= {"parameters_shared", "parameters_kept", "synthetic", "unseen", "round", "site", "loss"}
FIXED |= {"bytes_down", "bytes_up", "score_before", "score_after", "name", "where", "images"}


def hostile(value, mark="\"><b onload=x>&'"):
    """The results with markup in every text and every key that comes from outside."""
    if isinstance(value, dict):
        return {k if k in FIXED else k + mark: hostile(v, mark) for k, v in value.items()}
    if isinstance(value, list):
        return [hostile(v, mark) for v in value]
    return value + mark if isinstance(value, str) else value


# Numbers


def test_json_holds_the_published_schema(results, tmp_path):
    assert write_report(tmp_path, results) == tmp_path / "report.html"
    assert sorted(os.listdir(tmp_path)) == ["report.html", "report.json"]
    report = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    assert {
        "metric_card",
        "arms",
        "bytes",
        "seconds",
        "versions",
        "sites",
        "recipe",
        "claims",
    } == report.keys()
    assert list(report["arms"]) == list(ARMS)
    for arm, gain in ARMS.items():
        entry = report["arms"][arm]
        assert entry["sites"]["north"] == results["arms"][arm]["sites"]["north"]
        # The unseen site is in neither.
        assert entry["mean"]["psnr"] == pytest.approx(27.0 + gain, rel=1e-12)
        assert entry["worst"] == pytest.approx(
            {"psnr": 26 + gain, "ssim": (26 + gain) / 40, "nmse": 1 / (26 + gain)}, rel=1e-12
        )


def test_summary_skips_what_a_site_lacks():
    rows = [{"psnr": 30.0, "nmse": 0.1}, {"psnr": 20.0, "nmse": 0.3}, {"residual": 1.5}]
    expected = {
        "mean": {"psnr": 25.0, "nmse": 0.2, "residual": 1.5},
        "worst": {"psnr": 20, "nmse": 0.3, "residual": 1.5},
    }
    for order in (rows, rows[::-1]):
        summary = summarize(order)
        assert {name: pytest.approx(values) for name, values in expected.items()} == summary


def test_rows_mark_the_best_and_subtract_the_method(results):
    results["arms"]["tv"]["sites"]["north"] |= {"ssim": 0.99}
    rows = {row.name: row for row in score_rows(results)}
    assert list(rows) == ["north", "clinic", "mean", "worst", "unseen"]
    assert [row.kind for row in rows.values()] == ["site", "site", "summary", "summary", "unseen"]
    fedavg, zero_filled, tv = rows["north"].cells
    assert zero_filled.best == frozenset()
    assert tv.best == {"ssim"}
    assert fedavg.best == {"psnr", "nmse"}
    assert tv.difference["psnr"] == pytest.approx(4.0 - 5.5)
    assert fedavg.difference == {}


def test_method_may_be_any_arm(results):
    results["method"] = "tv"
    own, _, fedavg = score_rows(results)[0].cells
    assert own.difference == {} and fedavg.difference["psnr"] == pytest.approx(1.5)
    assert text_table(results).splitlines()[1].split() == ["tv", "zero_filled", "fedavg"]
    results["method"] = "fedprox"
    with pytest.raises(ValueError, match=r"method is 'fedprox', expected one of the arms, \['zero_filled'"):
        score_rows(results)


def test_arms_must_have_the_same_sites(results, tmp_path):
    del results["arms"]["tv"]["sites"]["unseen"]
    with pytest.raises(ValueError, match=r"arm tv has sites \['north', 'clinic'\], expected those of every arm"):
        write_report(tmp_path, results)
    assert os.listdir(tmp_path) == []


def test_no_arms_is_an_error():
    with pytest.raises(ValueError, match="hold no arms"):
        text_table({})


def test_text_table(results):
    assert text_table(results).splitlines() == [
        "PSNR in dB and SSIM",
        "              fedavg   zero_filled            tv",
        "------------------------------------------------",
        "north   31.50 0.787*  26.00 0.650   30.00 0.750",
        "clinic  33.50 0.838*  28.00 0.700   32.00 0.800",
        "------------------------------------------------",
        "mean    32.50 0.812*  27.00 0.675   31.00 0.775",
        "worst   31.50 0.787*  26.00 0.650   30.00 0.750",
        "------------------------------------------------",
        "unseen  29.50 0.738*  24.00 0.600   28.00 0.700",
        "------------------------------------------------",
        "* best PSNR of the row; mean and worst over the sites that took part",
    ]


def test_site_without_reference_shows_its_residual(results, tmp_path):
    for arm, value in zip(ARMS, (2.0, 1.25, 1.05), strict=True):
        results["arms"][arm]["sites"]["clinic"] = {"residual": value, "volumes": []}
    for one in results["pictures"]["clinic"]:
        del one["images"]["reference"]
    assert "residual 1.05*" in text_table(results)
    page = Page(write_report(tmp_path, results).read_text())
    assert "residual 1.25" in " ".join(page.text.split())
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["arms"]["tv"]["sites"]["clinic"] == {"residual": 1.25, "volumes": []}
    assert report["arms"]["tv"]["mean"] == pytest.approx({"psnr": 30.0, "ssim": 0.75, "nmse": 1 / 30, "residual": 1.25})


def test_numbers_of_numpy_and_infinity(results, tmp_path):
    results["arms"]["fedavg"]["sites"]["north"] |= {"psnr": math.inf, "ssim": np.float32(0.5)}
    results["seconds"] = torch.tensor(2.0)
    page = write_report(tmp_path, results).read_text()
    report = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    assert report["arms"]["fedavg"]["sites"]["north"]["psnr"] is None
    assert report["arms"]["fedavg"]["sites"]["north"]["ssim"] == 0.5
    assert report["seconds"] == 2.0
    assert "∞ dB" in page


def test_written_numbers():
    minus = "\N{MINUS SIGN}"
    assert [number(v, 2) for v in (-1.234, -0.001, 0.0)] == [f"{minus}1.23", "0.00", "0.00"]
    assert number(1.5, 1, sign=True) == "+1.5"
    assert number(None, 2) == number(math.nan, 2) == "\N{EN DASH}"
    assert [byte_count(v) for v in (0, 1023, 1024, 1536 * 1024)] == ["0 B", "1023 B", "1 KiB", "1.5 MiB"]
    assert [duration(v) for v in (9.4, 59.6, 492.4, 7265)] == ["9 s", "1 min 0 s", "8 min 12 s", "2 h 1 min"]


# What leaves a site


def test_measured_data_stay_at_the_site(results, tmp_path):
    html = write_report(tmp_path, results).read_text()
    report = json.loads((tmp_path / "report.json").read_text())
    assert "clinic_0.h5" not in html + json.dumps(report)
    assert all(entry["sites"]["clinic"]["volumes"] == [] for entry in report["arms"].values())
    assert len(report["arms"]["tv"]["sites"]["north"]["volumes"]) == 2
    alts = [value for tag, name, value in Page(html).attributes if (tag, name) == ("img", "alt")]
    assert sum("site north" in alt for alt in alts) == 2 * PICTURES
    assert not any("site clinic" in alt for alt in alts)
    assert "sites/clinic/report.html" in html

    page = write_site_report(tmp_path / "sites" / "clinic", results, "clinic")
    assert page == tmp_path / "sites" / "clinic" / "report.html"
    own = Page(page.read_text())
    assert "clinic_0.h5" in own.text
    assert sum(tag == "img" and name == "src" for tag, name, _ in own.attributes) == 2 * PICTURES
    assert "north" not in own.text
    scores = json.loads(page.with_name("scores.json").read_text())
    assert scores["tv"]["volumes"] == results["arms"]["tv"]["sites"]["clinic"]["volumes"]


@pytest.mark.parametrize("declared", [None, False, "false", 1])
def test_only_data_declared_synthetic_are_shown(results, tmp_path, declared):
    results["sites"]["north"]["synthetic"] = declared
    if declared is None:
        del results["sites"]["north"]
    html = write_report(tmp_path, results).read_text()
    assert "site north" not in " ".join(value for _, name, value in Page(html).attributes if name == "alt")
    assert "north_0.h5" not in html + (tmp_path / "report.json").read_text()


def test_site_report_needs_a_site(results, tmp_path):
    with pytest.raises(ValueError, match=r"site is 'south', expected one of \['north', 'clinic', 'unseen'\]"):
        write_site_report(tmp_path / "run", results, "south")
    assert os.listdir(tmp_path) == []


# The page


def test_page_loads_nothing(results, tmp_path):
    html = write_report(tmp_path, results).read_text()
    page = Page(html)
    assert not page.tags & {"link", "iframe", "object", "form", "base"}
    addresses = [value for _, name, value in page.attributes if name == "href"]
    assert {"#pictures-0", "#pictures-2", "sites/clinic/report.html"} == set(addresses)
    assert {"pictures-0", "pictures-2"} == {value for _, name, value in page.attributes if name == "id"}
    assert all(value.startswith("data:image/png;base64,") for _, name, value in page.attributes if name == "src")
    assert not re.search(r"url\(|@import|https?:|//[a-z]", re.sub(r"base64,[\w+/=]+", "", html))
    assert "default-src 'none'" in html


def test_the_page_runs_no_script_but_that_of_the_pictures(results, tmp_path):
    html = write_report(tmp_path, results).read_text()
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(value for tag, name, value in Page(html).attributes if (tag, name) == ("meta", "content"))
    assert policy.split("; ")[-1] == f"script-src 'sha256-{digest}'"
    assert not re.search(r"innerHTML|eval|fetch|http", script)


def test_reports_of_run_and_site_link_to_each_other(results, tmp_path):
    shared = write_report(tmp_path, results)
    own = write_site_report(tmp_path / "sites" / "clinic", results, "clinic", shared)
    for page, target, count in ((shared, own, 2), (own, shared, 1)):
        addresses = [value for _, name, value in Page(page.read_text()).attributes if name == "href"]
        assert [(page.parent / address).resolve() for address in addresses if address[0] != "#"] == [target] * count
    assert not [name for _, name, _ in Page(write_site_report(tmp_path, results, "clinic").read_text()).attributes
                if name == "href"]  # fmt: skip


def test_the_method_stands_beside_the_names(results, tmp_path):
    html = write_report(tmp_path, results).read_text()
    table = html[html.index("<table") :]
    assert re.findall(r'<th scope="col"[^>]*>(\w+)</th>', table)[:4] == ["site", "fedavg", "zero_filled", "tv"]
    own = html[html.index('id="pictures-0"') : html.index('id="pictures-2"')]
    assert re.findall(r"<p><b>(\w+)</b>", own) == ["reference", "fedavg", "zero_filled", "tv"] * 2
    assert own.count('<section class="slice">') == 2 and "north_0.h5, slice 2 of 2" in own


def test_scales_are_printed(results, tmp_path):
    north = write_report(tmp_path, results).read_text()
    assert north.count("<span>20 % of max or more</span>") == 4
    assert north.count("<span>\N{MINUS SIGN}20 % of max</span><span>0</span><span>+20 % of max</span>") == 4
    for one in results["pictures"]["north"]:  # nothing to compare with
        one["images"] = {name: one["images"][name] for name in ("reference", "zero_filled", "fedavg")}
    assert write_report(tmp_path, results).read_text().count("<span>+20 % of max</span>") == 2
    for facts in results["sites"].values():
        facts["modality"] = "ct"
    page = write_report(tmp_path, results).read_text()
    for words in ("\N{MINUS SIGN}160 HU", "240 HU", "80 HU or more", "+80 HU", "\N{MINUS SIGN}1001 HU"):
        assert f"<span>{words}</span>" in page, words


@pytest.mark.parametrize("door", ["run", "site"])
def test_everything_from_outside_is_escaped(results, tmp_path, door):
    harmed = hostile(results)
    if door == "run":
        page = Page(write_report(tmp_path, harmed).read_text())
    else:
        site = next(iter(harmed["arms"].values()))["sites"]
        page = Page(write_site_report(tmp_path, harmed, next(iter(site))).read_text())
    assert not any(name.startswith("on") for _, name, _ in page.attributes)
    assert {re.split(r"[-/]", value)[0] for _, name, value in page.attributes if name == "href"} <= {
        "#pictures",
        "sites",
    }
    assert page.text.count("<b onload=x>") > 10


def test_page_says_what_was_run(results, tmp_path):
    text = " ".join(Page(write_report(tmp_path, results).read_text()).text.split())
    for words in (
        "2 sites trained one unrolled network together for 2 rounds",
        "scored only at the end: unseen.",
        "Data of clinic are measured, the others simulated.",
        "The run took 8 min 12 s.",
        "+1.50 dB mean PSNR against tv; smallest at",
        "fedavg is above tv at every site",
        "maximum of the reference volume",
        'name = "fedavg"',
        "random, R = 3.90, 8 coils, noise 0.01",
        "|error|",
        "fedavg \N{MINUS SIGN} tv",
    ):
        assert words in text, words


def test_arms_alone_are_enough(results, tmp_path):
    page = Page(write_report(tmp_path, {"arms": results["arms"]}).read_text())
    assert "26.00 dB" in page.text
    assert "img" not in page.tags


# Pictures and curves


def test_gray_png_is_linear_and_clips():
    image = np.array([[0.0, 0.5, 1.0], [2.0, 4.0, 0.25]])
    decoded = np.asarray(Image.open(io.BytesIO(gray_png(image, 2.0))))
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, [[0, 64, 128], [255, 255, 32]])
    assert not np.asarray(Image.open(io.BytesIO(gray_png(np.zeros((2, 2)), 0.0)))).any()


def test_error_maps_share_the_gray_scale():
    reference = np.zeros((4, 5), dtype=np.complex64)
    reference[1, 2], reference[3, 3] = 2j, 0.5
    estimate = torch.from_numpy(np.abs(reference)) + 0.1
    first, arm = site_pictures({"reference": reference, "tv": estimate})
    assert (first.name, first.error, first.psnr) == ("reference", None, None)
    assert np.asarray(Image.open(io.BytesIO(first.image)))[1, 2] == 255
    error = np.asarray(Image.open(io.BytesIO(arm.error)))
    assert (error == round(255 * ERROR_MAGNIFICATION * 0.1 / 2)).all()
    assert arm.psnr == psnr(np.abs(reference)[None], estimate.numpy()[None])


def test_signed_pictures_are_black_at_zero_and_symmetric():
    picture = Image.open(io.BytesIO(signed_png(np.array([[-3.0, -2.0, 0.0], [1.0, 2.0, 5.0]]), 2.0)))
    colors = np.asarray(picture.convert("RGB"))
    assert colors[0, 2].tolist() == [0, 0, 0]
    assert (colors[0, 0] == colors[0, 1]).all() and (colors[1, 1] == colors[1, 2]).all()
    assert colors[0, 1, 2] > colors[0, 1, 0] and colors[1, 1, 0] > colors[1, 1, 2]  # blue below zero, orange above
    assert np.asarray(picture)[0, 1] + np.asarray(picture)[1, 1] == 2 * np.asarray(picture)[0, 2]


def test_differences_are_those_of_the_method_on_the_scale_of_the_errors():
    images = {"reference": np.full((3, 4), 2.0), "zero_filled": np.zeros((3, 4))}
    images |= {"tv": np.full((3, 4), 1.0), "fedavg": np.full((3, 4), 1.3)}
    images["reference"][0, 0] = 0
    pictures = {p.name: p for p in site_pictures(images, method="fedavg", compared=["reference", "tv", "fedavg"])}
    assert [name for name, picture in pictures.items() if picture.difference] == ["tv"]
    same = site_pictures({"local": np.eye(3), "fedavg": np.eye(3)}, method="fedavg", compared=["local"])
    assert not any(picture.difference for picture in same)
    assert (np.asarray(Image.open(io.BytesIO(pictures["tv"].difference))) == round(127 + 127 * 0.3 / 0.4)).all()
    assert pictures["tv"].error[:4] == b"\x89PNG" and pictures["reference"].error is None


def test_pictures_without_reference_have_no_error_map():
    pictures = site_pictures({"tv": np.full((3, 3), 0.5), "fedavg": np.eye(3)})
    assert [(p.name, p.error, p.psnr) for p in pictures] == [("tv", None, None), ("fedavg", None, None)]
    assert np.asarray(Image.open(io.BytesIO(pictures[0].image)))[0, 0] == 128


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((2, 3, 4)), r"tv has shape \(2, 3, 4\), expected \(height, width\)"),
        (np.full((3, 3), np.nan), "tv holds NaN"),
        (np.ones((3, 4)), r"shapes \[\(3, 3\), \(3, 4\)\], expected one"),
    ],
)
def test_unfit_pictures_are_refused(image, message):
    with pytest.raises(ValueError, match=message):
        site_pictures({"reference": np.eye(3), "tv": image})


def test_embedded_pictures_are_those_given(results, tmp_path):
    page = Page(write_report(tmp_path, results).read_text())
    sources = [value for tag, name, value in page.attributes if (tag, name) == ("img", "src")]
    decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(sources[0].split(",")[1]))))
    reference = results["pictures"]["north"][0]["images"]["reference"]
    np.testing.assert_array_equal(decoded, np.round(255 * (reference / reference.max())))


def test_ticks_enclose_and_are_round():
    rng = np.random.default_rng(1)
    for low, width in zip(rng.normal(scale=50, size=200), 10 ** rng.uniform(-4, 4, size=200), strict=True):
        ticks = nice_ticks(low, low + width)
        assert ticks[0] <= low + 1e-6 * width
        assert ticks[-1] >= low + width - 1e-6 * width
        assert 3 <= len(ticks) <= 8
        mantissa = (ticks[1] - ticks[0]) / 10 ** math.floor(math.log10(ticks[1] - ticks[0]) + 1e-6)
        assert min(abs(mantissa - m) for m in (1, 2, 2.5, 5)) < 1e-6
    assert nice_ticks(3, 3) == sorted(nice_ticks(3, 3))
    assert all(float(t).is_integer() for t in nice_ticks(0, 5, 8, whole=True))


def test_long_names_are_whole_in_the_dot_plot():
    name = "a_site_whose_name_has_sixty_four_letters_" + 23 * "x"
    svg = dot_plot("t", [(name, [20.0, 30.0]), ("b", [25.0, None])], ["tv", "fedavg"], "dB")
    width = float(re.search(r'viewBox="0 0 (\d+)', svg)[1])
    x = float(re.search(rf'<text class="name" x="([\d.]+)"[^>]*>{name}<', svg)[1])
    assert x + 6.5 * len(name) < width  # 6.5: width of a letter


def test_line_chart_draws_values_to_scale():
    points = [(0, 10.0), (1, 20.0), (2, math.nan), (4, 30.0)]
    svg = line_chart("t", [Series("a", points, 0)], "dB")
    spots = [tuple(map(float, p.split(","))) for p in re.search(r'polyline .*?points="(.*?)"', svg)[1].split()]
    (x0, y0), (x1, y1), (x2, y2) = spots
    assert (x1 - x0) * 4 == pytest.approx(x2 - x0, abs=0.5)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.2)
    assert y0 > y2
    assert "a: 10 to 30" in svg
    assert line_chart("t", [Series("a", [], 0)], "dB") == ""


@pytest.mark.parametrize("theme", [_LIGHT, _DARK])
def test_text_and_lines_have_contrast(theme):
    def luminance(color):
        channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(one, other):
        low, high = sorted((luminance(one), luminance(other)))
        return (high + 0.05) / (low + 0.05)

    for ground in ("paper", "panel", "wash"):
        assert min(contrast(theme[name], theme[ground]) for name in ("ink", "soft")) >= 4.5
    assert min(contrast(color, theme["paper"]) for color in theme["colors"]) >= 3


# Writing


def test_full_disk_leaves_the_old_report(results, tmp_path, monkeypatch):
    write_report(tmp_path, results)
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    results["seconds"] = 1.0
    with pytest.raises(DataError, match=r"report\.json: cannot be written \(No space left on device\)"):
        write_report(tmp_path, results)
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before
