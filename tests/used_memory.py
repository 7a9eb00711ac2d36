"""Memory that the C library has given out: libraries in C allocate there, and Python's own counters do not see it."""

import ctypes

import pytest

_NAMES = ["arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"]


class _Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in _NAMES]


def used_memory() -> int:
    """Bytes in use; skips the test where the C library is not glibc 2.33 or later."""
    try:
        count = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError, TypeError):
        pytest.skip("the C library cannot count its memory")
    count.restype = _Info
    info = count()
    return int(info.uordblks + info.hblkhd)
