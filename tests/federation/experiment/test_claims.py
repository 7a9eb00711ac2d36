"""Sentences of the report on the method against every other arm."""

from types import SimpleNamespace
from typing import Any, cast

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

    run = cast(Any, SimpleNamespace(recipe=SimpleNamespace(name="fedavg")))
    (line,) = _claims(run, {"shared": arm(*other), "fedavg": arm(30.0, 32.0)}, ["shared", "fedavg"])
    assert line.startswith(f"fedavg against shared: {said}")
