"""Sentences of the report on the method against every other arm."""

from typing import Any

import pytest

from federation.experiment.evaluate import _claims


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ((29.0, 30.0), "+1.50 dB in the mean; above it at every site"),
        ((30.0, 30.0), "+1.00 dB in the mean; level with it or above it at every site"),
        ((30.0, 32.5), "-0.25 dB in the mean; below it at south (-0.50 dB)"),
    ],
)
def test_a_site_where_both_are_level_is_no_gain(other: tuple[float, float], said: str) -> None:
    def arm(north: float, south: float) -> dict[str, Any]:
        sites = {"north": {"psnr": north}, "south": {"psnr": south}, "unscored": {"residual": 1.0}}
        return {"sites": sites, "mean": {"psnr": (north + south) / 2}}

    by_arm = {"shared": arm(*other), "fedavg": arm(30.0, 32.0)}
    for unseen in (True, False):
        (line,) = _claims("fedavg", by_arm, ["shared", "fedavg"], unseen=unseen)
        everywhere = ", unseen ones included" if unseen and said.endswith("every site") else ""
        assert line == f"fedavg against shared: {said}{everywhere}"
