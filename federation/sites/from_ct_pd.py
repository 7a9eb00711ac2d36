"""Make CT sites from folders of DICOM-CT-PD projections."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from recon import ProjectionSeries, ScanSimulation, SlicePlan, open_series, plan_slices, series_folders, write_slices

from ..config import config_error
from .from_fastmri import slug
from .lock_file import lock_path
from .manifest import expand_variables, names_person, subject
from .manifest_schema import SPLITS, Split
from .splits import deal_files
from .subjects import persons_by_pattern, unnamed_people
from .unusable import usable
from .writing import MadeSite, require_absent, simulated, write_sites

logger = logging.getLogger(__name__)

#: One view of this many is kept by the default degradation.
KEPT_PART = 4


def make_ct_pd_sites(
    folder: Path | str,
    out: Path | str,
    *,
    thickness_mm: float = 5.0,
    size: int = 512,
    views: int | None = None,
    measured: bool = False,
    water_per_mm: float | None = None,
    tilted: bool = False,
    dead_elements: Sequence[str] = (),
    split: tuple[float, float, float] = (0.7, 0.15, 0.15),
    seed: int = 0,
    series: str | None = None,
    subject_pattern: str | None = None,
    overwrite: bool = False,
    skip_bad: bool = False,
    say: Callable[[str], None] = logger.info,
) -> list[MadeSite]:
    """Rebin DICOM-CT-PD projections to fan-beam slices, and write the manifests of a site per scanner.

    Every folder at or below ``folder`` that holds projections is one series; those that hold images are passed over.
    The series of a scanner, by vendor and model, make a site. Their slices have the filtered back-projection of all
    views as their reference, and by default the manifest keeps a quarter of the views, as that of fully sampled MRI
    keeps a quarter of the lines. Whole persons are dealt to the splits, by ``PatientID``.

    Parameters
    ----------
    folder
        Searched recursively; ``${VARIABLES}`` in it are replaced.
    out
        Folder of the manifests; the slices go to ``data/<site>`` in it.
    thickness_mm, size, views
        Of the slices, see :func:`recon.plan_slices`.
    measured
        Use all views, without references: for self-supervised methods.
    water_per_mm
        Attenuation of water; None: as the files state it.
    tilted
        Tilt the planes of slices with the helix, see :func:`recon.plan_slices`; images of such a site become axial
        when they are reconstructed.
    dead_elements
        Dead elements of the detector beside those that are found, see :func:`recon.open_series`.
    series
        Use only series whose description contains this text, such as ``"full dose"``, in any case; None: all.
    split, seed, overwrite, skip_bad
        As for :func:`make_fastmri_sites`. A bad series is left out as a whole.
    subject_pattern
        Regular expression whose group is the person, searched in the path of every series below the folder.
    say
        Prints what is passed over, and what the work will cost before it begins.

    Returns
    -------
        The sites.

    Raises
    ------
    ConfigError
        If the folder holds no projections, or a file to be written exists; nothing is written then.
    DataError
        If a series cannot be used; of several, one line for each.
    """
    root, out = Path(expand_variables(str(folder), "sites make", "folder")).expanduser(), Path(out)
    folders = _folders(root, series, say)

    if not overwrite:  # before headers are read, which takes minutes
        require_absent(*(file for name in folders for file in (out / "data").glob(f"*/{_file(name)}")))

    def opened(name: str) -> tuple[ProjectionSeries, SlicePlan]:
        one = open_series(folders[name], water_per_mm=water_per_mm, dead_elements=dead_elements)
        return one, plan_slices(one, thickness_mm=thickness_mm, size=size, views=views, tilted=tilted)

    found = usable(folders, opened, skip_bad=skip_bad)
    told = {} if subject_pattern is None else persons_by_pattern(found, subject_pattern)
    persons = {name: subject(name, told.get(name) or one.patient_id) for name, (one, _) in found.items()}
    groups = _by_scanner({name: one for name, (one, _) in found.items()})
    dealt = deal_files(groups, persons, split, seed)
    files = {site: [(of, _file(name)) for name, of in named.items()] for site, named in dealt.items()}
    if not overwrite:
        _require_new(out, files)
    say(_cost([plan for _, plan in found.values()], sum(one.n_bytes for one, _ in found.values())))
    for site, names in groups.items():
        for name, (_, file) in zip(names, files[site], strict=True):
            _write(*found[name], out / "data" / site / file, reference=not measured, patient_id=told.get(name))
    lacking = [name for name in found if not names_person(persons[name])]
    for warning in unnamed_people(root, lacking, " without PatientID"):
        logger.warning(warning)
    tables = [_table(site, [found[name] for name in names], files[site], measured) for site, names in groups.items()]
    return write_sites(out, tables, overwrite=overwrite)


def _require_new(out: Path, files: Mapping[str, Sequence[tuple[Split, str]]]) -> None:
    """Refuse to replace manifests, lock files or slices of the sites."""
    for site, named in files.items():
        manifest = out / f"{site}.toml"
        require_absent(manifest, lock_path(manifest), *(out / "data" / site / file for _, file in named))


def _by_scanner(series: Mapping[str, ProjectionSeries]) -> dict[str, list[str]]:
    """Names of the series of every scanner, by vendor and model."""
    groups: dict[str, list[str]] = {}
    for name, one in series.items():
        groups.setdefault(slug([one.vendor or "unknown", one.model or "scanner"]), []).append(name)
    return groups


def _write(one: ProjectionSeries, plan: SlicePlan, path: Path, *, reference: bool, patient_id: str | None) -> None:
    """Rebin a series into a file, and log what makes its slices doubtful."""
    warnings = write_slices(one, path, plan, reference=reference, patient_id=patient_id)
    for warning in one.warnings() + plan.warnings(one) + warnings:
        logger.warning(warning)


def _folders(root: Path, series: str | None, say: Callable[[str], None]) -> dict[str, Path]:
    """Folders of projections by name."""
    if not root.is_dir():
        found = "a file" if root.exists() else "no such folder"
        raise config_error(root, "", found, "a folder of DICOM-CT-PD projections", "correct the path")
    described = series_folders(root)
    images = [_name(path, root) for path, text in described.items() if text is None]
    known = {path: text for path, text in described.items() if text is not None}
    chosen = [path for path, text in known.items() if series is None or series.lower() in text.lower()]
    expected = "a folder of DICOM-CT-PD projections"
    if not known:
        found = f"images in {', '.join(images[:3])}" if images else "no DICOM file"
        raise config_error(root, "", found, expected, "correct the path")
    if not chosen:
        found = ", ".join(sorted(set(known.values()))) or "nothing"
        raise config_error("sites make", "--series", repr(series), f"a part of one of: {found}", "correct it")
    if images:
        say(f"note: passed over {len(images)} folders of images, such as {images[0]}")
    return {_name(path, root): path for path in chosen}


def _name(path: Path, root: Path) -> str:
    """Path of a series below the folder; of the folder itself, its name."""
    return path.relative_to(root).as_posix() if path != root else path.absolute().name or "scan"


def _file(name: str) -> str:
    return f"{name.replace('/', '_')}.h5"


def _cost(plans: Sequence[SlicePlan], read: int) -> str:
    slices, written = sum(len(plan.centers_mm) for plan in plans), sum(plan.n_bytes for plan in plans)
    many = f"{len(plans)} series" if len(plans) > 1 else "a series"
    size = f"reads {read / 1e9:.2g} GB, writes {written / 1e9:.2g} GB"
    return f"rebinning {many} to {slices} slices: {size}, some seconds per slice ..."


def _table(
    name: str,
    found: Sequence[tuple[ProjectionSeries, SlicePlan]],
    files: Sequence[tuple[Split, str]],
    measured: bool,
) -> dict[str, Any]:
    """Manifest of a site."""
    first = found[0][0]
    anatomies = {(series.anatomy or "").lower() for series, _ in found}
    acquisition = {
        "vendor": first.vendor,
        "model": first.model,
        "anatomy": anatomies.pop() if len(anatomies) == 1 else None,
        "origin": "rebinned from DICOM-CT-PD projections"
        + (" to tilted planes" if found[0][1].rebinning.tilted else ""),
    }
    views = min(plan.geometry.shape[0] for _, plan in found)
    table = {
        "name": name,
        "modality": "ct",
        "acquisition": {key: value for key, value in acquisition.items() if value},
        "data": {"root": f"data/{name}"} | {s: [file for of, file in files if of == s] for s in SPLITS},
    }
    return table if measured else table | simulated(ScanSimulation(views=max(views // KEPT_PART, 1)))
