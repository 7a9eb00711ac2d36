"""CT sites of projections simulated from images of people in Hounsfield units."""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recon import largest_matrix, open_sinograms, resize_labels

from ..config import config_error
from .image_labels import ImageLabels, Slices, write_labels
from .labeled_sites import write_labeled_sites
from .manifest_schema import SPLITS, Split
from .patient_table import AIR_HU, BODY_HU, with_table, without_table
from .people import PersonImage, deal_persons, named_apart, one_person_per_file
from .person_slices import chosen_slices, origin_of, read_person
from .scanner_files import CTScanner, require_different_names
from .simulated_ct import REFINED, scan_of, write_counts
from .splits import split_counts
from .subjects import unnamed_people
from .unusable import usable
from .writing import MadeSite, require_different

logger = logging.getLogger(__name__)

#: Lower values stand for pixels outside the scanner's field of view.
_PADDING_HU = -1500.0

#: Scanners of :func:`make_ct_image_sites` for persons unless others are given.
CT_IMAGE_SITES = tuple(CTScanner(name=f"protocol{number}", protocol=number) for number in range(1, 6))


def make_ct_image_sites(
    images: Sequence[Path | str | PersonImage],
    out: Path | str,
    *,
    size: int = 256,
    sites: Sequence[CTScanner] | None = None,
    split: tuple[float, float, float] = (0.7, 0.15, 0.15),
    seed: int = 0,
    source: Path | str = "sites make",
    overwrite: bool = False,
    skip_bad: bool = False,
    labels: ImageLabels | None = None,
) -> list[MadeSite]:
    """Write counts simulated from CT images, and the manifests.

    With scanners, or persons, whole persons are dealt to sites and splits as by :func:`make_image_sites`. With paths
    alone, every image volume is a site: site n gets HyperFed's protocol n, and the slices of the volume are cut into
    blocks for training, validation and test, with one slice between them that is not used if there are ten or more. The
    splits then share a patient, so the results say nothing about new ones.

    The image is scaled to the protocol's field of view: lengths are those of the protocol, not of the patient. It is
    projected on a grid that is twice as fine as the reconstructed one. Hounsfield units are read as attenuation at one
    energy: there is no beam hardening.

    Parameters
    ----------
    images
        NIfTI files, DICOM files or folders of one DICOM series, in Hounsfield units, or persons.
    out
        Folder to write, as for :func:`make_demo_sites`.
    size
        Height and width of the reconstructed images where the scanner has no ``matrix``.
    sites
        Scanners to simulate. None: a site per volume, or HyperFed's five for persons.
    split, seed, source, overwrite, skip_bad, labels
        As for :func:`make_image_sites`, with slices instead of blocks. Its errors are raised here, too.
    """
    given = [image for image in images if isinstance(image, PersonImage)]
    unnamed = one_person_per_file([Path(image) for image in images if not isinstance(image, PersonImage)])
    persons, out = list(usable(given + unnamed, partial(_hounsfield, labels=labels), skip_bad=skip_bad)), Path(out)
    if sites is None and not given:
        return _one_site_per_volume(persons, out, size, split, seed, overwrite, labels)
    for warning in unnamed_people("sites make", [str(image.file) for image in unnamed if image in persons], ""):
        logger.warning(warning)
    persons = named_apart(persons)
    require_different([image.name for image in persons])
    sites = CT_IMAGE_SITES if sites is None else sites
    require_different_names(sites, source)
    dealt = deal_persons(persons, {site.name: site.wish for site in sites}, split, seed, source)
    volumes: dict[str, tuple[str, Slices]] = {}
    files: dict[str, list[tuple[Split, str]]] = {site.name: [] for site in sites}
    for site in sites:
        _require_views(site, size)
        for _, image in dealt[site.name]:
            _require_fine(site, size, image)
        read = [(part, image, _hounsfield(image, labels)) for part, image in dealt[site.name]]
        for part, image, volume in chosen_slices(site, read):
            file = f"{site.name}_{image.name}.h5"
            files[site.name].append((part, file))
            volumes[file] = (image.person, _with_classes(volume, site, site.matrix or size))

    def write(job: tuple[CTScanner, str]) -> None:
        site, file = job
        person, block = volumes[file]
        _write(out / "data" / site.name / file, site, person, block, site.matrix or size, seed)

    origins = {name: origin_of("the CT images", own) for name, own in dealt.items()}
    kept = {file: block.classes for file, (_, block) in volumes.items()}
    return write_labeled_sites(out, sites, files, write, origins, labels, kept, overwrite=overwrite)


def _with_classes(block: Slices, site: CTScanner, size: int) -> Slices:
    """The images as they are, and their classes on the reconstructed image."""
    if block.classes is None:
        return block
    return Slices(block.images, resize_labels(_square(block.classes, site.field_of_view, 0), (size, size)))


def _write(path: Path, site: CTScanner, person: str, block: Slices, size: int, seed: int) -> None:
    how: dict[str, Any] = {"patient_id": person, "acquisition": "from_images"}
    write_counts(path, site.protocol, site.photons, scanned(block.images, site, size), seed, **how)
    if block.classes is not None:
        write_labels(path, block.classes, open_sinograms(path).image_header())


def scanned(hu: Tensor, site: CTScanner, size: int) -> Tensor:
    """The object, `REFINED` times finer than the image, with the scanner's field of view and table."""
    if site.table != "as_is":
        hu = without_table(_square(hu, 1.0))
    hu = _resized(_square(hu, site.field_of_view), REFINED * size)
    return with_table(hu, site.table) if site.table in ("flat", "curved") else hu


def _require_views(site: CTScanner, size: int) -> None:
    size = site.matrix or size
    views = scan_of(site.protocol, size)[1].shape[0]
    if site.views is not None and site.views > views:
        expected = f"at most the {views} of protocol {site.protocol} at {size} pixels"
        raise config_error("sites make", f"site {site.name}: views", str(site.views), expected, "keep fewer")


def _require_fine(site: CTScanner, size: int, image: PersonImage) -> None:
    height, width = read_person(image, "CT").shape[-2:]
    side = round(max(height, width) * site.field_of_view)
    if (matrix := site.matrix or size) > (most := largest_matrix((side, side))):
        found = f"{matrix} for images of {height}x{width}"
        expected = f"about half the source, at most {most}"
        raise config_error(image.file, f"matrix of site {site.name}", found, expected, "use a smaller matrix")


def _hounsfield(image: PersonImage, labels: ImageLabels | None) -> Slices:
    """Slices with anatomy, air at -1000."""
    hu, classes = read_person(image, "CT"), None if labels is None else labels.read(image)
    shown, expected = hu[hu > _PADDING_HU], "Hounsfield units, air at -1000"
    if len(shown) == 0 or float(shown.min()) > -500 or float(shown.max()) < 50:
        found = f"{float(shown.min()):g} to {float(shown.max()):g}" if len(shown) else "padding alone"
        raise config_error(image.file, "values", found, expected, "use CT images")
    if fault := _bright_padding(hu):
        raise config_error(image.file, "values", fault, "air or padding below -500", "set the padding to -1000")
    if fault := _gray_scale_fault(shown):
        raise config_error(image.file, "values", fault, expected, "use the original CT images, not a picture of them")
    hu = hu.clamp_min(AIR_HU)
    block = Slices(hu, classes)[(hu > BODY_HU).float().mean((-2, -1)) > 0.02]
    if len(block) == 0:
        raise config_error(image.file, "slices", "none with anatomy", "at least one", "leave the file out")
    return block


def _bright_padding(hu: Tensor) -> str | None:
    """Slices with the same value in all corners, not that of air: padding that would be simulated as tissue."""
    corners = hu[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    value = float(corners.median())
    part = float((corners == value).all(1).float().mean())
    return f"{value:g} in all corners of {part:.0%} of the slices" if value > BODY_HU and part > 0.5 else None


def _gray_scale_fault(hu: Tensor) -> str | None:
    """Trace of a gray scale for display: tissue cut off at the brightest value, or the levels of 8 bits."""
    some = hu[:: max(1, len(hu) // 2**20)]
    levels, top = some.unique(), float(some.max())
    if len(levels) < 50:  # a drawing, not a scan
        return None
    if len(levels) <= 256 and float(levels.diff().median()) > 1.5:
        return f"{len(levels)} gray levels from {float(levels[0]):g} to {top:g}, as of an image of 8 bits"
    cut = float((some[some > BODY_HU] == top).float().mean())
    # Metal and the largest value of 12 bits stand above.
    if cut > 0.003 and top < 1500:
        return f"{100 * cut:.1f} % of the body at {top:g}, as if a display window had cut off brighter tissue"
    return None


def _one_site_per_volume(
    images: Sequence[PersonImage],
    out: Path,
    size: int,
    split: tuple[float, float, float],
    seed: int,
    overwrite: bool,
    labels: ImageLabels | None,
) -> list[MadeSite]:
    names = [_site_name(image) for image in images]
    require_different(names)
    logger.warning(
        f"sites make: {len(images)} files, a site each: the splits of a site show one person, and its scores are not "
        "those of new people; to deal whole persons, name them with --subject or --persons"
    )
    sites = [CTScanner(name=name, protocol=n % 5 + 1) for n, name in enumerate(names)]
    blocks: dict[str, Slices] = {}
    files: dict[str, list[tuple[Split, str]]] = {}
    for name, image, site in zip(names, images, sites, strict=True):
        hu = _with_classes(_hounsfield(image, labels), site, size)
        if len(hu) < len(SPLITS):
            raise config_error(image.file, "slices", f"{len(hu)} with anatomy", "at least 3", "use a longer series")
        files[name] = [(part, f"{name}_{part}.h5") for part in SPLITS]
        blocks |= {f"{name}_{part}.h5": block for part, block in zip(SPLITS, _cut(hu, split), strict=True)}

    def write(job: tuple[CTScanner, str]) -> None:
        site, file = job
        _write(out / "data" / site.name / file, site, file.removesuffix(".h5"), blocks[file], size, seed)

    origins = dict.fromkeys(names, f"simulated from the images {', '.join(image.file.name for image in images)}")
    kept = {file: block.classes for file, block in blocks.items()}
    return write_labeled_sites(out, sites, files, write, origins, labels, kept, overwrite=overwrite)


def _site_name(image: PersonImage) -> str:
    return "".join(c if c.isalnum() else "-" for c in image.person.lower()).strip("-") or "site"


def _cut(volume: Slices, split: tuple[float, float, float]) -> tuple[Slices, Slices, Slices]:
    gap = 1 if len(volume) >= 10 else 0
    train, validation, test = split_counts(len(volume) - 2 * gap, split)
    first, second = train + gap, train + validation + 2 * gap
    return volume[:train], volume[first : first + validation], volume[second : second + test]


def _square(volume: Tensor, field_of_view: float, around: float = AIR_HU) -> Tensor:
    """Square slices, air or another value around, the side relative to the longer one."""
    height, width = volume.shape[-2:]
    side = round(max(height, width) * field_of_view)
    top, left = (side - height) // 2, (side - width) // 2
    square = volume.new_full((len(volume), side, side), around)
    square[:, top : top + height, left : left + width] = volume
    return square


def _resized(square: Tensor, size: int) -> Tensor:
    """Slices at another size."""
    mode = "area" if square.shape[-1] % size == 0 else "bilinear"
    options: dict[str, Any] = {} if mode == "area" else {"align_corners": False, "antialias": True}
    return torch.nn.functional.interpolate(square[None], size=(size, size), mode=mode, **options)[0]
