"""Data consistency at test time against dense algebra, its two limits, and what it leaves alone."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from physics import CartesianMRI, ImageGrid, LinearOperator, ParallelBeam, RadonOperator, evenly_spaced
from recon.data.sample import Sample, SampleMeta, collate
from recon.method import apply
from recon.networks.wrappers import DataConsistent

OPERATORS = {
    "mri": CartesianMRI(
        torch.randn(2, 6, 5, dtype=torch.complex128, generator=torch.Generator().manual_seed(0)),
        torch.tensor([True, False, True, True, False]),
    ),
    "ct": RadonOperator(
        ImageGrid((6, 5), 1.2),
        ParallelBeam(evenly_spaced(7, 0.45), 9, 1.0),
        0.5 + torch.rand(7, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1)),
    ),
}


class Constant(nn.Module):
    """A network that puts out one image whatever it gets."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.image = nn.Parameter(image)

    def forward(self, y: Tensor, A: LinearOperator) -> Tensor:
        return self.image


def problem(name: str, noise: float = 0.1) -> tuple[Tensor, LinearOperator, Tensor]:
    A = OPERATORS[name]
    generator = torch.Generator().manual_seed(2)
    x, n = (torch.randn(shape, dtype=A.dtype, generator=generator) for shape in (A.domain_shape, A.range_shape))
    return A(x) + noise * A(A.adjoint(n)) / float(A.norm) ** 2, A, x


def dense(A: LinearOperator) -> Tensor:
    basis = torch.eye(A.domain_shape[0] * A.domain_shape[1], dtype=A.dtype)
    return torch.stack([A(e.reshape(A.domain_shape)).flatten() for e in basis], dim=1)


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("weight", [0.03, 2.0])
def test_it_solves_its_problem(name: str, weight: float) -> None:
    y, A, x = problem(name)
    start = x + 0.3
    M = dense(A)
    damping = weight * float(A.norm) ** 2
    system = M.mH @ M + damping * torch.eye(M.shape[1], dtype=M.dtype)
    expected = torch.linalg.solve(system, M.mH @ y.flatten() + damping * start.flatten())
    found = DataConsistent(Constant(start), weight, iterations=60)(y, A)
    torch.testing.assert_close(found.flatten(), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", OPERATORS)
def test_a_large_weight_trusts_the_network_and_a_small_one_the_measurement(name: str) -> None:
    y, A, x = problem(name, noise=0.0)
    start = x + 0.3
    trusting, measured = (DataConsistent(Constant(start), w, 60)(y, A) for w in (1e8, 1e-8))
    torch.testing.assert_close(trusting, start, rtol=1e-6, atol=1e-6)
    assert (A(measured) - y).norm() < 1e-4 * (A(start) - y).norm()
    residuals = [(A(DataConsistent(Constant(start), 0.05, n)(y, A)) - y).norm() for n in (1, 3, 9)]
    assert (A(start) - y).norm() > residuals[0] > residuals[1] > residuals[2]


def test_it_is_a_method_like_any_other_and_slices_do_not_meet() -> None:
    samples = []
    for scale in (1.0, 0.0):  # the second slice is empty, its operator zero
        y, A, x = problem("mri")
        assert isinstance(A, CartesianMRI)
        operator = CartesianMRI((scale * A.maps).to(torch.complex64), A.mask)
        meta = SampleMeta("toy", "volume", len(samples), 2.0, "coil_combined")
        one = torch.tensor(1.0)
        image = x.to(torch.complex64)
        samples.append(Sample((scale * y).to(torch.complex64), operator, one, image, one, None, (meta,)))
    start = torch.stack([sample.reference for sample in samples if sample.reference is not None]) + 0.3
    method = DataConsistent(Constant(start))
    both = apply(method, collate(samples))
    alone = DataConsistent(Constant(start[:1]))(samples[0].measurement[None], collate(samples[:1]).operator)
    torch.testing.assert_close(both[:1], alone)
    assert torch.equal(both[1], start[1])
    assert set(method.state_dict()) == {"network.image"}
    image = samples[0].reference
    assert image is not None and (both[0] - image).norm() < 0.9 * (start[0] - image).norm()


class Conditioned(Constant):
    uses_condition = True

    def forward(self, y: Tensor, A: LinearOperator, condition: Tensor | None = None) -> Tensor:
        assert condition is not None
        return self.image * condition.sum()


def test_the_condition_reaches_the_network() -> None:
    y, A, x = problem("ct", noise=0.0)
    meta = SampleMeta("toy", "volume", 0, 2.0, "attenuation")
    one = torch.tensor(1.0)
    sample = collate([Sample(y, A, one, None, one, torch.tensor([0.25, 0.75]), (meta,))])
    assert DataConsistent(Conditioned(x)).uses_condition and not DataConsistent(Constant(x)).uses_condition
    torch.testing.assert_close(apply(DataConsistent(Conditioned(x)), sample)[0], x)
    louder = replace(sample, condition=torch.ones(1, 2))
    assert (apply(DataConsistent(Conditioned(x)), louder)[0] - x).norm() > 0.01 * x.norm()


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match="weight is 0"):
        DataConsistent(nn.Identity(), weight=0)
    with pytest.raises(ValueError, match="iterations is 0"):
        DataConsistent(nn.Identity(), iterations=0)
