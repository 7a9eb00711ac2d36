"""Files of weights: what is written is read, what is wrong is one line, what is packaged loads and has a card."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from physics import CartesianMRI, birdcage_maps, random_mask
from recon import (
    MODALITIES,
    STARTER_WEIGHTS,
    DataError,
    NetworkSettings,
    UnrolledNetwork,
    load_weights,
    open_weights,
    read_weights,
    save_weights,
)
from recon.weights import catalog

SETTINGS = NetworkSettings(
    cascades=2,
    regularizer="cnn",
    channels=4,
    depth=2,
    consistency="noise_proximal",
    ends_in="consistency",
    noise_level=True,
)
ROOT = Path(__file__).parents[3]


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, UnrolledNetwork]:
    network = SETTINGS.build()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    save_weights(network, tmp_path / "heads.safetensors", SETTINGS, "mri", "Heads", {"matrix": 128})
    return tmp_path / "heads.safetensors", network


@pytest.mark.parametrize("name", [str, Path])
def test_what_is_saved_is_loaded(written: tuple[Path, UnrolledNetwork], name: Callable[[Path], str | Path]) -> None:
    path, network = written
    before = torch.random.get_rng_state()
    loaded = load_weights(name(path))
    assert torch.equal(torch.random.get_rng_state(), before) and not loaded.training
    assert loaded.state_dict().keys() == network.state_dict().keys()
    assert all(torch.equal(tensor, loaded.state_dict()[key]) for key, tensor in network.state_dict().items())
    A = CartesianMRI.collate([CartesianMRI(birdcage_maps(4, (16, 16)), random_mask(16, 2, 0.2, 0).mask)])
    y = A(torch.ones(1, 16, 16, dtype=torch.complex64))
    with torch.no_grad():
        assert torch.equal(loaded(y, A, noise_std=torch.tensor([0.01])), network(y, A, noise_std=torch.tensor([0.01])))


def test_a_file_says_what_it_holds(written: tuple[Path, UnrolledNetwork]) -> None:
    path, network = written
    file = open_weights(path)
    assert (file.title, file.modality, file.card) == ("Heads", "mri", path.with_name("heads.md"))
    assert NetworkSettings.of(file.network) == SETTINGS and "combine" not in file.network
    assert (
        file.parameters
        == sum(p.numel() for p in network.parameters())
        == sum(tensor.numel() for tensor in read_weights(file).values())
    )
    assert file.beyond(matrix=128, acceleration=99) == []
    assert file.beyond(matrix=320) == ["matrix 320, expected at most 128"]
    assert file.beyond(matrix=320, photons=None) == ["matrix 320, expected at most 128"]
    low_dose = replace(file, limits={"least_photons": 1e5})
    assert low_dose.beyond(matrix=320, photons=1e5) == []
    assert low_dose.beyond(photons=2e4) == ["photons 2e+04, expected at least 100000"]
    assert low_dose.beyond(photons=None) == ["photons unknown, expected at least 100000"]
    assert file.bytes == path.stat().st_size and len(file.sha256()) == 64


def test_a_name_without_weights_says_which_are_near(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(catalog.STARTER_WEIGHTS, "brain-test", tmp_path / "a")
    with pytest.raises(DataError, match=r"^brain-tst: found neither a file nor.*did you mean 'brain-test'\?$"):
        load_weights("brain-tst")
    with pytest.raises(DataError, match="found a folder, expected a file of weights"):
        load_weights(tmp_path)


def rewritten(path: Path, change: Callable[[dict[str, torch.Tensor], dict[str, str]], object]) -> None:
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = safetensors.torch.load_file(path)
    change(tensors, metadata)
    safetensors.torch.save_file(tensors, path, metadata)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda t, m: t.pop("regularizers.1.last.bias"), "regularizers.1.last.bias: found no such tensor"),
        (lambda t, m: t.update(more=torch.ones(2)), "more: found a tensor of no such name"),
        (
            lambda t, m: t.update({"regularizers.0.last.bias": torch.ones(3)}),
            r"regularizers.0.last.bias: found \(3,\) float32, expected \(2,\) float32",
        ),
        (
            lambda t, m: t.update({"regularizers.0.last.bias": torch.ones(2).half()}),
            r"found \(2,\) float16, expected \(2,\) float32",
        ),
        (lambda t, m: t["regularizers.0.last.bias"].fill_(float("nan")), "found NaN or infinity"),
        (lambda t, m: m.pop("network"), "metadata: found no 'network'"),
        (lambda t, m: m.pop("title"), "metadata: found no 'title'"),
        (lambda t, m: m.update(network="[1"), r"network: found '\[1', expected a JSON object"),
        (lambda t, m: m.update(network='{"cascade": 2}'), r"network.cascade: unknown key; did you mean 'cascades'\?"),
        (lambda t, m: m.update(network='{"cascades": "2"}'), "network.cascades: found '2', expected a value such as 5"),
        (
            lambda t, m: m.update(network='{"regularizer": "tanh"}'),
            "network.regularizer: found 'tanh', expected",
        ),
        (lambda t, m: m.update(network='{"regularizer_options": {"x": 1}}'), "network.regularizer_options: found 'x'"),
        (lambda t, m: m.update(limits="3"), "limits: found '3', expected a JSON object"),
        (lambda t, m: m.update(limits='{"matrix": "1"}'), "limits: found .*, expected numbers by name"),
        (lambda t, m: m.update(modality="pet"), "modality: found 'pet', expected mri or ct"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(
    written: tuple[Path, UnrolledNetwork],
    change: Callable[[dict[str, torch.Tensor], dict[str, str]], object],
    expected: str,
) -> None:
    path, _ = written
    rewritten(path, change)
    with pytest.raises(DataError, match=expected) as error:
        load_weights(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


@pytest.mark.parametrize("damage", [lambda data: data[:100], lambda data: data[:-7], lambda data: b"no weights"])
def test_a_damaged_file_is_one_line(written: tuple[Path, UnrolledNetwork], damage: Callable[[bytes], bytes]) -> None:
    path, _ = written
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match="found no readable safetensors") as error:
        load_weights(path)
    assert "\n" not in str(error.value)


def test_a_network_is_not_saved_with_settings_of_another(tmp_path: Path) -> None:
    other = NetworkSettings(cascades=1, regularizer="cnn", channels=4)
    with pytest.raises(ValueError, match="for these settings"):
        save_weights(SETTINGS.build(), tmp_path / "a.safetensors", other, "mri", "Heads")
    with pytest.raises(ValueError, match="modality is 'pet', expected one of mri, ct"):
        save_weights(SETTINGS.build(), tmp_path / "a.safetensors", SETTINGS, "pet", "Heads")
    assert list(tmp_path.iterdir()) == []


def test_every_setting_returns_from_its_record() -> None:
    chosen = NetworkSettings(regularizer_options={"norm": "group"}, condition="both", correct_operator=True)
    assert NetworkSettings.of(json.loads(json.dumps(chosen.record()))) == chosen
    assert NetworkSettings().record() == {}


def test_every_packaged_file_is_small_loads_and_has_a_card() -> None:
    folder = ROOT / "recon" / "weights"
    assert set(STARTER_WEIGHTS.values()) == set(folder.glob("*.safetensors"))
    for name, path in STARTER_WEIGHTS.items():
        assert path.stat().st_size <= 1e6, name
        file = open_weights(name)
        assert file.modality in MODALITIES and file.title and "\n" not in file.title
        assert sum(parameter.numel() for parameter in load_weights(name).parameters()) == file.parameters
        assert file.card.is_file(), name
    for card in folder.glob("*.md"):
        text = card.read_text(encoding="utf-8")
        for heading in ("## Data", "## Licence", "## Regime", "## Scores", "## Intended use", "## Limits"):
            assert heading in text, (card, heading)
        assert "CC BY" in text and "persons" in text
        assert card.stem not in STARTER_WEIGHTS or "@SCORES@" not in text
