"""Train the weights of `recon.CorrectedTV` on simulated scans: `disc-ct` on discs, `body-ct` on people and phantoms.

    export FEDRECON_DATA=... OMP_NUM_THREADS=1
    python benchmarks/corrected_tv.py disc-ct 18        # minutes of one core, after those for simulation and TV
    python benchmarks/corrected_tv.py body-ct 10.7
    python benchmarks/corrected_tv.py body-ct 1 --begin-at FILE --learning-rate 1e-3 --roughness 0.5

Total variation has no parameters: it is computed once per scan, and the U-Net is trained on parts of its images. The
weights are written to runs/starter; so are the scans of people, for the next training: remove that folder after a
change of TV. `benchmarks/starter_weights.py disc-ct` scores those of discs on measured ones,
`benchmarks/body_ct.py` those of people on people that no training has seen.
"""

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from body_scans import JointScans, persons, random_body, random_scanner, scan_jointly
from safetensors.torch import load_file, save_file
from starter_scans import data_folder
from starter_weights import DISCS, FOLDER, WEIGHTS
from torch import Tensor

from physics import RadonOperator, Transmission, estimate_ray_noise
from recon import CT_SCALE, CorrectedTV, HardenedDiscs, cosine_learning_rate, load_weights, save_weights
from recon.data.random_scans import uniform
from recon.data.slices import generator_for

#: Views of the scans of each scanner of discs; the last one is for validation.
VIEWS = (30, 60, 30, 120, 40, 24, 30)
PER_SCANNER, PARTS, EDGE, LEARNING_RATE = 8, 4, 128, 2e-3
#: Scanners of people, the last one for validation with 60 views, and the least and most views of the others.
BODY_SCANNERS, BODY_VIEWS = (*range(1, 11), 0), (48, 360)
#: Windows whose errors count alike in training, in units of water; that of soft tissue is -160 to 240 HU.
ALL, SOFT_TISSUE = (-math.inf, math.inf), (0.84, 1.24)
#: Noise of a filtered back-projection, in units of water, where the roughness counts half.
STRONG_NOISE = 0.5
#: Scans of bodies with the images of their total variation.
SCANS = FOLDER / "body-ct-scans"


@dataclass(frozen=True)
class Goal:
    """Windows whose errors count alike, weight of the roughness in the last one, and the largest learning rate."""

    windows: tuple[tuple[float, float], ...]
    roughness: float
    learning_rate: float


@dataclass
class Scans:
    """Inputs of the U-Net ``(scans, 3, height, width)`` and references ``(scans, height, width)``."""

    inputs: Tensor
    references: Tensor

    def errors(self, images: Tensor, window: tuple[float, float] = ALL) -> Tensor:
        """Mean squared errors of values clamped to a window, in units of the squared maximum."""
        error = images.clamp(*window) - self.references.clamp(*window)
        return error.square().mean((-2, -1)) / self.references.amax((-2, -1)) ** 2


def discs() -> Iterator[JointScans]:
    """Scans of some discs with each scanner, which share the views and differ in noise."""
    made = HardenedDiscs(DISCS, discs=DISCS)
    for number, views in enumerate(VIEWS, start=1):
        full = [made.full_scan(10 * number + k) for k in range(PER_SCANNER)]
        generator, step = generator_for("pairs", 0, number), 720 // views
        first = int(uniform(generator, 0, step))
        measured = []
        for one in full:
            model = Transmission(10 ** uniform(generator, 4.3, 5.8), electronic_noise=10.0)
            measured.append(model.line_integrals(one.counts(one.lines[first::step], model, generator)) / CT_SCALE)
        y, A = torch.stack(measured), RadonOperator(full[0].grid, full[0].geometry.subset(np.arange(first, 720, step)))
        yield JointScans(y, A, estimate_ray_noise(y), torch.stack([one.reference for one in full]))


def bodies(number: int) -> JointScans:
    """Scans of some bodies with one scanner, ten thousand to a million photons per ray."""
    data = data_folder()
    assert data is not None
    least, most = BODY_VIEWS
    people = persons(data, "train" if number else "validation")
    generator = generator_for("body scans", 0, number)
    drawn = round(least * (most / least) ** uniform(generator, 0, 1))
    views = drawn if number else 60
    grid, geometry = random_scanner(views, generator)
    chosen = [random_body(people, 2 * grid.shape[0], generator) for _ in range(PER_SCANNER)]
    photons = [10 ** uniform(generator, 3.9, 6.1) for _ in range(PER_SCANNER)]
    return scan_jointly(chosen, photons, grid, geometry, generator)


def prepare(net: CorrectedTV, joint: JointScans) -> Scans:
    """Inputs of the U-Net of the scans of one scanner."""
    found = Scans(net.inputs(joint.y, joint.A, joint.noise_std), joint.references)
    print(f"{joint.A.range_shape[0]} views: TV {_decibels(found.errors(found.inputs[:, 0])):.2f} dB", flush=True)
    return found


def kept(net: CorrectedTV, number: int) -> Scans:
    """Inputs of the U-Net of one scanner of bodies, from the folder or computed."""
    path = SCANS / f"{net.iterations}_{net.pixel_weight:g}" / f"{number}.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        made = prepare(net, bodies(number))
        save_file({"inputs": made.inputs.contiguous(), "references": made.references.contiguous()}, path)
    return Scans(**load_file(path))


def _decibels(errors: Tensor) -> float:
    return float(-10 * errors.log10().mean())


def train(net: CorrectedTV, scans: list[Scans], minutes: float, goal: Goal) -> int:
    """Train on square parts, turned and mirrored at random; returns the number of steps."""
    inputs, references = (torch.cat([getattr(s, name) for s in scans[:-1]]) for name in ("inputs", "references"))
    training = Scans(inputs, references)
    of_tv, peaks = [training.errors(inputs[:, 0], window) for window in goal.windows], references.amax((-2, -1))
    optimizer, generator = torch.optim.Adam(net.parameters(), goal.learning_rate), torch.Generator().manual_seed(1)
    spent, steps = 0.0, 0
    while spent < 60 * minutes:
        begin = time.process_time()
        optimizer.param_groups[0]["lr"] = cosine_learning_rate(goal.learning_rate, spent / (60 * minutes))
        chosen = torch.randint(len(inputs), (PARTS,), generator=generator).tolist()
        parts = torch.stack([_part(torch.cat((inputs[i], references[i][None])), generator) for i in chosen])
        images, losses = net.correct(parts[:, :3]), []
        for window, before in zip(goal.windows, of_tv, strict=True):
            difference = images.clamp(*window) - parts[:, 3].clamp(*window)
            error = difference.square().mean((-2, -1)) / peaks[chosen] ** 2
            # In units of the error of TV: scans with many and with few views count alike.
            losses.append(((error + 1e-7) / (before[chosen] + 1e-7)).sqrt().mean())
        loss = torch.stack(losses).mean()
        if goal.roughness:
            scale = of_tv[-1][chosen].sqrt() * peaks[chosen] + 1e-3
            loss = loss + goal.roughness * (roughness(images, parts, goal.windows[-1]) / scale).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        spent, steps = spent + time.process_time() - begin, steps + 1
        if steps % 200 == 0:
            with torch.no_grad():
                images = net.correct(scans[-1].inputs)
            found = ", ".join(f"{_decibels(scans[-1].errors(images, window)):.2f}" for window in goal.windows)
            print(f"{spent / 60:5.1f} minutes  {steps} steps  validation {found} dB", flush=True)
    return steps


def roughness(images: Tensor, inputs: Tensor, window: tuple[float, float]) -> Tensor:
    """Mean differences of neighbors in the correction of total variation, ``(scans,)``: more where noise is more.

    At a low dose a network that halves the bias of total variation draws the noise of its input into uniform organs.
    """
    correction = images.clamp(*window) - inputs[:, 0].clamp(*window)
    noise = (2 * inputs[:, 2] - 4).exp()
    part = noise / (noise + STRONG_NOISE)
    return sum(
        (part.narrow(axis, 0, part.shape[axis] - 1) * correction.diff(dim=axis).abs()).mean((-2, -1))
        for axis in (-2, -1)
    )


def _part(image: Tensor, generator: torch.Generator) -> Tensor:
    top, left = torch.randint(0, image.shape[-1] - EDGE + 1, (2,), generator=generator).tolist()
    turns, mirror = (int(torch.randint(n, (1,), generator=generator)) for n in (4, 2))
    part = image[:, top : top + EDGE, left : left + EDGE].rot90(turns, (-2, -1))
    return part.flip(-1) if mirror else part


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=("disc-ct", "body-ct"))
    parser.add_argument("minutes", type=float, help="processor time of the training")
    parser.add_argument("--begin-at", type=Path, metavar="FILE", help="weights at the begin of the training")
    parser.add_argument("--learning-rate", type=float, default=LEARNING_RATE)
    parser.add_argument("--roughness", type=float, default=0.0, help="weight of the roughness of the correction")
    arguments = parser.parse_args()
    if data_folder() is None:
        return
    torch.set_num_threads(1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    what, path = WEIGHTS[arguments.name], FOLDER / f"{arguments.name}.safetensors"
    net = what.settings.build()
    assert isinstance(net, CorrectedTV)
    if arguments.begin_at is not None:
        net.load_state_dict(load_weights(arguments.begin_at).state_dict())
    scans = [prepare(net, s) for s in discs()] if arguments.name == "disc-ct" else [kept(net, n) for n in BODY_SCANNERS]
    windows = (ALL,) if arguments.name == "disc-ct" else (ALL, SOFT_TISSUE)
    goal = Goal(windows, arguments.roughness, arguments.learning_rate)
    print(f"{train(net, scans, arguments.minutes, goal)} steps")
    save_weights(net, path, what.settings, what.modality, what.title, what.limits)
    print(f"weights: {path}")


if __name__ == "__main__":
    main()
