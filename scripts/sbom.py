"""Write the software bill of materials (CycloneDX 1.6) of an installation with some extras: `make sbom`.

The package cyclonedx-bom lists the environment that runs this file. Kept is what the distribution fedrecon needs, with
the extras that are named; tools for tests and documentation are left out.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

NAME = "fedrecon"


def main() -> int:
    """Write the file that the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, help="file to write, *.cdx.json")
    parser.add_argument("--extra", action="append", default=[], help="extra of fedrecon; repeat for several")
    arguments = parser.parse_args()
    if unknown := set(arguments.extra) - set(distribution(NAME).metadata.get_all("Provides-Extra") or ()):
        parser.error(f"--extra: found {sorted(unknown)[0]!r}, expected an extra of setup.cfg")
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible", "--no-validate"]
    listed = json.loads(subprocess.run([*command, sys.executable], check=True, capture_output=True).stdout)
    try:
        found = needed(listed, arguments.extra)
    except (PackageNotFoundError, KeyError) as error:
        parser.error(
            f"{error.args[0]}: found no such package here, expected all of {NAME}[{','.join(arguments.extra)}]"
        )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{arguments.out}: {NAME} and {len(found['components'])} packages that it needs")
    return 0


def needed(listed: dict[str, Any], extras: Iterable[str]) -> dict[str, Any]:
    """The part of a bill of materials that fedrecon needs with some extras; fedrecon is its main component."""
    parts = {canonicalize_name(part["name"]): part for part in listed["components"]}
    links = requirements(NAME, extras)
    own = {**parts.pop(NAME), "type": "application"}
    own.pop("externalReferences", None)  # the folder of this checkout
    refs = {name: part["bom-ref"] for name, part in parts.items()} | {NAME: own["bom-ref"]}
    return {
        **listed,
        "metadata": {**listed["metadata"], "component": own},
        "components": [part for name, part in parts.items() if name in links],
        "dependencies": [
            {"ref": refs[name], "dependsOn": sorted(refs[other] for other in found)}
            for name, found in sorted(links.items())
        ],
    }


def requirements(name: str, extras: Iterable[str]) -> dict[str, set[str]]:
    """All distributions that one with some extras needs here, itself included, with those that each requires."""
    found: dict[str, set[str]] = {}
    waiting, seen = [(name, extra) for extra in ("", *extras)], set()
    while waiting:
        if (item := waiting.pop()) in seen:
            continue
        seen.add(item)
        wanted = found.setdefault(item[0], set())
        for one in map(Requirement, distribution(item[0]).requires or ()):
            if one.marker is None or one.marker.evaluate({"extra": item[1]}):
                wanted.add(other := canonicalize_name(one.name))
                waiting += [(other, extra) for extra in ("", *one.extras)]
    return found


if __name__ == "__main__":
    sys.exit(main())
