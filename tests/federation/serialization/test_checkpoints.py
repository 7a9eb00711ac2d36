import errno
import hashlib
import json
import os
import pickle

import pytest
import torch

from federation.serialization import MessageError, digest, load_checkpoint, load_newest, pack, save_checkpoint
from federation.serialization.checkpoints import StoredState, prune, saved_rounds
from federation.serialization.packing import layout
from recon import DataError, write_atomically

STATE = {"w": torch.arange(6.0).reshape(2, 3), "step": torch.tensor(3.0)}


def save(folder, *rounds):
    for round in rounds:
        save_checkpoint(folder, round, {name: tensor + round for name, tensor in STATE.items()}, {"best": round})


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_checkpoints_come_back_as_they_were(tmp_path):
    save(tmp_path / "new", 0, 3, 1_234_567)
    assert saved_rounds(tmp_path / "new") == [0, 3, 1_234_567]
    checkpoint = load_checkpoint(tmp_path / "new", 3, layout(STATE))
    assert (checkpoint.round, checkpoint.numbers) == (3, {"best": 3})
    assert torch.equal(checkpoint.tensors["w"], STATE["w"] + 3)
    assert load_newest(tmp_path / "new").round == 1_234_567
    assert load_newest(tmp_path / "new", at_most=4).round == 3
    assert load_newest(tmp_path / "none") is None


def test_sidecar_is_the_files_sha256(tmp_path):
    save(tmp_path, 3)
    facts = json.loads((tmp_path / "round_000003.json").read_text())
    assert facts["sha256"] == hashlib.sha256((tmp_path / "round_000003.safetensors").read_bytes()).hexdigest()


@pytest.mark.fault("damaged checkpoint")
@pytest.mark.parametrize("suffix", ["safetensors", "json"])
@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(tmp_path, caplog, suffix, damage):
    save(tmp_path, 3, 4)
    path = tmp_path / f"round_000004.{suffix}"
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    path.write_bytes({"truncate": data[:-9], "flip": data, "empty": b""}[damage])
    assert load_newest(tmp_path).round == 3
    assert len(caplog.records) == 1
    assert "round_000004.safetensors" in caplog.text and "trying the one before" in caplog.text


@pytest.mark.fault("damaged checkpoint")
def test_every_flipped_bit_is_noticed(tmp_path):
    save(tmp_path, 0)
    for path in sorted(tmp_path.iterdir()):
        intact = path.read_bytes()
        for position in range(0, len(intact), 11):
            altered = bytearray(intact)
            altered[position] ^= 1 << position % 8
            path.write_bytes(altered)
            with pytest.raises(DataError):
                load_checkpoint(tmp_path, 0)
        path.write_bytes(intact)
    load_checkpoint(tmp_path, 0)


def test_all_damaged_is_an_error_in_one_line(tmp_path):
    save(tmp_path, 0)
    (tmp_path / "round_000000.safetensors").unlink()
    with pytest.raises(DataError, match=r"round_000000\.safetensors: cannot be read .*no intact checkpoint") as error:
        load_newest(tmp_path)
    assert "\n" not in str(error.value)


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("exploded",))


@pytest.mark.fault("pickle as a checkpoint")
def test_a_pickle_offered_as_checkpoint_is_refused_unopened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path, 1, 2)
    data = pickle.dumps(Bomb())
    (tmp_path / "round_000002.safetensors").write_bytes(data)
    facts = {"round": 2, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (tmp_path / "round_000002.json").write_text(json.dumps(facts))
    with pytest.raises(DataError, match="not safetensors"):
        load_checkpoint(tmp_path, 2)
    assert load_newest(tmp_path).round == 1
    assert not (tmp_path / "exploded").exists()


def test_tensors_of_another_network_are_refused(tmp_path):
    save(tmp_path, 0)
    with pytest.raises(DataError, match="tensors missing"):
        load_checkpoint(tmp_path, 0, {"v": ((2, 3), torch.float32)})


def test_nan_is_not_saved(tmp_path):
    save(tmp_path, 0)
    with pytest.raises(MessageError, match="'w' holds NaN"):
        save_checkpoint(tmp_path, 1, {"w": torch.tensor([torch.nan])}, {})
    assert saved_rounds(tmp_path) == [0]


@pytest.mark.fault("disk full, killed while writing")
@pytest.mark.parametrize("call", ["replace", "fsync"])
@pytest.mark.parametrize("number", [1, 2])
def test_a_full_disk_leaves_the_old_state_and_one_line(tmp_path, monkeypatch, call, number):
    save(tmp_path, 0)
    before = contents(tmp_path)
    original, calls = getattr(os, call), []

    def full(*args):
        calls.append(args)
        if len(calls) >= number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(DataError, match=r"round_000001.*No space left on device") as error:
            save(tmp_path, 1)
    assert "\n" not in str(error.value)
    after = contents(tmp_path)
    assert before.items() <= after.items()
    assert not [name for name in after if name.endswith(".tmp")]
    assert load_newest(tmp_path).round == 0


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file/inside/x: cannot be written"):
        write_atomically(tmp_path / "file" / "inside" / "x", b"")


def test_prune_leaves_what_is_named_and_no_leftovers(tmp_path):
    save(tmp_path, 0, 1, 2, 3)
    (tmp_path / ".round_000004.safetensors.123.tmp").write_bytes(b"half")
    prune(tmp_path, [1, 3, 8])
    assert sorted(contents(tmp_path)) == [
        f"round_00000{round}.{suffix}" for round in (1, 3) for suffix in ("json", "safetensors")
    ]


def test_stored_state_reads_one_tensor_at_a_time(tmp_path):
    tensors = STATE | {"empty": torch.zeros(0, 3), "half": torch.ones(2, 2, dtype=torch.bfloat16)}
    state = StoredState(tmp_path / "incoming" / "s0.safetensors", pack("update", {}, tensors))
    assert sorted(state) == sorted(tensors) and len(state) == 4
    assert digest(state) == digest(tensors)
    with pytest.raises(KeyError):
        state["v"]
