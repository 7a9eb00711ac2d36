"""Keys and certificates: what is accepted, who may read them, what a client believes."""

import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest

from federation.deploy.keys import (
    PublicKey,
    SigningKey,
    create_authority,
    days_left,
    issue_server_certificate,
    write_secret,
)
from recon import DataError


def test_a_signature_holds_for_its_data_and_its_key_alone(tmp_path: Path) -> None:
    key, other = (SigningKey.create(tmp_path / name) for name in ("north", "south"))
    signature = SigningKey.read(tmp_path / "north").sign(b"head")
    public = PublicKey.read(tmp_path / "north.pub")
    assert public.verifies(b"head", signature) and public.text == key.public.text
    assert not public.verifies(b"Head", signature) and not other.public.verifies(b"head", signature)
    assert not public.verifies(b"head", "zz") and not public.verifies(b"head", "")


def test_keys_are_files_of_openssh(tmp_path: Path) -> None:
    SigningKey.create(tmp_path / "north")
    printed = subprocess.run(["ssh-keygen", "-y", "-f", tmp_path / "north"], capture_output=True, text=True, check=True)
    assert printed.stdout.split()[:2] == (tmp_path / "north.pub").read_text().split()
    command = ["ssh-keygen", "-l", "-f", tmp_path / "north.pub"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    assert listed.stdout.split()[1] == PublicKey.read(tmp_path / "north.pub").fingerprint
    line = f"{(tmp_path / 'north.pub').read_text().strip()} a comment\n"
    assert PublicKey.parse(line).text == line.rsplit(" ", 2)[0]


def test_a_private_key_is_its_owners_and_is_never_replaced(tmp_path: Path) -> None:
    SigningKey.create(tmp_path / "north")
    assert (tmp_path / "north").stat().st_mode & 0o777 == 0o600
    before = (tmp_path / "north").read_bytes()
    with pytest.raises(DataError, match="never replaced"):
        SigningKey.create(tmp_path / "north")
    assert (tmp_path / "north").read_bytes() == before
    (tmp_path / "north").chmod(0o640)
    with pytest.raises(DataError, match="chmod 600"):
        SigningKey.read(tmp_path / "north")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["north", "north.pub"]


@pytest.mark.parametrize("text", ["", "no key", "ssh-ed25519 AAAA", "ecdsa-sha2-nistp384 AAAA\n", "\x00"])
def test_what_is_no_key_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "north.pub"
    path.write_text(text)
    with pytest.raises(DataError, match=r"north\.pub: is no public key") as error:
        PublicKey.read(path)
    assert "\n" not in str(error.value)
    path.chmod(0o600)
    with pytest.raises(DataError, match="is no private key"):
        SigningKey.read(path)


def test_keys_of_another_curve_are_refused(tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-b", "256", "-N", "", "-f", tmp_path / "p256"], check=True)
    with pytest.raises(DataError, match="is no public key"):
        PublicKey.read(tmp_path / "p256.pub")
    with pytest.raises(DataError, match="nistp384"):
        SigningKey.read(tmp_path / "p256")


def test_a_client_with_the_authority_believes_the_server_by_its_names_only(tmp_path: Path) -> None:
    create_authority(tmp_path, days=30)
    issue_server_certificate(tmp_path, "fed.hospital.example", days=10)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
    client = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            for _ in range(3):
                connection, _ = listening.accept()
                try:
                    server.wrap_socket(connection, server_side=True).close()
                except OSError:
                    connection.close()

        thread = threading.Thread(target=serve)
        thread.start()

        def connect(context: ssl.SSLContext, name: str) -> None:
            with socket.create_connection(listening.getsockname()) as raw:
                context.wrap_socket(raw, server_hostname=name).close()

        connect(client, "fed.hospital.example")
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            connect(client, "other.example")
        with pytest.raises(ssl.SSLCertVerificationError):
            connect(ssl.create_default_context(), "fed.hospital.example")
        thread.join()
    assert 9.9 < days_left(tmp_path / "server.crt") <= 10 < days_left(tmp_path / "ca.crt")


def test_a_new_server_certificate_replaces_the_old_one_and_the_authority_stays(tmp_path: Path) -> None:
    create_authority(tmp_path, days=30)
    issue_server_certificate(tmp_path, "10.0.0.7", days=10)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    issue_server_certificate(tmp_path, "10.0.0.7", days=20)
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert {name for name in after if after[name] != before[name]} == {"server.crt", "server.key"}
    with pytest.raises(DataError, match="never replaced"):
        create_authority(tmp_path, days=30)


def test_a_secret_is_complete_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("federation.deploy.keys.os.fsync", lambda handle: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_secret(tmp_path / "key", b"secret")
    assert list(tmp_path.iterdir()) == []
