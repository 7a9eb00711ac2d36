"""Score `body-ct` on simulated scans of people that no training has seen, against TV tuned on the very scan.

    export FEDRECON_DATA=... OMP_NUM_THREADS=1
    python benchmarks/body_ct.py [--weights FILE] [--pictures FOLDER] [--probe]

A slice of each of six persons, one scanner, 60 to 360 views, 1e4 to 1e6 photons per ray. PSNR inside the circle that
all views see; range: the largest value. Spots: standard deviation in Hounsfield units of the errors of means over 5x5
pixels, in the uniform part of the liver of the one person whose liver is labeled. TV and filtered back-projection (Hann
window) have the weight and the cut-off that are best for that very scan against its reference, which the network never
sees. Images of TV are kept in runs/starter/body-ct-test; remove that folder after a change of TV. `--probe` prints
sharpness, contrast-to-noise and detectability, as the report of a run does, and takes a quarter of an hour.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from body_scans import TEST_FROM, JointScans, attenuation, persons, scan_jointly, scanner
from PIL import Image
from safetensors.torch import load_file, save_file
from starter_scans import data_folder
from starter_weights import FOLDER
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d

from physics import RadonOperator, Transmission, attenuation_to_hu, penalized_tv
from recon import (
    CT_SCALE,
    STARTER_WEIGHTS,
    CorrectedTV,
    FilteredBackprojection,
    PenalizedTV,
    Sample,
    SampleMeta,
    load_weights,
    read_images,
)
from recon.data.disc_shapes import inside_circle
from recon.evaluation.ct_quality import Probe, measure_quality
from recon.method import image_scale

CLASSES = [(views, photons) for views in (60, 120, 360) for photons in (1e4, 1e5, 1e6)]
#: Weights of TV in units of the mean noise of the back-projected measurement, cut-offs, iterations of TV.
FACTORS, CUTOFFS, ITERATIONS = (0.2, 0.35, 0.6, 1.0, 1.7), (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0), 100
#: Student's factor of a 95 % interval for six persons.
T95 = 2.571
#: Labels of the liver of the person of this number, and pixels at its edge that are left out.
LIVER, LIVER_PERSON, LIVER_EDGE = "ct_abdomen_liver_labels_chaos/chaos_ct_set3_liver.nii.gz", 4, 4
#: Edges in pixels of the squares of spots and of uniform parts; how far in HU the latter are from the median at most.
SPOT, UNIFORM, UNIFORM_HU = 5, 9, 10.0
#: Window of soft tissue in Hounsfield units.
WINDOW = (-160.0, 240.0)


def test_scans(people: list[Tensor], views: int, photons: float) -> JointScans:
    """A scan of the first slice of each person."""
    grid, geometry = scanner(views)
    bodies = [attenuation(slices[0], 2 * grid.shape[0]) for slices in people]
    generator = torch.Generator().manual_seed(views)
    return scan_jointly(bodies, [photons] * len(bodies), grid, geometry, generator)


def uniform_liver(data: Path, reference: Tensor) -> Tensor:
    """Pixels of the liver without its edge and large vessels, ``(size, size)``."""
    labels = read_images(data / LIVER, labels=True)[TEST_FROM["chaos"]][None, None].float()
    cover = interpolate(labels, size=reference.shape, mode="area")
    inside = (1 - max_pool2d((cover < 1).float(), 2 * LIVER_EDGE + 1, 1, LIVER_EDGE))[0, 0] > 0
    hu = attenuation_to_hu(reference * CT_SCALE)
    return inside & ((_means(hu, UNIFORM) - hu[inside].median()).abs() < UNIFORM_HU)


def spots(image: Tensor, reference: Tensor, inside: Tensor) -> float:
    """Standard deviation in HU of the errors of means over 5x5 pixels."""
    error = attenuation_to_hu(image * CT_SCALE) - attenuation_to_hu(reference * CT_SCALE)
    return float(_means(error, SPOT)[inside].std())


def _means(image: Tensor, edge: int) -> Tensor:
    return avg_pool2d(image[None, None], edge, 1, edge // 2)[0, 0]


def scores(images: Tensor, references: Tensor) -> Tensor:
    """PSNR in dB of each image, ``(..., scans, height, width) -> (..., scans)``."""
    error = (images - references)[..., inside_circle(references.shape[-1], 0.98) > 0].square().mean(-1)
    return 10 * torch.log10(references.amax((-2, -1)) ** 2 / error)


def tuned(scans: JointScans) -> tuple[Tensor, Tensor, Tensor]:
    """Images of filtered back-projection and of TV with the best values, and the weights of that TV."""
    A, n = scans.A, len(scans.y)
    start = A.start(scans.y)
    scale, square = image_scale(start)[:, None, None], (A.norm**2)[:, None, None]
    replica = torch.randn(A.range_shape, generator=torch.Generator().manual_seed(0))
    inside = inside_circle(start.shape[-1], 0.9) > 0
    noise = scans.noise_std * A.adjoint(replica.expand_as(scans.y).contiguous())[..., inside].std(-1)
    thresholds = [factor * noise[:, None, None] / scale / square for factor in FACTORS]
    tried = torch.stack([penalized_tv(scans.y / scale, A, t, start / scale, ITERATIONS) * scale for t in thresholds])
    filtered = torch.stack([FilteredBackprojection(cutoff, "hann")(scans.y, A) for cutoff in CUTOFFS])
    best = [scores(images, scans.references).argmax(0) for images in (filtered, tried)]
    each = torch.arange(n)
    weights = torch.stack(thresholds)[best[1], each, 0, 0] * start.shape[-1]
    return filtered[best[0], each], tried[best[1], each], weights


def kept(name: str, scans: JointScans) -> dict[str, Tensor]:
    """The tuned images of a class of scans, from the folder or computed."""
    path = FOLDER / "body-ct-test" / f"{name}.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        fbp, tv, weights = tuned(scans)
        save_file({"fbp": fbp.contiguous(), "tv": tv.contiguous(), "weights": weights}, path)
    return load_file(path)


def picture(path: Path, rows: list[list[Tensor]]) -> None:
    """Images in the window of soft tissue, one row a person."""
    low, high = WINDOW
    hu = attenuation_to_hu(torch.cat([torch.cat(row, -1) for row in rows], -2) * CT_SCALE)
    gray = ((hu - low) / (high - low)).clamp(0, 1).mul(255).byte().numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(gray).save(path)


def probes(net: nn.Module, scans: JointScans, weights: Tensor, photons: float, name: str) -> None:
    """Print sharpness, contrast-to-noise and detectability of the first two persons."""
    for k in range(2):
        assert scans.A.ray_weights is not None
        sample = Sample(
            measurement=scans.y[k],
            operator=RadonOperator(scans.A.grid, scans.A.geometry, scans.A.ray_weights[k]),
            noise_std=scans.noise_std[k],
            reference=scans.references[k],
            scale=torch.tensor(CT_SCALE),
            condition=None,
            meta=(SampleMeta("test", "person", k, 1.0, "attenuation"),),
        )
        probe = Probe.of(sample, Transmission(photons, electronic_noise=10.0))
        empty = np.zeros((1, *scans.references.shape[1:]))
        methods = {"FBP 0.5": FilteredBackprojection(0.5), "TV": PenalizedTV(float(weights[k]), ITERATIONS), "net": net}
        for title, method in methods.items():
            with torch.no_grad():
                found = measure_quality(method, probe, empty, empty, scans.A.grid.spacing_mm)
            values = (found.mtf50, found.contrast_hu, found.cnr, found.detectability)
            cells = "".join(f"{'-' if v is None else f'{v:.2f}':>9s}" for v in values)
            print(f"  {name}, person {k + 1}, {title:8s} MTF50, contrast of 100 HU, CNR, d':{cells}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--weights", type=Path, default=STARTER_WEIGHTS.get("body-ct"), help="default: the packaged ones"
    )
    parser.add_argument("--pictures", type=Path, help="write pictures here: reference, FBP, TV, untrained, network")
    parser.add_argument("--probe", action="store_true")
    arguments = parser.parse_args()
    if (data := data_folder()) is None:
        return
    torch.set_num_threads(1)
    net, people = load_weights(arguments.weights), persons(data, "test")
    assert isinstance(net, CorrectedTV)
    print(
        f"{'views, photons':>16s}{'FBP':>8s}{'TV':>8s}{'untrained':>11s}{'network':>9s}{'- TV':>7s}"
        "  95 % of the mean, worst person; spots of FBP, TV, untrained, network"
    )
    for views, photons in CLASSES:
        name, scans = f"{views}, {photons:.0e}", test_scans(people, views, photons)
        found = kept(f"{views}_{photons:.0e}", scans)
        with torch.no_grad():
            inputs = net.inputs(scans.y, scans.A, scans.noise_std)
            image = net.correct(inputs)
        shown = (found["fbp"], found["tv"], inputs[:, 0], image)
        reference = scans.references[LIVER_PERSON]
        inside = uniform_liver(data, reference)
        found_spots = [spots(images[LIVER_PERSON], reference, inside) for images in shown]
        fbp, tv, untrained, ours = (scores(x, scans.references) for x in shown)
        gain, half = ours - tv, T95 * float((ours - tv).std()) / math.sqrt(len(people))
        print(
            f"{name:>16s}{float(fbp.mean()):8.2f}{float(tv.mean()):8.2f}{float(untrained.mean()):11.2f}{float(ours.mean()):9.2f}"
            f"{float(gain.mean()):+7.2f}  {float(gain.mean()) - half:+.2f} to {float(gain.mean()) + half:+.2f}, "
            f"{float(gain.min()):+.2f}; {', '.join(f'{value:.1f}' for value in found_spots)}",
            flush=True,
        )
        if arguments.pictures is not None:
            rows = [list(row) for row in zip(scans.references, *shown, strict=True)]
            picture(arguments.pictures / f"{name.replace(', ', '_')}.png", rows)
        if arguments.probe and (views, photons) in ((360, 1e4), (120, 1e5), (60, 1e6)):
            probes(net, scans, found["weights"], photons, name)


if __name__ == "__main__":
    main()
