"""Properties of the readers and the dataset of every modality."""

import json
import math
import pickle
from collections.abc import Callable
from inspect import Parameter
from pathlib import Path
from typing import Any

import pytest
import torch

from physics import (
    FanBeam,
    ImageGrid,
    ParallelBeam,
    RadonOperator,
    beating_heart,
    birdcage_maps,
    body_volume,
    evenly_spaced,
    hu_to_attenuation,
)
from recon import (
    MODALITIES,
    CineSimulation,
    ConvRegularizer,
    DataError,
    GradientStep,
    Modality,
    Readers,
    Sample,
    SampleMeta,
    ScanSimulation,
    Simulation,
    TrajectorySimulation,
    UnrolledNetwork,
    VolumeSlices,
    check_reader,
    collate,
    evaluate,
    held_out_split,
    simulate_volume,
    simulated_header,
    write_sinograms,
    write_volume,
)

N_SLICES = 3


def mri_file(path: Path) -> None:
    kspace = simulate_volume(body_volume(N_SLICES, (32, 28), 1, "pelvis") / 1000 + 1, birdcage_maps(4, (32, 28)))
    header, noise_free = simulated_header((32, 28)), torch.zeros(4, 4)
    write_volume(path, kspace, header, patient_id="p", acquisition="T1", noise_covariance=noise_free)


def ct_file(path: Path) -> None:
    grid, scan = ImageGrid((32, 28), 8.0), FanBeam(evenly_spaced(40, 2 * torch.pi / 40), 50, 8.0, 400.0, 640.0)
    reference = hu_to_attenuation(body_volume(N_SLICES, grid.shape, 1, "pelvis"))
    lines = RadonOperator(grid, scan)(reference)
    write_sinograms(path, grid, scan, line_integrals=lines, photons=1e5, reference=reference, patient_id="p")


def cine_file(path: Path) -> None:
    frames = torch.stack([beating_heart(4, (32, 28), 1, z) for z in (-0.5, 0.0, 0.5)], dim=1).flatten(0, 1)
    kspace, noise_free = simulate_volume(frames, birdcage_maps(4, (32, 28))), torch.zeros(4, 4)
    header = simulated_header((32, 28))
    write_volume(path, kspace, header, patient_id="p", acquisition="cine", noise_covariance=noise_free, frames=4)


#: A file of every modality, and a degradation of it.
FILES: dict[str, tuple[Callable[[Path], None], Any]] = {
    "mri": (mri_file, Simulation("random", 2, 0.3, 0.01)),
    "ct": (ct_file, ScanSimulation(views=20, photons=1e4)),
    "non_cartesian": (mri_file, TrajectorySimulation("radial", 1.5, 0.01)),
    "cine": (cine_file, CineSimulation("frame_random", 2, 0.3, 0.01)),
}


@pytest.fixture(params=MODALITIES)
def modality(request: pytest.FixtureRequest) -> Modality:
    return MODALITIES[request.param]


@pytest.fixture
def files(modality: Modality, tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{name}.h5" for name in ("a", "b")]
    for path in paths:
        FILES[modality.name][0](path)
    return paths


@pytest.fixture(params=["as measured", "degraded"])
def dataset(request: pytest.FixtureRequest, modality: Modality, files: list[Path]) -> VolumeSlices:
    simulate = FILES[modality.name][1] if request.param == "degraded" else None
    return modality.slices(files, "north", simulate=simulate)


def test_volumes_hold_their_facts(modality: Modality, files: list[Path]) -> None:
    dataset = modality.slices(files, "north")
    for volume, file in zip(dataset.volumes, files, strict=True):
        n_slices = volume.shape[0] // getattr(volume, "frames", 1)
        assert (volume.path, n_slices, volume.patient_id) == (file, N_SLICES, "p") and volume.description
        assert tuple(volume.read_slice(1).shape) == volume.shape[1:]
        assert torch.equal(pickle.loads(pickle.dumps(volume)).read_slice(1), volume.read_slice(1))
    assert len(dataset) == 2 * N_SLICES == len(dataset.volumes) * N_SLICES
    assert [dataset.locate(i) for i in (0, 2, 3, -1)] == [(0, 0), (0, 2), (1, 0), (1, 2)]
    with pytest.raises(IndexError, match="index 6"):
        dataset[6]


def test_samples_are_named_and_fit_their_operator(dataset: VolumeSlices) -> None:
    for index in (0, len(dataset) - 1):
        sample, (number, i) = dataset[index], dataset.locate(index)
        (meta,) = sample.meta
        assert (meta.site, meta.volume, meta.slice) == ("north", dataset.volumes[number].path.name, i)
        assert meta.reference_kind == dataset.reference_kinds[number]
        assert meta.acceleration == dataset.acceleration(number) >= 1
        assert sample.reference is not None and sample.target().shape == sample.magnitude(sample.reference).shape
        error = sample.operator(sample.reference) - sample.measurement
        assert float(error.norm()) < 0.1 * float(sample.measurement.norm())
        assert not (sample.measurement * ~sample.operator.sampled).any()


def test_samples_depend_on_files_and_arguments_alone(dataset: VolumeSlices) -> None:
    again = pickle.loads(pickle.dumps(dataset))
    for index in (4, 0, 4):
        assert torch.equal(again[index].measurement, dataset[index].measurement)


def test_degradation_degrades(modality: Modality, files: list[Path]) -> None:
    plain, degraded = (modality.slices(files, "north", simulate=s) for s in (None, FILES[modality.name][1]))
    assert degraded.acceleration(0) > plain.acceleration(0)
    assert float(degraded[0].noise_std) > float(plain[0].noise_std)


def test_facts_are_json_and_arrays_are_of_one_length(dataset: VolumeSlices) -> None:
    facts = dataset.facts()
    assert json.loads(json.dumps(facts)) == facts and "sampling" in facts
    arrays = dataset.arrays([dataset[i] for i in range(4)])
    assert arrays and {len(array) for array in arrays.values()} == {4}


def test_samples_make_a_batch(dataset: VolumeSlices) -> None:
    samples = [dataset[i] for i in range(2)]
    batch = collate(samples)
    assert batch.reference is not None
    for i, sample in enumerate(samples):
        assert torch.equal(batch.measurement[i], sample.measurement)
        assert torch.allclose(batch.operator(batch.reference)[i], sample.operator(sample.reference), atol=1e-5)
        assert torch.allclose(batch.target()[i], sample.target())


@pytest.mark.parametrize("batched", [False, True])
def test_the_operator_of_a_held_out_split_agrees_with_its_measurement(
    modality: Modality, files: list[Path], batched: bool
) -> None:
    dataset = modality.slices(files, "north", simulate=FILES[modality.name][1])
    sample = collate([dataset[0], dataset[1]]) if batched else dataset[0]
    kept, held_out = held_out_split(sample, 0.3, torch.Generator().manual_seed(0))
    there = held_out.expand(sample.measurement.shape)
    assert sample.measurement[there].any() and not kept.measurement[there].any()
    assert torch.equal(kept.measurement[~there], sample.measurement[~there])
    predicted = sample.operator(sample.reference)
    assert torch.allclose(kept.operator(sample.reference), predicted * ~held_out, atol=1e-5)
    assert not (kept.operator.sampled & held_out).any()
    assert kept.operator.start(kept.measurement).isfinite().all()


def test_a_batch_of_one_is_split_as_its_sample(modality: Modality, files: list[Path]) -> None:
    sample = modality.slices(files, "north", simulate=FILES[modality.name][1])[0]
    single, batch = (held_out_split(s, 0.3, torch.Generator().manual_seed(3)) for s in (sample, collate([sample])))
    assert torch.equal(single[0].measurement, batch[0].measurement[0])
    assert torch.equal(single[1].expand(sample.measurement.shape), batch[1].expand(1, *sample.measurement.shape)[0])


def test_the_dataset_takes_its_data_options_and_those_of_its_readers(modality: Modality, files: list[Path]) -> None:
    options = modality.data_options()
    assert all(Parameter.empty not in (option.annotation, option.default) for option in options.values())
    assert modality.readers[options["format"].default]
    foreign = {key for name in modality.readers for key in modality.reader_options(name)}
    own = {key: option.default for key, option in options.items() if key not in foreign}
    dataset = modality.slices(files, "north", **own)
    assert torch.equal(dataset[0].measurement, modality.slices(files, "north")[0].measurement)
    for name in modality.readers:
        defaults = {key: option.default for key, option in modality.reader_options(name).items()}
        with pytest.raises(DataError):  # of the file: the options are known
            modality.open(files[0].with_name("none"), name, **defaults)


def test_the_first_reader_has_the_properties_of_a_reader(modality: Modality, files: list[Path]) -> None:
    check_reader(next(iter(modality.readers)), modality, files[0])


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda path: None, "file: found nothing"),
        (Path.mkdir, "file: found a folder"),
        (lambda path: path.write_bytes(b""), "file: found an empty file|file: found no readable"),
        (lambda path: path.write_text("no measurement"), "file: found a text file|file: found no readable"),
    ],
    ids=["missing", "folder", "empty", "text"],
)
def test_every_reader_refuses_a_bad_file_in_one_line(
    modality: Modality, tmp_path: Path, make: Callable[[Path], object], found: str
) -> None:
    path = tmp_path / "file"
    make(path)
    for name in modality.readers:
        with pytest.raises(DataError, match=found) as caught:
            modality.open(path, name)
        assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_readers_are_called_with_a_path_and_their_options(tmp_path: Path) -> None:
    readers: Readers[Any] = Readers("toy reader", {})

    @readers.add("toy")
    def read(file: Path, *, pitch: float = 1.0) -> Any:
        return file, pitch

    readers.add("forgetful")(lambda file: None)
    (tmp_path / "a").touch()
    with pytest.raises(DataError, match=r"a: the reader 'forgetful' returns nothing, expected a volume"):
        readers.open(tmp_path / "a", "forgetful")
    assert list(readers.options("toy")) == ["pitch"] and readers["toy"] is read
    assert readers.open(str(tmp_path / "a"), "toy", pitch=2.0) == (tmp_path / "a", 2.0)


@pytest.mark.parametrize("views", [1, 2, 3])
def test_a_ct_scan_of_few_views_has_a_residual_where_one_can_be_held_out(views: int) -> None:
    angles = tuple(math.pi * index / views for index in range(views))
    A = RadonOperator(ImageGrid((12, 12), 2.0), ParallelBeam(angles, 20, 2.0))
    meta = SampleMeta("site", "scan", 0, 1.0, "none")
    sample = Sample(A(torch.ones(12, 12)), A, torch.tensor(0.1), None, torch.tensor(1.0), None, (meta,))
    for method in MODALITIES["ct"].methods.values():
        found = evaluate(method(), [sample])
        assert (found.mean("residual") is None) == (views == 1)
        assert found.to_json()["volumes"][0]["residual"] == found.mean("residual")


@pytest.mark.parametrize("kind", MODALITIES)
def test_methods_refuse_a_measurement_that_does_not_fit_with_one_line(kind: str) -> None:
    """One view would broadcast to all of them."""
    batch = MODALITIES[kind].batch()
    y, A = batch.measurement, batch.operator
    network = UnrolledNetwork(1, GradientStep, lambda: ConvRegularizer(4, 2))
    name, size = type(A).__name__, y.ndim - 2
    for method in (*(make() for make in MODALITIES[kind].methods.values()), network, A.normalized_adjoint, A.start):
        for wrong, words in ((y.numpy(), "numpy.ndarray"), (None, "NoneType")):
            with pytest.raises(TypeError, match=f"^{name}: measurement is {words}, expected a tensor; convert an arr"):
                method(*(wrong, A)[: 1 + isinstance(method, torch.nn.Module)])
        with pytest.raises(ValueError, match=f"^{name}: measurement has trailing shape .*, expected "):
            method(*(y.narrow(size, 0, 1), A)[: 1 + isinstance(method, torch.nn.Module)])
    for make in MODALITIES[kind].methods.values():
        with pytest.raises(TypeError, match=f"^{make.__name__}: operator is Tensor, expected LinearOperator"):
            make()(A, y)
