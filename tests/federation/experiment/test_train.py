"""A recipe that cannot be trained is refused before its folder is written: a corrected one can use the folder."""

from pathlib import Path

import pytest

from federation import load_federation, load_recipe, train_run
from recon import DataError

from ..fake_sites import write_site


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("network.consistency_options={step=0}", "network.consistency_options: GradientStep: step is 0"),
        ("network.adapter=scale", "network.base: found none with the adapter 'scale'"),
        ("scope.keep=['nothing']", "matches no parameter"),
        ("federation.quorum=2", "federation.quorum: found 2, expected at most 1"),
        ("objective={moments=1.0, features='nothing'}", "objective.moments: "),
    ],
)
def test_a_recipe_that_cannot_be_trained_leaves_no_folder(tmp_path: Path, override: str, expected: str) -> None:
    write_site(tmp_path / "sites")
    with pytest.raises(DataError) as error:
        train_run(
            load_recipe("fedavg", [override]),
            load_federation(tmp_path / "sites"),
            tmp_path / "run",
            jobs=1,
            resume=False,
            say=print,
        )
    assert expected in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
