"""Sites of real anatomy: images of people in the folder FEDRECON_DATA, measured by simulated scanners."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..sites import MadeSite, make_ct_image_sites, make_image_sites
from .anatomy_persons import (
    CT_NAMES,
    CT_SLICES,
    EQUAL_SPLIT,
    MRI_NAMES,
    SPLIT,
    base_rows,
    ct_rows,
    ct_scanners,
    data_folder,
    mri_rows,
    mri_scanners,
    table_path,
    write_table,
)


@dataclass(frozen=True)
class AnatomySize:
    """Numbers of persons and slices, see :func:`make_anatomy_sites`."""

    slices: tuple[int, ...]
    persons: int
    test_slices: int
    matrix: int
    equal_scanners: bool


@dataclass(frozen=True)
class AnatomySites:
    """Sites of real anatomy of one modality.

    Parameters
    ----------
    names
        Sites that train, in the order of their numbers of slices.
    most
        Training slices that each of them has at most; None: no limit.
    origin, persons
        How the measurements are simulated, and who is where, for the metric card.
    make
        Writes the sites into a folder, with a seed.
    make_base
        Writes sites of other persons for a frozen base, with slices per site, matrix and seed; None: no person is left.
    """

    names: tuple[str, ...]
    origin: str
    persons: str
    make: Callable[[Path, AnatomySize, int, bool], list[MadeSite]]
    make_base: Callable[[Path, int, int, int], list[MadeSite]] | None = None
    most: tuple[int, ...] | None = None

    def slices_of(self, wanted: Sequence[int]) -> tuple[int, ...]:
        """Training slices that the sites get."""
        return tuple(wanted) if self.most is None else tuple(map(min, wanted, self.most))


def make_anatomy_sites(
    out: Path,
    modality: str,
    slices: Sequence[int],
    *,
    persons: int = 8,
    test_slices: int = 8,
    matrix: int = 64,
    seed: int = 0,
    equal_scanners: bool = False,
    overwrite: bool = False,
) -> list[MadeSite]:
    """Write sites of real anatomy. ``out/made_from`` holds the table of persons and the label maps.

    Parameters
    ----------
    slices
        Training slices of each of the five sites; CT sites use all slices where there are fewer. Persons and slices for
        validation and test do not depend on it. In MRI 256 need 8 persons.
    persons
        Persons of an MRI site, 4 to 8.
    test_slices
        Slices of each person for validation or test (MRI).
    matrix
        Pixels per side, at most 66 (MRI) or 80 (CT).
    equal_scanners
        All MRI sites that train have the scanner and contrast of the first; ``persons`` is then not used.

    Raises
    ------
    ConfigError
        If the folder of images is not set, or a site gets too few persons.
    DataError
        If an image cannot be read.
    """
    data_folder()
    sites = ANATOMY_SITES[modality]
    size = AnatomySize(sites.slices_of(slices), persons, test_slices, matrix, equal_scanners)
    return sites.make(out, size, seed, overwrite)


def _make_mri(out: Path, size: AnatomySize, seed: int, overwrite: bool) -> list[MadeSite]:
    table = write_table(out, mri_rows(out, size.persons, size.slices[2], drawn=not size.equal_scanners))
    return make_image_sites(
        table,
        out,
        sites=mri_scanners(size.persons, size.slices, size.test_slices, size.matrix, equal=size.equal_scanners),
        split=EQUAL_SPLIT if size.equal_scanners else SPLIT,
        seed=seed,
        source=table_path(out),
        overwrite=overwrite,
    )


def _make_mri_base(out: Path, slices: int, matrix: int, seed: int) -> list[MadeSite]:
    """Label maps of persons that are at no site with up to 64 training slices."""
    data_folder()
    table = write_table(out, base_rows(out))
    sites = mri_scanners(None, [slices] * len(MRI_NAMES), 2, matrix, contrast="drawn")[:-1]
    return make_image_sites(table, out, sites=sites, split=SPLIT, seed=seed, source=table_path(out), overwrite=True)


def _make_ct(out: Path, size: AnatomySize, seed: int, overwrite: bool) -> list[MadeSite]:
    return make_ct_image_sites(
        write_table(out, ct_rows()),
        out,
        sites=ct_scanners(size.slices, size.matrix),
        split=SPLIT,
        seed=seed,
        source=table_path(out),
        overwrite=overwrite,
    )


#: Sites by the name of their modality.
ANATOMY_SITES = {
    "mri": AnatomySites(
        names=MRI_NAMES,
        origin="simulated from magnitude images of people at half their matrix or less, with a realistic phase: T1 of "
        "IXI, images drawn from label maps of SynthSeg at south, FLAIR of Ljubljana at the unseen site; correlated "
        "noise; maps estimated from the kept samples",
        persons="dealt whole, nobody at two sites or in two splits; a base of adapters is trained on label maps of "
        "other persons",
        make=_make_mri,
        make_base=_make_mri_base,
    ),
    "ct": AnatomySites(
        names=CT_NAMES,
        origin="simulated from CT images of people: projected on a grid twice as fine, three rays per element, counts "
        "with electronic noise",
        persons="one or two for training, one with one slice for validation and one with two slices for test at each "
        "site: intervals cover training seeds, not persons; a base of adapters is trained on phantoms",
        make=_make_ct,
        most=CT_SLICES,
    ),
}
