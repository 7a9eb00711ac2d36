"""Overhead of a round in one process; peak memory of 2 rounds with 4 and 40 sites, of 20 rounds with 10 and 100.

Overhead is everything except local training and validation: messages, digests, checks, aggregation, checkpoints, kept
state.

    OMP_NUM_THREADS=1 MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=4294967296 \
        python benchmarks/federation_rounds.py
"""

import multiprocessing
import tempfile
import time
from pathlib import Path
from statistics import median

from federation import load_federation, load_recipe, make_demo_sites
from federation.experiment.run_folder import RunFolder
from federation.methods.algorithm import FederatedAlgorithm
from federation.methods.scope import parameter_scope, parameters_of
from federation.recipes.network import build_network
from federation.recipes.recipe_library import LIBRARY
from federation.rounds.local_transport import InProcessRuntime
from federation.rounds.loop import run_rounds
from federation.rounds.site import initial_network
from federation.sites import DEMO_SITES, SimulatedSite

RECIPE = LIBRARY / "fedavg.toml"
#: The smallest network that a recipe can have.
SMALLEST = ("network.cascades=1", "network.channels=1", "network.depth=2")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        overhead = measure_overhead(Path(folder))
        print(f"overhead per round, demo's sites and recipe: {100 * overhead:.2f} % (bar 2 %)")
        compare_memory(Path(folder), (4, 40), rounds=2)
        started = time.perf_counter()
        compare_memory(Path(folder), (10, 100), rounds=20, overrides=SMALLEST)
        print(f"20 rounds with 10 and with 100 sites, simulated and trained in {time.perf_counter() - started:.0f} s")


def compare_memory(folder: Path, counts: tuple[int, int], *, rounds: int, overrides: tuple[str, ...] = ()) -> None:
    few, many = (measure_memory(folder, count, rounds, overrides) for count in counts)
    text = f"{counts[0]} sites {few:.0f} MB, {counts[1]} sites {many:.0f} MB"
    print(f"peak memory of {rounds} rounds: {text}; ratio {many / few:.3f} (bar 1.10)")


def run(root: Path, sites: Path, *, steps: int, rounds: int, overrides: tuple[str, ...] = ()) -> list[float]:
    """Overhead of each round without the first, which also estimates the coil maps."""
    settings = [f"training.steps_per_round={steps}", f"federation.rounds={rounds}", *overrides]
    recipe = load_recipe(RECIPE, settings)
    manifests = [manifest for manifest in load_federation(sites) if manifest.trains]
    folder = RunFolder(root, recipe, tuple(manifests))
    network = initial_network(lambda: build_network(recipe.network), recipe.federation.seed)
    shared = parameters_of(network, parameter_scope(network).shared)
    with InProcessRuntime([folder.spec(manifest) for manifest in manifests]) as runtime:
        result = run_rounds(FederatedAlgorithm(), runtime, shared, root, rounds=rounds)
    return [time.overhead for time in result.rounds[1:rounds]]


def measure_overhead(folder: Path) -> float:
    make_demo_sites(folder / "demo", train=2, validation=2, test=1)
    return median(run(folder / "overhead", folder / "demo", steps=45, rounds=3))


def measure_memory(folder: Path, n_sites: int, rounds: int, overrides: tuple[str, ...]) -> float:
    """Peak resident memory in MB of a separate process that trains ``n_sites`` small sites."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (folder, n_sites, rounds, overrides))


def _peak(folder: Path, n_sites: int, rounds: int, overrides: tuple[str, ...]) -> float:
    simulate = DEMO_SITES[0].simulate
    sites = [SimulatedSite(f"site{number:03d}", 4, "t1", simulate) for number in range(n_sites)]
    make_demo_sites(folder / f"sites{n_sites}", size=64, train=1, validation=1, test=1, slices=2, sites=sites)
    run(folder / f"run{n_sites}", folder / f"sites{n_sites}", steps=2, rounds=rounds, overrides=overrides)
    # Not ru_maxrss: a spawned process starts with the value of its parent.
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
