"""Write sites of images of people, with their labels if they have some."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from .image_labels import TABLE, ImageLabels, require_classes, write_table
from .writing import Files, MadeSite, Scanner, require_absent, write_manifests, write_scans


def write_labeled_sites(
    out: Path,
    sites: Sequence[Scanner],
    files: Files,
    write: Callable[[tuple[Scanner, str]], None],
    origins: Mapping[str, str],
    labels: ImageLabels | None,
    classes: Mapping[str, Tensor | None],
    *,
    overwrite: bool,
) -> list[MadeSite]:
    """Write scans, and the tables of classes, then manifests.

    Parameters
    ----------
    out, sites, files, write, origins, overwrite
        As for :func:`write_simulated_sites`; ``write`` also writes the label map of a scan.
    labels
        Their classes and kind; None: no labels.
    classes
        Label maps of the scans by file; None: it has none.

    Raises
    ------
    ConfigError
        If no scan shows a class, or a file exists and may not be replaced; nothing is written then.
    """
    if labels is not None:
        require_classes(labels, [maps for maps in classes.values() if maps is not None])
        if not overwrite:
            require_absent(*(out / "data" / site.name / TABLE for site in sites))
    write_scans(out, sites, files, write, overwrite=overwrite)
    if labels is not None:
        for site in sites:
            own = {name: maps for _, name in files[site.name] if (maps := classes[name]) is not None}
            write_table(out / "data" / site.name, tuple(labels.classes), own)
    task = None if labels is None else labels.section()
    return write_manifests(out, sites, files, origins, synthetic=False, overwrite=overwrite, task=task)
