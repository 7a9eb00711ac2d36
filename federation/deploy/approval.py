"""Approvals of a site: digests of a bundle, its recipe, the network and the software that runs them."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING

from recon import DataError, write_atomically

if TYPE_CHECKING:
    from ..recipes import Recipe

#: Number of parameters that no network has.
NO_LIMIT = 2**63
#: Our packages: all their files are hashed.
_PACKAGES = ("physics", "recon", "federation")
#: Other packages that compute with the data: their installed list of file hashes is hashed.
_DEPENDENCIES = (
    "cryptography",
    "dp-accounting",
    "finufft",
    "numpy",
    "scipy",
    "numba",
    "llvmlite",
    "torch",
    "torchvision",
    "sigpy",
    "h5py",
    "scikit-image",
    "flwr",
)


@dataclass(frozen=True)
class Approval:
    """Digests of everything that runs at a site; any change needs another approval."""

    bundle: str
    recipe: str
    architecture: str
    software: str

    @property
    def run(self) -> str:
        """Digest that names the approved run; equal at all sites, whose software may differ."""
        return hashlib.sha256(f"{self.bundle}\n{self.recipe}\n{self.architecture}\n".encode()).hexdigest()

    @classmethod
    def of(cls, bundle: bytes, recipe: "Recipe", most_parameters: int = NO_LIMIT) -> "Approval":
        """The approval of a bundle with the software that is installed here now.

        Raises
        ------
        DataError
            If the network has more parameters than ``most_parameters``.
        """
        architecture = architecture_digest(recipe, most_parameters)
        return cls(hashlib.sha256(bundle).hexdigest(), recipe.digest(), architecture, software_digest())


def architecture_digest(recipe: "Recipe", most_parameters: int = NO_LIMIT) -> str:
    """SHA-256 of names, dtypes and shapes of the shared parameters; a network of any size needs no memory for it."""
    # Imported here: most commands of a deployment need no network, and start in a tenth of the time without PyTorch.
    from ..serialization import layout_digest
    from .network_layout import shared_layout

    return layout_digest(shared_layout(recipe, most_parameters))


def software_digest() -> str:
    """SHA-256 of all files of our packages and of the installed packages that compute with the data."""
    sha = hashlib.sha256()
    for name, digest in _files():
        sha.update(f"{name} {digest}\n".encode())
    for name in _DEPENDENCIES:
        sha.update(f"{name} {_installed(name)}\n".encode())
    return sha.hexdigest()


def _files() -> Iterator[tuple[str, str]]:
    root = Path(__file__).resolve().parents[2]
    for package in _PACKAGES:
        # A stub decides which object a name in a facade stands for.
        for path in sorted(file for kind in ("*.py", "*.pyi") for file in (root / package).rglob(kind)):
            yield path.relative_to(root).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest()


def _installed(name: str) -> str:
    try:
        record = distribution(name).read_text("RECORD")
    except PackageNotFoundError:
        return "none"
    return hashlib.sha256((record or "").encode()).hexdigest()


class Approvals:
    """The approvals of a site: a folder ``<run>/`` each, with ``approval.json``, ``recipe.toml`` and any base."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, approval: Approval, recipe: "Recipe", base: bytes | None = None) -> None:
        """Approve a run; approving it again replaces the digest of the software."""
        from ..config import store_plugins

        place = self.folder / approval.run
        store_plugins(recipe.plugins, place)
        if base is not None:
            write_atomically(self.base(approval.run), base)
        write_atomically(self.recipe_file(approval.run), recipe.to_toml().encode())
        write_atomically(place / "approval.json", json.dumps(asdict(approval), indent=1).encode())

    def remove(self, run: str) -> None:
        """Withdraw an approval.

        Raises
        ------
        DataError
            If the run is not approved.
        """
        try:
            (self.folder / run / "approval.json").unlink()
        except FileNotFoundError:
            raise DataError(f"{self.folder}: run {run[:12]} is not approved") from None

    def all(self) -> list[Approval]:
        """All approvals, in no order."""
        return [_read(path) for path in self.folder.glob("*/approval.json")]

    def recipe_file(self, run: str) -> Path:
        """File of the recipe of a run; it stays when the approval is withdrawn."""
        return self.folder / run / "recipe.toml"

    def base(self, run: str) -> Path:
        """File of the frozen base of a run, if it has one."""
        return self.folder / run / "bundle.base"

    def has_bundle(self, digest: str) -> bool:
        """Whether a bundle with this SHA-256 is approved."""
        return any(approval.bundle == digest for approval in self.all())

    def recipe_of(self, run: str) -> "Recipe":
        """The recipe of an approved run, with the path of its base, after all digests were compared again.

        Raises
        ------
        DataError
            If the run is not approved, or a digest differs from the approved one.
        """
        from ..recipes import attach_base, load_recipe

        place = self.folder / run
        if not (place / "approval.json").is_file():
            raise DataError(f"{self.folder}: run {run[:12]} is not approved")
        approved = _read(place / "approval.json")
        recipe = load_recipe(self.recipe_file(run))
        now = Approval(approved.bundle, recipe.digest(), architecture_digest(recipe), software_digest())
        different = [key for key, value in asdict(now).items() if value != asdict(approved)[key]]
        if different or approved.run != run:
            raise DataError(
                f"{place}: {' and '.join(different) or 'the name'} changed since the approval; check the change and "
                "approve again"
            )
        return attach_base(recipe, self.base(run))


def _read(path: Path) -> Approval:
    try:
        return Approval(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        raise DataError(f"{path}: is not an approval of fedrecon; approve again") from None
