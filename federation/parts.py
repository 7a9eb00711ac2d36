"""Parts of every kind: the registries that recipes and manifests read, and the property tests of each."""

from pathlib import Path
from typing import Any

import torch

from physics import OPERATORS, LinearOperator, OperatorError, Registry, check_operator
from recon import (
    DATA_CONSISTENCY,
    MODALITIES,
    OBJECTIVES,
    PENALTIES,
    REGULARIZERS,
    TASK_HEADS,
    check_classical,
    check_data_consistency,
    check_penalty,
    check_reader,
    check_regularizer,
    check_task,
    check_task_head,
)

from .methods import SERVER_RULES, TRANSFORMS, WEIGHTINGS, check_server_rule, check_transform, check_weighting

#: Every registry of parts.
REGISTRIES: tuple[Registry[Any], ...] = (
    OPERATORS,
    REGULARIZERS,
    DATA_CONSISTENCY,
    OBJECTIVES,
    PENALTIES,
    TASK_HEADS,
    SERVER_RULES,
    WEIGHTINGS,
    TRANSFORMS,
    *(modality.methods for modality in MODALITIES.values()),
    *(modality.readers for modality in MODALITIES.values()),
)


def check_part(registry: Registry[Any], name: str, *, example: Path | str | None = None, **options: Any) -> None:
    """Run the property tests of a part.

    Parameters
    ----------
    registry
        Registry of its kind, one of :data:`REGISTRIES`.
    name
        Its name there.
    example
        A file that a reader can open; needed for readers.
    options
        Options of the part, for those without defaults and for options of interest.

    Raises
    ------
    AssertionError
        If it violates a property; the message names the part and the property.
    ValueError
        If an option is unknown or missing, or a reader comes without an example.
    """
    try:
        _check(registry, name, example, options)
    except AssertionError as error:
        raise type(error)(f"{registry.kind} {name!r}: {error}") from None


def _check(registry: Registry[Any], name: str, example: Path | str | None, options: dict[str, Any]) -> None:
    if registry is OPERATORS:
        kind: Any = OPERATORS[name]
        operators = [kind.example(torch.Generator().manual_seed(seed)) for seed in range(2)]
        check_operator(operators[0])
        _check_joined(operators)
    elif registry is PENALTIES:
        check_penalty(PENALTIES[name], **options)
    elif registry is REGULARIZERS:
        size = REGULARIZERS.declared(name, {"channels": 4, "depth": 2})
        check_regularizer(lambda: REGULARIZERS.make(name, size | options))
    elif registry is TASK_HEADS:
        check_task_head(name, **options)
    elif registry is DATA_CONSISTENCY:
        check_data_consistency(lambda: DATA_CONSISTENCY.make(name, options))
    elif (modality := next((m for m in MODALITIES.values() if m.methods is registry), None)) is not None:
        check_classical(lambda: registry.make(name, options), modality)
    elif (modality := next((m for m in MODALITIES.values() if m.readers is registry), None)) is not None:
        if example is None:
            raise ValueError(f"check_part: {registry.kind} {name!r} needs a file that it can open: example=FILE")
        registry.check(name, options)
        check_reader(name, modality, Path(example), **options)
    else:
        checks = {OBJECTIVES: check_task, SERVER_RULES: check_server_rule, WEIGHTINGS: check_weighting}
        check: Any = (checks | {TRANSFORMS: check_transform})[registry]
        check(registry.make(name, options))


def _check_joined(operators: list[LinearOperator]) -> None:
    """Check that a batch of operators, where they can be joined to one, is what they are one by one."""
    kind: Any = type(operators[0])
    try:
        joined = kind.collate(operators)
    except (AttributeError, ValueError):  # no manifest can name it
        return
    first, generator = operators[0], torch.Generator().manual_seed(0)
    for method, shape in (("forward", first.domain_shape), ("adjoint", first.range_shape)):
        batch = torch.randn(2, *first.norm.shape, *shape, dtype=first.dtype, generator=generator)
        each = [getattr(A, method)(part) for A, part in zip(operators, batch, strict=True)]
        if not torch.allclose(getattr(joined, method)(batch), torch.stack(each)):
            raise OperatorError(f"expected a part that has, joined by `collate`, the {method} of every operator")
