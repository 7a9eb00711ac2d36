"""The server's folder: authority, keys, enrolled sites, runs."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import tomli_w
from pydantic import Field

from recon import DataError, write_atomically

from ..config import SITE_NAME, Section, parse_section, read_toml
from .audit_log import SERVER, AuditLog
from .keys import PublicKey, SigningKey, create_authority, days_left, file_time, issue_server_certificate
from .private_files import make_private, private_files, require_private

#: Days before the expiry of a certificate at which warnings start.
WARN_DAYS = 30
_AUTHORITY_DAYS, _SERVER_DAYS = 3650, 365


class ServerSection(Section):
    """``server.toml``: host name and port for the sites, and limits.

    ``link_port`` is the port of Flower's SuperLink and ``page_port`` the port of the status page, both for this machine
    only; 0 takes a free port at each start. ``round_hours`` is the longest time that a round waits for replies,
    ``late_minutes`` the longest time that it waits for further sites once its quorum has replied.
    ``maximum_change`` is the largest relative change of a tensor by a site, ``maximum_weight`` the largest number of
    training slices that a site may report, ``maximum_share`` the largest share of one site in the weights of a round
    (of two sites: halfway between it and 1).
    """

    host: str = Field(pattern=r"^[A-Za-z0-9.-]+$")
    port: int = Field(default=9092, ge=1, le=65535)
    link_port: int = Field(default=0, ge=0, le=65535)
    page_port: int = Field(default=0, ge=0, le=65535)
    megabytes_per_message: float = Field(default=500.0, gt=0)
    round_hours: float = Field(default=12.0, gt=0)
    late_minutes: float = Field(default=60.0, ge=0)
    maximum_change: float = Field(default=10.0, gt=0)
    maximum_weight: int = Field(default=1_000_000, ge=1)
    maximum_share: float = Field(default=0.5, ge=0.5, le=1)


@dataclass(frozen=True)
class Enrolled:
    """An enrolled site: its key, Flower's number for the key, and the times of enrollment and revocation."""

    key: str
    node_id: int
    since: str
    revoked: str | None = None


class ServerFolder:
    """``server.toml``, ``ca.key`` and ``.crt``, ``server.key`` and ``.crt``, ``signing.key`` and its ``.pub``,
    ``sites.json``, ``audit.jsonl``, ``runs/<name>/``, and Flower's own files below ``flower/``. A folder that other
    users can enter is refused.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not (path / "server.toml").is_file():
            raise DataError(f"{path}: is no folder of a server (no server.toml); create it by `fedrecon deploy init`")
        require_private(path)

    @classmethod
    def create(cls, path: Path, *, host: str, port: int) -> "ServerFolder":
        """Create the folder with an authority, a certificate for ``host`` and a key that signs requests.

        Raises
        ------
        DataError
            If the folder is not empty.
        """
        if path.exists() and any(path.iterdir()):
            raise DataError(f"{path}: is not empty; choose another folder")
        settings = parse_section(ServerSection, {"host": host, "port": port}, "deploy init")
        make_private(path)
        with private_files():
            create_authority(path, _AUTHORITY_DAYS)
            issue_server_certificate(path, host, _SERVER_DAYS)
            SigningKey.create(path / "signing.key")
            write_atomically(path / "sites.json", b"{}")
            write_atomically(path / "server.toml", tomli_w.dumps(settings.model_dump(mode="json")).encode())
        folder = cls(path)
        folder.audit.append("server made", host=host, key=folder.key.public.text)
        return folder

    @cached_property
    def settings(self) -> ServerSection:
        return parse_section(ServerSection, read_toml(self.path / "server.toml"), self.path / "server.toml")

    @cached_property
    def key(self) -> SigningKey:
        return SigningKey.read(self.path / "signing.key")

    @cached_property
    def audit(self) -> AuditLog:
        return AuditLog(self.path / "audit.jsonl", SERVER)

    def enrolled(self) -> dict[str, Enrolled]:
        """All sites that were ever enrolled, by name."""
        try:
            found = json.loads((self.path / "sites.json").read_bytes())
            return {name: Enrolled(**entry) for name, entry in sorted(found.items())}
        except (OSError, ValueError, TypeError, AttributeError):
            raise DataError(f"{self.path / 'sites.json'}: is no list of sites; restore it from a backup") from None

    def members(self) -> dict[str, Enrolled]:
        """Enrolled sites without the revoked ones, by name."""
        return {name: site for name, site in self.enrolled().items() if site.revoked is None}

    def require_new(self, name: str, key: PublicKey) -> None:
        """Check that a site can be enrolled.

        Raises
        ------
        DataError
            If the name is invalid or taken, or the key belongs to another site.
        """
        if not SITE_NAME.fullmatch(name) or name == SERVER:
            raise DataError(f"--site: {name!r} is no name of a site: 1 to 64 of a-z 0-9 - _, and not {SERVER!r}")
        if key.text == self.key.public.text:
            raise DataError("--key: is the server's own signing key; expected the site.key.pub that the site sent")
        for other, site in self.enrolled().items():
            if other == name and site.revoked is None:
                raise DataError(
                    f"{self.path}: site {name!r} is enrolled already; revoke it first, or choose another name"
                )
            if site.key == key.text:
                state = "" if site.revoked is None else ", which was revoked permanently"
                advice = "`fedrecon deploy site init` in a new folder makes a new key"
                raise DataError(f"{self.path}: this key belongs to site {other!r}{state}; {advice}")

    def enroll(self, name: str, key: PublicKey, node_id: int) -> None:
        """Bind a key to a name. Messages are attributed by key, not by a name that a site claims."""
        self.require_new(name, key)
        self._write({**self.enrolled(), name: Enrolled(key.text, node_id, _now())})
        self.audit.append("enrolled", site=name, key=key.text, node=str(node_id))

    def revoke(self, name: str) -> Enrolled:
        """Exclude a site.

        Raises
        ------
        DataError
            If it does not take part.
        """
        members = self.members()
        if name not in members:
            known = ", ".join(members) or "none"
            raise DataError(f"{self.path}: no site {name!r} takes part; enrolled sites: {known}")
        self._write({**self.enrolled(), name: replace(members[name], revoked=_now())})
        self.audit.append("revoked", site=name)
        return members[name]

    def rotate(self) -> None:
        """Renew the server's key and certificate by the same authority; sites need no change."""
        issue_server_certificate(self.path, self.settings.host, _SERVER_DAYS)
        self.audit.append("certificate rotated")

    def rotate_signing(self) -> PublicKey:
        """Replace a stolen or lost signing key; a site refuses all requests until it trusts the new one.

        The old private key is overwritten. The old public key stays beside it, as ``signing-until-<time>.pub``: the
        sites' audit logs hold its signatures.
        """
        old = PublicKey.read(self.path / "signing.key.pub")
        write_atomically(self.path / f"signing-until-{file_time()}.pub", (old.text + "\n").encode())
        new = SigningKey.create(self.path / "signing.key", replace=True).public
        self.audit.append("signing key rotated", old=old.text, new=new.text)
        return new

    def warnings(self) -> list[str]:
        """One line for each certificate that expires soon."""
        lines = []
        for name, advice in (("server.crt", "`fedrecon deploy rotate`"), ("ca.crt", "create a new federation")):
            days = days_left(self.path / name)
            if days < WARN_DAYS:
                state = f"expires in {days:.0f} days" if days > 0 else "has expired"
                lines.append(f"{self.path / name}: {state}; {advice}")
        return lines

    def run_folder(self, name: str) -> Path:
        """Folder of a run."""
        return self.path / "runs" / name

    def _write(self, sites: Mapping[str, Enrolled]) -> None:
        content = {name: asdict(site) for name, site in sites.items()}
        write_atomically(self.path / "sites.json", json.dumps(content, indent=1).encode())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
