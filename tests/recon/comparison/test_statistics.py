"""Scores as a table, intervals that cover what they say, and verdicts that follow the protocol."""

import gzip
import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

from recon import DataError
from recon.comparison.claims import Aim, Hypothesis, decide, seeds_needed
from recon.comparison.scores import (
    ScoreRow,
    read_scores,
    select_table,
    site_roles,
    summarize_arm,
    tables_of,
    write_scores,
)
from recon.comparison.statistics import Interval, holm, paired_difference


def row(arm="fedavg", seed=0, site="north", volume="v0", psnr=30.0, **more):
    fixed = {"modality": "mri", "table": "together", "unseen": False, "ssim": 0.9, "nmse": 0.01}
    return ScoreRow(arm=arm, seed=seed, site=site, volume=volume, psnr=psnr, **(fixed | more))


def table(differences, arm="new", reference="fedavg"):
    """Rows of two arms whose differences at site k are ``differences[k]``, ``(volumes, seeds)``."""
    rng = np.random.default_rng(0)
    rows = []
    for k, part in enumerate(differences):
        for (v, s), value in np.ndenumerate(np.asarray(part)):
            # Whole numbers: their differences are exact.
            level = float(rng.integers(20, 40))
            where = {"site": f"site{k}", "volume": f"v{v}", "seed": s}
            rows += [row(reference, psnr=level, **where), row(arm, psnr=level + float(value), **where)]
    return rows


def simulated(rng, shape=(3, 6, 3), subjects=1.0, seeds=0.0, both=0.0):
    n_sites, n_subjects, n_seeds = shape
    return [
        part + subjects * rng.normal(size=(n_subjects, 1)) + both * rng.normal(size=(n_subjects, n_seeds))
        for part in np.broadcast_to(seeds * rng.normal(size=n_seeds), (n_sites, 1, n_seeds))
    ]


def interval(found, low, high, seeds=8, **more):
    return Interval(found, low, high, 0.01, seeds, 20, ("north",), **more)


# The table


def hostile_rows():
    rng = np.random.default_rng(0)
    names = ["plain", 'a,b"c', '"', " spaces ", "Zürich", "tab\there", "'", "-1", "#"]
    return [
        row(name, seed=i, site=name, volume=name, unseen=i % 2 == 0, table=name, psnr=float(rng.normal() * 10**i))
        for i, name in enumerate(names)
    ] + [row(psnr=0.1 + 0.2, ssim=5e-324, nmse=1.7976931348623157e308, foreground_ssim=-0.0)]


def test_scores_come_back_exactly(tmp_path):
    rows = hostile_rows()
    write_scores(tmp_path / "new" / "scores.csv", rows)
    found = read_scores(tmp_path / "new" / "scores.csv")
    assert found == rows
    assert math.copysign(1, found[-1].foreground_ssim) == -1


def test_numpy_numbers_are_written_as_plain_ones(tmp_path):
    write_scores(tmp_path / "scores.csv", [row(psnr=np.float64(31.25), seed=np.int64(3))])
    assert read_scores(tmp_path / "scores.csv") == [row(psnr=31.25, seed=3)]


GOOD = "modality,table,arm,seed,site,unseen,volume,psnr,ssim,nmse,foreground_ssim\n"
LINE = "mri,together,fedavg,0,north,false,v0,30.0,0.9,0.01,\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace("psnr", "snr") + LINE, r"scores\.csv: line 1: found columns .*'snr'.*, expected \['modality'"),
        (GOOD.replace(",ssim", "") + LINE, r"line 1: found columns"),
        ("", r"line 1: found columns \[\], expected"),
        (
            GOOD + LINE + LINE.replace("30.0", "high"),
            r"scores\.csv: line 3: psnr: found 'high', expected a number; mend",
        ),
        (GOOD + LINE.replace("0.9", ""), "line 2: ssim: found '', expected a number"),
        (GOOD + LINE.replace("0.9", "nan"), "line 2: ScoreRow: ssim is nan"),
        (GOOD + LINE.replace("30.0", "inf"), "line 2: ScoreRow: psnr is inf .*leave the volume out"),
        (GOOD + LINE.replace(",0,", ",0.5,"), "line 2: seed: found '0.5', expected a whole number"),
        (GOOD + LINE.replace("false", "no"), "line 2: unseen: found 'no', expected true or false"),
        (GOOD + LINE.replace("north", ""), "line 2: ScoreRow: site is '', expected a name on one line"),
        (
            GOOD + LINE.replace("north", '"nor\nth"'),
            r"line 3: ScoreRow: site is 'nor\\nth', expected a name on one line",
        ),
        (GOOD + LINE.replace("v0,", "v0,v1,"), "line 2: found 12 values, expected 11"),
        (GOOD + LINE.replace("v0", '"v0'), "line 2: found unexpected end of data"),
    ],
)
def test_unfit_files_are_one_line_errors(tmp_path, text, message):
    path = tmp_path / "scores.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_scores(path)
    assert "\n" not in str(caught.value)


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"scores\.csv: cannot be read \(No such file"):
        read_scores(tmp_path / "scores.csv")
    (tmp_path / "scores.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="is not UTF-8 text"):
        read_scores(tmp_path / "scores.csv")


def test_packed_files_are_read_as_they_were(tmp_path):
    rows = [row(), row(volume="v1", psnr=1 / 3)]
    write_scores(tmp_path / "scores.csv", rows)
    packed = gzip.compress((tmp_path / "scores.csv").read_bytes())
    path = tmp_path / "scores.csv.gz"
    path.write_bytes(packed)
    assert read_scores(path) == rows
    for damaged in (packed[:-6], b"modality,table", packed[:12] + b"xxxx" + packed[16:]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"scores\.csv\.gz: is no whole gzip file"):
            read_scores(path)


def test_tables_are_told_apart():
    rows = [row(), row(modality="ct"), row(table="noise only"), row(volume="v1")]
    assert tables_of(rows) == [("mri", "together"), ("ct", "together"), ("mri", "noise only")]
    assert select_table(rows, "mri", "together") == [rows[0], rows[3]]
    mixed = [*rows, *(replace(r, arm="new") for r in rows)]
    with pytest.raises(ValueError, match=r"rows are of the tables .*expected one table"):
        paired_difference(mixed, "new", "fedavg")
    with pytest.raises(ValueError, match="expected one table"):
        summarize_arm(mixed, "new")


def test_a_site_has_one_role():
    rows = [row(site="west", unseen=True), row(site="north"), row(site="east")]
    assert site_roles(rows) == (("east", "north"), ("west",))
    with pytest.raises(ValueError, match=r"\['west'\] are unseen in some rows"):
        site_roles([*rows, row(site="west")])


# One arm


def test_summary_by_hand():
    rows = [row(volume=v, seed=s, psnr=p) for v, s, p in (("a", 0, 30), ("a", 1, 32), ("b", 0, 20), ("b", 1, 22))]
    rows += [row(site="south", psnr=28, nmse=0.5), row(site="west", unseen=True, psnr=10), row("other", psnr=99)]
    found = summarize_arm(rows, "fedavg")
    assert found.sites == {"north": 26.0, "south": 28.0}
    assert found.unseen == {"west": 10.0}
    assert (found.mean, found.worst, found.worst_site, found.seeds) == (27.0, 26.0, "north", 2)
    # A larger error is worse.
    assert summarize_arm(rows, "fedavg", "nmse").worst_site == "south"
    assert summarize_arm(rows[::-1] * 2, "fedavg") == found
    with pytest.raises(ValueError, match="'fedavg' has no score at a site that took part"):
        summarize_arm([row(unseen=True)], "fedavg")


# Intervals


def test_mean_difference_by_hand():
    found = paired_difference(table([[[1, 2], [3, 6]], [[-1, 0]]]), "new", "fedavg")
    assert found.found == (3.0 - 0.5) / 2
    assert (found.seeds, found.subjects, found.sites) == (2, 3, ("site0", "site1"))
    assert found.low < found.found < found.high
    assert found.note == "one subject at site1: the interval does not cover the spread there"


def test_two_subjects_have_the_analytic_interval():
    """Two volumes, one seed: a draw is off by half their difference, either way, with probability 1/4 each."""
    found = paired_difference(table([[[1.0], [3.0]]]), "new", "fedavg", draws=200_000)
    # The weights stretch it by sqrt(2) and the tail divides by sqrt(chi2), one degree of freedom.
    reach = math.sqrt(2) / math.sqrt(scipy.stats.chi2(1).ppf(0.1))
    assert found.low == pytest.approx(2 - reach, rel=0.02)
    assert found.high == pytest.approx(2 + reach, rel=0.02)
    below = 0.25 * scipy.stats.chi2(1).cdf(0.5) + 1e-5
    assert found.p_value == pytest.approx(2 * below, rel=0.02)
    assert found.note == "one seed: the interval covers subjects only"


def test_many_subjects_have_the_interval_of_students_t():
    values = np.random.default_rng(3).normal(0.3, 1, size=(40, 1))
    found = paired_difference(table([values]), "new", "fedavg", draws=100_000)
    t = scipy.stats.ttest_1samp(values[:, 0], 0)
    low, high = t.confidence_interval(0.95)
    assert (found.low, found.high) == (pytest.approx(low, abs=0.02), pytest.approx(high, abs=0.02))
    assert found.p_value == pytest.approx(t.pvalue, abs=0.015)


@pytest.mark.parametrize(
    "spread", [{"subjects": 1.0}, {"subjects": 0.2, "seeds": 1.0}, {"subjects": 1.0, "seeds": 0.5, "both": 0.3}]
)
def test_interval_covers_the_truth_at_its_level(spread):
    """250 tables of 3 sites, 6 subjects and 3 seeds; three standard errors of the count are 4.1 %."""
    rng = np.random.default_rng(7)
    hits = 0
    for _ in range(250):
        found = paired_difference(table(simulated(rng, **spread)), "new", "fedavg", draws=1000)
        hits += found.low <= 0 <= found.high
    assert 0.909 <= hits / 250 <= 0.991


def test_interval_and_p_value_agree():
    rng = np.random.default_rng(2)
    outcomes = set()
    for _ in range(60):
        found = paired_difference(table([part + 0.6 for part in simulated(rng)]), "new", "fedavg", draws=2001)
        significant = found.low > 0 or found.high < 0
        outcomes.add(significant)
        # The p-value's "plus one" is a thousandth at most.
        assert significant == (found.p_value < 0.05) or abs(found.p_value - 0.05) < 1.5e-3
    assert outcomes == {True, False}


def test_seeds_are_shared_by_the_sites():
    """Seeds move all sites together: more sites do not make their interval narrower."""
    by_seed = np.array([[-1.0, 0.0, 1.0]])
    one, five = (paired_difference(table([by_seed.repeat(4, axis=0)] * n), "new", "fedavg", draws=4000) for n in (1, 5))
    assert five.high - five.low == pytest.approx(one.high - one.low, rel=0.1)
    # Opposite seeds at two sites cancel.
    none = paired_difference(table([by_seed.repeat(2, axis=0), -by_seed.repeat(2, axis=0)]), "new", "fedavg")
    assert none.low == pytest.approx(0, abs=1e-12)


def test_order_and_repetition_of_rows_do_not_matter():
    rows = table(simulated(np.random.default_rng(1), both=0.5))
    found = paired_difference(rows, "new", "fedavg")
    shuffled = [rows[i] for i in np.random.default_rng(2).permutation(len(rows))]
    assert paired_difference(shuffled, "new", "fedavg") == found
    assert paired_difference(rows + rows, "new", "fedavg") == found
    assert paired_difference([*rows, row("third")], "new", "fedavg") == found
    assert paired_difference(rows, "new", "fedavg", seed=1) != found


def test_shift_scale_and_direction():
    parts = simulated(np.random.default_rng(4), both=0.5)
    found = paired_difference(table(parts), "new", "fedavg")
    moved = paired_difference(table([4 * part + 8 for part in parts]), "new", "fedavg")
    for name in ("found", "low", "high"):
        assert getattr(moved, name) == pytest.approx(4 * getattr(found, name) + 8, rel=1e-9)
    back = paired_difference(table(parts), "fedavg", "new")
    assert (back.found, back.low, back.high) == pytest.approx((-found.found, -found.high, -found.low), abs=1e-9)
    assert back.p_value == found.p_value


def test_equal_differences_have_no_width():
    found = paired_difference(table([np.full((3, 3), 0.5)] * 2), "new", "fedavg")
    assert (found.low, found.found, found.high) == (0.5, 0.5, 0.5)
    assert paired_difference(table([np.zeros((3, 3))]), "new", "fedavg").p_value == 1.0


def test_nothing_repeated_proves_nothing():
    found = paired_difference(table([[[2.0]], [[3.0]]]), "new", "fedavg")
    assert (found.found, found.low, found.high, found.p_value) == (2.5, 2.5, 2.5, 1.0)
    assert found.note == "one seed: the interval covers subjects only; one subject at site0, site1: " + (
        "the interval does not cover the spread there"
    )


def test_unseen_sites_are_apart_until_named():
    rows = table([[[1.0], [2.0]]])
    rows += [replace(r, site="west", unseen=True, psnr=r.psnr + (5 if r.arm == "new" else 0)) for r in rows]
    assert paired_difference(rows, "new", "fedavg").found == 1.5
    assert paired_difference(rows, "new", "fedavg", sites=["west"]).found == 6.5
    assert paired_difference(rows, "new", "fedavg", sites={"west", "site0"}).found == 4.0


def test_other_metrics_have_means_only():
    rows = [replace(r, ssim=r.psnr / 64) for r in table([[[1.0], [2.0]]])]
    assert summarize_arm(rows, "new", "ssim").mean == pytest.approx(summarize_arm(rows, "new").mean / 64)
    with pytest.raises(ValueError, match="foreground_ssim is missing for new at site0, volume v0, seed 0"):
        summarize_arm(rows, "new", "foreground_ssim")
    with pytest.raises(ValueError, match=r"metric is 'snr', expected one of \['psnr'"):
        summarize_arm(rows, "new", "snr")


def test_missing_pairs_are_named():
    rows = table(np.zeros((2, 3, 3)))
    gone = [r for r in rows if (r.arm, r.site, r.volume, r.seed) != ("new", "site1", "v2", 1)]
    with pytest.raises(ValueError, match=r"new - fedavg: missing are new at site1, volume v2, seed 1; evaluate"):
        paired_difference(gone, "new", "fedavg")
    assert paired_difference(gone, "new", "fedavg", sites=["site0"]).found == 0
    gone = [r for r in rows if not (r.arm == "fedavg" and r.site == "site0")]
    with pytest.raises(ValueError, match=r"fedavg at site0, volume v0, seed 0; .* and 6 more"):
        paired_difference(gone, "new", "fedavg")
    with pytest.raises(ValueError, match="missing are every volume at site7"):
        paired_difference(rows, "new", "fedavg", sites=["site0", "site7"])
    with pytest.raises(ValueError, match="no row of arm 'old'"):
        paired_difference(rows, "old", "fedavg")
    with pytest.raises(ValueError, match="no site took part"):
        paired_difference([replace(r, unseen=True) for r in rows], "new", "fedavg")
    with pytest.raises(ValueError, match="stands twice with different psnr"):
        paired_difference([*rows, replace(rows[0], psnr=1.0)], "new", "fedavg")


def test_fewer_seeds_of_one_arm_are_said():
    rows = table(np.zeros((2, 3, 3)))
    fewer = paired_difference([r for r in rows if r.arm == "fedavg" or r.seed == 1], "new", "fedavg")
    assert fewer.seeds == 1
    assert fewer.note == "1 of 3 seeds in common; one seed: the interval covers subjects only"
    overlapping = [r for r in rows if (r.arm == "fedavg") == (r.seed == 0) or r.seed == 1]
    with pytest.raises(ValueError, match=r"seeds are \[1, 2\] and \[0, 1\] at \['site0', 'site1'\]"):
        paired_difference(overlapping, "new", "fedavg")


# Several claims at once


def test_holm_by_hand():
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert adjusted == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert list(adjusted) == ["a", "b", "c", "d"]
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({"a": 0.2}) == {"a": 0.2}
    assert holm({}) == {}
    with pytest.raises(ValueError, match="p-value of a is nan"):
        holm({"a": math.nan})


def test_holm_rejects_what_its_steps_reject():
    rng = np.random.default_rng(0)
    for _ in range(50):
        p = dict(enumerate(rng.random(6) ** 4))
        rejected = set()
        for step, (name, value) in enumerate(sorted(p.items(), key=lambda item: item[1])):
            if value > 0.05 / (6 - step):
                break
            rejected.add(name)
        assert {name for name, value in holm({str(k): v for k, v in p.items()}).items() if value <= 0.05} == {
            str(name) for name in rejected
        }


# Verdicts

HOLDS_AND_FAILS = [
    (Aim.at_least(1.5), (1.5, 2.0), (0.7, 1.49)),
    (Aim.above(0), (0.01, 2.0), (-1.0, 0.0)),
    (Aim.at_most(0.5), (-2.0, 0.5), (0.51, 1.0)),
    (Aim.loss_within(0.5), (-0.5, 9.0), (-2.0, -0.6)),
    (Aim.about_zero(0.1), (-0.1, 0.05), (0.11, 0.2)),
    (Aim.about_zero(0.1), (-0.1, 0.1), (-2.0, -0.6)),
    (Aim.between(0.2, 1.2), (0.2, 1.2), (1.3, 2.0)),
]


def verdict(found, aim):
    return decide(found, aim)[0]


@pytest.mark.parametrize(("aim", "holds", "fails"), HOLDS_AND_FAILS, ids=lambda value: getattr(value, "text", None))
def test_whole_interval_decides(aim, holds, fails):
    assert verdict(interval(sum(holds) / 2, *holds), aim) == "holds"
    assert verdict(interval(sum(fails) / 2, *fails), aim) == "fails"
    low, high = min(holds + fails), max(holds + fails)
    assert verdict(interval((low + high) / 2, low, high), aim) == "undecided"


def test_a_strict_bound_is_outside():
    assert verdict(interval(1.0, 0.0, 2.0), Aim.above(0)) == "undecided"
    assert verdict(interval(1.0, 0.0, 2.0), Aim.at_least(0)) == "holds"
    assert verdict(interval(-1.0, -2.0, 0.0), Aim.at_least(0)) == "undecided"


def test_seeds_that_a_verdict_takes():
    large, small = (1.0, 0.9, 1.1), (0.2, 0.1, 0.3)
    assert [verdict(interval(*large, seeds=n), Aim.above(0)) for n in (1, 2, 3)] == ["undecided", "undecided", "holds"]
    assert [verdict(interval(*small, seeds=n), Aim.above(0)) for n in (3, 7, 8)] == ["undecided", "undecided", "holds"]
    assert [verdict(interval(*small, seeds=n), Aim.at_least(1)) for n in (7, 8)] == ["undecided", "fails"]
    assert [seeds_needed(interval(*found)) for found in (large, (-0.5, -1, 0), small, (-0.49, -1, 0))] == [3, 3, 8, 8]


def test_aims_say_what_they_are():
    assert [aim.text for aim, _, _ in HOLDS_AND_FAILS] == [
        ">= +1.5 dB",
        "> 0 dB",
        "<= +0.5 dB",
        "loss <= 0.5 dB",
        "about 0 (within 0.1 dB)",
        "about 0 (within 0.1 dB)",
        "+0.2 .. +1.2 dB",
    ]
    with pytest.raises(ValueError, match="reaches from 1 to 0"):
        Aim.between(1, 0)
    with pytest.raises(ValueError, match="reaches from nan"):
        Aim.at_least(math.nan)


def test_hypothesis_as_json():
    assert Hypothesis(Aim.at_least(1.5), interval(2.0, 1.6, 2.4)).to_json() == {
        "aim": ">= +1.5 dB",
        "found": 2.0,
        "interval": [1.6, 2.4],
        "seeds": 8,
        "verdict": "holds",
    }
    few = Hypothesis(Aim.above(0), interval(0.2, 0.1, 0.3, seeds=3, note="from the rows"), "laptop")
    assert few.to_json()["note"] == "3 of at least 8 seeds for an effect below 0.5 dB; from the rows; laptop"
    assert few.to_json()["verdict"] == "undecided"
    open_end = Hypothesis(Aim.none(), interval(2.0, 1.6, 2.4)).to_json()
    assert (open_end["aim"], open_end["verdict"], open_end["note"]) == ("none", "undecided", "nothing was claimed")
