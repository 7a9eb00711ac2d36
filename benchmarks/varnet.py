"""fastMRI's VarNet with the same weights in both packages: difference, time and memory.

4 cascades of 8 channels with 4 levels, and 8 channels with 4 levels for the coil maps, one slice of 256x256 with 8
coils, a column mask at acceleration 4. Once without gradients, once forward and backward. Memory is the largest
resident size of a process above that before the first call; each package and mode has a process of its own.

    OMP_NUM_THREADS=1 python benchmarks/varnet.py
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from fastmri.models import VarNet as FastMRIVarNet
from timing import paired_medians, print_ratios

from physics import CartesianMRI, birdcage_maps, fft2c, random_mask
from recon import from_fastmri

SIZE, COILS = 256, 8


def calls(*, gradients: bool) -> dict[str, Callable[[], torch.Tensor]]:
    """A call of both networks on the same slice, with a backward pass or without graph; it gives the RSS image."""
    torch.manual_seed(0)
    peer = FastMRIVarNet(num_cascades=4, sens_chans=8, sens_pools=4, chans=8, pools=4)
    _, ours = from_fastmri(peer.state_dict(), "random weights")
    generator = torch.Generator().manual_seed(0)
    A = CartesianMRI.collate([CartesianMRI(birdcage_maps(COILS, (SIZE, SIZE)), random_mask(SIZE, 4, 0.08, 0).mask)])
    image = torch.randn(1, SIZE, SIZE, dtype=torch.complex64, generator=generator)
    y = (fft2c(A.maps * image.unsqueeze(-3)) * A.mask.unsqueeze(-3)).contiguous()
    pairs, mask = torch.view_as_real(y), A.mask.unsqueeze(-1).unsqueeze(1)
    networks = {"fastMRI": lambda: peer(pairs, mask), "VarNet": lambda: ours(y, A).abs() * A.rss}

    def call(name: str) -> torch.Tensor:
        with torch.set_grad_enabled(gradients):
            out: torch.Tensor = networks[name]()
        if gradients:
            out.mean().backward()
        return out.detach()

    return {name: lambda name=name: call(name) for name in networks}  # type: ignore[misc]


def memory(name: str, gradients: bool) -> float:
    """Growth of the largest resident size in MB, measured in a process of its own."""
    arguments = [sys.executable, __file__, name, str(int(gradients))]
    return float(subprocess.run(arguments, check=True, capture_output=True, text=True).stdout)


def grow(name: str, gradients: bool) -> None:
    call = calls(gradients=gradients)[name]
    Path("/proc/self/clear_refs").write_text("5")  # the largest size becomes the present one
    before = _kilobytes("VmRSS")
    call()
    print((_kilobytes("VmHWM") - before) / 1024)


def _kilobytes(key: str) -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key)]
    return int(line.split()[1])


def main() -> None:
    torch.set_num_threads(1)
    if len(sys.argv) == 3:
        grow(sys.argv[1], sys.argv[2] == "1")
        return
    for gradients in (False, True):
        what = "forward and backward" if gradients else "without gradients"
        both = calls(gradients=gradients)
        images = [call() for call in both.values()]
        difference = float((images[0] - images[1]).abs().max() / images[0].max())
        print(f"{what}: largest difference {difference:.1e} of the maximum (bar 1e-5)")
        print_ratios(f"{what}, seconds", paired_medians(both, repeats=3), "fastMRI", {"VarNet": 1.0})
        used = {name: memory(name, gradients) for name in both}
        ratio = used["VarNet"] / used["fastMRI"]
        print(f"{what}, memory: fastMRI {used['fastMRI']:.0f} MB, VarNet {used['VarNet']:.0f} MB, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
