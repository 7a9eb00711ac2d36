"""Paired timing for the benchmarks: candidates and peer alternate, so that a noisy machine slows all equally."""

import statistics
import time
from collections.abc import Callable, Mapping


def paired_medians(
    candidates: Mapping[str, Callable[[], object]], *, repeats: int = 31, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Median seconds per candidate; every repeat runs all of them once, after three warm-up repeats.

    `clock` may be `time.process_time`, which leaves out the time of other programs.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for repeat in range(repeats + 3):
        for name, run in candidates.items():
            begin = clock()
            run()
            if repeat >= 3:
                seconds[name].append(clock() - begin)
    return {name: statistics.median(values) for name, values in seconds.items()}


def print_ratios(title: str, medians: Mapping[str, float], peer: str, bars: Mapping[str, float]) -> None:
    """Print one row per candidate: milliseconds, ratio to ``peer``, and the largest allowed ratio."""
    print(f"{title}\n{'':36s} {'ms':>9s} {'ratio':>7s} {'bar':>6s}")
    for name, value in medians.items():
        bar = f"{bars[name]:6.2f}" if name in bars else "      "
        verdict = "" if name not in bars else ("ok" if value / medians[peer] <= bars[name] else "MISSED")
        print(f"{name:36s} {1e3 * value:9.2f} {value / medians[peer]:7.2f} {bar} {verdict}")
    print()
