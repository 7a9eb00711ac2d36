"""Overhead of a round in process, and memory with 4 and with 40 sites.

Overhead is all but local training and validation: messages, digests, checks, aggregation, checkpoints, kept state.

    OMP_NUM_THREADS=1 MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=4294967296 \
        python benchmarks/federation_rounds.py
"""

import multiprocessing
import tempfile
from pathlib import Path
from statistics import median

from federation import DEMO_SITES, SimulatedSite, load_federation, load_recipe, make_demo_sites
from federation.algorithm import FederatedAlgorithm
from federation.experiment import RunFolder
from federation.rounds import run_rounds
from federation.runtime import InProcessRuntime
from federation.scope import parameter_scope, parameters_of
from federation.site import initial_network
from federation.task import build_network

RECIPE = Path(__file__).parents[1] / "scripts" / "recipes" / "fedavg.toml"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        overhead = measure_overhead(Path(folder))
        print(f"overhead per round, demo's sites and recipe: {100 * overhead:.2f} % (bar 2 %)")
        peaks = {n: measure_memory(Path(folder), n) for n in (4, 40)}
    text = ", ".join(f"{n} sites {peak:.0f} MB" for n, peak in peaks.items())
    print(f"peak memory: {text}; ratio {peaks[40] / peaks[4]:.3f} (bar 1.10)")


def run(root: Path, sites: Path, *, steps: int, rounds: int) -> list[float]:
    """Overhead of each round after the first, which also estimates the coil maps."""
    recipe = load_recipe(RECIPE, [f"training.steps_per_round={steps}", f"federation.rounds={rounds}"])
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


def measure_memory(folder: Path, n_sites: int) -> float:
    """Peak resident MB of a process of its own that trains so many small sites for two rounds."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (folder, n_sites))


def _peak(folder: Path, n_sites: int) -> float:
    simulate = DEMO_SITES[0].simulate
    sites = [SimulatedSite(f"site{number:02d}", 4, "t1", simulate) for number in range(n_sites)]
    make_demo_sites(folder / f"sites{n_sites}", size=64, train=1, validation=1, test=1, slices=2, sites=sites)
    run(folder / f"run{n_sites}", folder / f"sites{n_sites}", steps=2, rounds=2)
    # Not ru_maxrss: that of a spawned process starts at what its parent had.
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
