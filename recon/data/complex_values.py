"""Complex numbers as files store them: complex, records of a real and an imaginary part, or a last axis of two."""

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

#: Names of the two parts of a record: MATLAB's and those of HDF5 tools.
_PARTS = (("real", "imag"), ("r", "i"), ("re", "im"))


def complex_shape(dtype: np.dtype[Any], shape: tuple[int, ...]) -> tuple[tuple[int, ...], str] | None:
    """Shape of an array once its numbers are complex, and how they are stored; None: they are real.

    Parameters
    ----------
    dtype, shape
        Those of the array as stored. Floating point with a last axis of two is read as real and imaginary part.
    """
    if dtype.kind == "c":
        return shape, "complex"
    if (parts := _parts(dtype)) is not None:
        return shape, f"records of {parts[0]} and {parts[1]}"
    if dtype.kind == "f" and len(shape) > 2 and shape[-1] == 2:
        return shape[:-1], "a last axis of real and imaginary part"
    return None


def as_complex(values: Array) -> Array:
    """Values that :func:`complex_shape` accepts as complex numbers, in the precision of the file."""
    if values.dtype.kind == "c":
        return values
    if (parts := _parts(values.dtype)) is not None:
        return _joined(values[parts[0]], values[parts[1]])
    if values.dtype.kind != "f" or values.shape[-1:] != (2,):
        raise ValueError(f"complex numbers: found {values.dtype} of shape {values.shape}, expected a last axis of two")
    return _joined(values[..., 0], values[..., 1])


def _joined(real: Array, imaginary: Array) -> Array:
    joined = np.empty(real.shape, np.result_type(real.dtype, np.complex64))
    joined.real, joined.imag = real, imaginary  # 1j * inf would be NaN, with a warning
    return joined


def _parts(dtype: np.dtype[Any]) -> tuple[str, str] | None:
    if dtype.names is None or any(dtype[name].kind != "f" for name in dtype.names):
        return None
    return next((parts for parts in _PARTS if set(dtype.names) == set(parts)), None)
