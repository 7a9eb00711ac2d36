"""Simulated scans of discs by a beam of many energies."""

import pytest
import torch

from recon import HardenedDiscs, Sample

SIZE, DISCS = 64, 4


@pytest.fixture(scope="module")
def scans() -> HardenedDiscs:
    return HardenedDiscs(16, discs=DISCS, size=SIZE)


def in_circle(scan: Sample) -> torch.Tensor:
    """Pixels of the reference within nine tenths of the inscribed circle."""
    assert scan.reference is not None
    place = torch.linspace(-1, 1, SIZE)
    return torch.hypot(place[:, None], place) < 0.9


def test_equal_seeds_give_equal_scans_and_others_differ(scans: HardenedDiscs) -> None:
    again, other = (HardenedDiscs(16, discs=DISCS, size=SIZE, seed=seed)[1] for seed in (0, 1))
    torch.testing.assert_close(scans[1].measurement, again.measurement, rtol=0, atol=0)
    assert not torch.equal(scans[1].reference, other.reference)  # type: ignore[arg-type]
    shapes = {scans[i].measurement.shape for i in range(16)}
    assert len(shapes) >= 5 and all(24 <= views <= 144 for views, _ in shapes)


def test_turned_and_mirrored_references_fit_their_scans(scans: HardenedDiscs) -> None:
    for index in range(16):
        scan = scans[index]
        assert scan.reference is not None
        inside = in_circle(scan)
        found = scan.operator.start(scan.measurement)
        fit = torch.corrcoef(torch.stack((found[inside], scan.reference[inside])))[0, 1]
        mirrored = torch.corrcoef(torch.stack((found[inside], scan.reference.flip(-1)[inside])))[0, 1]
        assert fit > max(0.5, float(mirrored)), index


def test_the_misfit_of_the_reference_is_of_the_order_of_the_noise(scans: HardenedDiscs) -> None:
    for index in range(8):
        scan = scans[index]
        misfit = scan.operator(scan.reference) - scan.measurement
        assert 0.5 < float(misfit.square().mean().sqrt() / scan.noise_std) < 15, index


def test_references_have_the_cup_of_a_hard_beam_and_air_beyond_the_circle() -> None:
    falls = []
    for index in range(6):
        reference = HardenedDiscs(6, discs=6, size=SIZE)[index].reference
        assert reference is not None
        place = torch.linspace(-1, 1, SIZE)
        distance = torch.hypot(place[:, None], place)
        assert float(reference[distance >= 1].abs().max()) == 0
        solid = reference > 0.6 * reference.max()
        falls.append(float(reference[solid & (distance < 0.4)].mean() / reference[solid & (distance > 0.5)].mean()))
    assert min(falls) < 0.97


def test_wrong_arguments_are_refused(scans: HardenedDiscs) -> None:
    with pytest.raises(ValueError, match="0 discs"):
        HardenedDiscs(3, discs=0)
    with pytest.raises(IndexError, match="index 16"):
        scans[16]
