"""The command in a process of its own; a client that nobody here wrote; memory over many slices."""

import gc
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import federation
from federation.streaming import ServeOptions, serve

from ...recon.data.layouts.raw_files import RawFile, encoding_xml, header_of
from ...used_memory import used_memory
from .client import Client

SIZE = (128, 48, 1)
LAST_IN_SLICE = 1 << 7


def lines_of(slices: int) -> RawFile:
    """Lines of a bright block in two coils."""
    image = np.zeros((2, *SIZE[:2]))
    image[0, 32:80, 12:32], image[1, 48:96, 16:36] = 1, 2
    shifted = np.fft.fft2(np.fft.ifftshift(image, axes=(-2, -1)), norm="ortho")
    kspace = np.fft.fftshift(shifted, axes=(-2, -1)).astype(np.complex64)
    kspace += 0.01 * np.random.default_rng(0).standard_normal(kspace.shape).astype(np.float32)
    raw = RawFile(header_of(encoding_xml(SIZE)))
    for number in range(slices):
        for column in range(SIZE[1]):
            flags = LAST_IN_SLICE if column == SIZE[1] - 1 else 0
            raw.add(kspace[..., column], slice=number, kspace_encode_step_1=column, flags=flags)
    return raw


@pytest.fixture
def served() -> Iterator[tuple[int, list[str]]]:
    """Port and lines of a server in this process; its method is a classical one, for speed."""
    said: list[str] = []
    listens = threading.Event()

    def say(text: str) -> None:
        said.append(text)
        listens.set()

    method = federation.load("zero_filled")
    options = ServeOptions(port=0, seconds=30, sessions=1)
    thread = threading.Thread(target=serve, args=(method, options, say), daemon=True)
    thread.start()
    assert listens.wait(60)
    yield int(said[0].split(":")[1].split(";")[0]), said
    thread.join(30)
    assert not thread.is_alive()


def test_the_package_ismrmrd_is_a_client(served: tuple[int, list[str]]) -> None:
    """Its serializer sends, its deserializer reads: other code than the server's and than the client of these tests."""
    ismrmrd = pytest.importorskip("ismrmrd")
    serialization = pytest.importorskip("ismrmrd.serialization")
    raw = lines_of(2)
    measurement = "<measurementInformation>"
    full = raw.xml.replace(measurement, f"{measurement}<patientPosition>HFS</patientPosition>")
    with Client(served[0]) as client:
        stream: Any = client.socket.makefile("rwb")
        sender = serialization.ProtocolSerializer(stream)
        sender.serialize(serialization.ConfigFile("default.xml"))
        sender.serialize(ismrmrd.xsd.CreateFromDocument(full.encode()))
        for head, values in raw.lines:
            samples = values.view(np.complex64).reshape(2, SIZE[0])
            line = ismrmrd.Acquisition.from_array(samples, center_sample=int(head["center_sample"]))
            line.idx.slice, line.idx.kspace_encode_step_1 = (
                int(head["idx"]["slice"]),
                int(head["idx"]["kspace_encode_step_1"]),
            )
            line.position[:] = (1, 2, 3)
            if int(head["flags"]):
                line.set_flag(ismrmrd.ACQ_LAST_IN_SLICE)
            sender.serialize(line)
        sender.close()
        images = list(serialization.ProtocolDeserializer(stream).deserialize())
    assert [type(image) for image in images] == [ismrmrd.Image] * 2
    second = images[1]
    assert (second.slice, second.image_index, second.image_type) == (1, 2, ismrmrd.IMTYPE_MAGNITUDE)
    assert tuple(second.position) == (1, 2, 3) and tuple(second.field_of_view) == (240, 200, 60)
    assert second.data.shape == (1, 1, SIZE[1], SIZE[0]) and second.data.dtype == np.float32
    assert ismrmrd.Meta.deserialize(second.attribute_string)["DataRole"] == "Image"
    inside, outside = second.data[0, 0, 17:30, 52:76], second.data[0, 0, :8]
    assert inside.min() > 5 * outside.max()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_slices(served: tuple[int, list[str]]) -> None:
    raw = lines_of(1)
    used: list[int] = []
    with Client(served[0]) as client:
        client.config()
        client.header(raw.xml)
        for number in range(80):
            for head, values in raw.lines:
                line = head.copy()
                line["idx"]["slice"] = number
                client.line(line, values)
            client.image()
            if number in (19, 79):
                gc.collect()
                used.append(used_memory())
        client.end()
        client.replies()
    # The lines of 60 slices are 5.9 MB.
    assert used[1] - used[0] < 1.5e6
    assert len([line for line in served[1] if "after its last line" in line]) == 80


def command(*words: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "federation.cli", "serve", "--mrd", *map(str, words)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[3])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("busy", [True, False])
def test_signals_end_the_server_cleanly(how: signal.Signals, busy: bool, tmp_path: Path) -> None:
    raw = lines_of(1)
    os.environ["TMPDIR"], before = str(tmp_path), os.environ.get("TMPDIR")
    try:
        with command("--weights", "brain-mri", "--port", 0) as process:
            assert process.stdout is not None and process.stderr is not None
            # Lines of progress come first where PyTorch takes long to load.
            port = next(filter(None, (re.search(r"listens at 127\.0\.0\.1:(\d+);", line) for line in process.stdout)))
            if busy:
                with Client(int(port[1])) as client:
                    client.config()
                    client.header(raw.xml)
                    for line in raw.lines:
                        client.line(*line)
                    client.image()
                    process.send_signal(how)
                    assert client.replies()[1] == ["fedrecon: the server was stopped"]
            else:
                process.send_signal(how)
            said, errors = process.communicate(timeout=60)
            assert process.returncode == 0 and said.endswith("stopped\n") and errors == ""
    finally:
        os.environ.pop("TMPDIR") if before is None else os.environ.update(TMPDIR=before)
    assert list(tmp_path.iterdir()) == []
