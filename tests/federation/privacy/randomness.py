"""Statistics that uniform, independent words pass: what an attacker without the keys could look at."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chisquare, kstest, norm

Words = NDArray[np.unsignedinteger]

#: A word is compared with its neighbors and with the same place in the next block of ChaCha20, of 16 words.
LAGS = (1, 2, 16)


def p_values(words: Words) -> dict[str, float]:
    """P-values by test: bytes, bits, neighboring bits, words, and both against words that follow."""
    signs, numbers = _signs(words), _centered(words)
    found = {"neighboring bits": _p_of_signs(signs[:, 1:] * signs[:, :-1]), "bits": _p_of_signs(signs)}
    for place, column in enumerate(_bytes(words).T):
        found[f"byte {place}"] = float(chisquare(np.bincount(column, minlength=256)).pvalue)
    found["words"] = float(kstest(numbers + 0.5, "uniform").pvalue)
    for lag in LAGS:
        found[f"bits, lag {lag}"] = _p_of_signs(signs[lag:] * signs[:-lag])
        found[f"words, lag {lag}"] = _p_of_correlation(numbers[lag:], numbers[:-lag])
    return found


def p_values_with(words: Words, other: Words) -> dict[str, float]:
    """P-values by test of words that are uniform whatever the other words are: correlation of bits and of numbers."""
    signed = other.view(f"<i{other.itemsize}").astype(np.float64)
    return {
        "bits": _p_of_signs(_signs(words) * _signs(other)),
        "words": _p_of_correlation(_centered(words), signed - signed.mean()),
    }


def smallest(found: Mapping[str, Mapping[str, float]]) -> tuple[float, str]:
    """The smallest p-value of several vectors times the number of all, by Bonferroni, with its name."""
    all_of_them = {f"{vector}: {test}": p for vector, tests in found.items() for test, p in tests.items()}
    name = min(all_of_them, key=lambda key: all_of_them[key])
    return all_of_them[name] * len(all_of_them), name


def _bytes(words: Words) -> NDArray[np.uint8]:
    return words.view(np.uint8).reshape(len(words), words.itemsize)


def _signs(words: Words) -> NDArray[np.int8]:
    """Bits as 1 and -1, shape ``(words, bits)``."""
    return 1 - 2 * np.unpackbits(_bytes(words), axis=1).astype(np.int8)


def _centered(words: Words) -> NDArray[np.float64]:
    """Words as numbers from -0.5 to 0.5; neither a word nor its parts are known better than its place among all."""
    return (words.astype(np.float64) + 0.5) / 2.0 ** (8 * words.itemsize) - 0.5


def _p_of_signs(signs: NDArray[np.int8]) -> float:
    """P-value of independent signs without a mean: the largest deviation of a column, times the number of columns."""
    deviations = signs.sum(axis=0, dtype=np.int64) / np.sqrt(len(signs))
    return float(min(1.0, 2 * norm.sf(np.abs(deviations).max()) * len(deviations)))


def _p_of_correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """P-value of a correlation of independent numbers of which at least one has the mean 0."""
    size = np.sqrt(np.square(one).sum() * np.square(other).sum())
    return float(2 * norm.sf(abs((one * other).sum()) / size * np.sqrt(len(one)))) if size else 1.0
