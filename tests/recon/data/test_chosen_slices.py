"""A fixed subset of slices is evenly spread over volumes and slices."""

import pytest

from recon import spread_over


def volumes_of(counts: list[int], indices: list[int]) -> list[list[int]]:
    """Slices chosen in every volume."""
    found, first = [], 0
    for count in counts:
        found.append([index - first for index in indices if first <= index < first + count])
        first += count
    return found


@pytest.mark.parametrize("counts", [[8], [1], [4, 4], [12] * 12, [3, 40, 5], [1] * 50, [0, 7, 30], [16, 16, 16]])
@pytest.mark.parametrize("most", [1, 2, 5, 16, 17, 1000])
def test_the_number_is_kept_and_no_volume_gets_two_more_than_another(counts: list[int], most: int) -> None:
    chosen = spread_over(counts, most)
    assert len(chosen) == min(most, sum(counts)) and chosen == sorted(set(chosen))
    per_volume = [len(indices) for indices in volumes_of(counts, chosen)]
    assert sum(per_volume) == len(chosen)
    full = [number == count for number, count in zip(per_volume, counts, strict=True)]
    open_ = [number for number, is_full in zip(per_volume, full, strict=True) if not is_full]
    assert not open_ or max(per_volume) - min(open_) <= 1


def test_all_slices_and_slices_in_the_middles_of_equal_parts() -> None:
    assert spread_over([4, 4], 16) == spread_over([4, 4], 0) == list(range(8))
    assert spread_over([12, 12], 4) == [3, 9, 15, 21]
    assert spread_over([12], 1) == [6]
    assert spread_over([10] * 10, 2) == [25, 75]  # of the volumes in the middles
