"""A small federation in a temporary folder: real files, real manifests, seconds."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np

from federation.cli import main

HEADER = """<?xml version="1.0"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">
<acquisitionSystemInformation><systemVendor>{vendor}</systemVendor><systemModel>{model}</systemModel>
<systemFieldStrength_T>{field}</systemFieldStrength_T></acquisitionSystemInformation>
<encoding><encodedSpace><matrixSize><x>24</x><y>20</y><z>1</z></matrixSize></encodedSpace>
<reconSpace><matrixSize><x>24</x><y>20</y><z>1</z></matrixSize></reconSpace></encoding>
</ismrmrdHeader>"""

#: Options of `fedrecon train` for a network that trains in a second, in this process.
SMALL = (
    "--set", "network.cascades=1", "--set", "network.regularizer=cnn", "--set", "network.channels=2",
    "--set", "network.depth=2", "--set", "training.steps_per_round=2", "--jobs", "1",
)  # fmt: skip


def write_file(
    path: Path,
    patient: str | None = "",
    *,
    seed: int = 0,
    model: str = "Prisma_fit",
    field: str = "2.89",
    contrast: str = "AXT2",
    mask: Sequence[bool] | None = None,
) -> None:
    """Two slices of 24x20 with two coils in the fastMRI layout; an empty patient is the file's stem."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, *path.name.encode()])
    shape = (2, 2, 24, 20)
    kspace = (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)
    with h5py.File(path, "w") as file:
        file["ismrmrd_header"] = HEADER.format(vendor="SIEMENS", model=model, field=field)
        file["kspace"] = kspace
        file.attrs["acquisition"] = contrast
        if patient is not None:
            file.attrs["patient_id"] = patient or path.stem
        if mask is not None:
            file["mask"] = np.asarray(mask)


def write_manifest(folder: Path, name: str, splits: Mapping[str, Sequence[str]], extra: str = "") -> Path:
    """A manifest whose data lie in ``data/<name>`` beside it; ``extra`` goes between name and [data]."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.toml"
    lists = "\n".join(f"{split} = {list(files)!r}" for split, files in splits.items())
    path.write_text(f'name = "{name}"\n{extra}\n[data]\nroot = "data/{name}"\n{lists}\n')
    return path


def write_site(folder: Path, name: str = "north") -> Path:
    """A site with four files, two of them for training, and 4x random undersampling."""
    for index in range(4):
        write_file(folder / "data" / name / f"{name}_{index}.h5")
    simulate = '[simulate]\nsampling = "random"\nacceleration = 4\ncenter_fraction = 0.2\nnoise_std = 0.01\n'
    splits = {
        "train": [f"{name}_0.h5", f"{name}_1.h5"],
        "validation": [f"{name}_2.h5"],
        "test": [f"{name}_3.h5"],
    }
    return write_manifest(folder, name, splits, simulate)


def trained_run(folder: Path, options: Sequence[str]) -> Path:
    """The run folder of FedAvg at the sites in ``folder/sites``; one site is written if there are none."""
    sites, out = folder / "sites", folder / "run"
    if not sites.exists():
        write_site(sites)
    assert main(["train", "fedavg", "--sites", str(sites), "--out", str(out), *options]) == 0
    return out
