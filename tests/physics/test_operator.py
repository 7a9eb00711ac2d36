"""Properties over the registry of operators, the algebra, and shapes in reprs and errors."""

import pytest
import torch

from physics import (
    OPERATORS,
    CartesianMRI,
    CoilMaps,
    FourierTransform,
    LinearOperator,
    OperatorError,
    Sampling,
    check_operator,
)

#: Operators with complex tensors of their own.
SINGLE = ["CartesianMRI", "CartesianGram", "CoilMaps", "NonCartesianMRI", "NonCartesianGram"]


def example(name: str, seed: int = 0) -> LinearOperator:
    return OPERATORS[name].example(torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_has_the_properties(name: str) -> None:
    errors = check_operator(example(name))
    assert errors["adjoint"] <= 1e-12
    assert set(errors) >= {"linearity", "adjoint", "gram", "norm bound", "gradient", "batch"}


@pytest.mark.filterwarnings("ignore:Complex modules are a new feature")
@pytest.mark.parametrize("name", SINGLE)
def test_single_precision_keeps_the_properties(name: str) -> None:
    operator = example(name).to(torch.complex64)
    assert operator.dtype == torch.complex64
    assert check_operator(operator)["adjoint"] <= 1e-6


@pytest.mark.parametrize("name", OPERATORS)
def test_second_derivatives(name: str) -> None:
    operator = example(name)
    x = torch.randn(operator.domain_shape, dtype=operator.dtype, requires_grad=True)
    assert torch.autograd.gradcheck(operator, (x,))
    assert torch.autograd.gradgradcheck(operator, (x,))


def test_algebra_is_that_of_matrices() -> None:
    generator = torch.Generator().manual_seed(3)
    maps = torch.randn(2, 4, 5, dtype=torch.complex128, generator=generator)
    keep = torch.rand(4, 5, generator=generator) < 0.5
    coils, fourier, sampling = CoilMaps(maps), FourierTransform((2, 4, 5)), Sampling(keep, (2, 4, 5))
    composed = sampling @ fourier @ coils
    x = torch.randn(4, 5, dtype=torch.complex128, generator=generator)
    torch.testing.assert_close(composed(x), CartesianMRI(maps, keep)(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close((2j * coils + coils)(x), (2j + 1) * coils(x))
    torch.testing.assert_close((coils - coils)(x), torch.zeros_like(coils(x)))
    torch.testing.assert_close((-coils)(x), -coils(x))
    torch.testing.assert_close(composed.H(composed(x)), composed.gram(x))
    assert composed.H.H is composed
    check_operator(composed + 0.5j * (fourier @ coils))


def test_a_scalar_per_sample() -> None:
    coils = CoilMaps(torch.randn(2, 4, 5, dtype=torch.complex128))
    scaled = torch.tensor([1.0, 3.0]) * coils
    x = torch.randn(2, 4, 5, dtype=torch.complex128)
    torch.testing.assert_close(scaled(x), torch.stack((coils(x[0]), 3 * coils(x[1]))))
    assert scaled.norm.shape == (2,)


def test_a_python_number_keeps_single_precision() -> None:
    scaled = (2.0 + 1j) * CoilMaps(torch.randn(2, 4, 5, dtype=torch.complex64))
    y = scaled(torch.randn(4, 5, dtype=torch.complex64))
    assert (y.dtype, scaled.adjoint(y).dtype) == (torch.complex64, torch.complex64)


def test_repr_and_errors_show_shapes() -> None:
    operator = CartesianMRI(torch.ones(3, 8, 8, dtype=torch.complex64), torch.ones(8, dtype=torch.bool))
    assert repr(operator) == "CartesianMRI (8, 8) -> (3, 8, 8)"
    with pytest.raises(ValueError, match=r"CartesianMRI: image has trailing shape \(7, 8\), expected \(8, 8\)"):
        operator(torch.zeros(7, 8, dtype=torch.complex64))
    with pytest.raises(ValueError, match=r"measurement has trailing shape \(2, 8, 8\), expected \(3, 8, 8\)"):
        operator.adjoint(torch.zeros(2, 8, 8, dtype=torch.complex64))
    with pytest.raises(ValueError, match="cannot follow"):
        operator @ operator
    with pytest.raises(ValueError, match="differ in shape"):
        operator + operator.H
    with pytest.raises(ValueError, match="finite"):
        float("nan") * operator


def test_restrict_equals_masking_the_measurement() -> None:
    generator = torch.Generator().manual_seed(0)
    keep = torch.rand(6, 5, generator=generator) < 0.5
    for operator in (example("CartesianMRI"), example("CoilMaps")):
        x = torch.randn(operator.domain_shape, dtype=torch.complex128, generator=generator)
        torch.testing.assert_close(operator.restrict(keep)(x), operator(x) * keep)
        assert torch.equal(*torch.broadcast_tensors(operator.restrict(keep).sampled, operator.sampled & keep))
        check_operator(operator.restrict(keep))


def test_restricted_operators_of_the_base_class_join_to_a_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    singles = []
    for seed in range(2):
        keep = torch.rand(6, 5, generator=generator) < 0.5
        singles.append(LinearOperator.restrict(example("CartesianMRI", seed), keep))
    assert singles[0].batch_key == singles[1].batch_key != (2.0 * singles[0]).batch_key
    joined = type(singles[0]).collate(singles)
    check_operator(joined)
    x = torch.randn(2, *joined.domain_shape, dtype=torch.complex128, generator=generator)
    torch.testing.assert_close(joined(x), torch.stack([A(image) for A, image in zip(singles, x, strict=True)]))
    with pytest.raises(ValueError, match="operator is Scaled, expected one with `collate`"):
        type(2.0 * joined).collate([2.0 * joined])


class _WrongAdjoint(CoilMaps):
    def _adjoint(self, y: torch.Tensor) -> torch.Tensor:
        return (self.maps * y).sum(-3)


class _StatefulOperator(CoilMaps):
    def __init__(self, maps: torch.Tensor) -> None:
        super().__init__(maps)
        self.register_buffer("mask", torch.ones(2))


@pytest.mark.parametrize(("broken", "what"), [(_WrongAdjoint, "adjoint"), (_StatefulOperator, "state_dict")])
def test_the_check_finds_a_broken_operator(broken: type[CoilMaps], what: str) -> None:
    with pytest.raises(OperatorError, match=what):
        check_operator(broken(torch.randn(2, 4, 5, dtype=torch.complex128)))


@pytest.mark.cuda
@pytest.mark.parametrize("name", OPERATORS)
def test_on_a_gpu(name: str) -> None:
    operator = example(name).to("cuda")
    assert check_operator(operator, tolerance=1e-11)
