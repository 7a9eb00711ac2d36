"""Sections derived from code: keys, types and bounds come from a signature or a dataclass."""

import dataclasses
import re
from collections.abc import Mapping
from functools import lru_cache, reduce
from operator import or_
from types import FunctionType
from typing import Annotated, Any, get_args, get_origin

from pydantic import AfterValidator, create_model, model_validator

from .schema import Section, one_of


@lru_cache(maxsize=64)
def section_of(kind: type) -> type[Section]:
    """A section whose keys are the fields of a frozen dataclass, with the checks of the dataclass.

    Annotations may hold bounds (``Annotated[float, Ge(1)]``), registries (``Annotated[str, SAMPLINGS]``: a name in it)
    and functions that check a value and raise a ValueError with what is expected. :func:`value_of` makes the dataclass.
    """

    def checked(section: Section) -> Section:
        try:
            value_of(kind, section)
        except ValueError as error:
            # "Simulation: seed is -1, expected ..." is "seed: found -1, expected ..." in a file.
            text = str(error).removeprefix(f"{kind.__name__}: ")
            raise ValueError(re.sub(r"^(\w+) is (.*), expected", r"\1: found \2, expected", text)) from None
        return section

    keys = {
        field.name: (field.type, ... if field.default is dataclasses.MISSING else field.default)
        for field in dataclasses.fields(kind)
    }
    return section_with(f"{kind.__name__}Section", Section, keys, {"_checked": model_validator(mode="after")(checked)})


def value_of(kind: type, section: Section | None) -> Any:
    """The dataclass with the values of a section; None for None."""
    return None if section is None else kind(**section.model_dump())


def section_with(
    name: str, base: type[Section], keys: Mapping[str, tuple[Any, Any]], validators: Mapping[str, Any] | None = None
) -> type[Section]:
    """``base`` with more keys, each a type and a default (``...``: required)."""
    fields: dict[str, Any] = {key: (_with_validators(kind), default) for key, (kind, default) in keys.items()}
    model: type[Section] = create_model(name, __base__=base, __validators__=dict(validators or {}), **fields)
    return model


def _with_validators(annotation: Any) -> Any:
    """The annotation with a validator in the place of each registry and function."""
    if get_origin(annotation) is Annotated:
        kind, *metadata = get_args(annotation)
        return Annotated[(kind, *map(_validator, metadata))]
    arguments = get_args(annotation)
    if any(get_origin(argument) is Annotated for argument in arguments):  # Annotated[...] | None
        return reduce(or_, map(_with_validators, arguments))
    return annotation


def _validator(item: Any) -> Any:
    if isinstance(item, Mapping):
        return AfterValidator(one_of(item))
    return AfterValidator(item) if isinstance(item, FunctionType) else item
