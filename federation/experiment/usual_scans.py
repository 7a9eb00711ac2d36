"""What the scans of a site are like, so that `reconstruct` can say that another scan is unlike them."""

import json
from dataclasses import asdict

from torch import nn

from recon import UsualScans, VolumeSlices, data_error, doing, made, measure_scan, write_atomically

from ..config import read_json
from .run_folder import RunFolder
from .task import ReconstructionTask

#: A scan of a lower acceleration counts as fully sampled.
FULL = 1.2
#: The file in the folder of a site.
USUAL_SCANS = "usual_scans.json"


def write_usual_scans(run: RunFolder, task: ReconstructionTask, network: nn.Module) -> None:
    """Measure the validation scans of a site with its network, and keep the result in the folder of the site."""
    if not task.manifest.data.validation:
        return
    samples, found = task.dataset("validation"), []
    with task.at_work(network), doing("measuring validation scans,", len(samples.volumes)):
        for number in range(len(samples.volumes)):
            found.append(measure_scan(network, samples, number))
            made(number + 1)
    place = run.site_folder(task.manifest.name) / USUAL_SCANS
    write_atomically(place, json.dumps(asdict(UsualScans.of(found)), indent=1).encode())


def usual_scans_of(run: RunFolder, site: str) -> UsualScans | None:
    """What :func:`write_usual_scans` found at a site; None: the run was not evaluated.

    Raises
    ------
    DataError
        If the file is damaged.
    """
    place = run.site_folder(site) / USUAL_SCANS
    if not place.is_file():
        return None
    advice = f"write it again with `fedrecon evaluate {run.path}`"
    stored = read_json(place, advice)
    try:
        ranges = {name: tuple(map(float, values)) for name, values in stored["ranges"].items()}
        if any(len(values) != 4 for values in ranges.values()):
            raise ValueError
        return UsualScans(int(stored["scans"]), ranges)  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError, AttributeError):
        expected = "the scans of a site"
        raise data_error(place, "ranges", str(stored)[:60], expected, advice) from None


def unlike_usual(usual: UsualScans | None, network: nn.Module, samples: VolumeSlices) -> list[str]:
    """What makes the only scan of ``samples`` unlike those of its site, one line each."""
    if usual is None:
        return []
    own = usual.ranges.get("acceleration")
    if samples.acceleration(0) <= FULL and (own is None or own[0] > FULL):
        return []  # a fully sampled scan among accelerated ones is another case, of which `reconstruct` tells
    lines = usual.unusual(measure_scan(network, samples))
    return [f"{samples.volumes[0].path.name} is unlike the scans of the site: {line}" for line in lines]
