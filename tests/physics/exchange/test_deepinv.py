"""Operators in deepinv and back, by its own tests, operators and algorithms; skipped where it is not installed."""

import math
import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from physics import (
    CartesianMRI,
    CoilMaps,
    FanBeam,
    ImageGrid,
    LinearOperator,
    NonCartesianMRI,
    RadonOperator,
    birdcage_maps,
    brain_phantom,
    check_operator,
    from_deepinv,
    solve_normal,
    to_deepinv,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    deepinv = pytest.importorskip("deepinv")

DRAW = torch.Generator().manual_seed(0)
MAPS = torch.randn(2, 3, 8, 7, dtype=torch.complex64, generator=DRAW)
MASK = torch.arange(7) % 3 != 1
FAN = FanBeam(tuple(index * math.pi / 4 for index in range(8)), 20, 1.0, 30.0, 50.0)
OPERATORS: dict[str, LinearOperator] = {
    "cartesian": CartesianMRI(MAPS[0], MASK),
    "cartesian, batch": CartesianMRI(MAPS, MASK),
    "non-cartesian": NonCartesianMRI(MAPS[0], torch.rand(5, 9, 2, generator=DRAW) - 0.5),
    "radon": RadonOperator(ImageGrid((8, 7), 1.0), FAN),
    "weighted radon": RadonOperator(ImageGrid((8, 7), 1.0), FAN, torch.rand(2, *FAN.shape, generator=DRAW) + 0.5),
    "composition": 2.0 * CoilMaps(MAPS[0]).restrict(MASK),
}


@pytest.fixture(autouse=True)
def only_own_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def images(A: LinearOperator) -> Tensor:
    return torch.randn(2, 2 if A.dtype.is_complex else 1, *A.domain_shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", OPERATORS)
def test_deepinvs_own_tests_hold(name: str) -> None:
    A = OPERATORS[name]
    physics, x = to_deepinv(A), images(A)
    assert isinstance(physics, deepinv.physics.LinearPhysics)
    assert float(physics.adjointness_test(x, num_samples=2)) < 1e-5
    norm = physics.compute_norm(x, squared=False, verbose=False, max_iter=500, tol=1e-6)
    assert float(norm.max()) <= 1.001 * float(A.norm.max())
    torch.testing.assert_close(physics.A_adjoint_A(x), physics.A_adjoint(physics.A(x)), rtol=1e-4, atol=1e-4)
    assert physics.state_dict() == {}
    # And back.
    if A.norm.ndim == 0:
        again = from_deepinv(physics, physics.img_size)
        check_operator(again)
        assert (again.domain_shape, again.range_shape) == (A.domain_shape, A.range_shape)
        both = torch.complex(x[:, 0], x[:, 1]) if A.dtype.is_complex else x[:, 0]
        torch.testing.assert_close(again(both), A(both))


def test_equals_deepinvs_operator() -> None:
    theirs = deepinv.physics.MultiCoilMRI(mask=MASK.float().expand(8, 7), coil_maps=MAPS[:1])
    ours = CartesianMRI(MAPS[0], MASK)
    physics, x = to_deepinv(ours), images(ours)
    y = theirs.A(x)
    torch.testing.assert_close(physics.A(x), y, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(physics.A_adjoint(y), theirs.A_adjoint(y), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(physics.A_dagger(y), theirs.A_dagger(y), rtol=1e-2, atol=1e-2)
    imported = from_deepinv(theirs, (2, 8, 7))
    check_operator(imported)
    assert repr(imported) == "_FromDeepinv (8, 7) -> (3, 8, 7)" and imported.dtype == torch.complex64
    v = torch.complex(x[:, 0], x[:, 1])
    torch.testing.assert_close(imported(v), ours(v), rtol=1e-5, atol=1e-5)
    b = ours.adjoint(ours(v))
    torch.testing.assert_close(solve_normal(imported, b, 0.5), solve_normal(ours, b, 0.5), rtol=1e-4, atol=1e-4)
    assert float(imported.norm) == pytest.approx(float(ours.norm), rel=0.5) and float(imported.norm) <= float(ours.norm)


def test_tomography_and_color_images_of_deepinv() -> None:
    tomography = deepinv.physics.Tomography(angles=10, img_width=16, normalize=False)
    A = from_deepinv(tomography, (1, 16, 16))
    check_operator(A, tolerance=1e-5)
    assert A.dtype == torch.float32 and A.domain_shape == (16, 16)
    blur = deepinv.physics.Blur(filter=torch.ones(1, 1, 3, 3) / 9, padding="circular")
    check_operator(from_deepinv(blur, (3, 8, 7)))


def test_an_algorithm_and_a_network_of_deepinv_reconstruct_with_our_operator() -> None:
    image = brain_phantom((48, 48), 0).to(torch.complex64)
    A = CartesianMRI(birdcage_maps(6, (48, 48)), torch.arange(48) % 3 != 1)
    physics = to_deepinv(A, noise_model=deepinv.physics.GaussianNoise(0.01, rng=torch.Generator().manual_seed(0)))
    x = torch.stack((image.real, image.imag))[None]
    y = physics(x)
    assert not y[..., ~A.mask[0]].any()
    zero_filled = (physics.A_adjoint(y) - x).norm() / x.norm()
    model = deepinv.optim.optim_builder(
        iteration="PGD", prior=deepinv.optim.TVPrior(n_it_max=20), data_fidelity=deepinv.optim.L2(), max_iter=30,
        params_algo={"stepsize": 1 / float(A.norm) ** 2, "lambda": 0.002},
    )  # fmt: skip
    found = model(y, physics)
    assert float((found - x).norm() / x.norm()) < 0.4 * float(zero_filled)
    network = deepinv.models.MoDL(denoiser=deepinv.models.DnCNN(2, 2, depth=3, nf=8, pretrained=None), num_iter=2)
    loss = (network(y, physics) - x).square().mean()
    loss.backward()
    of_steps = [p.grad for name, p in network.named_parameters() if "stepsize" in name or "denoiser" in name]
    assert len(of_steps) == 8 and all(grad is not None and grad.isfinite().all() for grad in of_steps)


def test_bad_input_is_refused_in_one_line() -> None:
    physics = to_deepinv(OPERATORS["cartesian"])
    with pytest.raises(ValueError, match=r"image has shape \(2, 8, 7\), expected \(batch, 2, 8, 7\)"):
        physics.A(torch.zeros(2, 8, 7))
    with pytest.raises(ValueError, match=r"measurement has shape .*, expected \(batch, 2, 3, 8, 7\)"):
        physics.A_adjoint(torch.zeros(1, 3, 8, 7))
    with pytest.raises(TypeError, match=r"found the arguments \['mask'\], expected none"):
        physics.A(torch.zeros(1, 2, 8, 7), mask=MASK)
    with pytest.raises(TypeError, match="physics is PhaseRetrieval, expected a deepinv LinearPhysics"):
        from_deepinv(deepinv.physics.PhaseRetrieval(deepinv.physics.LinearPhysics()), (1, 8, 7))
    wrong = deepinv.physics.LinearPhysics(A=lambda x, **k: 2 * x.roll(1, -1), A_adjoint=lambda y, **k: 2 * y)
    with pytest.raises(ValueError, match="A_adjoint of LinearPhysics is off by"):
        from_deepinv(wrong, (1, 8, 7))
    one = deepinv.physics.LinearPhysics(A=lambda x, **k: x[:, :1], A_adjoint=lambda y, **k: torch.cat((y, 0 * y), 1))
    with pytest.raises(ValueError, match=r"images have 2 channels, .*\(1, 1, 8, 7\), expected \(1, 2, \.\.\.\)"):
        from_deepinv(one, (2, 8, 7))
    two = deepinv.physics.stack(deepinv.physics.LinearPhysics(), deepinv.physics.LinearPhysics())
    with pytest.raises(TypeError, match="measurement is TensorList, expected a tensor"):
        from_deepinv(two, (1, 8, 7))
