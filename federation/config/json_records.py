"""JSON files written by fedrecon."""

import json
from pathlib import Path
from typing import Any

from recon import DataError


def read_json(path: Path, advice: str) -> dict[str, Any]:
    """Read a file that holds a JSON object.

    Raises
    ------
    DataError
        If the file is damaged; the message ends with ``advice``.
    """
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path}: is not JSON ({error}); {advice}") from None
    if not isinstance(found, dict):
        raise DataError(f"{path}: holds a {type(found).__name__}, expected an object; {advice}")
    return found
