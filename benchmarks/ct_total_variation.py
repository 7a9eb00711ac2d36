"""How far `recon.PenalizedTV` is from its minimum after some iterations, where rays have weights.

A phantom of an abdomen, fan beam, 256x256 pixels, counts with Poisson and electronic noise. Cost in units of the least
one found, and PSNR in dB inside the circle that all views see. Filtered back-projection has its best cut-off.

    OMP_NUM_THREADS=1 python benchmarks/ct_total_variation.py
"""

import torch
from body_scans import JointScans, attenuation, scan_jointly, scanner
from torch import Tensor

from physics import body_phantom
from recon import FilteredBackprojection, PenalizedTV
from recon.data.disc_shapes import inside_circle
from recon.method import image_scale

#: Views, photons per ray, and about the best weight of that scan.
SCANS = ((60, 1e4, 1e-3), (240, 1e5, 2e-3))
ITERATIONS, LONGEST = (50, 100, 200), 400


def psnr(image: Tensor, scans: JointScans) -> float:
    error = (image - scans.references)[..., inside_circle(image.shape[-1], 0.98) > 0].square().mean()
    return float(10 * torch.log10(scans.references.amax() ** 2 / error))


def cost(x: Tensor, scans: JointScans, weight: float) -> float:
    """The cost that `PenalizedTV` minimizes."""
    gradient = torch.stack((x.diff(dim=-2, append=x[..., -1:, :]), x.diff(dim=-1, append=x[..., -1:])))
    scale = image_scale(scans.A.start(scans.y)) * scans.A.norm**2 * weight / x.shape[-1]
    penalty = (scale * gradient.square().sum(0).sqrt().sum((-2, -1))).sum()
    return float(0.5 * (scans.A(x) - scans.y).square().sum() + penalty)


def main() -> None:
    torch.set_num_threads(1)
    body = attenuation(body_phantom((512, 512), 3, "abdomen"), 512)
    for views, photons, weight in SCANS:
        grid, geometry = scanner(views)
        scans = scan_jointly([body], [photons], grid, geometry, torch.Generator().manual_seed(0))
        images = {n: PenalizedTV(weight, n)(scans.y, scans.A) for n in (*ITERATIONS, LONGEST)}
        costs = {n: cost(image, scans, weight) for n, image in images.items()}
        fbp = max(psnr(FilteredBackprojection(c, "hann")(scans.y, scans.A), scans) for c in (0.2, 0.3, 0.4, 0.5, 0.7))
        print(f"{views} views, {photons:.0e} photons, weight {weight}: FBP {fbp:.2f} dB")
        for n, image in images.items():
            print(
                f"  {n:4d} iterations: cost {costs[n] / min(costs.values()):8.4f}  {psnr(image, scans):6.2f} dB",
                flush=True,
            )


if __name__ == "__main__":
    main()
