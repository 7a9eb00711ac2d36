"""Epsilon of differential privacy as text; imports no library, as the status of a deployed site prints it."""

import math


def epsilon_text(value: float) -> str:
    """Epsilon with two decimals, rounded up: a guarantee must not be stated smaller than it is."""
    return "infinite" if math.isinf(value) else f"{math.ceil(value * 100) / 100:.2f}"
