"""The comparison of arms: its numbers, its five forms, and that the page is whole and safe."""

# ruff: noqa: RUF001 - minus signs and dashes are meant

import csv
import errno
import io
import json
import os
import re
from dataclasses import fields, replace
from html.parser import HTMLParser

import numpy as np
import pytest

from recon import MEAN_OF_SITES, DataError, LearningCurve
from recon.comparison.chart import forest_plot
from recon.comparison.claims import Aim, Hypothesis, seeds_needed
from recon.comparison.files import comparison_csv, comparison_text, write_comparison
from recon.comparison.latex import comparison_tex, tex
from recon.comparison.scores import ScoreRow
from recon.comparison.statistics import Interval, holm, paired_difference
from recon.comparison.table import ArmDetails, Difference, compare

GAINS = {"zero_filled": -8.0, "local": -1.0, "fedavg": 0.0, "fedmri": 0.25, "fedpr": 0.75}
SITES = ("north", "south", "west")
CARD = {"data_range": "maximum of the reference volume", "crop": "16x12"}
DETAILS = {
    "zero_filled": ArmDetails(seconds=4),
    "fedavg": ArmDetails(
        bytes_up=1024,
        bytes_down=2048,
        seconds=61.0,
        peak_memory_mb=612.4,
        trials=9,
        parameters_shared=27648,
        parameters_kept=36,
        steps=600,
        chosen={"learning_rate": 0.002},
    ),
    "local": ArmDetails(bytes_up=0, bytes_down=0),
    "fedmri": ArmDetails(flags=("MTF 50 % lower",), label="kept decoder"),
    "fedpr": ArmDetails(bytes_up=100, bytes_down=100, bytes_base=824),
}


def scores(modality="mri", table="together", gains=GAINS, seeds=8):
    """Six volumes at two sites that took part and one unseen; fedmri was run with one seed."""
    rng = np.random.default_rng(0)
    rows = []
    for arm, gain in gains.items():
        for seed in range(1 if arm == "fedmri" else seeds):
            for k, site in enumerate(SITES):
                for v in range(6):
                    psnr = 30 + 2 * k + v / 4 + gain + 0.1 * rng.normal()
                    where = (modality, table, arm, seed, site, site == "west", f"v{v}")
                    rows.append(ScoreRow(*where, psnr, 0.8 + psnr / 500, 10 ** (-psnr / 10)))
    return rows


@pytest.fixture(scope="module")
def compared():
    return compare(scores(), DETAILS, CARD)


@pytest.fixture(scope="module")
def both(compared):
    return [
        compared,
        compare(scores("ct", "noise only", {"fedavg": 0.0, "local": -0.5}), {}, {"window": "full range"}),
    ]


def curve(name=MEAN_OF_SITES, selected=2):
    slices = {"north": 16, "south": 16} if name == MEAN_OF_SITES else {name: 16}
    points = [(0, 25.0), (1, 27.0), (2, 28.0), (3, 27.5)]
    return LearningCurve(name, points, selected, 24, "no improvement for 1 round", slices, 276)


def claims():
    interval = paired_difference(scores(), "fedpr", "fedavg")
    one = Hypothesis(Aim.at_least(0.4), interval).to_json()
    return {"H8": {"mri": one, "ct": one | {"verdict": "undecided", "note": "1 of at least 3 seeds"}}}


class Page(HTMLParser):
    """Checks that elements close in order and collects texts and attributes."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "wbr"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data


def words(html):
    return " ".join(Page(html).text.split())


# Numbers


def test_entries_are_those_of_the_statistics(compared):
    rows = scores()
    assert [entry.arm for entry in compared.arms] == list(DETAILS)
    assert (compared.sites, compared.unseen, compared.subjects) == (("north", "south"), ("west",), 12)
    entries = {entry.arm: entry for entry in compared.arms}
    p_values = {}
    for arm in GAINS.keys() - {"fedavg"}:
        expected = paired_difference(rows, arm, "fedavg")
        assert entries[arm].differences["fedavg"].interval == expected
        # One seed says nothing of training.
        p_values[arm] = 1.0 if arm == "fedmri" else expected.p_value
    adjusted = holm(p_values)
    assert adjusted.pop("fedmri") == 1.0 and entries["fedmri"].differences["fedavg"].p_holm is None
    assert {arm: entries[arm].differences["fedavg"].p_holm for arm in adjusted} == adjusted
    assert "fedavg" not in entries["fedavg"].differences
    for arm, gain in GAINS.items():
        assert entries[arm].psnr.mean == pytest.approx(31 + 0.625 + gain, abs=0.1)
        assert entries[arm].psnr.worst_site == "north"
        assert set(entries[arm].psnr.unseen) == {"west"}
    assert entries["fedpr"].means["ssim"] == pytest.approx(0.8 + entries["fedpr"].psnr.mean / 500)
    assert "foreground_ssim" not in entries["fedpr"].means


def test_bytes_count_the_base_once(compared):
    totals = {entry.arm: entry.details.bytes for entry in compared.arms}
    assert totals == {"zero_filled": None, "local": 0, "fedavg": 3072, "fedmri": None, "fedpr": 1024}


@pytest.mark.parametrize("seeds", [1, 2, 3, 7, 8])
def test_an_adjusted_p_value_stands_only_where_the_seeds_allow_a_verdict(seeds):
    """It is at most the p-value times the number of arms; the others' correction counts every arm."""
    gains = {"fedavg": 0.0, "local": -1.0, "none": 0.0, "small": 0.3, "large": 0.9}
    for entry in compare(scores(gains=gains, seeds=seeds), {}, CARD).arms:
        for difference in entry.differences.values():
            p, adjusted = difference.interval.p_value, difference.p_holm
            assert (adjusted is None) == (seeds < seeds_needed(difference.interval))
            assert adjusted is None or p <= adjusted <= 4 * p + 1e-12 or adjusted == 1
            assert not (adjusted is None and difference.marked)


def test_order_of_rows_does_not_matter(compared):
    rows = scores()
    shuffled = [rows[i] for i in np.random.default_rng(1).permutation(len(rows))]
    assert compare(shuffled, DETAILS, CARD) == compared


def test_draws_are_those_of_every_difference():
    """The smallest p-value is two over the draws plus one."""
    table = compare(scores(gains={"fedavg": 0.0, "local": -5.0}), {}, CARD, against=("fedavg",), draws=199)
    found = {entry.arm: entry.differences for entry in table.arms}["local"]["fedavg"].interval
    assert found == paired_difference(scores(gains={"fedavg": 0.0, "local": -5.0}), "local", "fedavg", draws=199)
    assert found.p_value == pytest.approx(2 / 200)
    with pytest.raises(ValueError, match="draws is 0, expected at least 1"):
        compare(scores(), {}, CARD, draws=0)


def marked(comparison):
    differences = {entry.arm: entry.differences.get("fedavg") for entry in comparison.arms}
    return {arm for arm, difference in differences.items() if difference is not None and difference.marked}


def test_mark_takes_a_small_p_value_and_enough_seeds(compared):
    # fedmri was run with one seed.
    assert marked(compared) == {"zero_filled", "local", "fedpr"}
    gains = {"fedavg": 0.0, "local": -1.0, "none": 0.0, "small": 0.3, "large": 0.9}
    arms = {n: marked(compare(scores(gains=gains, seeds=n), {}, CARD)) for n in (2, 3, 7, 8)}
    assert arms == {
        2: set(),
        3: {"local", "large"},
        7: {"local", "large"},
        8: {"local", "large", "small"},
    }
    interval = Interval(1.0, 0.5, 1.5, 0.001, 3, 20, SITES)
    assert Difference(interval, 0.049).marked
    assert not Difference(interval, 0.05).marked


def test_unfit_input_is_refused(compared, tmp_path):
    rows = scores()
    with pytest.raises(ValueError, match=r"tables \[\('mri', 'together'\), \('ct', 'together'\)\], expected one table"):
        compare([*rows, *scores("ct")], {}, CARD)
    with pytest.raises(ValueError, match=r"tables \[\], expected one"):
        compare([], {}, CARD)
    with pytest.raises(ValueError, match=r"arms \['fedbn', 'central'\] have no scores in \('mri', 'together'\)"):
        compare(rows, {"fedbn": ArmDetails()}, CARD, against=("fedavg", "central"))
    with pytest.raises(ValueError, match="missing are local at south, volume v5, seed 7"):
        compare([r for r in rows if (r.arm, r.site, r.volume, r.seed) != ("local", "south", "v5", 7)], {}, CARD)
    for tables in ([], [compared, compared]):
        with pytest.raises(ValueError, match="expected at least one, each once"):
            write_comparison(tmp_path, tables)
        with pytest.raises(ValueError, match="expected at least one, each once"):
            comparison_text(tables)
    assert os.listdir(tmp_path) == []


# JSON, CSV, text, LaTeX


def test_json_holds_every_number(compared, both, tmp_path):
    hypotheses = claims()
    assert write_comparison(tmp_path, both, hypotheses=hypotheses) == tmp_path / "comparison.html"
    assert sorted(os.listdir(tmp_path)) == [f"comparison.{end}" for end in ("csv", "html", "json", "tex")]
    found = json.loads((tmp_path / "comparison.json").read_text(), parse_constant=pytest.fail)
    assert found["hypotheses"] == hypotheses
    assert [(t["modality"], t["table"]) for t in found["tables"]] == [("mri", "together"), ("ct", "noise only")]
    assert found["tables"][0]["metric_card"] == CARD
    arm, entry = found["tables"][0]["arms"]["fedpr"], next(e for e in compared.arms if e.arm == "fedpr")
    interval = entry.differences["local"].interval
    assert arm["differences"]["local"]["interval"] == [interval.low, interval.high]
    assert arm["differences"]["local"]["p_holm"] == entry.differences["local"].p_holm
    assert arm["psnr"]["sites"] == entry.psnr.sites
    assert (arm["bytes"], arm["facts"]) == (1024, {"bytes_up": 100, "bytes_down": 100, "bytes_base": 824})
    # The order of the published tables.
    assert list(found["tables"][0]["arms"]["fedavg"]["facts"]) == [
        *("chosen", "parameters_shared", "parameters_kept", "bytes_up", "bytes_down"),
        *("steps", "trials", "seconds", "peak_memory_mb"),
    ]
    assert found["tables"][0]["arms"]["local"]["facts"] == {"bytes_up": 0, "bytes_down": 0}
    assert found["tables"][0]["arms"]["fedmri"]["differences"]["fedavg"]["note"].startswith("1 of 8 seeds in common")


def test_no_volume_leaves_the_sites(both, tmp_path):
    named = [replace(row, volume=f"patient {row.volume}") for row in scores()]
    write_comparison(tmp_path, [compare(named, DETAILS, CARD), both[1]])
    assert not any("patient" in path.read_text() for path in tmp_path.iterdir())


def test_csv_has_a_row_per_arm(compared, both):
    rows = list(csv.DictReader(io.StringIO(comparison_csv(both))))
    assert [(r["modality"], r["table"], r["arm"]) for r in rows] == [
        *(("mri", "together", arm) for arm in DETAILS),
        ("ct", "noise only", "fedavg"),
        ("ct", "noise only", "local"),
    ]
    by_arm = {r["arm"]: r for r in rows[:5]}
    for entry in compared.arms:
        row = by_arm[entry.arm]
        assert float(row["psnr_mean"]) == entry.psnr.mean
        assert float(row["psnr_at_unseen_west"]) == entry.psnr.unseen["west"]
        for name, difference in entry.differences.items():
            assert float(row[f"vs_{name}_high"]) == difference.interval.high
            assert row[f"vs_{name}_marked"] == str(difference.marked).lower()
    assert by_arm["fedavg"]["vs_fedavg"] == ""
    assert (by_arm["fedavg"]["chosen"], by_arm["fedmri"]["flags"]) == ("learning_rate 0.002", "MTF 50 % lower")
    assert by_arm["fedmri"]["vs_fedavg_p_holm"] == "" != by_arm["local"]["vs_fedavg_p_holm"]
    assert "metric_card" not in rows[0]  # comparison.json has it, once per table


def test_text_table():
    # Differences without spread: every number is known.
    rows = [replace(r, psnr=30 + GAINS[r.arm], ssim=0.9) for r in scores()]
    rows = [replace(r, psnr=r.psnr - 2) if r.site == "south" else r for r in rows]
    assert comparison_text([compare(rows, DETAILS, CARD)]).splitlines() == [
        "MRI, together: PSNR in dB",
        "                           Δ fedavg                 Δ local   mean        worst   SSIM  west (unseen)"
        "             bytes              time  seeds",
        "-" * 144,
        "zero_filled  −8.00 ★ [−8.00, −8.00]  −7.00 ★ [−7.00, −7.00]  21.00  20.00 south  0.900          22.00"
        "                 –               4 s      8",
        "fedavg                            –  +1.00 ★ [+1.00, +1.00]  29.00  28.00 south  0.900          30.00"
        "             3 KiB  1 min 1 s 612 MB      8",
        "local        −1.00 ★ [−1.00, −1.00]                       –  28.00  27.00 south  0.900          29.00"
        "               0 B                 –      8",
        "fedmri         +0.25 [+0.25, +0.25]    +1.25 [+1.25, +1.25]  29.25  28.25 south  0.900          30.25"
        "                 –                 –      1  ! MTF 50 % lower",
        "fedpr        +0.75 ★ [+0.75, +0.75]  +1.75 ★ [+1.75, +1.75]  29.75  28.75 south  0.900          30.75"
        "  1 KiB base 824 B                 –      8",
        "-" * 144,
        "Each site counts equally; worst is over the sites that took part. Δ: paired difference in PSNR with",
        "its 95 % interval over subjects and seeds. ★: p < 0.05 after Holm's correction over the 4 other",
        "arms, only with at least 3 seeds, 8 where the difference is below 0.5 dB. The interval of an arm",
        "with one seed covers subjects only.",
        "comparison.html says how these numbers were computed.",
    ]


def test_text_keeps_tables_apart(both):
    first, second = comparison_text(both).split("\n\n")
    assert first.startswith("MRI, together")
    assert second.startswith("CT, noise only")
    assert "window: full range" not in second  # on the page
    assert "covers subjects only" not in second


SPECIAL = '\\ { } $ & # % _ ^ ~ < > " [x]\nline – − ★ Δ'


def test_tex_has_no_command_from_outside():
    found = tex(SPECIAL)
    assert found == (
        r"\textbackslash{} \{ \} \$ \& \# \% \_ \textasciicircum{} \textasciitilde{} \textless{} \textgreater{} "
        r"'' {[}x{]} line -- $-$ $^{\star}$ $\Delta$"
    )
    assert tex("plain text, 1.5") == "plain text, 1.5"


def test_tex_tables_are_whole(both):
    rows = [replace(r, site=r.site + " & $x_1$", arm=r.arm + "_%") for r in scores()]
    details = {f"{arm}_%": replace(known, flags=("a}b",)) for arm, known in DETAILS.items()}
    hard = compare(rows, details, {"a_b": "50 % & more"}, against=("fedavg_%", "local_%"))
    for tables in (both, [hard]):
        written = comparison_tex(tables)
        assert written.isascii()
        bare = re.sub(r"\\[{}&%$_#]", "", written)
        assert bare.count("$") % 2 == 0
        depth = 0
        for character in bare:
            depth += {"{": 1, "}": -1}.get(character, 0)
            assert depth >= 0
        assert depth == 0
        environments = re.findall(r"\\(begin|end)\{(table\*|tabular)\}", written)
        assert environments == [("begin", "table*"), ("begin", "tabular"), ("end", "tabular"), ("end", "table*")] * len(
            tables
        )
        for body in bare.split(r"\toprule")[1:]:
            lines = body.split(r"\bottomrule")[0].replace("\\midrule\n", "").strip().split("\n")
            assert all(line.endswith(r" \\") for line in lines)
            assert len({line.count("&") for line in lines}) == 1
    columns = int(re.search(r"\{l\*\{(\d+)\}\{r\}\}", comparison_tex([hard]))[1])
    assert re.sub(r"\\&", "", comparison_tex([hard]).splitlines()[6]).count("&") == columns


# The page


def test_page_says_what_was_found(both, tmp_path):
    text = words(write_comparison(tmp_path, both, hypotheses=claims(), statements={"H8": "prompts"}).read_text())
    for part in (
        "5 arms; 2 sites with 12 test subjects took part; unseen: west; 1 or 8 seeds.",
        "2 arms; 2 sites with 12 test subjects took part; unseen: west; 8 seeds.",
        "H8prompts",
        "≥ +0.4 dB",
        "✓ holds",
        "undecided 1 of at least 3 seeds",
        "fedmrikept decoderMTF 50 % lower",
        "3 KiB",
        "1 min 1 s612 MB",
        "27 648 /36",
        "learning_rate 0.002",
        "data range",
        "window",
    ):
        assert part in text.replace("\xa0", " "), part


def test_page_loads_nothing_and_keeps_tables_apart(both, tmp_path):
    html = write_comparison(tmp_path, both).read_text()
    page = Page(html)
    assert not {"script", "link", "iframe", "img", "a", "form", "base"} & set(page.tags)
    assert not re.search(r"url\(|@import|https?:", html)
    assert "default-src 'none'" in html
    assert page.tags.count("svg") == 2
    assert [name for name, _ in page.attributes].count("viewbox") == 2
    assert re.findall(r"<h2>(.*?)</h2>", html) == ["MRI, together", "CT, noise only"]
    assert ".comparison{" in html


def test_everything_from_outside_is_escaped(tmp_path):
    mark = "\"><b onload=x>&'"
    rows = [
        replace(r, modality=r.modality + mark, table=r.table + mark, arm=r.arm + mark, site=r.site + mark)
        for r in scores()
    ]
    details = {
        arm + mark: ArmDetails(label=mark, flags=(mark,), chosen={mark: mark}, curves=(curve(mark),)) for arm in GAINS
    }
    table = compare(rows, details, {mark: mark}, against=("fedavg" + mark, "local" + mark))
    claim = claims()["H8"]["mri"] | {"aim": mark, "verdict": mark, "note": mark}
    path = write_comparison(tmp_path, [table], hypotheses={mark: {mark: claim}}, statements={mark: mark})
    page = Page(path.read_text())
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert page.text.replace("\xa0", " ").lower().count("<b onload=x>") > 30


def test_every_detail_is_written(tmp_path):
    numbers = {each.name: 1 for each in fields(ArmDetails) if each.name not in ("label", "flags", "chosen", "curves")}
    details = ArmDetails(label="l", flags=("f",), chosen={"mu": 0.5, "name": "x"}, curves=(curve(),), **numbers)
    table = compare(scores(), {"fedavg": details}, CARD)
    text = words(write_comparison(tmp_path, [table]).read_text())
    assert "mu 0.5, name x" in text
    row = next(csv.DictReader(io.StringIO(comparison_csv([table]))))
    assert {each.name for each in fields(ArmDetails)} - {"curves"} <= row.keys()
    assert row["selected_rounds"] == "2 of 3"
    assert {row[name] for name in numbers} == {"1"}
    assert (row["label"], row["flags"], row["chosen"]) == ("l", "f", "mu 0.5, name x")


def test_learning_curves_and_regime_of_every_arm_are_shown(tmp_path):
    alone = tuple(curve(site, selected=round_) for site, round_ in (("north", 1), ("south", 2)))
    details = {
        "fedavg": ArmDetails(curves=(curve(),), selected_steps=24),
        "local": ArmDetails(curves=alone, selected_steps=24),
    }
    table = compare(scores(), details, CARD)
    html = write_comparison(tmp_path, [table]).read_text()
    text = words(html)
    for part in ("fedavg: round 2 selected", "mean of the sites north south", "16 at each of 2 sites", "local, south"):
        assert part in text, part
    assert html.count('r="6"') == 3  # a ring on each of three lines
    lines = comparison_text([table]).splitlines()[-4:]
    assert [re.split(r"\s{2,}", line) for line in lines] == [
        ["training", "training slices", "rounds", "selected", "steps at the selected round", "parameters", "ended"],
        ["fedavg", "16 at each of 2 sites", "3", "2", "24", "276", "no improvement for 1 round"],
        ["local, north", "16", "3", "1", "24", "276", "no improvement for 1 round"],
        ["local, south", "16", "3", "2", "24", "276", "no improvement for 1 round"],
    ]
    found = json.loads((tmp_path / "comparison.json").read_text())["tables"][0]["arms"]
    assert found["local"]["facts"]["curves"] == [each.to_json() for each in alone]
    assert found["fedavg"]["facts"]["selected_steps"] == 24 and "curves" not in found["fedpr"]["facts"]
    rows = list(csv.DictReader(io.StringIO(comparison_csv([table]))))
    assert [row["selected_rounds"] for row in rows[:3]] == ["2 of 3", "north 1 of 3; south 2 of 3", ""]


def test_tables_without_learning_curves_have_no_column_of_them(compared):
    assert not {"selected_steps", "selected_rounds"} & set(comparison_csv([compared]).splitlines()[0].split(","))


# The chart


def difference(found, low, high, seeds=8, p=0.001):
    return Difference(Interval(found, low, high, p, seeds, 20, ("north",)), p)


def test_chart_is_to_scale():
    rows = [
        ("a", difference(0.0, -0.5, 0.5, p=1.0)),
        ("b", difference(1.0, 0.5, 1.5)),
        ("c", difference(-1, -2, 0, 1, 1.0)),
    ]
    svg = forest_plot("t", rows, "dB")
    circles = re.findall(r'<circle class="(\w+)" cx="([\d.]+)" cy="([\d.]+)"', svg)
    assert [style for style, _, _ in circles] == ["hollow", "dot", "hollow"]
    a, b, c = (float(x) for _, x, _ in circles)
    assert b - a == pytest.approx(a - c, abs=0.2)
    assert float(re.search(r'class="zero" x1="([\d.]+)"', svg)[1]) == pytest.approx(a, abs=0.1)
    whiskers = re.findall(
        r'<line class="whisker"( stroke-dasharray="3 3")? x1="([\d.]+)" y1="[\d.]+" x2="([\d.]+)"', svg
    )
    assert [bool(dash) for dash, _, _ in whiskers] == [False, False, True]
    assert float(whiskers[2][2]) - float(whiskers[2][1]) == pytest.approx(2 * (b - a), abs=0.3)
    ticks = re.findall(r'<text x="([\d.]+)" y="[\d.]+" text-anchor="middle">([^<]*)</text>', svg)
    position = {text: float(x) for x, text in ticks}
    assert position["+1"] == pytest.approx(b, abs=0.2)
    assert position["\N{MINUS SIGN}1"] == pytest.approx(c, abs=0.2)


def test_chart_cuts_off_what_is_far_away():
    rows = [(f"near {i}", difference(0.1 * i, 0.1 * i - 0.3, 0.1 * i + 0.3)) for i in range(-4, 5)]
    far = ("zero_filled", difference(-9.0, -9.2, -8.8))
    svg = forest_plot("t", [far, *rows], "dB")
    assert svg.count("<circle") == 9
    assert svg.count("<polygon") == 1
    alone = forest_plot("t", rows, "dB")
    assert "<polygon" not in alone
    # The number is shown even so.
    assert "\N{MINUS SIGN}9.00 [\N{MINUS SIGN}9.20, \N{MINUS SIGN}8.80]" in svg
    # Marks and whiskers stay between the axis' ends, names left of them.
    grid = [float(x) for x in re.findall(r'class="(?:grid|zero)" x1="([\d.]+)"', svg)]
    spots = [float(x) for x in re.findall(r'(?:cx|class="whisker" x1)="([\d.]+)"', svg)]
    assert min(grid) <= min(spots) <= max(spots) <= max(grid)


def test_labels_of_thirty_arms_do_not_overlap():
    rows = [(f"arm_with_quite_a_long_name_{i:02d}_{'x' * i}", difference(0.1, -0.5, 0.5)) for i in range(30)]
    svg = forest_plot("t", rows, "dB")
    labels = re.findall(r'class="name" x="([\d.]+)" y="([\d.]+)" text-anchor="end">([^<]*)<', svg)
    ys = [float(y) for _, y, _ in labels]
    assert min(np.diff(ys)) >= 15
    # 11.5 px sans serif: 7 px per character are enough.
    assert all(float(x) - 7 * len(text) >= 0 for x, _, text in labels)
    # The whole name is there on hovering.
    assert all(f"<title>{name}: +0.10 dB" in svg for name, _ in rows)


def test_chart_of_equal_arms():
    svg = forest_plot("t", [("same", difference(0.0, 0.0, 0.0, p=1.0))], "dB")
    assert svg.count("<circle") == 1
    assert "nan" not in svg


# Writing


def test_full_disk_leaves_the_old_tables(both, tmp_path, monkeypatch):
    write_comparison(tmp_path, both)
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"comparison\.json: cannot be written"):
        write_comparison(tmp_path, both[:1])
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before
