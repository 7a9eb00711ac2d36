"""Lines in, images out: the image of the file; bad streams end with a reason, and the server goes on."""

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import federation
from federation.cli import main
from federation.streaming import ServeOptions, serve
from recon import DataError

from ...recon.data.layouts.conftest import coil_images, fft2c
from ...recon.data.layouts.raw_files import BOTH, CALIBRATION, NAVIGATOR, NOISE, RawFile, encoding_xml, header_of
from ..fake_sites import SMALL, trained_run
from .client import COUNTERS, KIND, VIEW, Client, Image

SIZE = (24, 20, 1)
LAST_IN_SLICE, LAST_IN_MEASUREMENT = 1 << 7, 1 << 24


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_run(tmp_path_factory.mktemp("federation"), [*SMALL, "--set", "federation.rounds=1"])


@pytest.fixture
def kspace() -> np.ndarray[Any, Any]:
    """Three slices of two coils."""
    return np.stack([fft2c(coil_images(shape=SIZE[:2])[0]) * (1 + n) for n in range(3)]).astype(np.complex64)


class Server:
    """A server in a thread; `said` are its lines."""

    def __init__(self, method: Any, **options: Any) -> None:
        self.said: list[str] = []
        self.method, self.options = method, ServeOptions(port=0, **{"seconds": 30.0, **options})
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()
        self.wait("listens at")
        self.port = int(self.said[0].split(":")[1].split(";")[0])

    def _serve(self) -> None:
        serve(self.method, self.options, self.said.append)

    def wait(self, text: str) -> str:
        """The first line that holds a text."""
        limit = time.monotonic() + 60
        while time.monotonic() < limit:
            for line in self.said:
                if text in line:
                    return line
            time.sleep(0.01)
        raise AssertionError(f"no line with {text!r}: {self.said}")

    def stream(self, raw: RawFile) -> tuple[list[Image], list[str]]:
        with Client(self.port) as client:
            client.config()
            client.header(raw.xml)
            for head, values in raw.lines:
                client.line(head, values)
            client.end()
            return client.replies()


@pytest.fixture
def server(run: Path) -> Callable[..., Server]:
    def start(**options: Any) -> Server:
        return Server(federation.load(run, site="north"), **options)

    return start


def scan_of(kspace: np.ndarray[Any, Any], *, flagged: bool = True, noise: bool = True, **keys: Any) -> RawFile:
    """Lines of all slices in turn: the first column of every slice, then the second ones."""
    raw = RawFile(header_of(encoding_xml(SIZE)))
    draw = np.random.default_rng(3)
    for _ in range(60 if noise else 0):
        raw.add(1e-3 * (draw.standard_normal((2, 24)) + 1j * draw.standard_normal((2, 24))), flags=NOISE)
    columns = [n for n in range(20) if n % 2 == 0 or 5 < n < 14]
    for column in columns:
        for number, one in enumerate(kspace):
            flags = LAST_IN_SLICE if flagged and column == columns[-1] else 0
            raw.add(one[..., column], slice=number, kspace_encode_step_1=column, flags=flags, **keys)
    return raw


def of_slice(raw: RawFile, number: int) -> RawFile:
    """The noise scan and the lines of one slice."""
    lines = [line for line in raw.lines if line[0]["idx"]["slice"] == number or line[0]["flags"] & NOISE]
    return RawFile(raw.xml, lines)


def of_command(run: Path, raw: RawFile, folder: Path) -> np.ndarray[Any, Any]:
    """What `fedrecon convert` and `fedrecon reconstruct` make of a file of the lines."""
    folder.mkdir(parents=True)
    raw.write(folder / "raw.mrd")
    assert main(["convert", str(folder / "raw.mrd"), str(folder / "scan.h5")]) == 0
    command = ["reconstruct", str(run), "--site", "north", str(folder / "scan.h5"), "--out", str(folder / "out.h5")]
    assert main(command) == 0
    with h5py.File(folder / "out.h5") as file:
        return np.asarray(file["reconstruction"][()])


def assert_images(images: list[Image], run: Path, raw: RawFile, folder: Path) -> None:
    for image in images:
        expected = of_command(run, of_slice(raw, image.slice), folder / str(image.slice))
        np.testing.assert_array_equal(image.values[0, 0].T, expected[0])


def test_a_stream_gives_the_images_of_the_file(
    run: Path, kspace: Any, server: Callable[..., Server], tmp_path: Path
) -> None:
    raw, serving = scan_of(kspace), server(sessions=1)
    images, texts = serving.stream(raw)
    assert [image.slice for image in images] == [0, 1, 2] and texts == []
    assert images[0].values.shape == (1, 1, 20, 24) and images[0].values.std() > 0
    assert_images(images, run, raw, tmp_path / "files")
    serving.thread.join(10)
    assert not serving.thread.is_alive()
    assert "north" in serving.said[0] and "closed: 3 images" in serving.said[-1]
    assert "24x20" in serving.wait("slice 2:") and "s after its last line" in serving.wait("slice 2:")


def test_the_command_reconstructs_a_raw_file_as_the_stream(kspace: Any, tmp_path: Path) -> None:
    raw = of_slice(scan_of(kspace), 1)
    (image,), _ = Server(federation.load("brain-mri"), sessions=1).stream(raw)
    out = tmp_path / "out.h5"
    command = ["reconstruct", "--weights", "brain-mri", str(raw.write(tmp_path / "raw.mrd")), "--out", str(out)]
    assert main(command) == 0
    with h5py.File(out) as file:
        np.testing.assert_array_equal(image.values[0, 0].T, file["reconstruction"][0])


def test_an_image_says_its_place_and_kind(kspace: Any, server: Callable[..., Server]) -> None:
    raw = scan_of(kspace, contrast=2, repetition=4)
    for head, _ in raw.lines:
        head["position"], head["slice_dir"], head["measurement_uid"] = (1, 2, 3 + head["idx"]["slice"]), (0, 0, 1), 9
        head["acquisition_time_stamp"] = 1000 + head["idx"]["kspace_encode_step_1"]
    images, _ = server(sessions=1).stream(raw)
    last = images[2]
    assert last.numbers("3f", 36) == (1, 2, 5) and last.numbers("3f", 72) == (0, 0, 1)
    assert last.numbers("I", 12) == (9,) and last.numbers("I", 108) == (1010,)  # the center of k-space
    assert last.numbers("6H", COUNTERS) == (0, 2, 2, 0, 4, 0)
    assert last.numbers("3H", KIND) == (1, 3, 1)
    assert last.numbers("3f", VIEW) == (240, 200, 60)
    assert "<name>DataRole</name><value>Image</value>" in last.attributes and "not for diagnosis" in last.attributes


def test_slices_come_while_the_scan_goes_on(kspace: Any, server: Callable[..., Server]) -> None:
    raw, serving = scan_of(kspace), server(sessions=1)
    with Client(serving.port) as client:
        client.text(2, "<configuration/>")
        client.header(raw.xml)
        client.text(5, "hello")
        client.waveform()
        for line in of_slice(raw, 1).lines:
            client.line(*line)
        serving.wait("slice 1:")
        client.end()
        images, _ = client.replies()
    assert [image.slice for image in images] == [1]


def test_a_stream_without_flags_is_reconstructed_at_its_end(
    run: Path, kspace: Any, server: Callable[..., Server], tmp_path: Path
) -> None:
    raw, serving = scan_of(kspace, flagged=False, noise=False), server(sessions=1)
    raw.add(kspace[0, ..., 3], flags=NAVIGATOR, slice=7)
    images, _ = serving.stream(raw)
    assert [image.slice for image in images] == [0, 1, 2]
    assert_images(images, run, raw, tmp_path / "files")
    assert len([line for line in serving.said if line.startswith("note: session 1: slices whose")]) == 1


def test_averages_and_embedded_calibration_lines_belong_to_the_slice(
    run: Path, kspace: Any, server: Callable[..., Server], tmp_path: Path
) -> None:
    averages = "<encodingLimits><average><minimum>0</minimum><maximum>1</maximum><center>0</center></average>"
    xml = encoding_xml(SIZE, calibration="embedded").replace("<encodingLimits>", averages)
    raw = RawFile(header_of(xml))
    for column in (7, 9):
        raw.add(kspace[0, ..., column], kspace_encode_step_1=column, flags=CALIBRATION | LAST_IN_SLICE)
    raw.add(kspace[0, ..., 11], kspace_encode_step_1=11, flags=BOTH)
    for average in (0, 1):
        for column in range(0, 20, 2):
            flags = LAST_IN_SLICE if column == 18 else 0
            raw.add((1 + average) * kspace[0, ..., column], kspace_encode_step_1=column, average=average, flags=flags)
    images, _ = server(sessions=1).stream(raw)
    assert len(images) == 1
    assert_images(images, run, raw, tmp_path / "files")


def test_the_last_line_of_the_measurement_completes_all_slices(kspace: Any, server: Callable[..., Server]) -> None:
    raw, serving = scan_of(kspace, flagged=False), server(sessions=1)
    raw.lines[-1][0]["flags"] = LAST_IN_MEASUREMENT
    with Client(serving.port) as client:
        client.config()
        client.header(raw.xml)
        for line in raw.lines:
            client.line(*line)
        serving.wait("slice 2:")
        client.end()
        assert len(client.replies()[0]) == 3


def bad_line(client: Client, raw: RawFile, **fields: Any) -> None:
    head, values = raw.lines[-1][0].copy(), raw.lines[-1][1]
    for name, value in fields.items():
        if name in head.dtype.names:
            head[name] = value
        else:
            head["idx"][name] = value
    client.line(head, values)


def start(client: Client, raw: RawFile) -> None:
    client.config()
    client.header(raw.xml)


def broken(raw: RawFile) -> Iterator[tuple[Callable[[Client], None], str]]:
    """What a client does wrong, and a part of the reason that it gets."""
    huge = np.zeros(1, raw.lines[0][0].dtype)[0]
    huge["number_of_samples"] = huge["active_channels"] = 65535
    volume = header_of(encoding_xml((24, 20, 4)))
    radial = header_of(encoding_xml(SIZE, trajectory="radial"))

    def with_header(xml: str) -> Callable[[Client], None]:
        return lambda client: (client.config(), client.header(xml), bad_line(client, raw))[0]

    def after(*does: Callable[[Client], None]) -> Callable[[Client], None]:
        def send(client: Client) -> None:
            start(client, raw)
            for do in does:
                do(client)

        return send

    def all_lines(client: Client) -> None:
        for line in raw.lines:
            client.line(*line)

    def four_coils(client: Client) -> None:
        bad_line(client, raw, number_of_samples=12, active_channels=4)

    yield lambda client: client.send(b"GET / HTTP/1.1\r\n\r\n"), "message: found 17735"
    yield lambda client: client.header(raw.xml), "without a configuration"
    yield lambda client: (client.config(), bad_line(client, raw))[0], "a line (1008) without a header"
    yield lambda client: (client.config(), client.config())[0], "a second configuration"
    yield lambda client: (start(client, raw), client.header(raw.xml))[0], "a second header"
    yield lambda client: client.send(struct.pack("<HI", 2, 2**31)), "2147483648 bytes"
    yield lambda client: client.send(struct.pack("<HI", 2, 1), b"\xff"), "expected UTF-8"
    yield with_header("Dummy XML header"), "ismrmrd_header"
    yield with_header(radial), "radial"
    yield with_header(volume), "a 3-D scan, 4 partitions"
    yield after(lambda client: client.send(struct.pack("<H", 1008), huge.tobytes())), "65535 samples"
    yield after(lambda client: client.send(struct.pack("<H", 1022))), "1022 (image)"
    yield after(lambda client: bad_line(client, raw, encoding_space_ref=3)), "encoding_space_ref: found 3"
    yield after(lambda client: bad_line(client, raw, kspace_encode_step_1=77), Client.end), "kspace_encode_step_1 77"
    yield after(lambda client: client.line(*raw.lines[-4]), four_coils), "lines of 2 and 4 coils"
    yield after(all_lines, lambda client: bad_line(client, raw)), "slice 2 after its last one"


@pytest.mark.parametrize("number", range(16))
def test_a_bad_stream_ends_with_a_reason_and_the_next_one_is_served(
    number: int, kspace: Any, server: Callable[..., Server]
) -> None:
    raw, serving = scan_of(kspace), server(sessions=2)
    cases = list(broken(raw))
    assert len(cases) == 16
    send, reason = cases[number]
    with Client(serving.port) as client:
        send(client)
        _, (text,) = client.replies()
    assert reason in text and text.startswith("fedrecon: ") and "\n" not in text
    assert reason in serving.wait("session 1: closed after")
    images, _ = serving.stream(of_slice(raw, 0))
    assert len(images) == 1


@pytest.mark.parametrize("how", ["within a line", "between lines", "reset"])
def test_a_killed_client_frees_the_session(how: str, kspace: Any, server: Callable[..., Server]) -> None:
    raw, serving = scan_of(kspace), server(sessions=2)
    client = Client(serving.port)
    start(client, raw)
    for line in raw.lines[:70]:
        client.line(*line)
    if how == "within a line":
        client.send(struct.pack("<H", 1008), bytes(100))
    if how == "reset":
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.socket.close()
    line = serving.wait("session 1: closed after 0 images")
    assert "close message" in line
    assert len(serving.stream(raw)[0]) == 3
    serving.thread.join(10)
    assert not [thread for thread in threading.enumerate() if thread.name == "fedrecon-stream"]


def test_a_silent_client_is_timed_out(kspace: Any, server: Callable[..., Server]) -> None:
    raw, serving = scan_of(kspace), server(sessions=2, seconds=0.3)
    with Client(serving.port) as client:
        start(client, raw)
        _, (text,) = client.replies()
    assert "no complete message for 0.3 s" in text
    assert len(serving.stream(raw)[0]) == 3


def test_a_client_may_wait_for_an_image_that_takes_long(
    kspace: Any, server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, serving = scan_of(kspace), server(sessions=1, seconds=0.4)
    reconstruct = serving.method.reconstruct

    def slowly(*arguments: Any, **options: Any) -> Any:
        time.sleep(1.2)
        return reconstruct(*arguments, **options)

    monkeypatch.setattr(serving.method, "reconstruct", slowly)
    with Client(serving.port) as client:
        start(client, raw)
        for line in of_slice(raw, 0).lines:
            client.line(*line)
        assert client.image().slice == 0
        for line in raw.lines:
            if line[0]["idx"]["slice"] == 1:
                client.line(*line)
        client.end()
        images, texts = client.replies()
    assert len(images) == 1 and texts == []


def test_a_second_client_waits_for_its_turn(kspace: Any, server: Callable[..., Server]) -> None:
    raw, serving = scan_of(kspace), server(sessions=2)
    with Client(serving.port) as first, Client(serving.port) as second:
        start(second, raw)
        for line in raw.lines:
            second.line(*line)
        second.end()
        start(first, raw)
        for line in raw.lines:
            first.line(*line)
        first.end()
        assert len(first.replies()[0]) == len(second.replies()[0]) == 3
    closed = [line for line in serving.said if "connected" in line or "closed" in line]
    assert [line.split(":")[0] for line in closed] == ["session 1", "session 1", "session 2", "session 2"]


def test_an_error_of_a_method_ends_its_session_alone(
    kspace: Any, server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    raw, serving = scan_of(kspace), server(sessions=2)
    with monkeypatch.context() as patch:
        patch.setattr(serving.method.network, "forward", lambda *a, **k: 1 / 0)
        images, (text,) = serving.stream(raw)
    assert images == [] and "its log has more" in text
    serving.wait("ZeroDivisionError")
    assert "a session ended" in caplog.text
    assert len(serving.stream(raw)[0]) == 3


def test_addresses_that_others_reach_need_a_word() -> None:
    for address in ("0.0.0.0", "::", "192.0.2.7"):
        with pytest.raises(DataError, match="--allow-network if this is meant: scans and images travel unencrypted"):
            ServeOptions(address)
    assert ServeOptions("localhost").is_local and not ServeOptions("0.0.0.0", allow_network=True).is_local


def test_bad_options_are_refused(run: Path, server: Callable[..., Server], fails: Callable[..., str]) -> None:
    serving = server(sessions=1)
    at = ("serve", "--mrd", run, "--site", "north")
    assert "a free port" in fails(*at, "--port", serving.port)
    assert "--port: found 70000" in fails(*at, "--port", 70000)
    assert "--timeout: found 0" in fails(*at, "--timeout", 0)
    assert "--address" in fails(*at, "--address", "no.such.host.invalid")
    assert "found neither a run nor --weights" in fails("serve", "--mrd")
    assert "--site: belongs to a run" in fails("serve", "--mrd", "--weights", "brain-mri", "--site", "north")
    with pytest.raises(DataError, match="a method for CT"):
        serve(federation.load("fbp"), ServeOptions(), print)


def test_a_site_whose_maps_come_from_another_scan_is_refused(run: Path) -> None:
    method: Any = federation.load(run, site="north")
    data = method.manifest.data.model_copy(update={"calibration_scan": "{stem}_cal.h5"})
    method.manifest = method.manifest.model_copy(update={"data": data})
    with pytest.raises(DataError, match=r"data\.calibration_scan of site north"):
        serve(method, ServeOptions(), print)
