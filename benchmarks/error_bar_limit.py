"""How much narrower than a constant interval error bars could be, on real anatomy.

    FEDRECON_DATA=... OMP_NUM_THREADS=1 python benchmarks/error_bar_limit.py OUT

Images of the starter weights `brain-mri` at the four sites of `downstream.py` (seed 0: four people of a site train, two
or three test). Printed for the test people of every site is the mean half-width over that of a constant interval, in
the object and in the whole image, at equal coverage of 0.9 on these people:

- limit: the half-width is proportional to the root mean square of the *true* error in a square around each pixel. No
  error bar that tells the error from a neighborhood of this size can be narrower but by chance;
- learned: a network per pixel with two hidden layers, fitted to the errors of the training people of all sites by the
  loss of `recon.training.ErrorBarFit`. It sees local means of the image and of its difference to the start image, the
  noise (`recon.noise_map`) and, as *edges*, gradients at two scales, the local spread and the pixel itself;
- spread: the standard deviation of six further reconstructions, of the measurement with noise of its level added
  (noisier) or with a quarter of the lines held out (fewer), over squares of 3 pixels, plus a constant: the best of five
  *for these people*.
"""

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from downstream import make_downstream_sites
from torch import Tensor, nn
from torch.nn import functional as F

from federation.sites import SiteManifest, read_federation
from physics import complex_noise
from recon import Sample, apply, collate, held_out_split, load_weights, noise_map
from recon.method import image_scale
from recon.uncertainty.errors import object_of

COVERAGE, WINDOWS, LEAST, REPEATS = 0.9, (3, 5, 9, 15), 1e-4, 6


@dataclass(frozen=True)
class Fields:
    """Images, start images, noise, errors and spreads of slices, ``(slices, h, w)``, in units of a robust maximum."""

    image: Tensor
    start: Tensor
    noise: Tensor
    error: Tensor
    noisier: Tensor
    fewer: Tensor

    def features(self, *, edges: bool) -> Tensor:
        """What a half-width is told from, ``(slices, h, w, features)``."""
        change = (self.image - self.start).abs()
        seen = [mean(self.image, 9), mean(change, 9), self.noise]
        if edges:
            spread = (mean(self.image**2, 5) - mean(self.image, 5) ** 2).clamp_min(0).sqrt()
            smooth = mean(self.image, 5)
            seen += [gradient(self.image), gradient(smooth), mean(change, 3), spread, self.image]
        return torch.stack([values.clamp_min(LEAST).log() / 2 + 1 for values in seen], dim=-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", help="folder of the sites")
    out = parser.parse_args().out
    if "FEDRECON_DATA" not in os.environ or out is None:
        print("left out: needs FEDRECON_DATA, the folder of images of people, and a folder for the sites")
        return
    if not (out / "sites").exists():
        make_downstream_sites(out / "sites", persons=4, validation=2)
    network = load_weights("brain-mri").eval()
    sites = {manifest.name: manifest for manifest in read_federation(out / "sites")}
    train = [fields(network, manifest, "train", out) for manifest in sites.values()]
    test = {name: fields(network, manifest, "test", out) for name, manifest in sites.items()}
    print(f"{'object / whole image':32s}", *(f"{name:>12s}" for name in test))
    for window in WINDOWS:
        widths = {name: mean(found.error**2, window).sqrt() + 1e-6 for name, found in test.items()}
        report(f"limit, squares of {window} pixels", test, widths)
    for spread in ("noisier", "fewer"):
        report(f"spread, {spread}", test, {name: around(found, spread) for name, found in test.items()})
    for edges in (False, True):
        half_width = fitted(train, edges=edges)
        with torch.no_grad():
            widths = {name: half_width(found.features(edges=edges))[..., 0].exp() for name, found in test.items()}
        report(f"learned{', with edges' * edges}", test, widths)


def fields(network: nn.Module, manifest: SiteManifest, split: str, out: Path) -> Fields:
    """All slices of a split."""
    samples = manifest.dataset(split, out / "maps", None, 0)  # type: ignore[arg-type]
    rows = []
    for index in range(len(samples)):
        batch = collate([samples[index]])
        with torch.no_grad():
            image, start = apply(network, batch), batch.operator.start(batch.measurement)
        shown, scale = batch.magnitude(image), image_scale(batch.magnitude(image))[:, None, None]
        noise = noise_map(batch.operator, batch.noise_std)
        error = (shown - batch.target()).abs()
        spread = spreads(network, batch) if split == "test" else (shown, shown)
        rows.append(torch.cat([values / scale for values in (shown, batch.magnitude(start), noise, error, *spread)]))
    return Fields(*torch.stack(rows, dim=1))


def spreads(network: nn.Module, batch: Sample) -> tuple[Tensor, Tensor]:
    """Standard deviation of reconstructions with added noise, and with a quarter of the lines held out."""
    generator = torch.Generator().manual_seed(0)
    noisier, fewer = [], []
    with torch.no_grad():
        for _ in range(REPEATS):
            noise = complex_noise(tuple(batch.measurement.shape), float(batch.noise_std), generator)
            added = replace(batch, measurement=batch.measurement + noise * batch.operator.sampled)
            noisier.append(batch.magnitude(apply(network, added)))
            fewer.append(batch.magnitude(apply(network, held_out_split(batch, 0.25, generator)[0])))
    return torch.stack(noisier).std(0), torch.stack(fewer).std(0)


def around(found: Fields, spread: str) -> Tensor:
    """The spread plus the constant that is best in the object of these people."""
    smooth, inside = mean(getattr(found, spread) ** 2, 3).sqrt(), object_of(found.image)
    widths = [smooth + part * smooth[inside].mean() for part in (0.1, 0.3, 1, 3, 10)]
    return min(widths, key=lambda width: ratio(found.error[inside], width[inside]))


def fitted(train: list[Fields], *, edges: bool) -> nn.Module:
    """A network from features to the logarithm of the half-width, by the pinball loss."""
    objects = [object_of(found.image) for found in train]
    seen = torch.cat([found.features(edges=edges)[own] for found, own in zip(train, objects, strict=True)])
    pairs = zip(train, objects, strict=True)
    wanted = torch.cat([found.error[own].clamp_min(1e-5).log() for found, own in pairs])
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(seen.shape[1], 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1)
    )  # fmt: skip
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(2500):
        drawn = torch.randint(len(seen), (4096,))
        difference = wanted[drawn] - network(seen[drawn])[:, 0]
        loss = torch.maximum(COVERAGE * difference, (COVERAGE - 1) * difference).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network


def report(title: str, test: Mapping[str, Fields], widths: Mapping[str, Tensor]) -> None:
    """Mean half-width over the constant one by site, in the object and in the whole image."""
    cells = []
    for name, found in test.items():
        inside = object_of(found.image)
        ratios = [ratio(found.error[own], widths[name][own]) for own in (inside, torch.ones_like(inside))]
        cells.append(" / ".join(f"{value:.2f}" for value in ratios))
    print(f"{title:32s}", *(f"{cell:>12s}" for cell in cells), flush=True)


def ratio(error: Tensor, width: Tensor) -> float:
    """Mean half-width with the coverage over the constant half-width with the coverage."""
    return float(quantile(error / width) * width.mean() / quantile(error))


def quantile(values: Tensor) -> Tensor:
    """The value below which the wanted part lies."""
    return values.flatten().kthvalue(round(COVERAGE * values.numel())).values


def mean(values: Tensor, window: int) -> Tensor:
    """Mean over squares, as far as they lie within the image."""
    pooled = F.avg_pool2d(values[:, None], window, 1, window // 2, count_include_pad=False)
    return pooled[:, 0]


def gradient(values: Tensor) -> Tensor:
    """Length of the gradient."""
    rows, columns = torch.gradient(values, dim=(-2, -1))
    return torch.hypot(rows, columns)


if __name__ == "__main__":
    main()
