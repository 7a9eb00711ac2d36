"""`fedrecon doctor`: what a bug report needs, and whether the installation computes rightly."""

import argparse
import os
import platform
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from ..machine import cores, disk_free, gpu_memory_free, memory_available, memory_total
from .arguments import Commands, say

#: Exit code if something is wrong.
UNWELL = 1
#: Least free disk and memory in GB.
_DISK, _MEMORY = 2.0, 2.0
#: Names under which some packages are imported.
_IMPORTED = {
    "scikit-image": "skimage", "pillow": "PIL", "lazy-loader": "lazy_loader",
    "annotated-types": "annotated_types", "tomli-w": "tomli_w",
}  # fmt: skip
#: Packages of extras whose versions are of interest.
_OPTIONAL = ("flwr", "argcomplete")
#: Absolute paths, which may name a user.
_PATH = re.compile(r"(?:[A-Za-z]:)?[/\\](?:[^\s/\\:'\"]+[/\\])+")


def add_doctor(commands: Commands) -> None:
    doctor = commands.add_parser(
        "doctor",
        help="print versions, machine and a self test, for bug reports",
        description="Print versions, threads, memory, disk, GPU and a self test of a few seconds. The text names no "
        f"files and no users. Exit code 0 if all is well, {UNWELL} if not.",
    )
    doctor.set_defaults(run=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    problems: list[str] = []
    for title, lines in (("fedrecon", _packages(problems)), ("machine", _machine(problems))):
        say(title)
        try:
            for line in lines:
                say(f"  {line}")
        except Exception as error:
            problems.append(f"{title}: {_reason(error)}")
    say("self test")
    for name, check in _CHECKS.items():
        begin = time.monotonic()
        try:
            found = check()
        except Exception as error:  # whatever is broken: this command reports it
            found = ""
            problems.append(f"{name}: {_reason(error)}")
        say(f"  {'ok    ' if found else 'FAILED'}  {name:28s} {found}  ({time.monotonic() - begin:.1f} s)")
    for problem in problems:
        say(f"problem: {problem}")
    say("all is well" if not problems else f"{len(problems)} problem{'s' * (len(problems) > 1)}, see above")
    return UNWELL if problems else 0


def _reason(error: Exception) -> str:
    """The error without the folders that its text names."""
    return f"{type(error).__name__}: {_PATH.sub('.../', ' '.join(str(error).split()))[:300]}"


def _packages(problems: list[str]) -> Iterator[str]:
    yield f"fedrecon {_version('fedrecon') or 'of a checkout that is not installed'}"
    yield f"Python {platform.python_version()} ({platform.python_implementation()})"
    found = []
    for name, is_required in _requirements().items():
        installed = _version(name)
        if installed is None:
            if is_required:
                problems.append(f"{name}: found no such package, expected one; run pip install fedrecon again")
            continue
        found.append(f"{name} {installed}")
        try:
            import_module(_IMPORTED.get(name, name)) if is_required else None
        except Exception as error:  # broken binaries raise many kinds
            problems.append(f"{name} {installed}: cannot be imported ({_reason(error)})")
    for index in range(0, len(found), 5):
        yield "  ".join(found[index : index + 5])


def _requirements() -> dict[str, bool]:
    """Packages that fedrecon names, and whether they belong to no extra."""
    try:
        lines = requires("fedrecon") or []
    except PackageNotFoundError:
        lines = ["numpy", "torch", "numba", "sigpy", "h5py", "scipy", "scikit-image", "safetensors", "pydantic"]
    optional = {name: False for line in lines if "extra ==" in line and (name := _name(line)) in _OPTIONAL}
    return {_name(line): True for line in lines if "extra ==" not in line} | optional


def _name(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    return "" if match is None else match[0]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _machine(problems: list[str]) -> Iterator[str]:
    yield f"{platform.system()} {platform.release()} {platform.machine()}"
    import torch

    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    yield f"{os.cpu_count()} cores, {cores()} usable; PyTorch uses {torch.get_num_threads()}; OMP_NUM_THREADS {threads}"
    total, free, disk = memory_total(), memory_available(), disk_free(Path()) / 1e9
    yield f"memory {_gigabytes(total)}, {_gigabytes(free)} free; disk {disk:.1f} GB free here"
    if total is not None and total < _MEMORY * 1e9:
        problems.append(f"memory: found {_gigabytes(total)}, expected at least {_MEMORY:g} GB; use smaller images")
    if disk < _DISK:
        problems.append(f"disk: found {disk:.1f} GB free here, expected at least {_DISK:g} GB; free space")
    yield from _gpus()
    yield from _ct_on_gpus()


def _gigabytes(count: int | None) -> str:
    return "unknown" if count is None else f"{count / 1e9:.1f} GB"


def _gpus() -> Iterator[str]:
    """Name, memory and free memory of every GPU, of which a context of this process is a part from now on."""
    import torch

    if not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for CPUs alone"
        yield f"GPU: PyTorch sees none ({built})"
        return
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        try:
            free = _gigabytes(gpu_memory_free(f"cuda:{index}"))
        except RuntimeError as error:  # as of a GPU without memory for a context
            free = f"unknown ({_reason(error)})"
        yield f"GPU cuda:{index}: {device.name}, memory {_gigabytes(device.total_memory)}, {free} free"


def _ct_on_gpus() -> Iterator[str]:
    """Whether CT runs in kernels on every GPU; without one, whether Triton is there."""
    import torch

    if torch.cuda.is_available():
        from physics import kernels_on

        yield from (kernels_on(torch.device("cuda", index)) for index in range(torch.cuda.device_count()))
    else:
        triton = _version("triton")
        yield f"CT kernels for GPUs: {f'Triton {triton}, but no GPU to run them' if triton else 'no Triton, no GPU'}"


def _operator(modality: str) -> str:
    from physics import check_operator
    from recon import MODALITIES

    return f"largest relative error {max(check_operator(MODALITIES[modality].example(0).operator).values()):.1e}"


def _mri_reconstruction() -> str:
    """Starter weights on a simulated slice, against the zero-filled image."""
    import torch

    from physics import CartesianMRI, birdcage_maps, complex_noise, phantom_volume, random_mask
    from recon import ZeroFilled, call, load_weights

    size, noise = 64, 0.01
    mask = random_mask(size, acceleration=2, center_fraction=0.15, seed=0).mask
    A, image = CartesianMRI(birdcage_maps(4, (size, size)), mask), phantom_volume(1, (size, size), seed=0)
    y = A(image[0])[None]
    y = (y + complex_noise(y.shape, noise, torch.Generator().manual_seed(0))) * A.sampled
    batch = CartesianMRI.collate([A])
    with torch.no_grad():
        network = load_weights("brain-mri")
        error, start = (
            float((found - image).norm() / image.norm())
            for found in (call(network, y, batch, noise_std=torch.tensor([noise])), ZeroFilled()(y, batch))
        )
    if not error < 0.5 * start:
        raise ArithmeticError(f"error {error:.3f} of the image, expected less than half of {start:.3f}, zero-filled")
    return f"error {error:.3f} of the image, zero-filled {start:.3f}"


def _ct_reconstruction() -> str:
    """Filtered back-projection of a simulated slice."""
    import math

    from physics import FanBeam, ImageGrid, RadonOperator, evenly_spaced, phantom_volume
    from recon import FilteredBackprojection

    scan = FanBeam(evenly_spaced(180, 2 * math.pi / 180), 128, 1.0, 400.0, 640.0)
    A, image = RadonOperator(ImageGrid((64, 64), 0.8), scan), phantom_volume(1, (64, 64), seed=0).abs()
    found = FilteredBackprojection()(A(image[0])[None], RadonOperator.collate([A]))
    error = float((found - image).norm() / image.norm())
    if not error < 0.3:
        raise ArithmeticError(f"error {error:.3f} of the image, expected less than 0.3")
    return f"error {error:.3f} of the image"


_CHECKS: dict[str, Callable[[], str]] = {
    "MRI operator": partial(_operator, "mri"),
    "CT operator": partial(_operator, "ct"),
    "MRI reconstruction, network": _mri_reconstruction,
    "CT reconstruction, FBP": _ct_reconstruction,
}
