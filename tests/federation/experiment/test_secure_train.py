"""`fedrecon train` with a secure sum: the same scores as the float mean, at real files."""

import pytest

from federation.cli import main
from federation.rounds import read_rows

from ..fake_sites import SMALL, write_site

ROUNDS = ("--set", "federation.rounds=2", "--set", "evaluation.arms=['local']")


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sites")
    for name in ("east", "north", "west"):
        write_site(folder, name)
    return folder


@pytest.mark.slow
def test_scores_are_those_of_the_float_mean(sites, tmp_path, capsys):
    scores = {}
    for name, off in (("sum", ()), ("mean", ("--set", "privacy.secure_sum=false"))):
        command = ["train", "fedavg_secure", "--sites", str(sites), "--out", str(tmp_path / name), *SMALL, *ROUNDS]
        assert main([*command, *off]) == 0
        scores[name] = [row["score_before"] for row in read_rows(tmp_path / name)]
        said = (
            "secure sum: integers of 32 bits, at least 2 of 3 sites in a sum; without masks" in capsys.readouterr().out
        )
        assert said == (name == "sum")
    assert len(scores["sum"]) == 9 and scores["sum"] == pytest.approx(scores["mean"], abs=0.01)
    assert len(set(scores["sum"])) == 9  # the parameters did change


def test_one_site_cannot_be_summed(sites, tmp_path, fails):
    alone = tmp_path / "sites"
    write_site(alone, "north")
    error = fails("train", "fedavg_secure", "--sites", alone, "--out", tmp_path / "out", *SMALL)
    assert "1 sites, expected at least 2; a sum of one hides nothing" in error
    assert not (tmp_path / "out").exists()


def test_a_change_beyond_the_range_ends_the_round_in_one_line(sites, tmp_path, fails):
    narrow = ("--set", "privacy.largest_change=1e-5")
    error = fails("train", "fedavg_secure", "--sites", sites, "--out", tmp_path / "out", *SMALL, *narrow)
    assert "secure sum: the change of regularizers" in error and "expected at most 1e-05" in error
