"""Records in JSON that we have written ourselves."""

import json
from pathlib import Path
from typing import Any

from recon import DataError


def read_json(path: Path, advice: str) -> dict[str, Any]:
    """Read a record.

    Raises
    ------
    DataError
        If it is damaged, with ``advice``, what to do then.
    """
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path}: is not JSON ({error}); {advice}") from None
    if not isinstance(found, dict):
        raise DataError(f"{path}: holds a {type(found).__name__}, expected a table; {advice}")
    return found
