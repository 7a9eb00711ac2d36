"""The result of an arm is read as it was written, and a record that is none is one line."""

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest

from federation.comparison.arm_result import RESULT_FILE, ArmResult
from recon import DataError

TRAINED = ArmResult(
    parameters_shared=8, parameters_kept=2, steps=6, least_steps=4, seconds=1.5, peak_memory_mb=20.0, rate=2.0,
    tuning={"key": "", "values": []}, trials=3, at_end=False, value_at_end=True, chosen={"learning_rate": 0.01},
    label="", validation=30.0, quality={"a": {"mine": {"mtf50_lp_per_cm": 4.0, "disc_cnr": None}}}, recipe="0" * 64,
)  # fmt: skip


def test_a_result_comes_back_as_it_was_written(tmp_path: Path) -> None:
    assert ArmResult.read(tmp_path) is None
    TRAINED.write(tmp_path)
    assert ArmResult.read(tmp_path) == TRAINED
    record = json.loads((tmp_path / RESULT_FILE).read_text())
    # The recipe's own value is null; other values that nobody knows are left out.
    assert record["value"] is None and record["label"] == "" and not {"bytes_up", "failed", "lost"} & record.keys()
    assert ArmResult(failed="no").to_json() == {"failed": "no"} and "value" not in ArmResult(validation=1.0).to_json()


def test_a_record_keeps_its_order_and_loses_names_that_nobody_knows() -> None:
    record = dict(reversed(TRAINED.to_json().items()))
    found = ArmResult.from_json(record | {"from_the_future": 1})
    assert found == TRAINED and list(found.to_json()) == list(record)
    assert list(replace(found, steps=9, bytes_up=1).to_json()) == [*record, "bytes_up"]


def test_what_a_table_needs_of_a_trained_arm_is_named() -> None:
    assert TRAINED.missing == []
    assert replace(TRAINED, rate=None, seconds=None).missing == ["rate", "seconds"]
    assert len(ArmResult(quality={}).missing) == 10


@pytest.mark.parametrize("name", [each.name for each in fields(ArmResult) if each.name != "order"])
def test_a_value_of_another_type_is_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / RESULT_FILE).write_text(json.dumps({name: [{}]}))
    with pytest.raises(
        DataError, match=rf"facts.json: found {name}.* Input .*; delete it, and the arm is run"
    ) as error:
        ArmResult.read(tmp_path)
    assert "\n" not in str(error.value)
