"""A site's folder: its key, the trusted server key, policy, approvals, kept state."""

import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import Field

from recon import DataError, write_atomically

from ..config import Name, Section, parse_section, read_toml
from ..sites import SiteManifest, load_manifest, read_site_name
from .approval import Approvals
from .audit_log import SERVER, AuditLog
from .keys import PublicKey, SigningKey, file_time, read_certificate
from .policy import Policy
from .private_files import make_private, private_files, require_private

#: HOST:PORT; an HTTP proxy with or without USER:PASSWORD@, or nothing.
_ADDRESS = r"^[A-Za-z0-9.-]+:\d{1,5}$"
_PROXY = r"^(https?://([\w.~!$&'()*+,;=%-]+(:[\w.~!$&'()*+,;=%-]*)?@)?([\w.-]+|\[[\da-fA-F:]+\])(:\d{1,5})?/?)?$"


class SiteSection(Section):
    """``site.toml``: name of the site, address of the server, path of the manifest, proxy (may hold a password).

    ``threads`` are those of PyTorch in training; a change applies from the next start of the site on.
    """

    name: Name
    server: str = Field(pattern=_ADDRESS)
    data: str
    proxy: str = Field(default="", pattern=_PROXY)
    threads: int = Field(default=1, ge=1)


def without_password(text: str) -> str:
    """A text in which user and password of an address are hidden: ``http://***@proxy:3128``."""
    return re.sub(r"(https?://)\S*@", r"\1***@", text)


def _settings(content: Mapping[str, Any], source: Path | str) -> SiteSection:
    """Check ``site.toml``; an error does not repeat the proxy, which may hold a password."""
    proxy = content.get("proxy", "")
    if not isinstance(proxy, str) or not re.fullmatch(_PROXY, proxy):
        expected = "http://HOST:PORT or http://USER:PASSWORD@HOST:PORT, other characters than letters and digits as %XX"
        raise DataError(f"{source}: proxy: is no address of a proxy (not shown), expected {expected}")
    return parse_section(SiteSection, content, source)


class SiteFolder:
    """``site.toml``, ``policy.toml``, ``site.key`` and its ``.pub``, ``sum.key`` of secure sums, ``ca.crt``,
    ``server.pub`` and any former ones, ``approvals/``, ``audit.jsonl`` and ``state/<run>/``. Only public keys leave the
    site. A folder that other users can enter is refused.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not (path / "site.toml").is_file():
            raise DataError(f"{path}: is no folder of a site (no site.toml); create it by `fedrecon deploy site init`")
        require_private(path)

    @classmethod
    def create(
        cls,
        path: Path,
        *,
        server: str,
        authority: Path,
        server_key: Path,
        data: Path,
        proxy: str = "",
        policy: Path | None = None,
    ) -> "SiteFolder":
        """Create the folder, its key and a copy of ``policy``; None: a policy with all defaults written out.

        Raises
        ------
        DataError
            If the folder is not empty, the manifest has no usable name, the site has the name of the server, or the
            policy cannot be read.
        """
        name = read_site_name(data)
        if name == SERVER:
            raise DataError(f"{data}: name is {SERVER!r}, the name of the server; choose another")
        if path.exists() and any(path.iterdir()):
            raise DataError(f"{path}: is not empty; choose another folder")
        content = {"name": name, "server": server, "data": str(data.resolve()), "proxy": proxy}
        settings = _settings(content, "site init")
        public = PublicKey.read(server_key)
        certificate = read_certificate(authority)
        if policy is not None:
            Policy.read(policy)
        allowed = Policy().to_toml().encode() if policy is None else policy.read_bytes()
        make_private(path)
        with private_files():
            SigningKey.create(path / "site.key")
            write_atomically(path / "ca.crt", certificate)
            write_atomically(path / "server.pub", (public.text + "\n").encode())
            write_atomically(path / "policy.toml", allowed)
            write_atomically(path / "site.toml", tomli_w.dumps(settings.model_dump(mode="json")).encode())
        folder = cls(path)
        folder.audit.append("site made", key=SigningKey.read(path / "site.key").public.text)
        return folder

    @cached_property
    def settings(self) -> SiteSection:
        return _settings(read_toml(self.path / "site.toml"), self.path / "site.toml")

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def policy(self) -> Policy:
        """The policy, read from its file at each access."""
        return Policy.read(self.path / "policy.toml")

    @cached_property
    def manifest(self) -> SiteManifest:
        manifest = load_manifest(self.settings.data)
        if manifest.name != self.name:
            raise DataError(f"{self.settings.data}: name is {manifest.name!r}, expected {self.name!r} as in site.toml")
        return manifest

    @cached_property
    def key(self) -> SigningKey:
        return SigningKey.read(self.path / "site.key")

    @cached_property
    def server_key(self) -> PublicKey:
        return PublicKey.read(self.path / "server.pub")

    def former_server_keys(self) -> list[Path]:
        """Files with the keys of the server that the site no longer trusts, oldest first."""
        return sorted(self.path.glob("server-until-*.pub"))

    def require_new_server_key(self, key: PublicKey) -> None:
        """Check a key that the server shall have from now on.

        Raises
        ------
        DataError
            If the site trusts it already, trusted it before, or it is the site's own.
        """
        if key.text == self.server_key.text:
            raise DataError(f"{self.path / 'server.pub'}: is this key already; expected the server's new one")
        if key.text == self.key.public.text:
            raise DataError("--server-key: is this site's own key; expected the server's signing.key.pub")
        for path in self.former_server_keys():
            if PublicKey.read(path).text == key.text:
                raise DataError(f"{path}: this key was replaced, it may be stolen; expected the server's new one")

    def trust(self, key: PublicKey) -> None:
        """Trust another signing key of the server from the next request on, and the one before no longer.

        Raises
        ------
        DataError
            As for :meth:`require_new_server_key`.
        """
        self.require_new_server_key(key)
        old = self.server_key
        write_atomically(self.path / f"server-until-{file_time()}.pub", (old.text + "\n").encode())
        write_atomically(self.path / "server.pub", (key.text + "\n").encode())
        del self.server_key  # the cached one
        self.audit.append("server key replaced", old=old.text, new=key.text)

    @property
    def approvals(self) -> Approvals:
        return Approvals(self.path / "approvals")

    @cached_property
    def audit(self) -> AuditLog:
        return AuditLog(self.path / "audit.jsonl", self.name)

    def state(self, run: str) -> Path:
        """Folder of one run: kept state, the last parameters from the server, the answers."""
        return self.path / "state" / run

    def sums(self, run: str) -> Path:
        """Folder with the secrets and records of the secure sums of one run."""
        return self.state(run) / "kept" / "secure"

    @property
    def maps(self) -> Path:
        return self.path / "maps"
