"""The simulated hospitals of the comparison, one class, a value of it per modality."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recon import ScanSimulation, Simulation

from ..sites import (
    SimulatedScanner,
    SimulatedSite,
    make_ct_demo_sites,
    make_demo_sites,
    read_federation,
    scan_of,
    write_sites,
)

#: Tables whose hospitals differ in one thing only.
VARIANTS = ("operator only", "noise only", "anatomy only")


@dataclass(frozen=True)
class Hospitals:
    """Simulated hospitals of one modality.

    Parameters
    ----------
    sites
        Hospitals at an image size. Each has another operator, dose and anatomy.
    variants
        By name in :data:`VARIANTS`: makes a hospital like the others in all but one thing, at an image size.
    make
        Writes hospitals and their manifests.
    mistake
        The error of the operators in the table of wrong operators, for its metric card.
    make_wrong
        Puts that error into the manifest of a hospital, at an image size.
    origin
        How the measurements are simulated, for the metric card.
    reference, wrong_reference
        Kind of the reference; with wrong operators.
    maps, wrong_maps
        Estimates of the coil maps; with wrong operators.
    """

    sites: Callable[[int], Sequence[Any]]
    variants: dict[str, Callable[[Any, int], Any]]
    make: Callable[..., object]
    mistake: str
    make_wrong: Callable[[dict[str, Any], int], None]
    origin: str
    reference: str
    wrong_reference: str
    maps: tuple[str, ...] = ()
    wrong_maps: tuple[str, ...] = ()

    def of_table(self, table: str, size: int) -> Sequence[Any]:
        """Hospitals of a table."""
        if table not in self.variants:
            return self.sites(size)
        return tuple(self.variants[table](site, size) for site in self.sites(size))

    def write_wrong(self, out: Path, like: Path, size: int) -> None:
        """Write the sites of ``like`` with the same data and wrong operators."""
        out.mkdir(parents=True, exist_ok=True)  # the root of the data is relative to it
        tables = []
        for manifest in read_federation(like):
            table = manifest.model_dump(mode="json", exclude_none=True)
            self.make_wrong(table, size)
            table["data"]["root"] = os.path.relpath(manifest.root, out)
            tables.append(table)
        write_sites(out, tables, overwrite=True)


_MRI = (
    SimulatedSite("random4", 4, "t1", Simulation("random", 4, 0.08, noise_std=0.01)),
    SimulatedSite("equispaced3", 6, "t2", Simulation("equispaced", 3, 0.08, noise_std=0.03)),
    SimulatedSite("partial3", 8, "flair", Simulation("partial_fourier", 3, 0.08, noise_std=0.02)),
    SimulatedSite("random6", 8, "pd", Simulation("random", 6, 0.08, noise_std=0.005)),
    SimulatedSite("plane6", 6, "t2", Simulation("gaussian", 6, 0.08, noise_std=0.01)),
    SimulatedSite("unseen", 6, "t1", Simulation("random", 8, 0.06, noise_std=0.02), unseen=True),
)


def _make_mri(out: Path, *, jobs: int, **options: Any) -> None:
    make_demo_sites(out, phase="smooth", **options)  # as in the published tables


def _low_resolution_maps(table: dict[str, Any], size: int) -> None:
    # The root sum of squares does not depend on maps.
    table["data"] |= {"maps": "low_resolution", "reference": "rss"}


def _ct(size: int) -> tuple[SimulatedScanner, ...]:
    """HyperFed's five protocols, a sparse and a limited scan, and an unseen one."""
    sparse, unseen = (max(8, scan_of(2, size)[1].shape[0] // part) for part in (4, 3))
    return (
        SimulatedScanner("protocol1", 1, "chest"),
        SimulatedScanner("protocol2", 2, "abdomen"),
        SimulatedScanner("protocol3", 3, "pelvis"),
        SimulatedScanner("protocol4", 4, "knee"),
        SimulatedScanner("protocol5", 5, "head"),
        SimulatedScanner("sparse", 2, "chest", ScanSimulation(views=sparse)),
        SimulatedScanner("limited", 4, "pelvis", ScanSimulation(arc_deg=120)),
        SimulatedScanner("unseen", 2, "abdomen", ScanSimulation(views=unseen), unseen=True),
    )


def _axis_off(table: dict[str, Any], size: int) -> None:
    protocols = {site.name: site.protocol for site in _ct(size)}
    grid, scan, _ = scan_of(protocols[table["name"]], size)
    error = 0.5 * grid.spacing_mm[1] * scan.source_to_detector_mm / scan.source_to_axis_mm
    table["simulate"] = {**table.get("simulate", {}), "axis_error_mm": error}


def _same_dose(site: SimulatedScanner, size: int) -> SimulatedScanner:
    return replace(site, protocol=2, family="chest", simulate=None, photons=scan_of(site.protocol, size)[2])


#: Hospitals by the name of their modality.
HOSPITALS = {
    "mri": Hospitals(
        sites=lambda size: _MRI,
        variants={
            "operator only": lambda site, size: replace(
                site, n_coils=6, family="t1", simulate=replace(site.simulate, noise_std=0.01)
            ),
            "noise only": lambda site, size: replace(
                site, n_coils=6, family="t1", simulate=replace(_MRI[0].simulate, noise_std=site.simulate.noise_std)
            ),
            "anatomy only": lambda site, size: replace(site, n_coils=6, simulate=_MRI[0].simulate),
        },
        make=_make_mri,
        mistake="operators with coil maps made of the low frequencies alone",
        make_wrong=_low_resolution_maps,
        origin="phantoms; k-space of the full grid times coil maps, masked, noise added; maps estimated from the kept "
        "samples",
        reference="coil_combined",
        wrong_reference="rss",
        maps=("espirit",),
        wrong_maps=("low_resolution",),
    ),
    "ct": Hospitals(
        sites=_ct,
        variants={
            "operator only": lambda site, size: replace(site, family="chest", photons=1e5),
            "noise only": _same_dose,
            "anatomy only": lambda site, size: replace(site, protocol=2, simulate=None),
        },
        make=make_ct_demo_sites,
        mistake="operators that place the rotation axis half a pixel off",
        make_wrong=_axis_off,
        origin="phantoms; projected on a grid twice as fine, three rays per element, counts with electronic noise",
        reference="attenuation",
        wrong_reference="attenuation",
    ),
}
#: Modalities of the comparison.
COMPARED = tuple(HOSPITALS)
