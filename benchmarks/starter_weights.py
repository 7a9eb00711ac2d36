"""Train the starter weights `brain-mri`, and score them on measured scans against TV tuned on the very scan.

    FEDRECON_DATA=... OMP_NUM_THREADS=1 python benchmarks/starter_weights.py            # scores of the packaged weights
    FEDRECON_DATA=... OMP_NUM_THREADS=1 python benchmarks/starter_weights.py --train 60 # minutes of one core; resumable

Trains on simulated scans (`recon.RandomScans`) of images of people: heads of IXI and Ljubljana, contrasts drawn from
SynthSeg's label maps. Persons of the validation scans are in none of the training scans. Measured scans are for testing
alone. The scans lie in runs/starter/scans, the training's state in runs/starter.
"""

import argparse
import math
import os
import time
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from physics import (
    CartesianMRI,
    combine_coils,
    equispaced_mask,
    estimate_maps,
    estimate_noise_covariance,
    ifft2c,
    random_mask,
)
from recon import (
    CGSense,
    NetworkSettings,
    RandomScans,
    Sample,
    SampleMeta,
    TotalVariation,
    UnrolledNetwork,
    apply,
    collate,
    cosine_learning_rate,
    held_out_split,
    load_weights,
    reduce_matrix,
    save_weights,
    train_locally,
)

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "runs" / "starter"
IXI, LJUBLJANA = "mr_brain_t1_ixi_3T_philips", "mr_brain_t1_t2_flair_ms_ljubljana"
LABELS = "mr_brain_label_maps_synthseg/synthseg_label_slices.npz"
#: Persons of the validation scans: the last of each collection.
VALIDATION = {"ixi": 4, "ljubljana": 1, "synthseg": 2}
SETTINGS = NetworkSettings(
    cascades=10,
    regularizer="cnn",
    channels=16,
    depth=4,
    consistency="noise_proximal",
    ends_in="consistency",
    noise_level=True,
)
TITLE = "Cartesian MRI of the head, 1 to 12 coils, 2 to 6 times faster (points 10 times)"
#: Largest scans, in training and among the measured ones.
LIMITS = {"matrix": 256, "acceleration": 10}
STEPS_PER_CHUNK = 50
TV_WEIGHTS = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2)
CG_WEIGHTS = (1e-3, 1e-2, 3e-2, 0.1, 0.3)


def network() -> UnrolledNetwork:
    torch.manual_seed(0)
    return SETTINGS.build()


def people(data: Path, validation: bool) -> list[Tensor]:
    """Images of the persons for training, or for validation: magnitudes, or labels as integers."""
    images: list[Tensor] = []
    for path in _chosen(sorted((data / IXI).glob("*_T1.nii.gz")), VALIDATION["ixi"], validation):
        volume = np.asarray(nibabel.as_closest_canonical(nibabel.load(path)).get_fdata(), np.float32)
        volume = np.ascontiguousarray(volume[::-1, ::-1].transpose(2, 1, 0))
        for image in torch.from_numpy(volume[24:78:3]):
            images.append(_padded(image, 128) / volume.max())
    patients = sorted({path.name.split("_")[0] for path in (data / LJUBLJANA).glob("*.nii.gz")})
    for patient in _chosen(patients, VALIDATION["ljubljana"], validation):
        for path in sorted((data / LJUBLJANA).glob(f"{patient}_*.nii.gz")):
            volume = np.asarray(nibabel.load(path).get_fdata(), np.float32)
            for z in range(volume.shape[-1]):
                image = torch.from_numpy(np.rot90(volume[..., z]).copy())
                half = [min(n // 4 * 2, 192) for n in image.shape]
                low = reduce_matrix(image, (half[0], half[1]))
                images.append((low / low.flatten().quantile(0.999)).clamp(0, 1.2))
    labels = np.load(data / LABELS)["labels"].astype(np.int64)
    for person in _chosen(list(labels), VALIDATION["synthseg"], validation):
        for number, image in enumerate(torch.from_numpy(person)):
            images.append((image[32:-32, 32:-32] if number % 4 == 0 else image[::2, ::2]).contiguous())
    return images


def _chosen(items: list[Any], last: int, validation: bool) -> list[Any]:
    return items[-last:] if validation else items[:-last]


def _padded(image: Tensor, size: int) -> Tensor:
    out = torch.zeros(size, size)
    top, left = ((size - n) // 2 for n in image.shape)
    out[top : top + image.shape[0], left : left + image.shape[1]] = image
    return out


class StoredScans:
    """Samples in a folder, one file each; missing ones are made by `jobs` processes."""

    def __init__(self, folder: Path, scans: RandomScans, jobs: int) -> None:
        self.folder, self.count = folder, len(scans)
        folder.mkdir(parents=True, exist_ok=True)
        missing = [i for i in range(len(scans)) if not (folder / f"{i}.safetensors").exists()]
        if not missing:
            return
        print(f"simulating {len(missing)} scans into {folder}, about {0.2 * len(missing) / jobs / 60:.0f} minutes")
        parts = [(folder, scans, missing[k::jobs]) for k in range(jobs)]
        with get_context("spawn").Pool(jobs) as pool:
            pool.map(_store, parts)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        stored = load_file(self.folder / f"{index}.safetensors")
        return Sample(
            measurement=stored["measurement"],
            operator=CartesianMRI(stored["maps"], stored["mask"]),
            noise_std=stored["noise_std"],
            reference=stored["reference"],
            scale=torch.tensor(1.0),
            condition=None,
            meta=(SampleMeta("random", "random", index, 1.0, "coil_combined"),),
        )


def _store(part: tuple[Path, RandomScans, list[int]]) -> None:
    torch.set_num_threads(1)
    folder, scans, numbers = part
    for i in numbers:
        sample = scans[i]
        A = sample.operator
        assert isinstance(A, CartesianMRI) and sample.reference is not None
        arrays = {"measurement": sample.measurement, "maps": A.maps, "mask": A.mask, "reference": sample.reference}
        arrays = {name: tensor.contiguous() for name, tensor in arrays.items()} | {"noise_std": sample.noise_std}
        save_file(arrays, folder / f"{i}.tmp")
        (folder / f"{i}.tmp").replace(folder / f"{i}.safetensors")


def train(data: Path, minutes: float, count: int, jobs: int, learning_rate: float) -> Path:
    """Train for some processor time, in chunks; the state of the last chunk is kept for the next call."""
    training = StoredScans(FOLDER / "scans", RandomScans(people(data, False), count), jobs)
    validation = StoredScans(FOLDER / "validation", RandomScans(people(data, True), 32, seed=1), jobs)
    net, state_file = network(), FOLDER / "state.safetensors"
    spent, chunk, moments = 0.0, 0, {}
    if state_file.exists():
        stored = load_file(state_file)
        spent, chunk = stored.pop("spent").tolist()
        net.load_state_dict({k.removeprefix("net."): v for k, v in stored.items() if k.startswith("net.")})
        moments = {k.removeprefix("adam."): v for k, v in stored.items() if k.startswith("adam.")}
        print(f"continues after {spent / 60:.1f} minutes")
    chunk = int(chunk)
    while spent < 60 * minutes:
        begin = time.process_time()
        rate = cosine_learning_rate(learning_rate, spent / (60 * minutes))
        result = train_locally(
            net,
            training,
            steps=STEPS_PER_CHUNK,
            batch_size=1,
            learning_rate=rate,
            seed=chunk,
            optimizer_state=moments,
        )
        moments, chunk = result.optimizer_state, chunk + 1
        spent += time.process_time() - begin
        if chunk % 10 == 0 or spent >= 60 * minutes:
            state = {f"net.{k}": v for k, v in net.state_dict().items()} | {f"adam.{k}": v for k, v in moments.items()}
            save_file(state | {"spent": torch.tensor([spent, chunk], dtype=torch.float64)}, state_file)
            print(
                f"{spent / 60:6.1f} of {minutes:g} minutes  {chunk * STEPS_PER_CHUNK} steps  loss "
                f"{np.mean(result.losses):.4f}  validation {_validation(net, validation):.2f} dB",
                flush=True,
            )
    weights = FOLDER / "brain-mri.safetensors"
    save_weights(net, weights, SETTINGS, "mri", TITLE, LIMITS)
    return weights


def _validation(net: UnrolledNetwork, samples: StoredScans) -> float:
    net.eval()
    with torch.no_grad():
        scores = [score(apply(net, collate([s]))[0], s.reference) for s in (samples[i] for i in range(len(samples)))]
    return float(np.mean(scores))


def score(image: Tensor, reference: Tensor | None) -> float:
    """PSNR in dB of magnitudes inside the body."""
    assert reference is not None
    p, q = image.abs(), reference.abs()
    return 10 * math.log10(float(q.max()) ** 2 / float((p - q)[q > 0.05 * q.max()].square().mean()))


def measured_scans(data: Path) -> Iterator[tuple[str, Sample]]:
    """Measured heads, kept from training, under masks; maps, noise and scale as at a site."""
    head = _kspace(data / "mr_kspace_head_t2_4coil" / "head_t2_axial_4coil.h5")
    sagittal = _kspace(data / "mri_kspace" / "head_t1_sagittal_1coil.h5")
    for name, kspace, rates in (
        ("T2 head, 4 coils, 128", _cropped(head, 128), (2, 3, 4)),
        ("T2 head, 4 coils, 256", head, (2, 3, 4)),
        ("sagittal head, 1 coil", sagittal, (2, 3)),
    ):
        for rate in rates:
            for kind, make in (("random", random_mask), ("equispaced", equispaced_mask)):
                yield f"{name}, {rate}x {kind}", _sample(kspace, make(kspace.shape[-1], rate, 0.1, 3).mask)
    with h5py.File(data / "mri_kspace" / "head_8coil_poisson_R8.h5") as file:
        kspace, mask = torch.from_numpy(file["kspace"][0]), torch.from_numpy(file["mask"][()]) != 0
    yield "head, 8 coils, Poisson 8x", _sample(kspace, mask, reference=False)


def _kspace(path: Path) -> Tensor:
    with h5py.File(path) as file:
        return torch.from_numpy(file["kspace"][0]).to(torch.complex64)


def _cropped(kspace: Tensor, size: int) -> Tensor:
    rows, columns = (slice(n // 2 - size // 2, n // 2 + size // 2) for n in kspace.shape[-2:])
    return kspace[:, rows, columns].contiguous()


def _sample(kspace: Tensor, mask: Tensor, reference: bool = True) -> Sample:
    mask = mask if mask.ndim == 2 else mask[None]
    covariance = estimate_noise_covariance(kspace * mask, mask)
    maps = estimate_maps(kspace * mask, mask)
    A = CartesianMRI(maps, mask)
    scale = float(A.start(kspace * mask).abs().max())
    return Sample(
        measurement=kspace * mask / scale,
        operator=A,
        noise_std=torch.tensor(float(covariance.diagonal().real.mean().sqrt()) / scale),
        reference=combine_coils(ifft2c(kspace), maps) / scale if reference else None,
        scale=torch.tensor(scale),
        condition=None,
        meta=(SampleMeta("measured", "scan", 0, 1.0, "coil_combined" if reference else "none"),),
    )


def evaluate(data: Path, weights: Path) -> None:
    net = load_weights(weights)
    print(f"{weights}: {sum(p.numel() for p in net.parameters())} parameters, {weights.stat().st_size} bytes")
    print(f"{'':42s}{'noise':>8s}{'CG-SENSE':>10s}{'TV':>8s}{'network':>9s}{'- TV':>7s}{'- best':>8s}   seconds")
    gains = []
    for name, sample in measured_scans(data):
        batch = collate([sample])
        begin = time.perf_counter()
        with torch.no_grad():
            image = apply(net, batch)
        seconds = time.perf_counter() - begin
        if sample.reference is None:
            _residuals(name, batch, net)
            continue
        y, A, reference = batch.measurement, batch.operator, sample.reference
        cg = max(score(CGSense(w)(y, A)[0], reference) for w in CG_WEIGHTS)
        tv = max(score(TotalVariation(w)(y, A)[0], reference) for w in TV_WEIGHTS)
        ours = score(image[0], reference)
        gains.append((ours - tv, ours - max(tv, cg)))
        print(
            f"{name:42s}{float(sample.noise_std):8.4f}{cg:10.2f}{tv:8.2f}{ours:9.2f}{ours - tv:+7.2f}"
            f"{ours - max(tv, cg):+8.2f}{seconds:10.1f}",
            flush=True,
        )
    mean, worst = np.mean([gain for gain, _ in gains]), min(gain for _, gain in gains)
    print(f"network - tuned TV: mean {mean:+.2f} dB; network - better of TV and CG-SENSE: worst {worst:+.2f}")


def _residuals(name: str, batch: Sample, net: UnrolledNetwork) -> None:
    """Residual on held-out samples, in units of the noise, of scans without a reference."""
    kept, held_out = held_out_split(batch, 0.2, torch.Generator().manual_seed(0))

    def residual(image: Tensor) -> float:
        difference = (batch.operator(image) - batch.measurement) * held_out
        count = float((held_out & batch.operator.sampled).sum()) * batch.measurement.shape[-3]
        return float((difference.abs().square().sum() / count).sqrt() / batch.noise_std[0])

    with torch.no_grad():
        ours = residual(apply(net, kept))
    tv = min(residual(TotalVariation(w)(kept.measurement, kept.operator)) for w in TV_WEIGHTS)
    cg = min(residual(CGSense(w)(kept.measurement, kept.operator)) for w in CG_WEIGHTS)
    print(f"{name:42s} held-out residual in noise: CG-SENSE {cg:.3f}  TV {tv:.3f}  network {ours:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=float, metavar="MINUTES", help="processor time of the training")
    parser.add_argument("--scans", type=int, default=2400, help="simulated training scans (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="processes that simulate (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--weights", type=Path, help="score these instead of the packaged ones")
    arguments = parser.parse_args()
    if "FEDRECON_DATA" not in os.environ:
        print("left out: needs FEDRECON_DATA, the folder of measured data and images of people")
        return
    torch.set_num_threads(1)
    data = Path(os.environ["FEDRECON_DATA"])
    weights = arguments.weights or ROOT / "recon" / "weights" / "brain-mri.safetensors"
    if arguments.train is not None:
        weights = train(data, arguments.train, arguments.scans, arguments.jobs, arguments.learning_rate)
        print(f"weights: {weights}")
    evaluate(data, weights)


if __name__ == "__main__":
    main()
