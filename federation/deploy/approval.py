"""What a site has looked at and approved: the bundle, its recipe, the network, and the software that runs them."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING

from recon import DataError, write_atomically

if TYPE_CHECKING:
    from ..recipes import Recipe

#: Our own packages, whose every file counts.
_PACKAGES = ("physics", "recon", "federation")
#: Others that compute with the data: the list of files with their hashes that was installed with them counts.
_DEPENDENCIES = ("numpy", "scipy", "numba", "llvmlite", "torch", "torchvision", "sigpy", "h5py", "scikit-image", "flwr")


@dataclass(frozen=True)
class Approval:
    """Digests of all that runs at a site; one letter more anywhere is another approval."""

    bundle: str
    recipe: str
    architecture: str
    software: str

    @property
    def run(self) -> str:
        """Names the federation that was approved; the same at every site, whose software may differ."""
        return hashlib.sha256(f"{self.bundle}\n{self.recipe}\n{self.architecture}\n".encode()).hexdigest()

    @classmethod
    def of(cls, bundle: bytes, recipe: "Recipe") -> "Approval":
        """What would run here, now."""
        return cls(hashlib.sha256(bundle).hexdigest(), recipe.digest(), architecture_digest(recipe), software_digest())


def architecture_digest(recipe: "Recipe") -> str:
    """Names, dtypes and shapes of what the recipe shares."""
    # Imported here: most commands of a deployment need no network, and start in a tenth of the time without PyTorch.
    from ..methods import parameter_scope, parameters_of
    from ..recipes import build_network, without_base
    from ..rounds import initial_network
    from ..serialization import layout, layout_digest

    network = initial_network(partial(build_network, without_base(recipe).network), recipe.federation.seed)
    shared = parameter_scope(network, recipe.scope.rules()).shared
    return layout_digest(layout(parameters_of(network, shared)))


def software_digest() -> str:
    """Every file of our packages, and the installed versions of what they compute with."""
    sha = hashlib.sha256()
    for name, digest in _files():
        sha.update(f"{name} {digest}\n".encode())
    for name in _DEPENDENCIES:
        sha.update(f"{name} {_installed(name)}\n".encode())
    return sha.hexdigest()


def _files() -> Iterator[tuple[str, str]]:
    root = Path(__file__).resolve().parents[2]
    for package in _PACKAGES:
        # A stub decides which object a name of its facade stands for.
        for path in sorted(file for kind in ("*.py", "*.pyi") for file in (root / package).rglob(kind)):
            yield path.relative_to(root).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest()


def _installed(name: str) -> str:
    try:
        record = distribution(name).read_text("RECORD")
    except PackageNotFoundError:
        return "none"
    return hashlib.sha256((record or "").encode()).hexdigest()


class Approvals:
    """The approvals of a site, a folder ``<run>/`` each with ``approval.json``, ``recipe.toml`` and perhaps a base."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, approval: Approval, recipe: "Recipe", base: bytes | None = None) -> None:
        """Approve; the same run once more replaces what was said of the software."""
        from ..config import store_plugins

        place = self.folder / approval.run
        store_plugins(recipe.plugins, place)
        if base is not None:
            write_atomically(self.base(approval.run), base)
        write_atomically(place / "recipe.toml", recipe.to_toml().encode())
        write_atomically(place / "approval.json", json.dumps(asdict(approval), indent=1).encode())

    def remove(self, run: str) -> None:
        """Take an approval back.

        Raises
        ------
        DataError
            If there is none.
        """
        try:
            (self.folder / run / "approval.json").unlink()
        except FileNotFoundError:
            raise DataError(f"{self.folder}: run {run[:12]} is not approved") from None

    def all(self) -> list[Approval]:
        """In no order."""
        return [_read(path) for path in self.folder.glob("*/approval.json")]

    def base(self, run: str) -> Path:
        """Where the frozen base of a run lies, if it has one."""
        return self.folder / run / "bundle.base"

    def has_bundle(self, digest: str) -> bool:
        """Whether code with this SHA-256 may be installed here; no when nothing can be read."""
        return any(approval.bundle == digest for approval in self.all())

    def recipe_of(self, run: str) -> "Recipe":
        """The recipe of an approved run, with its base, after everything that was approved was looked at again.

        Raises
        ------
        DataError
            If the run is not approved, or what would run now is not what was approved.
        """
        from ..recipes import attach_base, load_recipe

        place = self.folder / run
        if not (place / "approval.json").is_file():
            raise DataError(f"{self.folder}: run {run[:12]} is not approved")
        approved = _read(place / "approval.json")
        recipe = load_recipe(place / "recipe.toml")
        now = Approval(approved.bundle, recipe.digest(), architecture_digest(recipe), software_digest())
        different = [key for key, value in asdict(now).items() if value != asdict(approved)[key]]
        if different or approved.run != run:
            raise DataError(
                f"{place}: {' and '.join(different) or 'the name'} changed since the approval; look at what is new and "
                "approve again"
            )
        return attach_base(recipe, self.base(run))


def _read(path: Path) -> Approval:
    try:
        return Approval(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        raise DataError(f"{path}: is no approval; approve again") from None
