"""Train the starter weights, and score them on measured scans against classical methods tuned on the very scan.

    export FEDRECON_DATA=... OMP_NUM_THREADS=1
    python benchmarks/starter_weights.py                        # scores of the packaged weights
    python benchmarks/starter_weights.py brain-mri --train 60   # minutes of one core
    python benchmarks/starter_weights.py brain-mri --train 75 --begin-at FILE --learning-rate 1.5e-3

`brain-mri` learns from simulated scans (`recon.RandomScans`) of heads. Training goes on where it was interrupted; its
state and its scans lie in runs/starter. Its result is the running mean of the parameters. `benchmarks/corrected_tv.py`
trains `disc-ct` and `body-ct`, and `benchmarks/body_ct.py` scores `body-ct`, as there is no measured scan of a body.
"""

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from starter_scans import StoredScans, data_folder, heads, measured_discs, measured_kspace, measured_sample
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from physics import CartesianMRI, fft2c
from recon import (
    STARTER_WEIGHTS,
    CGSense,
    NetworkSettings,
    PenalizedTV,
    RandomScans,
    Sample,
    Samples,
    TotalVariation,
    apply,
    collate,
    cosine_learning_rate,
    held_out_residual,
    held_out_split,
    load_weights,
    psnr_loss,
    save_weights,
    train_locally,
)

FOLDER = Path(__file__).resolve().parents[1] / "runs" / "starter"
#: Steps with one learning rate, and the weight of the former mean of the parameters after each.
STEPS_PER_CHUNK, MEAN_DECAY = 50, 0.9
#: Discs of which all views are simulated, 10 of them with each scanner.
DISCS = 170


@dataclass(frozen=True)
class Weights:
    """What to train."""

    modality: str
    title: str
    settings: NetworkSettings
    scans: int
    #: Largest scans, in training and among the measured ones, and least photons per ray.
    limits: dict[str, float]


WEIGHTS = {
    "brain-mri": Weights(
        "mri",
        "Cartesian MRI of the head, 1 to 12 coils, 2 to 6 times faster (points 10 times)",
        NetworkSettings(
            cascades=10,
            regularizer="cnn",
            channels=16,
            depth=4,
            consistency="noise_proximal",
            ends_in="consistency",
            tells_noise=True,
            memory=14,
        ),
        2400,
        {"matrix": 256, "acceleration": 10},
    ),
    "body-ct": Weights(
        "ct",
        "CT of people, fan beam over a turn, 49 to 286 views, 1e5 to 1e6 photons per ray, with weights of the rays",
        NetworkSettings(
            architecture="corrected_tv",
            channels=8,
            depth=3,
            architecture_options={"iterations": 100, "pixel_weight": 2.4},
        ),
        0,
        {"matrix": 256, "least_photons": 1e5, "least_degrees": 350},
    ),
    "disc-ct": Weights(
        "ct",
        "CT of discs of one material with holes, fan beam, 24 to 120 views over a turn, without weights of the rays",
        NetworkSettings(architecture="corrected_tv", channels=8, depth=3),
        0,
        {"matrix": 256},
    ),
}


def train(name: str, data: Path, minutes: float, jobs: int, begin_at: Path | None, learning_rate: float) -> Path:
    """Train for some minutes of processor time, in chunks; the state is kept for the next call."""
    what = WEIGHTS[name]
    FOLDER.mkdir(parents=True, exist_ok=True)
    training = StoredScans(FOLDER / "scans", RandomScans(heads(data, False), what.scans), jobs)
    validation = StoredScans(FOLDER / "validation", RandomScans(heads(data, True), 32, seed=1), jobs)
    torch.manual_seed(0)
    net, state_file = what.settings.build(), FOLDER / f"{name}.state"
    spent, chunk, moments = 0.0, 0, {}
    if begin_at is not None:
        begin_with(net, load_weights(begin_at))
    mean = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(MEAN_DECAY))
    if state_file.exists():
        stored = load_file(state_file)
        spent, chunk = float(stored["spent"][0]), int(stored["spent"][1])
        net.load_state_dict({k.removeprefix("net."): v for k, v in stored.items() if k.startswith("net.")})
        moments = {k.removeprefix("adam."): v for k, v in stored.items() if k.startswith("adam.")}
        mean.load_state_dict({k.removeprefix("mean."): v for k, v in stored.items() if k.startswith("mean.")})
        print(f"continues after {spent / 60:.1f} minutes")
    while spent < 60 * minutes:
        begin = time.process_time()
        rate = cosine_learning_rate(learning_rate, spent / (60 * minutes))
        result = train_locally(
            net,
            training,
            steps=STEPS_PER_CHUNK,
            batch_size=1,
            learning_rate=rate,
            objective=both_errors,
            seed=chunk,
            optimizer_state=moments,
        )
        moments, chunk = result.optimizer_state, chunk + 1
        mean.update_parameters(net)
        spent += time.process_time() - begin
        if chunk % 10 == 0 or spent >= 60 * minutes:
            parts = {"net": net.state_dict(), "mean": mean.state_dict(), "adam": moments}
            state = {f"{part}.{k}": v for part, values in parts.items() for k, v in values.items()}
            save_file(state | {"spent": torch.tensor([spent, chunk], dtype=torch.float64)}, state_file)
            print(
                f"{spent / 60:6.1f} of {minutes:g} minutes  {chunk * STEPS_PER_CHUNK} steps  loss "
                f"{np.mean(result.losses):.4f}  validation {_validation(mean.module, validation):.2f} dB",
                flush=True,
            )
    save_weights(mean.module, FOLDER / f"{name}.safetensors", what.settings, what.modality, what.title, what.limits)
    return FOLDER / f"{name}.safetensors"


def begin_with(net: nn.Module, trained: nn.Module) -> None:
    """Parameters of trained weights; channels of a memory that these do not have are not read at first.

    So the network begins with their images.
    """
    found = trained.state_dict()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            old = found[name]
            if parameter.ndim > 1 and parameter.shape[1] > old.shape[1]:
                parameter.zero_()
            parameter[tuple(map(slice, old.shape))] = old


def both_errors(network: nn.Module, batch: Sample, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """PSNR of the magnitudes, and of the complex image: k-space holds phase, too."""
    assert batch.reference is not None
    image = apply(network, batch)
    magnitudes = psnr_loss(batch.magnitude(image), batch.target())
    return (magnitudes + psnr_loss(image, batch.reference)) / 2, image


def _validation(net: nn.Module, samples: Samples) -> float:
    net.eval()
    with torch.no_grad():
        each = (collate([samples[i]]) for i in range(len(samples)))
        return float(np.mean([score(apply(net, batch)[0], batch) for batch in each]))


def score(image: Tensor, batch: Sample) -> float:
    """PSNR in dB: of magnitudes inside the head in MRI, inside the inscribed circle in CT; range: the largest value.

    Beyond the circle, some views miss the image: the FBP of all views is wrong there. Of two references with
    independent noise, the mean product of the differences to both is the squared error to an image without noise, less
    the squared aliases, whose upper bound is added: the score is a lower bound.
    """
    assert batch.reference is not None
    q = batch.reference[0]
    if q.is_complex():
        error = (image.abs() - q.abs())[q.abs() > 0.05 * q.abs().max()].square().mean()
        return 10 * math.log10(float(q.abs().max()) ** 2 / float(error))
    first, second, aliases = q if q.ndim == 3 else (q, q, torch.zeros_like(q))
    place = torch.linspace(-1, 1, image.shape[-1])
    error = ((image - first) * (image - second) + aliases)[torch.hypot(place[:, None], place) < 1].mean()
    return 10 * math.log10(float((first + second).max() / 2) ** 2 / float(error))


def classical(modality: str) -> dict[str, list[nn.Module]]:
    """Methods with the values of their weight; each scan takes its best."""
    if modality == "mri":
        return {
            "CG-SENSE": [CGSense(w) for w in (1e-3, 1e-2, 3e-2, 0.1, 0.3)],
            "TV": [
                TotalVariation(w) for w in (6e-5, 1.25e-4, 2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2)
            ],
        }
    return {"TV": [PenalizedTV(w) for w in (1e-3, 2.5e-3, 5e-3, 1e-2, 2e-2, 4e-2, 8e-2, 0.16, 0.32)]}


def measured(modality: str, data: Path) -> Iterator[tuple[str, Sample, Tensor | None]]:
    """Measured scans; in MRI with the k-space that the mask leaves out, where it was measured."""
    if modality == "ct":
        yield from ((title, sample, None) for title, sample in measured_discs(data))
        return
    for title, kspace, mask, reference in measured_kspace(data):
        sample = measured_sample(kspace, mask, reference)
        yield title, sample, kspace * ~mask.bool() / sample.scale if reference else None


def distance(image: Tensor, sample: Sample, left_out: Tensor) -> float:
    """Squared distance of an image to the k-space that the mask leaves out.

    The noise there is independent of that of the sampled k-space, so it adds the same to all methods, and a ratio of
    distances is a lower bound of that of errors. PSNR rewards a method that keeps noise: that of the reference is that
    of the scan.
    """
    A = sample.operator
    assert isinstance(A, CartesianMRI)
    return float((fft2c(A.maps * image) - left_out).abs().square()[left_out != 0].sum())


def evaluate(name: str, data: Path, path: Path) -> None:
    """Print the scores on measured scans."""
    net, modality = load_weights(path), WEIGHTS[name].modality
    methods = classical(modality)
    print(f"{path}: {sum(p.numel() for p in net.parameters())} parameters, {path.stat().st_size} bytes")
    print(
        f"{'':36s}{'noise':>8s}"
        + "".join(f"{m:>10s}" for m in methods)
        + f"{'network':>9s}{'- TV':>7s}{'- best':>8s}"
        + ("  gain on TV in left-out k-space" if modality == "mri" else "")
    )
    gains, distances = [], []
    for title, sample, left_out in measured(modality, data):
        batch = collate([sample])
        with torch.no_grad():
            image = apply(net, batch)[0]
        if sample.reference is None:
            _residuals(title, sample, net, methods)
            continue
        with torch.no_grad():
            images = {m: [apply(one, batch)[0] for one in tried] for m, tried in methods.items()}
        best = {m: max(score(one, batch) for one in tried) for m, tried in images.items()}
        ours = score(image, batch)
        gains.append((ours - best["TV"], ours - max(best.values())))
        line = f"{title:36s}{float(sample.noise_std):8.4f}" + "".join(f"{value:10.2f}" for value in best.values())
        line += f"{ours:9.2f}{gains[-1][0]:+7.2f}{gains[-1][1]:+8.2f}"
        if left_out is not None:
            nearest = min(distance(one, sample, left_out) for one in images["TV"])
            distances.append(10 * math.log10(nearest / distance(image, sample, left_out)))
            line += f"{distances[-1]:+32.2f}"
        print(line, flush=True)
    mean, worst = np.mean([gain for gain, _ in gains]), min(gain for _, gain in gains)
    print(f"network - TV tuned on the scan: {mean:+.2f} dB in the mean; - best classical method: worst {worst:+.2f} dB")
    if distances:
        mean, worst = np.mean(distances), min(distances)
        print(f"gain on TV in the distance to left-out k-space: {mean:+.2f} dB in the mean, worst {worst:+.2f} dB")


def _residuals(title: str, sample: Sample, net: nn.Module, methods: dict[str, list[nn.Module]]) -> None:
    """Residual on held-out samples, in units of the noise, of scans without a reference."""
    parts = [(sample, *held_out_split(sample, 0.2, torch.Generator().manual_seed(0)))]

    def residual(method: nn.Module) -> float:
        found = held_out_residual(method, parts)
        assert found is not None, title
        return found

    found = {m: min(map(residual, tried)) for m, tried in methods.items()} | {"network": residual(net)}
    print(f"{title:34s} held-out residual in noise: " + "  ".join(f"{m} {value:.3f}" for m, value in found.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", choices=WEIGHTS, help="default: all packaged weights but body-ct")
    parser.add_argument("--train", type=float, metavar="MINUTES", help="processor time of the training")
    parser.add_argument("--begin-at", type=Path, metavar="FILE", help="weights at the begin of the training")
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--jobs", type=int, default=2, help="processes that simulate (default: %(default)s)")
    parser.add_argument("--weights", type=Path, help="score this file instead of the packaged one")
    arguments = parser.parse_args()
    if (data := data_folder()) is None:
        return
    torch.set_num_threads(1)
    for name in [arguments.name] if arguments.name else [name for name in STARTER_WEIGHTS if name != "body-ct"]:
        path = arguments.weights or STARTER_WEIGHTS.get(name)
        if arguments.train is not None and name != "brain-mri":
            parser.error(f"{name}: train it with benchmarks/corrected_tv.py")
        if name == "body-ct":
            parser.error("body-ct: score it with benchmarks/body_ct.py")
        if arguments.train is not None:
            path = train(name, data, arguments.train, arguments.jobs, arguments.begin_at, arguments.learning_rate)
            print(f"weights: {path}")
        if path is None:
            print(f"{name}: no packaged weights; train them with --train MINUTES")
            continue
        evaluate(name, data, path)


if __name__ == "__main__":
    main()
