"""Do networks gain from the noise level? Blind, conditioned and noise-aware networks at equal training time.

    export FEDRECON_DATA=... OMP_NUM_THREADS=1
    python benchmarks/noise_ablation.py --train 2.5 [--seeds 3] [--modality mri]   # minutes of one core per network
    python benchmarks/noise_ablation.py                                            # the table of finished trainings

All networks have the same cascades and regularizer. They train for the same processor time on the same simulated scans
of people (`recon.RandomScans`, `recon.RandomCTScans`; noise over a factor of 30, dose over a factor of 100), in MRI
with realistic and with smooth phase. Scores: PSNR on simulated scans of other people with realistic phase, and on
measured scans. Finished rows are in runs/ablation/scores.csv and are not computed again.
"""

import argparse
import csv
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from starter_scans import CachedScans, StoredScans, bodies, data_folder, heads, measured_discs, measured_heads
from starter_weights import score
from torch import nn

from recon import (
    CONDITION_DIM,
    ConvRegularizer,
    GradientStep,
    NoiseProximalStep,
    NormalizedStep,
    ProximalStep,
    RandomCTScans,
    RandomScans,
    Sample,
    Samples,
    UnrolledNetwork,
    apply,
    collate,
    cosine_learning_rate,
    train_locally,
)

FOLDER = Path(__file__).resolve().parents[1] / "runs" / "ablation"
STEPS_PER_CHUNK, LEARNING_RATE, SCANS = 20, 3e-3, 600


def _network(consistency: Callable[[], nn.Module], *, condition: bool = False, **noise: bool) -> UnrolledNetwork:
    made: Callable[..., ConvRegularizer] = ConvRegularizer
    return UnrolledNetwork(
        6,
        consistency,  # type: ignore[arg-type]
        lambda: made(16, 4, condition_dim=CONDITION_DIM if condition else 0, noise_level=bool(noise)),
        ends_in="consistency",
        uses_condition=condition,
        **noise,
    )


#: Networks by modality and name.
ARMS: dict[str, dict[str, Callable[[], UnrolledNetwork]]] = {
    "mri": {
        "blind, gradient step": lambda: _network(GradientStep),
        "blind, proximal step": lambda: _network(ProximalStep),
        "condition vector": lambda: _network(ProximalStep, condition=True),
        "noise-aware": lambda: _network(NoiseProximalStep, tells_noise=True),
        "clean images changed less": lambda: _network(NoiseProximalStep, noise_level=True),
        "clean images changed less, 6 iterations": lambda: _network(
            partial(NoiseProximalStep, iterations=6), noise_level=True
        ),
    },
    "ct": {
        "blind, normalized step": lambda: _network(NormalizedStep),
        "blind, proximal step": lambda: _network(ProximalStep),
        "condition vector": lambda: _network(ProximalStep, condition=True),
        "noise-aware": lambda: _network(NoiseProximalStep, tells_noise=True),
        "clean images changed less": lambda: _network(NoiseProximalStep, noise_level=True),
    },
}


def trained(make: Callable[[], UnrolledNetwork], scans: Samples, minutes: float, seed: int) -> tuple[nn.Module, int]:
    """A network after some minutes of processor time, and its number of steps."""
    torch.manual_seed(seed)
    net, spent, chunk, moments = make(), 0.0, 0, {}
    while spent < 60 * minutes:
        begin = time.process_time()
        result = train_locally(
            net,
            scans,
            steps=STEPS_PER_CHUNK,
            batch_size=1,
            learning_rate=cosine_learning_rate(LEARNING_RATE, spent / (60 * minutes)),
            seed=1000 * seed + chunk,
            optimizer_state=moments,
        )
        moments, chunk = result.optimizer_state, chunk + 1
        spent += time.process_time() - begin
    return net.eval(), chunk * STEPS_PER_CHUNK


def mean_score(net: UnrolledNetwork | nn.Module, samples: list[Sample]) -> float:
    """Mean PSNR; measured scans have no features, a conditioned network gets none."""
    scores = []
    with torch.no_grad():
        for sample in samples:
            batch = collate([sample])
            scores.append(score(apply(net, batch)[0], batch))
    return float(np.mean(scores))


def data_of(modality: str, phase: str, data: Path, jobs: int) -> tuple[Samples, list[Sample], list[tuple[str, Sample]]]:
    """Training scans, simulated scans of other people, and measured ones."""
    if modality == "ct":
        other = RandomCTScans(bodies(data, True), 24, seed=1)
        measured = [(n, s) for n, s in measured_discs(data) if not n.startswith("solid")]
        return CachedScans(RandomCTScans(bodies(data, False), SCANS)), [other[i] for i in range(24)], measured
    images = [image for image in heads(data, False) if max(image.shape) <= 128]
    scans = StoredScans(FOLDER / phase, RandomScans(images, SCANS, phase=phase), jobs)  # type: ignore[arg-type]
    others = [image for image in heads(data, True) if max(image.shape) <= 128]
    validation = StoredScans(FOLDER / "validation", RandomScans(others, 24, seed=1), jobs)
    measured = [(n, s) for n, s in measured_heads(data) if "128" in n]
    return scans, [validation[i] for i in range(24)], measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=float, metavar="MINUTES", help="processor time of each training")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--modality", choices=ARMS, help="default: both")
    parser.add_argument("--jobs", type=int, default=2, help="processes that simulate")
    arguments = parser.parse_args()
    if (data := data_folder()) is None:
        return
    torch.set_num_threads(1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    table = FOLDER / "scores.csv"
    minutes = f"{arguments.train:g}" if arguments.train else ""
    done = {tuple(row[:5]): row[5:] for row in csv.reader(table.open())} if table.exists() else {}
    modalities = [arguments.modality] if arguments.modality else list(ARMS)
    cases = [(m, phase) for m in modalities for phase in (("realistic", "smooth") if m == "mri" else ("-",))]
    if arguments.train:
        count = sum(len(ARMS[m]) for m, _ in cases) * arguments.seeds
        print(f"{count} trainings of {minutes} minutes; {len(done)} rows are in {table}")
    for modality, phase in cases if arguments.train else ():
        loaded = None
        for seed in range(arguments.seeds):
            for name, make in ARMS[modality].items():
                key = (modality, phase, name, str(seed), minutes)
                if key in done:
                    continue
                loaded = loaded or data_of(modality, phase, data, arguments.jobs)
                scans, simulated, measured = loaded
                net, steps = trained(make, scans, arguments.train, seed)
                scores = [mean_score(net, simulated)]
                # Features of measured scans are not known to this script: a conditioned network is not scored on them.
                if getattr(net, "uses_condition", False):
                    scores.append(float("nan"))
                else:
                    scores.append(mean_score(net, [sample for _, sample in measured]))
                done[key] = [str(steps), *(f"{value:.3f}" for value in scores)]
                with table.open("a", newline="") as file:
                    csv.writer(file).writerow([*key, *done[key]])
                print(*key, *done[key], flush=True)
    print(f"\n{'':34s}{'steps':>7s}{'simulated':>16s}{'measured':>16s}   PSNR in dB, mean (lowest to highest seed)")
    for modality, phase in cases:
        for name in ARMS[modality]:
            rows = [v for k, v in done.items() if k[:3] == (modality, phase, name) and minutes in ("", k[4])]
            if rows:
                values = np.array(rows, float)
                cells = "".join(f"{v.mean():8.2f} ({v.min():.2f} to {v.max():.2f})" for v in values.T[1:])
                print(f"{modality + ' ' + phase + ', ' + name:44s}{values[:, 0].mean():7.0f}{cells}")


if __name__ == "__main__":
    main()
