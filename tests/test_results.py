"""What stands in benchmarks/results is what follows from the scores beside it."""

import json
from pathlib import Path

import pytest

from federation.verdicts import judge
from recon import read_scores

FOLDERS = sorted((Path(__file__).parents[1] / "benchmarks" / "results").glob("*/scores.csv"))


@pytest.mark.parametrize("scores", FOLDERS, ids=lambda path: path.parent.name)
def test_hypotheses_follow_from_the_scores(scores: Path) -> None:
    beside = json.loads((scores.parent / "beside.json").read_text())
    assert judge(read_scores(scores), beside) == json.loads((scores.parent / "hypotheses.json").read_text())


def test_there_are_results() -> None:
    assert FOLDERS
