"""Time to scale an MRI volume and estimate its noise: first round and later rounds of one process.

    OMP_NUM_THREADS=1 python benchmarks/volume_facts.py

The volume has the size of fastMRI's, 20 slices, 15 coils, 640x368, with noise as k-space. Every round makes a new data
set.
"""

import tempfile
import time
from pathlib import Path

import torch

from recon import KSpaceSlices, Simulation, simulated_header, write_volume


def main() -> None:
    torch.set_num_threads(1)
    kspace = torch.randn(20, 15, 640, 368, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    simulate = Simulation("random", 4, 0.08, noise_std=0.01)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "volume.h5"
        write_volume(path, kspace, simulated_header((640, 368), (320, 320)), patient_id="p", acquisition="T1")
        seconds = []
        for _ in range(3):
            begin = time.perf_counter()
            KSpaceSlices([path], "site", simulate=simulate, maps="low_resolution", maps_folder=Path(folder))[0]
            seconds.append(time.perf_counter() - begin)
    print(f"data set and one slice: {seconds[0]:.2f} s at first, {min(seconds[1:]):.2f} s later")
    print(f"ratio {min(seconds[1:]) / seconds[0]:.3f}")


if __name__ == "__main__":
    main()
