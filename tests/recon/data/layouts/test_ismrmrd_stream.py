"""Lines of a running scan become slices: when, with which lines, and how many may wait."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recon import MRI_READERS, DataError, SliceCollector, StreamedSlice

from .raw_files import CALIBRATION, NAVIGATOR, NOISE, RawFile, encoding_xml, header_of

SIZE = (48, 40, 1)
LAST_IN_SLICE = 1 << 7


def collected(raw: RawFile, **options: Any) -> list[StreamedSlice]:
    collector = SliceCollector(raw.xml, **options)
    return [found for head, samples in raw.lines for found in collector.add(head, samples)] + list(collector.rest())


def test_a_written_slice_is_read_as_the_file_of_the_scan(kspace: Any, tmp_path: Path) -> None:
    raw = RawFile(header_of(encoding_xml(SIZE)))
    raw.add_slices(kspace)
    np.random.default_rng(0).shuffle(raw.lines)  # type: ignore[arg-type]
    noise = np.random.default_rng(1).standard_normal((2, 64)) + 0j
    raw.add(noise, flags=NOISE)
    raw.lines.insert(0, raw.lines.pop())
    whole = MRI_READERS.open(raw.write(tmp_path / "whole.h5"), "ismrmrd")
    found = {one.key.slice: one for one in collected(raw)}
    assert sorted(found) == [0, 1, 2] and not found[0].is_flagged
    for number, one in found.items():
        one.write(tmp_path / f"{number}.h5")
        volume = MRI_READERS.open(tmp_path / f"{number}.h5", "ismrmrd")
        np.testing.assert_array_equal(volume.read_slice(0), whole.read_slice(number))
        assert volume.header == whole.header and volume.patient_id == "p7"
        np.testing.assert_array_equal(volume.noise_covariance, whole.noise_covariance)
        assert one.head["idx"]["kspace_encode_step_1"] == 20 and one.field_of_view_mm == (240, 200, 60)


def test_calibration_and_navigators_alone_are_no_slice(kspace: Any) -> None:
    raw = RawFile(header_of(encoding_xml(SIZE)))
    raw.add_slices(kspace, [18, 20, 22], flags=CALIBRATION | LAST_IN_SLICE)
    raw.add(kspace[0, ..., 3], flags=NAVIGATOR, slice=9)
    assert collected(raw) == []
    raw.add(kspace[1, ..., 20], slice=1, kspace_encode_step_1=20, flags=LAST_IN_SLICE)
    (one,) = collected(raw)
    assert (one.key.slice, len(one.samples), one.is_flagged) == (1, 4, True)


def test_lines_that_wait_are_bounded(kspace: Any) -> None:
    raw = RawFile(header_of(encoding_xml(SIZE)))
    raw.add_slices(kspace)
    with pytest.raises(DataError, match="lines of 2 slices that are not complete"):
        collected(raw, most_bytes=60 * raw.lines[0][1].nbytes)
    for head, _ in raw.lines:
        if head["idx"]["kspace_encode_step_1"] == 39:
            head["flags"] = LAST_IN_SLICE
    assert len(collected(raw, most_bytes=60 * raw.lines[0][1].nbytes)) == 3
    noise = RawFile(header_of(encoding_xml(SIZE)))
    noise.add(np.zeros((2, 65000), np.complex64), flags=NOISE)
    noise.lines *= 65
    with pytest.raises(DataError, match="MiB of noise lines"):
        collected(noise)
