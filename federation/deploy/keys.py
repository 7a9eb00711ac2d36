"""Keys of server and sites, and the certificate authority of one federation."""

import base64
import hashlib
import ipaddress
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from recon import DataError, write_atomically

_PEM = serialization.Encoding.PEM
#: Signatures are ECDSA with this hash.
_SIGNATURE = ec.ECDSA(hashes.SHA384())


class PublicKey:
    """A P-384 public key, stored as a line of OpenSSH; Flower identifies a node by it."""

    def __init__(self, key: ec.EllipticCurvePublicKey) -> None:
        self._key = key

    @classmethod
    def read(cls, path: Path) -> "PublicKey":
        """Read a ``.pub`` file.

        Raises
        ------
        DataError
            If it holds no public key.
        """
        if not path.is_file():
            raise DataError(f"{path}: no such file; expected a public key")
        try:
            return cls.parse(path.read_text())
        except (OSError, ValueError):
            raise DataError(
                f"{path}: is no public key; expected a server's signing.key.pub or a site's site.key.pub"
            ) from None

    @classmethod
    def parse(cls, text: str) -> "PublicKey":
        """Parse a line of OpenSSH; ValueError if it is no P-384 key."""
        try:
            key = serialization.load_ssh_public_key(text.strip().encode())
        except Exception as error:  # the library raises errors of many classes
            raise ValueError("PublicKey: expected a line of OpenSSH") from error
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
            raise ValueError("PublicKey: expected ecdsa-sha2-nistp384")
        return cls(key)

    @property
    def text(self) -> str:
        """The line of OpenSSH without a comment."""
        line = self._key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        return line.decode()

    @property
    def fingerprint(self) -> str:
        """Short digest to compare by telephone, as ``ssh-keygen -lf`` prints it."""
        digest = hashlib.sha256(base64.b64decode(self.text.split()[1])).digest()
        return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"

    def verifies(self, data: bytes, signature: str) -> bool:
        """Whether ``signature`` (hexadecimal) is a signature of ``data`` by the owner of this key."""
        try:
            self._key.verify(bytes.fromhex(signature), data, _SIGNATURE)
        except (InvalidSignature, ValueError):
            return False
        return True


class SigningKey:
    """A P-384 private key in an OpenSSH file that only its owner can read."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key

    @classmethod
    def create(cls, path: Path, *, replace: bool = False) -> "SigningKey":
        """Create a key in ``path`` and its public key in ``<path>.pub``.

        Raises
        ------
        DataError
            If ``path`` exists and ``replace`` is false.
        """
        key = cls(ec.generate_private_key(ec.SECP384R1()))
        content = key._key.private_bytes(_PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
        write_secret(path, content, replace=replace)
        write_atomically(path.with_name(path.name + ".pub"), (key.public.text + "\n").encode())
        return key

    @classmethod
    def read(cls, path: Path) -> "SigningKey":
        """Read a file of :meth:`create`.

        Raises
        ------
        DataError
            If it holds no such key, or other users may read it.
        """
        require_secret(path)
        try:
            key = serialization.load_ssh_private_key(path.read_bytes(), None)
        except (OSError, ValueError, TypeError):
            key = None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
            raise DataError(f"{path}: is no private key of fedrecon, expected OpenSSH, ecdsa-sha2-nistp384; restore it")
        return cls(key)

    @property
    def public(self) -> PublicKey:
        return PublicKey(self._key.public_key())

    def sign(self, data: bytes) -> str:
        """Signature in hexadecimal digits."""
        return self._key.sign(data, _SIGNATURE).hex()


def write_secret(path: Path, data: bytes, *, replace: bool = False) -> None:
    """Write a file atomically that only its owner can read.

    Raises
    ------
    DataError
        If it exists and ``replace`` is false.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            scratch.replace(path)
        else:
            os.link(scratch, path)
    except FileExistsError:
        raise DataError(f"{path}: exists; a key is never replaced, move it away first") from None
    finally:
        scratch.unlink(missing_ok=True)


def require_secret(path: Path) -> None:
    """Check that only the owner can read a key.

    Raises
    ------
    DataError
        If the key is missing or other users can read it.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such key; restore it from a backup")
    if path.stat().st_mode & 0o077:
        raise DataError(f"{path}: users other than its owner may read this key; chmod 600 {path}")


def read_certificate(path: Path) -> bytes:
    """Read a file that holds one certificate in PEM and nothing else.

    Raises
    ------
    DataError
        If it holds something else.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected the federation's ca.crt")
    content = path.read_bytes()
    try:
        x509.load_pem_x509_certificate(content)
        alone = b"PRIVATE" not in content
    except ValueError:
        alone = False
    if not alone:
        raise DataError(f"{path}: is no certificate; expected the federation's ca.crt")
    return content


def create_authority(folder: Path, days: int) -> None:
    """Create ``ca.key`` and ``ca.crt``, the authority that signs the server's certificate.

    Raises
    ------
    DataError
        If there is an authority already.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fedrecon federation")])
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        _builder(name, name, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    write_secret(folder / "ca.key", _private_pem(key))
    write_atomically(folder / "ca.crt", certificate.public_bytes(_PEM))


def issue_server_certificate(folder: Path, host: str, days: int) -> None:
    """Write ``server.key`` and ``server.crt`` for ``host`` (name or address) and for this machine; replaces old ones.

    Raises
    ------
    DataError
        If the authority cannot be read.
    """
    require_secret(folder / "ca.key")
    authority = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
    issuer = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    if not isinstance(authority, ec.EllipticCurvePrivateKey):
        raise DataError(f"{folder / 'ca.key'}: is not the key of an authority of fedrecon; restore it from a backup")
    key = ec.generate_private_key(ec.SECP256R1())
    names: list[x509.GeneralName] = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    try:
        names.append(x509.IPAddress(ipaddress.ip_address(host)))
    except ValueError:
        names.append(x509.DNSName(host))
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64])])
    certificate = (
        _builder(subject, issuer.subject, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(list(dict.fromkeys(names))), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False)
        .sign(authority, hashes.SHA256())
    )
    write_secret(folder / "server.key", _private_pem(key), replace=True)
    write_atomically(folder / "server.crt", certificate.public_bytes(_PEM))


def file_time() -> str:
    """The time now, for the name of a key that is no longer used."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H%M%S.%f")


def days_left(certificate: Path) -> float:
    """Days until a certificate expires; negative after that."""
    ends = x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
    return (ends - datetime.now(UTC)).total_seconds() / 86400


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))  # the clocks of hospitals differ
        .not_valid_after(now + timedelta(days=days))
    )


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
