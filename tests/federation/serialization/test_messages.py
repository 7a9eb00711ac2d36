import json
import pickle

import pytest
import safetensors
import safetensors.torch
import torch

from federation.serialization import Broadcast, MessageError, SiteUpdate, Wire, digest, pack, unpack
from federation.serialization.packing import join, layout, split

SHARED = {"w": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(0.5)}
EXPECTED = layout(SHARED)
OTHER = "digest of the tensors' names, dtypes and shapes"


def broadcast(**changes) -> Broadcast:
    return Broadcast(**{"round": 4, "site": "north", "shared": SHARED, "digest": digest(SHARED)} | changes)


def update(**changes) -> SiteUpdate:
    fields = {
        "round": 4,
        "site": "north",
        "shared": SHARED,
        "n_samples": 12,
        "loaded_digest": digest(SHARED),
        "kept_digest": digest({}),
        "score_before": 30.1,
        "score_after": None,
        "loss": 0.1,
        "seconds": 1.5,
    }
    return SiteUpdate(**fields | changes)


def test_messages_survive_the_trip():
    sent = broadcast(best_round=2, evaluate_only=True)
    received = Broadcast.from_bytes(sent.to_bytes(), site="north", wire=Wire(EXPECTED))
    assert (received.header(), digest(received.shared)) == (sent.header(), sent.digest)
    reply = SiteUpdate.from_bytes(update().to_bytes(), broadcast=received)
    assert (reply.header(), digest(reply.shared)) == (update().header(), digest(SHARED))


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"F32": torch.zeros(6)}, r"'F32' is float32 \(6,\), expected float32 \(7,\)"),
        ({"F32": torch.zeros(8)}, r"'F32' is float32 \(8,\)"),
        ({"F32": torch.zeros(7).double()}, "'F32' is float64"),
        ({"F32": torch.zeros(7), "maps": torch.zeros(7)}, r"1 unexpected \['maps'\]"),
        ({"F32": torch.zeros(7), "aux/maps": torch.zeros(7)}, r"beside the parameters: .*1 unexpected \['maps'\]"),
        ({}, r"1 tensors missing \['F32'\]"),
    ],
)
def test_joined_tensors_have_exactly_their_numbers(tensors, reason):
    header = unpack(update().to_bytes(), kind="update").header
    with pytest.raises(MessageError, match=reason):
        SiteUpdate.from_bytes(pack("update", header, tensors), broadcast=broadcast())


def test_tensors_of_several_dtypes_are_joined_and_split_bit_by_bit():
    state = {
        "b.scalar": torch.tensor(2.0),
        "a.transposed": torch.arange(6.0).reshape(2, 3).T,
        "c.empty": torch.zeros(0, 3),
        "a.count": torch.arange(4),
        "d.half": torch.ones(2, 2, dtype=torch.bfloat16),
    }
    joined = join(state)
    assert {name: tuple(tensor.shape) for name, tensor in joined.items()} == {"F32": (7,), "I64": (4,), "BF16": (4,)}
    assert digest(split(joined, layout(state), "update")) == digest(state)
    assert split(join({}), {}, "update") == {}


def test_a_message_is_its_numbers_and_little_more():
    shared = {f"regularizers.{i}.body.{j}.weight": torch.zeros(12, 12) for i in range(6) for j in range(3)}
    shared["steps"] = torch.zeros(3)
    size = sum(tensor.nbytes for tensor in shared.values())
    assert len(broadcast(shared=shared).to_bytes()) - size < 800
    assert len(update(shared=shared, aux={"moments.mean": torch.zeros(12)}).to_bytes()) - size < 960


def test_bytes_are_safetensors_as_the_library_reads_them(tmp_path):
    tensors = {
        "scalar": torch.tensor(2.0),
        "empty": torch.zeros(0, 3),
        "transposed": torch.arange(6).reshape(2, 3).T,
        "half": torch.ones(3, dtype=torch.bfloat16),
        "double": torch.randn(2, 2, dtype=torch.float64),
    }
    path = tmp_path / "message.safetensors"
    path.write_bytes(pack("update", {"a": 1}, tensors))
    with safetensors.safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["fedrecon"]) == {"format": 1, "kind": "update", "header": {"a": 1}}
        assert digest({name: file.get_tensor(name) for name in file.keys()}) == digest(tensors)  # noqa: SIM118


def test_size_does_not_depend_on_the_digits_of_a_number():
    assert len(update(seconds=1.0).to_bytes()) == len(update(seconds=12345.678, loss=1 / 3).to_bytes())


@pytest.mark.parametrize(
    "other",
    [
        {"w": SHARED["w"], "c": SHARED["b"]},
        {"w": SHARED["w"].reshape(3, 2), "b": SHARED["b"]},
        {"w": SHARED["w"].double(), "b": SHARED["b"]},
        {"w": SHARED["w"], "b": -SHARED["b"]},
        {"w": SHARED["w"]},
    ],
    ids=["name", "shape", "dtype", "value", "missing"],
)
def test_digest_changes_with_anything_but_order(other):
    assert digest(dict(reversed(SHARED.items()))) == digest(SHARED)
    assert digest(other) != digest(SHARED)


@pytest.mark.fault("wrong update (NaN, shape, weight, ...)")
@pytest.mark.parametrize(
    ("shared", "reason"),
    [
        ({"w": SHARED["w"]}, OTHER),
        (SHARED | {"maps": torch.zeros(2)}, OTHER),
        (SHARED | {"w": SHARED["w"].T}, OTHER),
        (SHARED | {"w": SHARED["w"].double()}, OTHER),
        ({"w": SHARED["w"], "c": SHARED["b"]}, OTHER),
        (SHARED | {"b": torch.tensor(torch.nan)}, "'F32' holds NaN or infinity"),
        (SHARED | {"b": torch.tensor(torch.inf)}, "'F32' holds NaN or infinity"),
    ],
)
def test_wrong_tensors_are_refused_with_the_reason(shared, reason):
    with pytest.raises(MessageError, match=reason):
        SiteUpdate.from_bytes(update(shared=shared).to_bytes(), broadcast=broadcast())
    with pytest.raises(MessageError, match=reason):
        Broadcast.from_bytes(broadcast(shared=shared).to_bytes(), site="north", wire=Wire(EXPECTED))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"round": 3}, "round is 3, expected 4"),
        ({"site": "south"}, "site is 'south', expected 'north'"),
        ({"loaded_digest": digest({})}, "loaded_digest is"),
    ],
)
def test_a_reply_to_something_else_is_refused(changes, reason):
    with pytest.raises(MessageError, match=reason):
        SiteUpdate.from_bytes(update(**changes).to_bytes(), broadcast=broadcast())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n_samples", 0),
        ("n_samples", -3),
        ("n_samples", 2.5),
        ("n_samples", True),
        ("site", "../north"),
        ("round", -1),
        ("loss", float("nan")),
        ("score_before", float("inf")),
        ("score_after", "good"),
        ("score_before", 1.7e308),
        ("seconds", 10**400),
        ("kept_digest", "0"),
    ],
)
def test_wrong_fields_are_refused_by_sender_and_receiver(field, value):
    with pytest.raises(MessageError, match=field):
        update(**{field: value})
    content = {"format": 1, "kind": "update", "header": update().header() | {field: value}}
    data = safetensors.torch.save(SHARED, {"fedrecon": json.dumps(content)})
    with pytest.raises(MessageError):
        SiteUpdate.from_bytes(data, broadcast=broadcast())


def test_a_field_that_is_not_on_the_list_is_refused():
    message = unpack(update().to_bytes(), kind="update")
    data = pack("update", message.header | {"mask": [1, 0, 1]}, message.tensors)
    with pytest.raises(MessageError, match="header has"):
        SiteUpdate.from_bytes(data, broadcast=broadcast())


def test_a_broadcast_for_another_site_is_refused():
    with pytest.raises(MessageError, match="for site 'north', expected 'south'"):
        Broadcast.from_bytes(broadcast().to_bytes(), site="south", wire=Wire(EXPECTED))


@pytest.mark.fault("truncated message")
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"abc",
        pickle.dumps(SHARED),
        safetensors.torch.save(SHARED),
        safetensors.torch.save(SHARED, {"fedrecon": "[" * 50_000}),
        safetensors.torch.save(SHARED, {"fedrecon": '{"format": 1, "kind": "update", "header": [1, 2]}'}),
        (2**62).to_bytes(8, "little") + b"{}",
        update().to_bytes()[:-3],
        update().to_bytes() + b"more",
        broadcast().to_bytes(),
    ],
    ids=[
        "empty",
        "short",
        "pickle",
        "no_header",
        "deep",
        "list",
        "huge_header",
        "truncated",
        "longer",
        "other_kind",
    ],
)
def test_bytes_that_are_not_the_message_are_refused(data):
    with pytest.raises(MessageError, match="update"):
        SiteUpdate.from_bytes(data, broadcast=broadcast())


@pytest.mark.fault("oversized message")
def test_an_oversized_message_is_refused_unread():
    with pytest.raises(MessageError, match="at most"):
        unpack(bytes(17 * 2**20), kind="update", expected=EXPECTED)


def test_every_flipped_header_bit_is_refused_or_leaves_the_message_valid():
    data = update().to_bytes()
    length = int.from_bytes(data[:8], "little")
    refused = 0
    for position in range(0, 8 + length, 7):
        altered = bytearray(data)
        altered[position] ^= 1 << position % 8
        try:
            found = SiteUpdate.from_bytes(bytes(altered), broadcast=broadcast())
        except MessageError:
            refused += 1
        else:
            assert found.shared.keys() == update().shared.keys()
    assert refused > 0
