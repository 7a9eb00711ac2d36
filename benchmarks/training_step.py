"""One training step of the demo's network at 320x320, 8 coils, against fastMRI's VarNet (4 cascades of 8 channels).

    OMP_NUM_THREADS=1 MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=4294967296 \
        python benchmarks/training_step.py
"""

from pathlib import Path

import torch
from fastmri.models import VarNet
from timing import paired_medians, print_ratios

from federation import build_network, load_recipe
from physics import CartesianMRI, birdcage_maps, fft2c, random_mask

RECIPE = Path(__file__).parents[1] / "scripts" / "recipes" / "fedavg.toml"


def main() -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    maps = birdcage_maps(8, (320, 320))
    mask = random_mask(320, 4, 0.08, 0)
    image = torch.randn(320, 320, dtype=torch.complex64, generator=generator)
    A = CartesianMRI.collate([CartesianMRI(maps, mask.mask)])
    y = A(image[None])
    target = image.abs()[None]
    ours = build_network(load_recipe(RECIPE).network)
    # Its own sensitivity network is part of VarNet and of its step; ours takes maps estimated once per slice.
    peer = VarNet(num_cascades=4, sens_chans=8, sens_pools=4, chans=8, pools=4)
    masked_kspace = torch.view_as_real(fft2c(maps * image) * mask.mask)[None].contiguous()
    peer_mask = mask.mask[None, None, None, :, None]

    def our_step() -> None:
        ours.zero_grad(set_to_none=True)
        (ours(y, A).abs() - target).abs().mean().backward()

    def peer_step() -> None:
        peer.zero_grad(set_to_none=True)
        (peer(masked_kspace, peer_mask, mask.center_lines) - target).abs().mean().backward()

    sizes = [sum(p.numel() for p in network.parameters()) for network in (ours, peer)]
    medians = paired_medians({"VarNet 4 x 8": peer_step, "demo's network": our_step}, repeats=7)
    print(f"parameters: demo's network {sizes[0]}, VarNet {sizes[1]}")
    print_ratios("forward and backward, one slice", medians, "VarNet 4 x 8", {"demo's network": 0.6})


if __name__ == "__main__":
    main()
