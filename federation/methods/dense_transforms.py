"""Dense transforms, from update to update: a bounded norm, a projection of the step of prompts."""

import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

import torch
from torch import Tensor

from ..serialization import State
from .transform import Transform, is_number, some_of


@dataclass(frozen=True)
class Clip(Transform):
    r"""Bound the L2 norm of the update, over all tensors, by ``max_norm``.

    :math:`d \min(1, C / \lVert d \rVert)` as in [DPSGD]_, applied to a whole update.

    References
    ----------
    .. [DPSGD] Abadi et al., Deep Learning with Differential Privacy, 2016, Algorithm 1.
    """

    invariants: ClassVar[frozenset[str]] = frozenset({"idempotent", "zero", "name_order"})

    max_norm: float

    def __post_init__(self) -> None:
        if not (is_number(self.max_norm) and 0 < self.max_norm < math.inf):
            raise ValueError(f"Clip: max_norm is {self.max_norm!r}, expected a positive finite number")

    def encode(self, delta: State, generator: torch.Generator, context: State) -> State:
        # fsum rounds once, so that the order of the tensors does not matter.
        norm = math.sqrt(math.fsum(float(tensor.to(torch.float64).square().sum()) for tensor in delta.values()))
        if norm <= self.max_norm:
            return delta
        return {
            name: (tensor.to(torch.float64) * (self.max_norm / norm)).to(tensor.dtype) for name, tensor in delta.items()
        }


@dataclass(frozen=True)
class NullSpace(Transform):
    r"""Project the step of a prompt onto the directions that the global prompt uses least [FedPR]_.

    With the global prompt :math:`P` (tokens x features) and the eigenvectors of its uncentered covariance
    :math:`P^T P`, the step becomes :math:`\Delta U_0 U_0^T`, where :math:`U_0` holds all eigenvectors except those of
    the largest eigenvalues. Their number is ``drop`` times the number of features, rounded down, at least one, as in
    the authors' program. Directions with eigenvalue zero are never dropped: so the result does not depend on the basis
    of the null space, and the step of a prompt of zeros passes unchanged. The authors' program divides
    :math:`U_0 U_0^T` by its norm, which only rescales the step; here it stays a projection.

    Parameters
    ----------
    drop
        Part of the directions that is dropped, in (0, 1).
    pattern
        Shell pattern of the names of the prompts, tensors of shape ``(tokens, ...)``; all other tensors pass unchanged.

    References
    ----------
    .. [FedPR] Feng et al., Learning Federated Visual Prompt in Null Space for MRI Reconstruction, CVPR 2023.
    """

    invariants: ClassVar[frozenset[str]] = frozenset({"idempotent", "zero", "scale", "name_order"})

    drop: float = 0.2
    pattern: str = "*prompt*"

    def __post_init__(self) -> None:
        if not (is_number(self.drop) and 0 < self.drop < 1):
            raise ValueError(f"NullSpace: drop is {self.drop!r}, expected 0 < fraction < 1")
        if not isinstance(self.pattern, str):
            raise ValueError(f"NullSpace: pattern is {self.pattern!r}, expected a shell pattern of names")

    def encode(self, delta: State, generator: torch.Generator, context: State) -> State:
        names = {name for name in delta if fnmatchcase(name, self.pattern)}
        if not names:
            raise ValueError(
                f"NullSpace: pattern {self.pattern!r} matches no tensor, expected at least one of {some_of(delta)}"
            )
        return {name: self._project(name, delta, context) if name in names else delta[name] for name in delta}

    def _project(self, name: str, delta: State, context: State) -> Tensor:
        step = delta[name]
        if name not in context or context[name].shape != step.shape:
            found = f"of shape {tuple(context[name].shape)}" if name in context else "missing"
            raise ValueError(f"NullSpace: the global {name} is {found}, expected shape {tuple(step.shape)}")
        directions = self.directions(context[name], name).T
        flat = step.to(torch.float64).reshape(len(step), -1)
        return (flat - flat @ directions @ directions.T).reshape(step.shape).to(step.dtype)

    def directions(self, prompt: Tensor, name: str = "prompt") -> Tensor:
        """The dropped orthonormal directions, float64, ``(directions, features)``, largest eigenvalue first.

        Raises
        ------
        ValueError
            If ``prompt`` is not ``(tokens, features)`` with at least two features; one feature would leave no step.
        """
        features = math.prod(prompt.shape[1:])
        if prompt.ndim < 2 or len(prompt) < 1 or features < 2:
            raise ValueError(
                f"NullSpace: {name} has shape {tuple(prompt.shape)}, expected (tokens, features), 2 features or more"
            )
        # The right singular vectors are the eigenvectors of P^T P, without its squared rounding errors.
        _, sizes, vectors = torch.linalg.svd(prompt.to(torch.float64).reshape(len(prompt), -1), full_matrices=False)
        rank = int((sizes > sizes[0] * max(len(prompt), features) * torch.finfo(prompt.dtype).eps).sum())
        # 1e-9: in floating point, 0.29 * 100 is a little less than 29.
        count = max(1, math.floor(self.drop * features + 1e-9))
        leading: Tensor = vectors[: min(count, rank)]
        return leading
