"""The open beam of raw counts, which every detector element must receive."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import data_error


def open_beam(counts: np.ndarray[Any, Any], path: Path, key: str, index: int) -> Tensor:
    """Counts of the open beam less the dark field as float32, ``(detectors,)``.

    Raises
    ------
    DataError
        If an element has no counts above the dark field: its line integrals would be noise.
    """
    flat = torch.from_numpy(np.asarray(counts, dtype=np.float32))
    if dead := int((~((flat > 0) & flat.isfinite())).sum()):
        found = f"{dead} elements without counts above the dark field in slice {index}"
        expected, advice = "an open beam on every element", "repair the flat field, or cut these columns off"
        raise data_error(path, key, found, expected, advice)
    return flat
