"""Which slices the report shows."""

import numpy as np

from federation.experiment.pictured_slices import pictured_slices


def volumes_with_errors(*volumes: tuple[float, ...]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """References and images with these errors, one per slice."""
    references = [np.stack([np.eye(4)] * len(errors)) for errors in volumes]
    return references, [
        reference + np.array(errors)[:, None, None] for reference, errors in zip(references, volumes, strict=True)
    ]


def test_median_worst_and_best_slice_of_the_method_are_shown() -> None:
    references, images = volumes_with_errors((0.3, 0.1, 0.5), (0.2, 0.4))
    other = [-volume for volume in images]
    found = pictured_slices(["a.h5", "b.h5"], {"tv": other, "fedavg": images}, references, "fedavg")
    assert [(one["name"], one["where"]) for one in found] == [
        ("median PSNR", "a.h5, slice 1 of 3"),
        ("worst PSNR", "a.h5, slice 3 of 3"),
        ("best PSNR", "a.h5, slice 2 of 3"),
    ]
    assert list(found[0]["images"]) == ["reference", "tv", "fedavg"]
    np.testing.assert_array_equal(found[1]["images"]["tv"], other[0][2])
    np.testing.assert_array_equal(found[1]["images"]["reference"], np.eye(4))


def test_no_slice_is_shown_twice() -> None:
    references, images = volumes_with_errors((0.3,))
    assert [one["name"] for one in pictured_slices(["a"], {"tv": images}, references, "tv")] == ["median PSNR"]
    references, images = volumes_with_errors((0.3, 0.1))
    found = pictured_slices(["a"], {"tv": images}, references, "tv")
    assert [one["name"] for one in found] == ["median PSNR", "best PSNR"]
    found = pictured_slices(["a"], {"tv": images}, references, "tv", first={"largest label": (0, 1)})
    assert [one["name"] for one in found] == ["largest label", "median PSNR"]


def test_only_slices_with_a_reference_are_ranked() -> None:
    references, images = volumes_with_errors((0.3, 0.1), (0.9, 0.8), (0.2, 0.4))
    references[0][0] = 0.0  # an empty slice
    found = pictured_slices(["a", "b", "c"], {"tv": images}, [references[0], None, references[2]], "tv")
    assert [one["where"] for one in found] == ["c, slice 1 of 2", "c, slice 2 of 2", "a, slice 2 of 2"]


def test_without_references_the_middle_slices_of_some_volumes_are_shown() -> None:
    _, images = volumes_with_errors((0.3, 0.1, 0.5), (0.2, 0.4), (0.1,), (0.2,))
    found = pictured_slices(["a", "b", "c", "d"], {"tv": images}, [None] * 4, "tv")
    assert [(one["name"], one["where"]) for one in found] == [
        ("first volume", "a, slice 2 of 3"),
        ("middle volume", "c, slice 1 of 1"),
        ("last volume", "d, slice 1 of 1"),
    ]
    assert list(found[0]["images"]) == ["tv"]
