"""Memory of the ISMRMRD reader: heads are read without the samples staying in memory."""

import gc
from pathlib import Path

import numpy as np

from recon import MRI_READERS

from ....used_memory import used_memory
from .raw_files import RawFile, encoding_xml, header_of


def test_heads_leave_no_samples_in_memory(tmp_path: Path) -> None:
    kspace = np.random.default_rng(0).standard_normal((1, 4, 512, 64)).astype(np.complex64)
    raw = RawFile(header_of(encoding_xml((512, 64, 1))))
    raw.add_slices(kspace)

    def used_after(numbers: range) -> int:
        for number in numbers:
            MRI_READERS.open(raw.write(tmp_path / f"{number}.h5"), "ismrmrd")
        gc.collect()
        return used_memory()

    # Without the samples: those of eight files are 8.4 MB.
    assert -used_after(range(4)) + used_after(range(4, 12)) < 2e6
