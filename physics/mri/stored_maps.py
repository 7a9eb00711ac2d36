"""Coil maps on disk in half precision: files named by content, written whole or not at all."""

import hashlib
import os
import tempfile
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file, save
from torch import Tensor

#: Part of the name of every stored file of maps: raise it when an estimate changes.
_VERSION = "3"


def stored_name(how: str, *samples: Tensor) -> str:
    """Name of the file of the maps that are estimated from some samples in a certain way."""
    # Another version of PyTorch rounds in other places.
    digest = hashlib.sha256(f"{_VERSION} {torch.__version__} {how}".encode())
    for array in samples:
        digest.update(str(tuple(array.shape)).encode())
        digest.update(array.cpu().contiguous().to(torch.complex64).numpy().tobytes())
    return f"{digest.hexdigest()}.safetensors"


def rounded(maps: Tensor) -> Tensor:
    """Complex maps with the values that a file keeps."""
    return torch.view_as_complex(torch.view_as_real(maps).to(torch.float16).to(torch.float32))


def read_maps(path: Path, shape: tuple[int, int, int]) -> Tensor | None:
    """Maps of a file, complex64; None if it is missing, damaged or of another shape."""
    try:
        parts = load_file(path).get("maps")
    except (FileNotFoundError, safetensors.SafetensorError):
        return None
    if parts is None or parts.shape != (*shape, 2) or parts.dtype != torch.float16 or not parts.isfinite().all():
        return None
    return torch.view_as_complex(parts.to(torch.float32))


def write_maps(path: Path, maps: Tensor) -> None:
    """Store maps, real and imaginary part as float16; a reader finds a whole file or none.

    Raises
    ------
    OSError
        If they cannot be written; names the file.
    """
    parts = torch.view_as_real(maps).cpu().to(torch.float16).contiguous()
    try:
        # Only for the owner: maps are estimated from scans of patients.
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Write a temporary file, then rename: two processes may store the same maps, none may read half a file.
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path.parent)) from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(save({"maps": parts}))
        os.replace(name, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        # After a failure only: os.replace has moved the file.
        Path(name).unlink(missing_ok=True)
