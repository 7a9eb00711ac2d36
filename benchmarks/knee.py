"""A fake knee set at the size of fastMRI's, and what a site needs for it: maps, memory, time of a training step.

    OMP_NUM_THREADS=1 MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=4294967296 \
        python benchmarks/knee.py [folder [files]]

The set has 12 files of 12 slices, 15 coils, 640x368, of 3 scanners, 4 GB; a folder that holds it is used again. Former
numbers: the whole readout and all coils, computed in the same run.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from timing import paired_medians, print_ratios
from torch import Tensor, nn

from federation import build_network, load_federation, load_recipe
from federation.experiment import ReconstructionTask
from federation.recipes.recipe_library import LIBRARY
from federation.rounds import RoundContext
from federation.sites import SiteManifest, make_fastmri_sites
from physics import birdcage_maps, correlated_noise, estimate_maps, fft2c, phantom_volume
from recon import Header, KSpaceSlices, Sample, coil_covariance, collate, write_volume

SHAPE, SHOWN, COILS, SLICES = (640, 368), (320, 320), 15, 12
#: Rows of the object, which reaches beyond the rows that are shown, as a leg does.
OBJECT_ROWS = 480
SCANNERS = (("Aera", 1.494), ("Skyra", 2.894), ("Biograph", 2.894))
#: Bars: bytes of the maps of a slice, seconds per map over the former ones, bytes of a process, step over VarNet's.
MAPS_BYTES, MAPS_RATIO, MEMORY_BYTES, STEP_RATIO = 7e6, 0.5, 1.5e9, 0.2


def main() -> None:
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["--train"]:
        train(Path(sys.argv[2]))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
        site = knee_sites(folder, int(sys.argv[2]) if len(sys.argv) > 2 else 12)[0]
        measure_maps(site)
        measure_memory(folder)
        time_a_step(site)


def knee_sites(folder: Path, files: int = 12) -> list[SiteManifest]:
    """The sites of the set in a folder; writes what is missing."""
    for number in range(files):
        if not (path := folder / "data" / f"file{1000 + number}.h5").is_file():
            write_knee(path, number)
    if not any((folder / "sites").glob("*.toml")):
        make_fastmri_sites(folder / "data", folder / "sites", by=("model",), split=(0.5, 0.25, 0.25))
    return load_federation(folder / "sites")


def write_knee(path: Path, number: int) -> None:
    """One file: a phantom longer than the field of view, its phase, a ring of coils, colored noise, 2x readout."""
    model, field_T = SCANNERS[number % len(SCANNERS)]
    path.parent.mkdir(parents=True, exist_ok=True)
    maps, top = birdcage_maps(COILS, SHAPE, seed=number), (SHAPE[0] - OBJECT_ROWS) // 2
    covariance = 0.02**2 * (1.5 / field_T) ** 2 * coil_covariance(COILS, seed=number % len(SCANNERS))
    images = torch.zeros(SLICES, *SHAPE, dtype=torch.complex64)
    images[:, top : top + OBJECT_ROWS] = phantom_volume(SLICES, (OBJECT_ROWS, SHAPE[1]), seed=number)
    kspace = torch.empty(SLICES, COILS, *SHAPE, dtype=torch.complex64)
    for index, image in enumerate(images):
        generator = torch.Generator().manual_seed(1000 * number + index)
        noise = correlated_noise(kspace.shape[1:], covariance, generator)
        kspace[index] = 1e-4 * (fft2c(maps * image) + noise)
    header = Header(
        encoded_shape=SHAPE,
        recon_shape=SHOWN,
        padding=(0, SHAPE[1]),
        vendor="SIEMENS",
        model=model,
        field_T=field_T,
        encoded_fov_mm=(280.0, 161.0),
        recon_fov_mm=(140.0, 140.0),
    )
    write_volume(path, kspace, header, patient_id=f"knee{number}", acquisition="CORPD_FBK")


def measure_maps(site: SiteManifest) -> None:
    """Print bytes per slice and time of coil maps, against those of the whole readout and all coils."""
    with tempfile.TemporaryDirectory() as maps:
        samples = site.samples(site.files("train")[:1], maps_folder=Path(maps))
        sample = samples[SLICES // 2]
        (stored,) = Path(maps).rglob("*.safetensors")
        size = stored.stat().st_size
    print(f"one slice: {COILS} coils {SHAPE[0]}x{SHAPE[1]}, as sample {tuple(sample.measurement.shape)}")
    print(f"coil maps: {size / 1e6:.2f} MB (bar {MAPS_BYTES / 1e6:.0f})  {verdict(size, MAPS_BYTES)}\n")
    assert isinstance(samples, KSpaceSlices)
    facts, former = samples.volume_facts(0), samples.volumes[0].read_slice(SLICES // 2)
    assert facts.compression is not None
    medians = paired_medians(
        {
            "whole readout, all coils": lambda: estimate_maps(former * facts.mask, facts.mask),
            "shown rows, virtual coils": lambda: estimate_maps(
                former * facts.mask, facts.mask, height=facts.rows, compression=facts.compression
            ),
        },
        repeats=3,
    )
    print_ratios("ESPIRiT, one slice", medians, "whole readout, all coils", {"shown rows, virtual coils": MAPS_RATIO})


def measure_memory(folder: Path) -> None:
    """Print the peak memory of a process that trains a site on two files for one epoch."""
    # With glibc's own settings, as a command has them: with ours for timings it returns no memory to the system.
    own = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    command = [sys.executable, __file__, "--train", str(folder)]
    out = subprocess.run(command, check=True, capture_output=True, text=True, env=own)
    print(out.stdout, end="")


def train(folder: Path) -> None:
    """Train one site on its two training files for one epoch; print the peak memory of this process."""
    site, recipe = load_federation(folder / "sites")[0], load_recipe(LIBRARY / "fedavg.toml")
    with tempfile.TemporaryDirectory() as maps:
        task = ReconstructionTask(site, recipe, Path(maps))
        steps = len(task.dataset("train")) // recipe.training.batch_size
        begin = time.perf_counter()
        task.train(task.network(), round=0, steps=steps, seed=0, context=RoundContext({}, {}, {}, None, {}))
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"one epoch, {steps} steps of batch size {recipe.training.batch_size}: {time.perf_counter() - begin:.0f} s")
    print(f"peak memory: {peak / 1e9:.2f} GB (bar {MEMORY_BYTES / 1e9:.1f})  {verdict(peak, MEMORY_BYTES)}\n")


def time_a_step(site: SiteManifest) -> None:
    """Print the ratio of a training step to one of fastMRI's VarNet, 4 cascades of 8 channels, on the same slice."""
    from training_step import VarNetMethod

    files = site.files("train")[:1]
    small, whole = (
        collate([site.samples(files)[SLICES // 2]]),
        collate(
            [
                KSpaceSlices(
                    files,
                    site.name,
                    simulate=site.simulation(),
                    remove_oversampling=False,
                    compress_coils=False,
                    maps="low_resolution",
                )[SLICES // 2]
            ]
        ),
    )
    network, varnet = build_network(load_recipe(LIBRARY / "fedavg.toml").network), VarNetMethod(low_frequencies=29)
    medians = paired_medians(
        {"VarNet 4 x 8": lambda: step(varnet, whole), "default network": lambda: step(network, small)}, repeats=3
    )
    print_ratios("forward and backward, one slice", medians, "VarNet 4 x 8", {"default network": STEP_RATIO})


def step(network: nn.Module, batch: Sample) -> None:
    network.zero_grad(set_to_none=True)
    image: Tensor = network(batch.measurement, batch.operator)
    (batch.magnitude(image) - batch.target()).abs().mean().backward()


def verdict(found: float, bar: float) -> str:
    return "ok" if found <= bar else "MISSED"


if __name__ == "__main__":
    main()
