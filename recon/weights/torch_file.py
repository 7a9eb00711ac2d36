"""Weights of other programs: the kind of a file by its content, and what it holds, without running its code."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from ..data import format_of
from ..errors import data_error


def read_content(path: Path, advice: str) -> Any:
    """What a file of ``torch.save`` or of safetensors holds; no code of the file is run.

    Parameters
    ----------
    advice
        What to give in place of a file of another kind.

    Raises
    ------
    DataError
        If the file is of another kind, truncated or damaged, or holds more than tensors and plain values.
    """
    expected, again = "a file of torch.save", "get it again"
    try:
        kind = _kind(path)
        if kind == "safetensors":
            return safetensors.torch.load_file(path)
        if kind == "torch":
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise data_error(path, "file", f"none that can be read ({error.strerror})", "weights", "correct it") from None
    except pickle.UnpicklingError as error:
        if "truncated" in str(error):
            raise data_error(path, "file", "a truncated file", expected, again) from None
        found, plain = "a pickle with other objects than tensors", "tensors and plain values alone"
        trusted = "where you trust it, write its state_dict alone with torch.save; nothing of it was run"
        raise data_error(path, "file", found, plain, trusted) from None
    except Exception as error:  # a damaged archive raises whatever its bytes lead to
        text = " ".join(str(error).split())
        raise data_error(path, "file", f"a truncated or damaged file ({text})", expected, again) from None
    raise data_error(path, "file", kind, expected, again if "damaged" in kind or "empty" in kind else advice)


def _kind(path: Path) -> str:
    """``torch`` or ``safetensors`` by the first bytes of a file, else its format with article."""
    with path.open("rb") as file:
        head = file.read(16)
    if not head:
        return "an empty file"
    if head.startswith(b"\x80"):  # a pickle, as torch.save wrote before 1.6
        return "torch"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 27:  # the length of its header
        return "safetensors"
    if head.startswith(b"PK\3\4"):
        try:
            with zipfile.ZipFile(path) as archive:
                names = {name.rpartition("/")[2] for name in archive.namelist()}
        except zipfile.BadZipFile:
            return "a truncated or damaged zip archive"
        if "constants.pkl" in names:
            return "a TorchScript archive, which holds code"
        if "data.pkl" in names:
            return "torch"
    known = format_of(path)
    return "a file of another kind" if known is None else known.name
