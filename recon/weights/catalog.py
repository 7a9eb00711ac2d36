"""Files of weights: which come with fedrecon, and what a file says of itself. Loads no PyTorch."""

import difflib
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..errors import DataError, data_error

_FOLDER = Path(__file__).resolve().parent
#: Files of the weights that come with fedrecon, by name; beside each lies its card, a Markdown file.
STARTER_WEIGHTS: dict[str, Path] = {path.stem: path for path in sorted(_FOLDER.glob("*.safetensors"))}


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights, whose header was read.

    Parameters
    ----------
    name
        Name of packaged weights, else the path as given.
    title
        What the weights are for, in one line.
    modality
        Name in :data:`recon.MODALITIES`.
    network
        Values of ``[network]`` of a recipe that are no defaults.
    parameters
        Number of parameters.
    limits
        Largest ``matrix`` and ``acceleration``, ``least_photons`` per ray and ``least_degrees`` of the arc of the views
        of the scans that the weights suit, where they are stated.
    """

    name: str
    path: Path
    title: str
    modality: str
    network: dict[str, Any]
    parameters: int
    limits: dict[str, float]

    @property
    def card(self) -> Path:
        """The model card: data, license, regime, scores. Named as the weights, or ``MODEL.md``."""
        own, exported = self.path.with_suffix(".md"), self.path.with_name("MODEL.md")
        return exported if exported.is_file() and not own.is_file() else own

    @property
    def bytes(self) -> int:
        return self.path.stat().st_size

    def beyond(self, **scan: float | None) -> list[str]:
        """What of a scan, such as ``matrix=320``, is outside the limits, in words; None: unknown."""
        found = []
        for key, value in scan.items():
            most, least = self.limits.get(key), self.limits.get(f"least_{key}")
            if most is not None and value is not None and value > most:
                found.append(f"{key} {value:.3g}, expected at most {most:g}")
            if least is not None and (value is None or value < least):
                found.append(f"{key} {'unknown' if value is None else f'{value:.3g}'}, expected at least {least:g}")
        return found

    def sha256(self) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()


def open_weights(name: Path | str) -> WeightsFile:
    """Read the header of a file of weights; a file takes precedence over packaged weights of the same name.

    Raises
    ------
    DataError
        If there is neither such a file nor such a name, or the file is damaged or holds something else.
    """
    path = _path(name)
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            count = sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise data_error(path, "file", f"no readable safetensors ({error})", "weights", "get the file again") from None
    for key in ("network", "modality", "title"):
        if key not in metadata:
            raise data_error(path, "metadata", f"no {key!r}", "weights of `recon.save_weights`", "give another file")
    network, limits = (_json_object(path, key, metadata.get(key, "{}")) for key in ("network", "limits"))
    if not all(isinstance(value, int | float) for value in limits.values()):
        raise data_error(path, "limits", repr(metadata["limits"][:40]), "numbers by name", "write the file again")
    return WeightsFile(str(name), path, metadata["title"], metadata["modality"], network, count, limits)


def _json_object(path: Path, key: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise data_error(path, key, repr(text[:40]), "a JSON object", "write the file again")
    return value


def is_weights(path: Path) -> bool:
    """Whether a file is safetensors with the settings of a network."""
    try:
        with safe_open(path, framework="numpy") as file:
            return "network" in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def _path(name: Path | str) -> Path:
    path = Path(name)
    if path.is_file():
        return path
    if (found := STARTER_WEIGHTS.get(str(name))) is not None:
        return found
    names = ", ".join(STARTER_WEIGHTS) or "none is packaged"
    near = difflib.get_close_matches(str(name), STARTER_WEIGHTS, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    what = "a folder" if path.is_dir() else "neither a file nor starter weights"
    raise DataError(f"{name}: found {what}, expected a file of weights or a name ({names}){hint}")
