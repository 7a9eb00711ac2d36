"""CT images by person: scanners with dose, field of view and table."""

import os
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pytest
import torch

from federation import ConfigError, load_federation, make_ct_image_sites, make_image_sites
from federation.cli.main import main
from federation.sites import CTScanner, PersonImage, read_scanners
from federation.sites.ct_image_sites import scanned
from federation.sites.lock_file import read_lock
from federation.sites.patient_table import with_table, without_table
from physics import body_volume
from recon import DataError, read_images

SCANNERS = """
[[scanner]]
name = "chest"
protocol = 1
matrix = 32
photons = 20000.0
field_of_view = 1.25
table = "flat"
persons = 3
slices = 2

[[scanner]]
name = "sparse"
protocol = 2
matrix = 32
views = 6
consistency = "chebyshev"
train_slices = 3
"""


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three files of two persons each, two slices a person, and two of one person."""
    folder = tmp_path_factory.mktemp("ct")
    lines = ["file,person,slices"]
    for number in range(5):
        hu = body_volume(4, (64, 64), number, "chest").numpy()
        volume = nibabel.Nifti1Image(hu.transpose(2, 1, 0)[::-1, ::-1], np.eye(4))  # type: ignore[no-untyped-call]
        nibabel.save(volume, folder / f"f{number}.nii")  # type: ignore[no-untyped-call]
        both = [f"f{number}.nii,{number}a,0-1", f"f{number}.nii,{number}b,2-3"]
        lines += both if number < 3 else [f"f{number}.nii,{number},"]
    (folder / "persons.csv").write_text("\n".join(lines) + "\n")
    (folder / "scanners.toml").write_text(SCANNERS)
    return folder


def test_ct_sites_of_persons(people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["sites", "make", "ct-images", "--persons", str(people / "persons.csv"), "--out", str(tmp_path / "a")]
    assert main([*command, "--scanners", str(people / "scanners.toml")]) == 0, capsys.readouterr().err
    chest, sparse = load_federation(tmp_path / "a")
    assert chest.acquisition.model == "HyperFed protocol 1" and sparse.consistency == "chebyshev"
    assert "CT images" in str(chest.acquisition.origin)
    persons = [{entry.patient_id for entry in read_lock(site.path).values()} for site in (chest, sparse)]
    assert len(persons[0]) == 3 and len(persons[1]) == 5 and persons[0].isdisjoint(persons[1])
    assert [len(chest.dataset(part)) for part in ("train", "validation", "test")] == [2, 2, 2]  # type: ignore[arg-type]
    assert len(sparse.dataset("train")) == 3
    with h5py.File(chest.files("train")[0]) as file:
        assert float(file["photons"][()]) == 20000
    sample = sparse.dataset("train")[0]
    assert sample.reference is not None and sample.reference.shape == (32, 32) and sample.measurement.shape[-2] == 6


def test_persons_alone_use_the_five_protocols(people: Path, tmp_path: Path) -> None:
    images = [PersonImage(people / f"f{n}.nii", f"{n}") for n in range(5)]
    made = make_ct_image_sites(images, tmp_path, size=32)
    assert [site.name for site in made] == [f"protocol{n}" for n in range(1, 6)]
    with pytest.raises(ConfigError, match=r"f0.nii: matrix of site protocol1: found 64 for .*64x64, expected .* 35"):
        make_ct_image_sites(images, tmp_path / "b", size=64)
    with pytest.raises(ConfigError, match="site few: views: found 9, expected at most the 8 of protocol 2 at 32"):
        make_ct_image_sites(images, tmp_path / "b", size=32, sites=[CTScanner(name="few", protocol=2, views=9)])


@pytest.mark.parametrize("kind", ["flat", "curved"])
def test_a_table_is_drawn_below_the_body_and_found_again(kind: str) -> None:
    body = body_volume(3, (128, 128), 0, "abdomen")
    moved = torch.full((3, 160, 160), -1000.0)
    moved[:, 8:136, 16:144] = body
    seen = with_table(moved, kind)
    added = (seen != moved).any(0)
    bottom = int((moved > -300).any(0).any(1).nonzero()[-1])
    rows = added.any(1).nonzero().flatten()
    assert added.sum() > 200 and int(rows[-1]) > bottom + 3
    assert torch.equal(seen[moved > -300], moved[moved > -300])
    assert float((without_table(seen) - moved).abs().mean()) < 0.25 * float((seen - moved).abs().mean())
    assert torch.equal(with_table(torch.full((1, 16, 16), -1000.0), kind), torch.full((1, 16, 16), -1000.0))


def test_a_larger_field_of_view_shows_a_smaller_body() -> None:
    body = body_volume(1, (128, 128), 0, "abdomen")
    near, far = (scanned(body, CTScanner(name="a", protocol=1, field_of_view=f), 32) for f in (1.0, 2.0))
    assert near.shape == far.shape == (1, 64, 64)
    ratio = float((near > -300).sum() / (far > -300).sum())
    assert ratio == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("protocol = 1", "protocol = 6", "scanner chest: protocol: found 6, expected a number less than or equal to 5"),
        ('table = "flat"', 'table = "round"', "scanner chest: table: found 'round'"),
        ("field_of_view = 1.25", "field_of_view = 0.5", "field_of_view: found 0.5, expected a number greater than"),
        ("photons = 20000.0", "photons = 0", "photons: found 0, expected a number greater than 0"),
        ("views = 6", "coils = 4", "scanner sparse: coils: unknown key"),
        ('"chebyshev"', '"chebychev"', "consistency: found 'chebychev', .*mean 'chebyshev'"),
    ],
)
def test_a_wrong_ct_scanner_is_one_line(tmp_path: Path, old: str, new: str, words: str) -> None:
    path = tmp_path / "scanners.toml"
    path.write_text(SCANNERS.replace(old, new))
    with pytest.raises(ConfigError, match=words) as caught:
        read_scanners(path, CTScanner)
    assert "\n" not in str(caught.value)


@pytest.mark.real_data
@pytest.mark.parametrize(
    "name", ["ct_chest_abdomen_sbu/sbu_ge_7people.nii.gz", "ct_and_mr_slices_msd/msd_ct_5people.nii.gz"]
)
def test_the_table_of_a_real_scan_is_removed_and_the_body_is_not(name: str) -> None:
    hu = read_images(Path(os.environ["FEDRECON_DATA"]) / name)[::3].clamp_min(-1000)
    body = without_table(hu)
    assert (body[:, -20:] == -1000).all()  # the table reaches the lower border, the body does not
    tissue, kept = (float((volume > -300).float().mean()) for volume in (hu, body))
    assert 0.9 * tissue < kept < 0.995 * tissue


#: Pixels of the scanner's field of view.
ROUND = np.hypot(*np.mgrid[-31.5:32, -31.5:32]) < 32


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda hu: hu.clip(-1000, 60), "display window"),
        (lambda hu: (hu / 8).round() * 8, "gray levels .* 8 bits"),
        (lambda hu: np.where(hu < -900, -2000, hu + 1024), "expected Hounsfield units"),
        (lambda hu: np.where(ROUND, hu, 3071), "found 3071 in all corners of 100% of the slices"),
        (lambda hu: np.where(ROUND, hu, 0), "found 0 in all corners"),
    ],
)
def test_pictures_of_ct_images_are_no_hounsfield_units(tmp_path: Path, spoil: Any, words: str) -> None:
    draw = np.random.default_rng(0)
    hu = np.stack([body_volume(4, (64, 64), seed, "chest").numpy() for seed in range(3)]).reshape(-1, 64, 64)
    hu = (hu + 30 * draw.standard_normal(hu.shape)).round()
    for name, values in (("sound", np.where(hu < -1050, -2000, hu)), ("spoiled", spoil(hu))):
        volume = nibabel.Nifti1Image(values.transpose(2, 1, 0).astype(np.int16), np.eye(4))  # type: ignore[no-untyped-call]
        nibabel.save(volume, tmp_path / f"{name}.nii")  # type: ignore[no-untyped-call]
    make_ct_image_sites([tmp_path / "sound.nii"], tmp_path / "sites", size=32)
    with pytest.raises(ConfigError, match=words) as caught:
        make_ct_image_sites([tmp_path / "spoiled.nii"], tmp_path / "other", size=32)
    assert str(tmp_path / "spoiled.nii") in str(caught.value)


@pytest.mark.real_data
def test_images_of_another_modality_are_refused(tmp_path: Path) -> None:
    images = Path(os.environ["FEDRECON_DATA"])
    with pytest.raises(DataError, match="dcm: Modality: found MR, expected CT"):
        make_ct_image_sites([images / "mri_images/studyforrest_t1"], tmp_path / "a", size=32)
    with pytest.raises(DataError, match="dcm: Modality: found CT, expected MR"):
        make_image_sites([images / "ct_images/abdomen_ge"], tmp_path / "b")
