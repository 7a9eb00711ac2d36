"""What stands in benchmarks/results is what follows from the scores beside it."""

import json
from pathlib import Path

import pytest

from federation.comparison_tables import judge
from recon import read_scores

FOLDERS = sorted((Path(__file__).parents[1] / "benchmarks" / "results").glob("*/scores.csv"))


@pytest.mark.parametrize("scores", FOLDERS, ids=lambda path: path.parent.name)
def test_hypotheses_follow_from_the_scores(scores: Path) -> None:
    best = {
        tuple(key.split("/")): arm
        for key, arm in json.loads((scores.parent / "best_personal.json").read_text()).items()
    }
    assert judge(read_scores(scores), best) == json.loads((scores.parent / "hypotheses.json").read_text())  # type: ignore[arg-type]


def test_there_are_results() -> None:
    assert FOLDERS
