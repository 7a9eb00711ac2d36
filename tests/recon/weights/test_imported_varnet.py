"""Weights of fastMRI: state dicts and checkpoints are read, everything else is one line."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from fastmri.models import VarNet as FastMRIVarNet
from torch import Tensor

from recon import DataError, import_varnet, load_weights, save_weights

State = dict[str, Any]


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(0)
    return dict(FastMRIVarNet(num_cascades=2, sens_chans=3, sens_pools=1, chans=2, pools=3).state_dict())


def test_sizes_are_read_from_names_and_shapes_and_the_file_reads_back(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "knee.pt")
    settings, network = import_varnet(tmp_path / "knee.pt")
    assert (settings.cascades, settings.channels, settings.depth) == (2, 2, 3)
    expected = {"sensitivity_channels": 3, "sensitivity_depth": 1, "raw_coils": True}
    assert settings.architecture_options == expected and network.raw_coils and settings.raw_coils
    assert sum(p.numel() for p in network.parameters()) == sum(tensor.numel() for tensor in state.values())
    save_weights(network, tmp_path / "base.safetensors", settings, "mri", "Knees")
    again = load_weights(tmp_path / "base.safetensors").state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in network.state_dict().items())


def test_a_checkpoint_of_the_training_has_the_same_network(state: State, tmp_path: Path) -> None:
    inside = {f"varnet.{name}": tensor for name, tensor in state.items()} | {"loss.w": torch.ones(1)}
    torch.save({"state_dict": inside, "epoch": 3, "hyper_parameters": {"chans": 2}}, tmp_path / "epoch.ckpt")
    torch.save(state, tmp_path / "knee.pt")
    found, expected = (import_varnet(tmp_path / name)[1].state_dict() for name in ("epoch.ckpt", "knee.pt"))
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


FIRST = "cascades.0.model.unet.down_sample_layers.0.layers.0.weight"
LATER = "cascades.1.model.unet.conv.layers.4.weight"
DAMAGES: list[tuple[Callable[[State], State], str]] = [
    (lambda s: {}, rf"{FIRST}: found a state dict of 0 tensors without it, expected a VarNet of fastMRI"),
    (lambda s: {"conv.weight": torch.ones(2)}, "found a state dict of 1 tensors without it, such as conv.weight"),
    (
        lambda s: {name: tensor for name, tensor in s.items() if not name.startswith("sens_net")},
        "sens_net.norm_unet.unet.down_sample_layers.0.layers.0.weight: found a state dict of ",
    ),
    (
        lambda s: {k: t for k, t in s.items() if k != LATER},
        rf"{LATER}: found no tensor of this name, expected a VarNet",
    ),
    (
        lambda s: s | {"other.a": torch.ones(1), "other.b": torch.ones(1)},
        "other.a: found an unexpected tensor of this name; 1 others as well, expected a VarNet of 2 cascades, 2 ch",
    ),
    (
        lambda s: s | {LATER: torch.ones(16, 8, 3, 3)},
        rf"{LATER}: found shape \(16, 8, 3, 3\), expected \(16, 16, 3, 3\)",
    ),
    (lambda s: s | {FIRST: torch.ones(4, 2, 3, 3)}, r"found shape \(16, 8, 3, 3\), expected \(32, 16, 3, 3\) after 3"),
    (lambda s: s | {FIRST: torch.ones(())}, r"conv.layers.0.weight: found shape \(16, 8, 3, 3\), expected \(0, 0"),
    (lambda s: s | {LATER: torch.full((16, 16, 3, 3), torch.nan)}, f"{LATER}: found NaN or infinity, expected finite"),
    (lambda s: s | {LATER: s[LATER].to(torch.int8)}, f"{LATER}: found torch.int8, expected a tensor of floating-point"),
    (lambda s: s | {"cascades.0.dc_weight": 1.0}, "cascades.0.dc_weight: found float, expected a tensor of floating"),
    (
        lambda s: s | {"cascades.0.dc_weight": torch.ones(2)},
        r"dc_weight: found shape \(2,\), expected \(1,\) in a VarN",
    ),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_every_mismatch_is_one_line_with_the_tensor(
    state: State, tmp_path: Path, damage: Callable[[State], State], message: str
) -> None:
    torch.save(damage(dict(state)), tmp_path / "bad.pt")
    with pytest.raises(DataError, match=message) as error:
        import_varnet(tmp_path / "bad.pt")
    assert str(error.value).startswith(f"{tmp_path / 'bad.pt'}: ") and "\n" not in str(error.value)


class Evil:
    """Unpickled, it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_nothing_of_a_file_is_run(state: State, tmp_path: Path) -> None:
    torch.save({"state_dict": state, "callback": Evil(tmp_path / "written")}, tmp_path / "evil.ckpt")
    with pytest.raises(DataError, match=r"found a pickle with other objects than tensors.*nothing of it was run"):
        import_varnet(tmp_path / "evil.ckpt")
    assert not (tmp_path / "written").exists()


def test_files_that_are_no_state_dict_are_refused(state: State, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none.pt: file: found none that can be read \(No such file or directory\)"):
        import_varnet(tmp_path / "none.pt")
    torch.save(torch.ones(2), tmp_path / "tensor.pt")
    with pytest.raises(DataError, match=r"tensor.pt: file: found a Tensor, expected a state dict"):
        import_varnet(tmp_path / "tensor.pt")


def write_zip(path: Path, *names: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "content")


def old_file(state: State, path: Path) -> bytes:
    torch.save(state, path, _use_new_zipfile_serialization=False)
    return path.read_bytes()


def new_file(state: State, path: Path) -> bytes:
    torch.save(state, path)
    return path.read_bytes()


OTHER_FILES: list[tuple[Callable[[State, Path], object], str]] = [
    (
        lambda s, p: p.write_text("# VarNet\n\nTrained on knees.\n"),
        "found a text file, expected a file of torch.save; give",
    ),
    (
        lambda s, p: p.write_text("<!DOCTYPE html><title>Log in</title>"),
        "found a web page, such as a login page, exp",
    ),
    (
        lambda s, p: p.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"),
        "found a Git LFS pointer",
    ),
    (lambda s, p: p.write_bytes(b""), "found an empty file, expected a file of torch.save; get it again"),
    (
        lambda s, p: p.write_bytes(bytes(range(1, 256))),
        "found a file of another kind, expected a file of torch",
    ),
    (
        lambda s, p: write_zip(p, "word/document.xml"),
        "found a zip archive, expected a file of torch.save; give",
    ),
    (
        lambda s, p: write_zip(p, "a.npy"),
        r"found a NumPy archive \(.npz\), expected a file of torch.save; give",
    ),
    (
        lambda s, p: write_zip(p, "m/data.pkl", "m/constants.pkl"),
        "found a TorchScript archive, which holds code",
    ),
    (lambda s, p: write_zip(p, "m/data.pkl"), "found a truncated or damaged file"),
    (
        lambda s, p: p.write_bytes(new_file(s, p)[:3000]),
        "found a truncated or damaged zip archive",
    ),
    (
        lambda s, p: p.write_bytes(old_file(s, p)[:30]),
        "found a truncated or damaged file",
    ),
    (lambda s, p: p.write_bytes(old_file(s, p)[:3000]), "found a truncated "),
    (lambda s, p: p.write_bytes(old_file(s, p)[:-9]), "found a truncated "),
    (
        lambda s, p: p.write_bytes(safetensors.torch.save(s)[:3000]),
        "found a truncated or damaged file .*; get",
    ),
]


@pytest.mark.parametrize(("write", "message"), OTHER_FILES)
def test_a_file_of_another_kind_is_named(
    state: State, tmp_path: Path, write: Callable[[State, Path], object], message: str
) -> None:
    write(state, tmp_path / "file.pt")
    with pytest.raises(DataError, match=f"file.pt: file: {message}") as error:
        import_varnet(tmp_path / "file.pt")
    assert "\n" not in str(error.value)


def test_files_of_before_torch_1_6_and_of_safetensors_have_the_same_network(state: State, tmp_path: Path) -> None:
    old_file(state, tmp_path / "old.pt")
    safetensors.torch.save_file(state, tmp_path / "new.safetensors")
    torch.save(state, tmp_path / "knee.pt")
    expected = import_varnet(tmp_path / "knee.pt")[1].state_dict()
    for name in ("old.pt", "new.safetensors"):
        found = import_varnet(tmp_path / name)[1].state_dict()
        assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())


def test_half_precision_becomes_single_precision(state: State, tmp_path: Path) -> None:
    torch.save({name: tensor.half() for name, tensor in state.items()}, tmp_path / "half.pt")
    parameters: list[Tensor] = [*import_varnet(tmp_path / "half.pt")[1].parameters()]
    assert {p.dtype for p in parameters} == {torch.float32}
