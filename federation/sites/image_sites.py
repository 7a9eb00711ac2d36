"""MRI sites of k-space simulated from magnitude images of people."""

import logging
import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from physics import birdcage_maps
from recon import (
    coil_covariance,
    draw_from_labels,
    largest_matrix,
    open_volume,
    reduce_labels,
    reduce_matrix,
    simulate_volume,
    simulated_header,
    vary_contrast,
    with_realistic_phase,
    with_smooth_phase,
    write_volume,
)

from ..config import config_error
from .image_labels import ImageLabels, Slices, write_labels
from .labeled_sites import write_labeled_sites
from .manifest_schema import SPLITS, Split
from .people import PersonImage, deal_persons, named_apart, one_person_per_file
from .person_slices import chosen_slices, origin_of, read_person
from .scanner_files import MRIScanner, require_different_names
from .subjects import unnamed_people
from .unusable import usable
from .writing import MadeSite, require_different, seed_of

logger = logging.getLogger(__name__)

#: Scanners of :func:`make_image_sites` unless others are given.
IMAGE_SITES = (
    MRIScanner(name="north", coils=4, sampling="random", acceleration=4, center_fraction=0.08, noise_std=0.01),
    MRIScanner(name="east", coils=6, sampling="equispaced", acceleration=3, center_fraction=0.08, noise_std=0.03),
    MRIScanner(name="south", coils=8, sampling="partial_fourier", acceleration=3, center_fraction=0.08, noise_std=0.02),
)

#: Largest number of slices in a file, and slices between two files of a volume that are dealt apart.
BLOCK, GAP = 8, 2
#: Noise in a file, relative to that of [simulate], which has the same correlation between coils.
FILE_NOISE = 0.05


def make_image_sites(
    images: Sequence[Path | str | PersonImage],
    out: Path | str,
    *,
    sites: Sequence[MRIScanner] = IMAGE_SITES,
    split: tuple[float, float, float] = (0.7, 0.15, 0.15),
    seed: int = 0,
    source: Path | str = "sites make",
    overwrite: bool = False,
    skip_bad: bool = False,
    labels: ImageLabels | None = None,
) -> list[MadeSite]:
    """Write k-space simulated from magnitude images, with the phase and coils of a scan, and the manifests.

    Whole persons are dealt to sites and splits. A path is a person of its own: several files of one person must be
    given as :class:`PersonImage` with the person's name. With less than three paths per site, blocks of `BLOCK` slices
    are dealt instead, `GAP` slices apart: splits then share subjects, and the results say nothing about new ones.

    Images are reduced to half their matrix or less, as the outer k-space of magnitude images is empty. A file holds at
    most `BLOCK` slices of one volume; every file has its own phase, head array and noise correlation. The manifests
    name the origin of the data; results on such data are not those of measured data.

    Parameters
    ----------
    images
        NIfTI files, DICOM files or folders of one DICOM series, see :func:`recon.read_images`, or persons.
    out
        Folder to write, as for :func:`make_demo_sites`.
    sites
        Scanners to simulate.
    split
        Fractions of the persons (or blocks) for training, validation and test.
    seed
        Seed of splits, contrasts, phase and coils.
    source
        The table of the persons, for errors.
    overwrite
        Replace files that exist.
    skip_bad
        Leave out images that cannot be used, with a warning for each.
    labels
        Label images beside the images, which the sites then have; None: none.

    Raises
    ------
    ConfigError
        If there are too few persons or slices, a matrix is too large, no label image shows a class, or a file to be
        written exists.
    DataError
        If images cannot be read, one line for each, or a file cannot be written.
    """
    out, persons = Path(out), named_apart(_persons(images, sites, skip_bad, labels))
    require_different([image.name for image in persons])
    require_different_names(sites, source)
    dealt = deal_persons(persons, {site.name: site.wish for site in sites}, split, seed, source)
    volumes: dict[str, tuple[str, Slices]] = {}
    files: dict[str, list[tuple[Split, str]]] = {site.name: [] for site in sites}
    for site in sites:
        prepared = [(part, image, _prepared(site, image, seed, labels)) for part, image in dealt[site.name]]
        for part, image, volume in chosen_slices(site, prepared):
            for number, block in enumerate(volume.blocks(BLOCK)):
                file = f"{site.name}_{image.name}_{number:02d}.h5"
                files[site.name].append((part, file))
                volumes[file] = (image.person, block)

    def write(job: tuple[MRIScanner, str]) -> None:
        site, file = job
        (person, block), path = volumes[file], out / "data" / site.name / file
        _write(path, site, block.images, person, seed)
        if block.classes is not None:
            write_labels(path, block.classes, open_volume(path).image_header())

    origins = {name: _origin(own) for name, own in dealt.items()}
    kept = {file: block.classes for file, (_, block) in volumes.items()}
    return write_labeled_sites(out, sites, files, write, origins, labels, kept, overwrite=overwrite)


def _origin(dealt: Sequence[tuple[Split, PersonImage]]) -> str:
    drawn = [entry for entry in dealt if entry[1].kind == "labels"]
    magnitudes = [entry for entry in dealt if entry[1].kind != "labels"]
    parts = [origin_of("the magnitude images", magnitudes)] if magnitudes else []
    return "; ".join(parts + ([origin_of("images drawn from the label maps", drawn)] if drawn else []))


def _persons(
    images: Sequence[Path | str | PersonImage], sites: Sequence[MRIScanner], skip_bad: bool, labels: ImageLabels | None
) -> list[PersonImage]:
    """Persons as given; a path is a person, or, where there are few paths, every block of slices."""
    given = [image for image in images if isinstance(image, PersonImage)]
    files = one_person_per_file([Path(image) for image in images if not isinstance(image, PersonImage)])
    persons = list(usable(given + files, partial(_require_anatomy, labels=labels), skip_bad=skip_bad))
    files = [image for image in files if image in persons]
    if given or len(files) >= len(SPLITS) * len(sites):
        for warning in unnamed_people("sites make", [str(image.file) for image in files], ""):
            logger.warning(warning)
        return persons
    blocks = [block for image in files for block in _blocks(image)]
    wanted = len(SPLITS) * len(sites)
    logger.warning(
        f"sites make: {len(files)} files give {len(blocks)} blocks of slices, dealt as if each was a person: sites and "
        f"splits share people, and scores are not those of new people; give {wanted} files or more, or name the "
        "persons with --subject or --persons"
    )
    if len(blocks) < len(sites):
        found = f"{len(blocks)} blocks of {BLOCK} slices"
        raise config_error("sites make", "images", found, f"one per site ({len(sites)})", "add images")
    return blocks


def _require_anatomy(image: PersonImage, labels: ImageLabels | None) -> None:
    volume = read_person(image, "MR")
    if labels is not None:
        labels.read(image)
    if image.kind == "image" and not _with_anatomy(_unit(volume)).any():
        raise config_error(image.file, "slices", "none with anatomy", "at least one", "leave the file out")


def _blocks(image: PersonImage) -> Iterator[PersonImage]:
    shown = _with_anatomy(_unit(read_person(image, "MR"))).nonzero().flatten()
    if len(shown) == 0:
        return
    first, last = int(shown[0]), int(shown[-1]) + 1
    length = min(BLOCK, last - first)
    for start in range(first, last - length + 1, BLOCK + GAP):
        yield PersonImage(image.file, f"{image.person}_{start:04d}", slices=(start, start + length - 1))


def _prepared(site: MRIScanner, image: PersonImage, seed: int, labels: ImageLabels | None) -> Slices:
    """All slices with anatomy of one volume at the scanner's contrast and matrix, bright tissue at about 1."""
    classes = None if labels is None else labels.read(image)
    volume = read_person(image, "MR")
    name = f"{site.name} {image.name}"
    if image.kind == "labels":
        contrast = seed_of(seed, site.name, "contrast")
        volume = draw_from_labels(volume.round().int(), seed_of(seed, name, "drawing"), contrast_seed=contrast)
    volume = _unit(volume)
    shown = _with_anatomy(volume)
    volume, classes = volume[shown], None if classes is None else classes[shown]
    if len(volume) == 0:
        raise config_error(image.file, "slices", "none with anatomy", "at least one", "leave the file out")
    if site.gray_scale != "as_is":
        inversion = float(site.gray_scale == "inverted")
        volume = vary_contrast(volume, seed_of(seed, name, "gray scale"), inversion=inversion)
    height, width = volume.shape[-2:]
    shape = (height // 2, width // 2) if site.matrix is None else (site.matrix, site.matrix)
    if site.matrix is not None and site.matrix > (most := largest_matrix((height, width))):
        found, expected = f"{site.matrix} for images of {height}x{width}", f"about half the source, at most {most}"
        raise config_error(image.file, f"matrix of site {site.name}", found, expected, "use a smaller matrix")
    return Slices(reduce_matrix(volume, shape), None if classes is None else reduce_labels(classes, shape))


def _unit(volume: Tensor) -> Tensor:
    """Scale bright tissue to 1; brighter spots, such as vessels, are clipped at 1.5."""
    volume = volume.clamp_min(0)
    seen = volume[volume > 0.05 * volume.max()]
    if len(seen) == 0:
        return volume
    return (volume / seen.kthvalue(math.ceil(0.99 * len(seen))).values).clamp(max=1.5)


def _with_anatomy(volume: Tensor) -> Tensor:
    return (volume > 0.1).float().mean((-2, -1)) > 0.05


def _write(path: Path, site: MRIScanner, magnitude: Tensor, person: str, seed: int) -> None:
    shape = (magnitude.shape[-2], magnitude.shape[-1])
    with_phase = with_realistic_phase if site.phase == "realistic" else with_smooth_phase
    image = with_phase(magnitude, seed_of(seed, path.name, "phase"))
    maps = birdcage_maps(site.coils, shape, seed=seed_of(seed, path.name, "coils"))
    covariance = coil_covariance(site.coils, seed_of(seed, path.name, "correlation"))
    covariance = (FILE_NOISE * site.noise_std * float(magnitude.max())) ** 2 * covariance
    noise_seed = seed_of(seed, path.name, "noise")
    write_volume(
        path,
        simulate_volume(image, maps, noise_covariance=covariance, seed=noise_seed),
        simulated_header(shape),
        patient_id=person,
        acquisition="from_magnitude",
        maps=maps,
        noise_covariance=covariance,
    )
