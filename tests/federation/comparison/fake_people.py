"""Small images of people that do not exist, in the layout of the folder FEDRECON_DATA."""

from pathlib import Path

import nibabel
import numpy as np
import torch

from federation.comparison.anatomy_persons import CT_TRAINING, IXI, LABELS, LJUBLJANA, MSD, SBU, UNSEEN

SIZE, SLICES = 64, 6
#: The training persons of CT, in files instead of folders of DICOM.
FAKE_CT_TRAINING = tuple((file if file.endswith(".nii.gz") else f"{file}.nii.gz", name) for file, name in CT_TRAINING)
#: Persons with T1 and label maps.
T1_PERSONS, LABEL_PERSONS = 34, 20


def write_people(folder: Path) -> Path:
    """Write heads with an ellipse or two inside, and CT images of the same in Hounsfield units."""
    (folder / LABELS).parent.mkdir(parents=True)
    for number in range(T1_PERSONS):
        head = _volume(number)
        _save(folder / IXI / f"IXI{number:03d}-HH-0_T1.nii.gz", head)
        _save(folder / IXI / f"IXI{number:03d}-HH-0_T1_DLMUSE.nii.gz", (head > 0).astype(np.float32))
    labels = np.stack([_volume(100 + number) for number in range(LABEL_PERSONS)])
    np.savez(folder / LABELS, labels=np.round(10 * labels).astype(np.int16))
    for number, person in enumerate(UNSEEN):
        _save(folder / LJUBLJANA / f"{person}_study1_FLAIR.nii.gz", _volume(200 + number))
    for number, (file, _) in enumerate(FAKE_CT_TRAINING):
        _save(folder / file, _hounsfield(300 + number, SLICES))
    _save(folder / MSD, _hounsfield(400, 5))
    _save(folder / SBU, _hounsfield(401, 14))
    return folder


def _volume(seed: int, slices: int = SLICES) -> np.ndarray:
    """Slices of an ellipse with texture, bright tissue at 1."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    volume = np.zeros((slices, SIZE, SIZE), np.float32)
    for z in range(slices):
        a, b = random.uniform(0.5, 0.8, 2)
        volume[z][(x / a) ** 2 + (y / b) ** 2 < 1] = 0.6
        for _ in range(4):
            cx, cy = random.uniform(-0.3, 0.3, 2)
            volume[z][(x - cx) ** 2 + (y - cy) ** 2 < random.uniform(0.01, 0.06)] = random.uniform(0.2, 1.0)
        volume[z][x**2 + y**2 < 0.01] = 1.0
    return volume


def _hounsfield(seed: int, slices: int) -> np.ndarray:
    volume = torch.from_numpy(_volume(seed, slices))
    return torch.where(volume > 0, 100 * volume - 40, -1000.0).numpy()


def _save(path: Path, volume: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(volume.transpose(2, 1, 0)[::-1, ::-1], np.eye(4)), path)
