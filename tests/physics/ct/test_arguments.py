"""Arguments of another kind, in every public function of CT: accepted, or one line that says what is expected."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from physics import (
    FanBeam,
    ImageGrid,
    ParallelBeam,
    RadonOperator,
    Transmission,
    estimate_ray_noise,
    evenly_spaced,
    filtered_backprojection,
    simulate_counts,
)

GRID, SCAN, MODEL = ImageGrid((8, 8), 1.0), ParallelBeam(evenly_spaced(12, 0.26), 14, 1.0), Transmission(1e4)
A = RadonOperator(GRID, SCAN)

#: Functions of a tensor, of lengths, and of angles.
OF_TENSORS: dict[str, Callable[[object], object]] = {
    "RadonOperator": A,
    "adjoint": A.adjoint,
    "H": A.H,
    "start": A.start,
    "ray_weights": lambda value: RadonOperator(GRID, SCAN, value if value is not None else []),
    "filtered_backprojection": lambda value: filtered_backprojection(value, SCAN, GRID),
    "counts": lambda value: MODEL.counts(value, torch.Generator()),
    "expected_counts": MODEL.expected_counts,
    "line_integrals": MODEL.line_integrals,
    "Transmission.ray_weights": MODEL.ray_weights,
    "simulate_counts": lambda value: simulate_counts(value, GRID, SCAN, MODEL, torch.Generator()),
    "estimate_ray_noise": estimate_ray_noise,
}
OF_LENGTHS: dict[str, Callable[[object], object]] = {
    "pixel_mm": lambda value: ImageGrid((8, 8), value),
    "pitch_mm": lambda value: ParallelBeam((0.0,), 4, value),
    "offset_mm": lambda value: ParallelBeam((0.0,), 4, 1.0, value),
    "source_to_axis_mm": lambda value: FanBeam((0.0,), 4, 1.0, value, 80.0),
    "source_to_detector_mm": lambda value: FanBeam((0.0,), 4, 1.0, 50.0, value),
    "step_rad": lambda value: evenly_spaced(4, value),
    "photons": lambda value: Transmission(value),
    "cutoff": lambda value: filtered_backprojection(torch.zeros(SCAN.shape), SCAN, GRID, "ramp", value),
}


@pytest.mark.parametrize("name", OF_TENSORS)
@pytest.mark.parametrize("value", [np.ones((12, 14)), np.ones((8, 8)), [[1.0]], None, "a", 3.0])
def test_a_tensor_is_asked_for(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=r"expected a tensor; convert an array with torch\.from_numpy"):
        OF_TENSORS[name](value)


@pytest.mark.parametrize("name", OF_LENGTHS)
@pytest.mark.parametrize("value", [None, (1.0, 2.0), [1.0, 2.0], "1", np.nan])
def test_a_number_is_asked_for(name: str, value: object) -> None:
    if name in ("photons", "pixel_mm") and isinstance(value, (tuple, list)):
        pytest.skip("may be several numbers")
    with pytest.raises(ValueError, match=name) as caught:
        OF_LENGTHS[name](value)
    assert "expected" in str(caught.value) and "\n" not in str(caught.value)


def test_numbers_of_every_library_are_accepted() -> None:
    for two in (2, 2.0, np.float32(2), np.int64(2), torch.tensor(2.0)):
        assert ImageGrid((8, 8), two) == ImageGrid((8, 8), 2.0)  # type: ignore[arg-type]
        assert ParallelBeam((0.0,), 4, 1.0, two).offset_mm == 2.0  # type: ignore[arg-type]
    for angles in ([0, 1], np.arange(2), torch.arange(2.0, requires_grad=True)):
        assert ParallelBeam(angles, 4, 1.0).angles_rad == (0.0, 1.0)  # type: ignore[arg-type]
    filtered_backprojection(torch.zeros(SCAN.shape), SCAN, GRID, "ramp", np.float32(0.5))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ImageGrid((8, 8), (1.0, 2.0, 3.0)), r"those of its rows and columns \(dy, dx\)"),  # type: ignore[arg-type]
        (lambda: ImageGrid(8, 1.0), r"expected \(height, width\)"),  # type: ignore[arg-type]
        (lambda: ParallelBeam("0,10,20", 4, 1.0), "expected numbers in rad"),  # type: ignore[arg-type]
        (lambda: ParallelBeam(("0", "30"), 4, 1.0), "expected numbers in rad"),  # type: ignore[arg-type]
        (lambda: RadonOperator((8, 8), SCAN), "expected an ImageGrid"),  # type: ignore[arg-type]
        (lambda: filtered_backprojection(torch.zeros(SCAN.shape), A, GRID), "expected a ParallelBeam"),  # type: ignore
    ],
)
def test_the_line_names_what_is_expected(call: Callable[[], object], words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        call()
