"""Another draw of mask and noise in every pass over training slices."""

from pathlib import Path

import pytest
import torch

from federation import load_federation, load_recipe, make_ct_demo_sites, make_demo_sites
from federation.experiment.task import ReconstructionTask
from federation.sites import CT_DEMO_SITES, DEMO_SITES, SiteManifest
from recon import CONDITION_DIM, KSpaceSlices, Sample, train_locally


def site(folder: Path, number: int = 0) -> SiteManifest:
    """North (random columns, 4 coils), or another site of the demo."""
    make_demo_sites(folder, size=48, train=1, test=1, slices=2, sites=DEMO_SITES[number : number + 1])
    return load_federation(folder)[0]


def slices(folder: Path, number: int = 0) -> KSpaceSlices:
    found = site(folder, number).dataset("train", redraw=True)
    assert isinstance(found, KSpaceSlices)
    return found


def columns(sample: Sample) -> torch.Tensor:
    return sample.operator.sampled[..., 0, 0, :]


def test_every_pass_and_slice_has_another_mask_and_the_same_calibration_lines(tmp_path: Path) -> None:
    made = slices(tmp_path)
    masks = []
    for epoch in (0, 1, 2**62):  # numbers of passes are seeds
        made.epoch = epoch
        masks += [columns(made[0]), columns(made[1])]
        assert torch.equal(columns(made[0]), masks[-2])
    assert len({tuple(mask.tolist()) for mask in masks}) == 6
    assert all(bool(mask[22:26].all()) for mask in masks)
    # As many samples as in the scan, up to chance.
    scan = float(columns(site_scan(tmp_path)[0]).float().mean())
    assert sum(float(mask.float().mean()) for mask in masks) / 6 == pytest.approx(scan, abs=0.1)


def site_scan(folder: Path) -> KSpaceSlices:
    found = load_federation(folder)[0].dataset("train")
    assert isinstance(found, KSpaceSlices)
    return found


def test_the_scan_without_new_draws_is_what_it_always_was(tmp_path: Path) -> None:
    made = slices(tmp_path)
    scan = site_scan(tmp_path)
    first = scan[0]
    scan.epoch = 5
    assert torch.equal(scan[0].measurement, first.measurement)
    made.epoch = 5
    new = made[0]
    assert not torch.equal(new.measurement, first.measurement)
    assert new.reference is not None and first.reference is not None
    torch.testing.assert_close(new.reference, first.reference)
    torch.testing.assert_close(new.operator.maps, first.operator.maps)
    assert new.noise_std == first.noise_std and new.condition is not None and len(new.condition) == CONDITION_DIM


@pytest.mark.parametrize("number", range(4))
def test_draws_agree_where_both_sample_up_to_their_noise(tmp_path: Path, number: int) -> None:
    made = slices(tmp_path, number)
    first = made[0]
    made.epoch = 1
    second = made[0]
    both = (first.operator.sampled & second.operator.sampled).expand(first.measurement.shape)
    difference = (first.measurement - second.measurement)[both]
    assert float(difference.abs().square().mean().sqrt()) == pytest.approx(2**0.5 * float(first.noise_std), rel=0.1)
    assert bool((second.measurement[~second.operator.sampled.expand_as(second.measurement)] == 0).all())


def test_a_recipe_draws_anew_in_training_alone(tmp_path: Path) -> None:
    manifest = site(tmp_path)
    task = ReconstructionTask(manifest, load_recipe("fedavg", ["training.redraw=true"]), None)
    training, validation = task.dataset("train"), task.dataset("validation")
    assert isinstance(training, KSpaceSlices) and isinstance(validation, KSpaceSlices)
    assert training.redraw and not validation.redraw
    plain = ReconstructionTask(manifest, load_recipe("fedavg", ["training.redraw=false"]), None).dataset("train")
    assert isinstance(plain, KSpaceSlices) and not plain.redraw


def test_every_pass_of_a_training_draws_anew(tmp_path: Path) -> None:
    made = slices(tmp_path)
    seen = list[tuple[bool, ...]]()

    class Watching(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = torch.nn.Parameter(torch.ones(()))

        def forward(self, y: torch.Tensor, A: object) -> torch.Tensor:
            seen.append(tuple(A.sampled[0, 0, 0].tolist()))  # type: ignore[attr-defined]
            return self.factor * A.adjoint(y)  # type: ignore[attr-defined]

    train_locally(Watching(), made, steps=6, batch_size=1, learning_rate=1e-3)
    assert len(seen) == 6 and len(set(seen)) == 6


def test_a_site_without_undersampling_by_simulation_is_unchanged(tmp_path: Path) -> None:
    make_ct_demo_sites(tmp_path / "ct", train=1, sites=CT_DEMO_SITES[:1])
    ct = load_federation(tmp_path / "ct")[0]
    assert torch.equal(ct.dataset("train", redraw=True)[0].measurement, ct.dataset("train")[0].measurement)
    manifest = site(tmp_path / "mri")
    full = [manifest.samples(manifest.files("train"), degraded=False, redraw=redraw)[0] for redraw in (False, True)]
    assert torch.equal(full[0].measurement, full[1].measurement)
