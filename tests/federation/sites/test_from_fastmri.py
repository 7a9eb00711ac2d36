"""Sites made from files, from phantoms and from images, and their check."""

import itertools
import shutil
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import torch

from federation import (
    ConfigError,
    check_sites,
    load_federation,
    load_manifest,
    make_demo_sites,
    make_fastmri_sites,
    make_image_sites,
)
from federation.sites import MRIScanner
from federation.sites.from_fastmri import slug
from federation.sites.lock_file import lock_path, read_lock
from federation.sites.splits import assign_splits, split_counts
from physics import ifft2c
from recon import DataError, KSpaceSlices, KSpaceVolume, Simulation

from ..fake_sites import write_file, write_manifest, write_site

FRACTIONS = (0.7, 0.15, 0.15)


@pytest.fixture
def knee(tmp_path: Path) -> Path:
    """Two scanners, ten and two subjects with two files each, and an undersampled file."""
    folder = tmp_path / "knee"
    for index in range(10):
        for part in "ab":
            write_file(folder / f"p{index}{part}.h5", f"p{index}", model="Prisma_fit")
    for index in range(2):
        write_file(folder / f"q{index}.h5", f"q{index}", model="Skyra", field="1.494")
    write_file(folder / "u.h5", model="Skyra", field="1.494", mask=[True, False] * 10)
    return folder


def test_files_are_grouped_by_their_headers(knee: Path, tmp_path: Path) -> None:
    made = make_fastmri_sites(knee, tmp_path / "out")
    assert [site.name for site in made] == [
        "prisma-fit_2-9t_axt2",
        "skyra_1-5t_axt2",
        "skyra_1-5t_axt2_undersampled",
    ]
    assert made[0].subjects == {"train": 6, "validation": 2, "test": 2}
    assert made[0].missing == ()
    assert made[1].subjects == {"train": 1, "validation": 1, "test": 0}
    assert made[1].missing == ("test",)
    assert made[2].subjects == {"train": 0, "validation": 0, "test": 1}
    manifests = load_federation(tmp_path / "out")
    assert sum(len(list(manifest.data.named())) for manifest in manifests) == 23
    assert len(manifests[0].data.train) == 12
    assert manifests[0].acquisition.model == "Prisma_fit"
    assert manifests[0].simulation() == Simulation("random", 4, 0.08)
    assert manifests[2].simulation() is None
    for manifest in manifests:
        assert read_lock(manifest.path).keys() == {name for _, name in manifest.data.named()}


def test_grouping_reads_a_few_rows_of_kspace(knee: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("k-space was read")

    monkeypatch.setattr(KSpaceVolume, "read_slice", refuse)
    original = h5py.Dataset.__getitem__

    def guarded(self: h5py.Dataset, key: object) -> object:
        assert self.name != "/kspace" or key == (1, 0, slice(0, 24, 3))
        return original(self, key)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", guarded)
    make_fastmri_sites(knee, tmp_path / "out")


def test_making_sites_is_deterministic_and_depends_on_the_seed(knee: Path, tmp_path: Path) -> None:
    texts = []
    for index, seed in enumerate((0, 0, 1)):
        make_fastmri_sites(knee, tmp_path / str(index), seed=seed)
        texts.append((tmp_path / str(index) / "prisma-fit_2-9t_axt2.toml").read_text())
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_existing_sites_are_kept_without_overwrite(knee: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    make_fastmri_sites(knee, out, by=("vendor",))
    before = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(ConfigError, match="overwrite"):
        make_fastmri_sites(knee, out, by=("vendor",), seed=3)
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    make_fastmri_sites(knee, out, by=("vendor",), seed=3, overwrite=True)
    assert {path: path.read_bytes() for path in out.iterdir()} != before


def test_a_broken_file_writes_nothing(knee: Path, tmp_path: Path) -> None:
    (knee / "z.h5").write_bytes(b"not HDF5")
    with pytest.raises(DataError, match=r"z\.h5"):
        make_fastmri_sites(knee, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_variables_stay_in_the_manifest(knee: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KNEES", str(knee.parent))
    make_fastmri_sites("${KNEES}/knee", tmp_path / "out", by=("vendor",))
    assert load_federation(tmp_path / "out")[0].data.root == "${KNEES}/knee"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"by": ("modle",)}, "did you mean 'model'"),
        ({"by": ()}, "names nothing"),
        ({"split": (0.5, 0.5, 0.5)}, "add up to 1"),
        ({"split": (0.0, 0.5, 0.5)}, "the first positive"),
    ],
)
def test_wrong_options_are_named(knee: Path, tmp_path: Path, options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_fastmri_sites(knee, tmp_path / "out", **options)  # type: ignore[arg-type]


def test_a_folder_without_files_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ConfigError, match=r"no \*\.h5"):
            make_fastmri_sites(folder, tmp_path / "out")


def test_files_of_one_name_in_several_folders_are_named_by_their_paths(tmp_path: Path) -> None:
    for person in range(6):
        write_file(tmp_path / f"data/p{person}/scan.h5", None, seed=person)
    write_file(tmp_path / "data/p0/other.h5", None)
    make_fastmri_sites(tmp_path / "data", tmp_path / "out")
    (facts,) = check_sites(tmp_path / "out")
    assert sum(split.subjects for split in facts.splits) == 7  # without patient_id every file is a subject of its own
    (site,) = load_federation(tmp_path / "out")
    named = dict(zip((name for _, name in site.data.named()), site.data.names.values(), strict=True))
    assert named["p0/other.h5"] == "other.h5"
    assert all(named[f"p{person}/scan.h5"] == f"p{person}/scan.h5" for person in range(6))
    samples = [site.samples([site.root / name])[0] for _, name in site.data.named()]
    assert {sample.meta[0].volume for sample in samples} == set(named.values())
    masks = {sample.operator.sampled.numpy().tobytes() for sample in samples}  # type: ignore[attr-defined, operator]
    assert len(masks) > 3  # the name seeds the mask


def test_files_of_unique_names_keep_their_numbers(tmp_path: Path) -> None:
    write_file(tmp_path / "data/s/a/first.h5")
    write_file(tmp_path / "data/s/b/second.h5")
    simulate = '[simulate]\nsampling = "random"\nacceleration = 4\ncenter_fraction = 0.2\nnoise_std = 0.01\n'
    site = load_manifest(write_manifest(tmp_path, "s", {"train": ["a/first.h5", "b/second.h5"]}, simulate))
    alone = KSpaceSlices(site.files("train"), "s", simulate=site.simulation())
    for mine, theirs in zip(site.dataset("train"), alone, strict=True):
        assert mine.meta == theirs.meta and torch.equal(mine.measurement, theirs.measurement)


@pytest.mark.parametrize("fractions", [FRACTIONS, (0.8, 0.2, 0.0), (0.8, 0.0, 0.2), (0.1, 0.45, 0.45), (1.0, 0.0, 0.0)])
def test_split_counts_add_up(fractions: tuple[float, float, float]) -> None:
    for n in range(60):
        counts = split_counts(n, fractions)
        assert sum(counts) == n
        assert min(counts) >= 0
        for count, fraction in zip(counts, fractions, strict=True):
            assert (count == 0) if fraction == 0 else (count >= 1 or n < 3)
            assert n < 3 or abs(count - fraction * n) <= 2
    assert split_counts(1, FRACTIONS) == (1, 0, 0)
    assert split_counts(2, FRACTIONS) == (1, 1, 0)
    assert split_counts(3, FRACTIONS) == (1, 1, 1)


def test_no_subject_is_ever_in_two_splits() -> None:
    rng = np.random.default_rng(0)
    for seed in range(50):
        groups = {name: [f"s{subject}" for subject in rng.integers(0, 30, size=rng.integers(1, 40))] for name in "abcd"}
        splits = assign_splits(groups, FRACTIONS, seed, test_only=["d"])
        seen: dict[str, str] = {}
        for group, of in splits.items():
            assert of.keys() == set(groups[group])
            for name, split in of.items():
                assert seen.setdefault(name, split) == split
        assert set(splits["d"].values()) == {"test"}


def test_slugs_are_site_names() -> None:
    assert slug(["Prisma_fit", "2.9T", "CORPD_FBK"]) == "prisma-fit_2-9t_corpd-fbk"
    assert slug(["../..", "Ä"]) == "unknown_unknown"
    assert len(slug(["x" * 100])) == 64


def test_groups_of_one_slug_stay_apart(tmp_path: Path) -> None:
    for index, model in enumerate(("A B", "A-B")):
        write_file(tmp_path / "in" / f"{index}.h5", model=model)
    made = make_fastmri_sites(tmp_path / "in", tmp_path / "out", by=("model",))
    assert [site.name for site in made] == ["a-b", "a-b-2"]


def test_check_writes_the_lock_and_reports_facts(tmp_path: Path) -> None:
    path = write_site(tmp_path)
    facts = check_sites(tmp_path)
    assert (facts[0].role, facts[0].lock) == ("trains", "written")
    train = facts[0].splits[0]
    assert (train.files, train.subjects, train.slices) == (2, 2, 4)
    assert train.measured == ("2 coils 24x20",)
    assert 1 < train.accelerations[0] <= train.accelerations[1] < 20
    assert check_sites(tmp_path)[0].lock == "verified"
    path.write_text(path.read_text().replace(", 'north_1.h5'", ""))
    assert check_sites(tmp_path)[0].lock == "updated"
    assert "north_1.h5" not in read_lock(path)


def test_check_finds_a_changed_file(tmp_path: Path) -> None:
    write_site(tmp_path)
    check_sites(tmp_path)
    file = tmp_path / "data/north/north_3.h5"
    size = file.stat().st_size
    with h5py.File(file, "r+") as handle:
        handle["kspace"][0, 0, 0, 0] = 7
    assert file.stat().st_size == size
    with pytest.raises(ConfigError, match="sha256"):
        check_sites(tmp_path)


def test_check_finds_nan_and_writes_no_lock(tmp_path: Path) -> None:
    path = write_site(tmp_path)
    with h5py.File(tmp_path / "data/north/north_3.h5", "r+") as handle:
        handle["kspace"][1, 0, 3, 3] = np.nan
    with pytest.raises(DataError, match=r"north_3\.h5.*NaN"):
        check_sites(tmp_path)
    assert not lock_path(path).exists()


def test_check_finds_copies_of_a_file(tmp_path: Path) -> None:
    write_file(tmp_path / "data/pair/a.h5", None)
    shutil.copy(tmp_path / "data/pair/a.h5", tmp_path / "data/pair/b.h5")
    write_manifest(tmp_path, "pair", {"train": ["a.h5"], "test": ["b.h5"]})
    load_federation(tmp_path)
    with pytest.raises(ConfigError, match=r"same data as a\.h5"):
        check_sites(tmp_path)


def demo(out: Path, **options: object) -> None:
    sizes = {"size": 32, "train": 2, "validation": 1, "test": 1, "slices": 2}
    make_demo_sites(out, **{**sizes, **options})  # type: ignore[arg-type]


def test_demo_sites_are_complete_and_checked(tmp_path: Path) -> None:
    demo(tmp_path / "sites")
    facts = {site.name: site for site in check_sites(tmp_path / "sites")}
    assert set(facts) == {"north", "east", "south", "west", "unseen"}
    assert facts["unseen"].role == "unseen"
    assert {site.lock for site in facts.values()} == {"verified"}
    coils = {name: site.splits[0].measured[0].split(" coils")[0] for name, site in facts.items()}
    assert coils == {"north": "4", "east": "6", "south": "8", "west": "8", "unseen": "6"}
    for manifest in load_federation(tmp_path / "sites"):
        assert manifest.synthetic
        assert manifest.unseen == (manifest.name == "unseen")
        assert manifest.trains != manifest.unseen


def test_demo_kspace_is_the_anatomy_through_the_true_maps(tmp_path: Path) -> None:
    demo(tmp_path)
    with h5py.File(tmp_path / "data/north/north_train_000.h5") as file:
        images, maps = (torch.from_numpy(file[key][()]) for key in ("kspace", "maps"))
    images = ifft2c(images)
    combined = (maps.conj() * images).sum(1, keepdim=True)
    assert torch.allclose(maps * combined, images, atol=1e-5)
    assert 0.5 < combined.abs().max() < 1.5


def test_every_demo_volume_is_another_anatomy(tmp_path: Path) -> None:
    demo(tmp_path)
    images = []
    for path in sorted(tmp_path.glob("data/*/*.h5")):
        with h5py.File(path) as file:
            images.append(file["reconstruction_rss"][()])
    assert len(images) == 20
    for first, second in itertools.combinations(images, 2):
        assert np.abs(first - second).max() > 0.01


@pytest.mark.slow
def test_demo_sites_depend_on_the_seed_alone(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        demo(tmp_path / name, seed=seed)
    locks = [{path.name: path.read_text() for path in (tmp_path / name).glob("*.json")} for name in "abc"]
    assert locks[0] == locks[1]
    assert all(locks[0][name] != locks[2][name] for name in locks[0])


def test_demo_sites_may_be_moved_but_not_overwritten(tmp_path: Path) -> None:
    demo(tmp_path / "a")
    with pytest.raises(ConfigError, match="overwrite"):
        demo(tmp_path / "a")
    demo(tmp_path / "a", overwrite=True)
    (tmp_path / "a").rename(tmp_path / "b")
    load_federation(tmp_path / "b")


TWO = (
    MRIScanner(name="one", coils=4, sampling="random", acceleration=4, center_fraction=0.08),
    MRIScanner(name="two", coils=2, sampling="equispaced", acceleration=3, center_fraction=0.1),
)


def write_nifti(path: Path, n_slices: int, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    data = np.zeros((30, 26, n_slices + 10), np.float32)
    data[4:26, 4:22, 5:-5] = 100 + rng.random((22, 18, n_slices))
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), path)  # type: ignore[attr-defined]
    return path


def test_one_image_is_cut_into_blocks(tmp_path: Path) -> None:
    made = make_image_sites([write_nifti(tmp_path / "head.nii.gz", 60)], tmp_path / "out", sites=TWO)
    assert [site.subjects for site in made] == [{"train": 1, "validation": 1, "test": 1}] * 2
    facts = check_sites(tmp_path / "out")
    assert [split.slices for split in facts[0].splits] == [8, 8, 8]
    manifest = load_manifest(tmp_path / "out/one.toml")
    # Images of a user are data of a patient.
    assert not manifest.synthetic
    assert manifest.acquisition.origin is not None
    assert "magnitude images head.nii.gz" in manifest.acquisition.origin
    sample = manifest.dataset("train")[0]
    assert sample.reference is not None
    assert sample.reference.is_complex()


def test_many_images_are_split_by_subject(tmp_path: Path) -> None:
    images = [write_nifti(tmp_path / f"s{index}.nii.gz", 20, index) for index in range(6)]
    made = make_image_sites(images, tmp_path / "out", sites=TWO)
    assert [site.subjects for site in made] == [{"train": 1, "validation": 1, "test": 1}] * 2
    for manifest in load_federation(tmp_path / "out"):
        subjects = {
            split: {name.split("_")[1] for name in getattr(manifest.data, split)} for split in ("train", "test")
        }
        assert subjects["train"].isdisjoint(subjects["test"])
        assert len(manifest.data.train) == 3


def test_too_few_slices_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one per site"):
        make_image_sites([write_nifti(tmp_path / "a.nii", 8)], tmp_path / "out", sites=TWO)
    assert not (tmp_path / "out").exists()
