"""The open beam of raw counts, which nearly every detector element must receive."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import data_error


def open_beam(counts: np.ndarray[Any, Any], path: Path, key: str, index: int) -> Tensor:
    """Counts of the open beam less the dark field as float32, shape of ``counts``; NaN where there are none.

    Raises
    ------
    DataError
        If more than a quarter of the elements have no counts above the dark field.
    """
    flat = torch.from_numpy(np.asarray(counts, dtype=np.float32))
    dead = ~((flat > 0) & flat.isfinite())
    if int(dead.sum()) > flat.numel() // 4:
        found = f"{int(dead.sum())} of {flat.numel()} elements without counts above the dark field in slice {index}"
        expected, advice = "an open beam on most elements", "repair the flat field, or cut these columns off"
        raise data_error(path, key, found, expected, advice)
    return flat.masked_fill(dead, math.nan)
