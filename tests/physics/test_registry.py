"""Registries find, check and make parts."""

from functools import partial
from typing import Annotated, Any

import pytest

from physics import Registry, options_of


class Part:
    def __init__(self, size: "int", *, rate: "Annotated[float, 'above 0']" = 0.5, **more: Any) -> None:
        self.size, self.rate = size, rate


def registry() -> Registry[Any]:
    return Registry("part", {"full": Part, "small": partial(Part, size=1)})


def test_parts_are_made_from_their_options() -> None:
    parts = registry()
    assert list(parts) == ["full", "small"] and len(parts) == 2 and repr(parts) == "<part: full, small>"
    assert parts == parts and parts != registry()
    assert (parts.make("full", {"size": 3}).size, parts.make("small", {"rate": 2.0}).rate) == (3, 2.0)
    assert parts.declared("full", {"size": 3, "depth": 4}) == {"size": 3}


def test_annotations_are_types_also_where_they_are_text() -> None:
    def unknown(size: "int", rate: "Missing" = 1) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    assert list(options_of(unknown)) == ["size", "rate"]
    options = options_of(Part)
    assert list(options) == ["size", "rate"]
    assert options["size"].annotation is int and options["rate"].annotation == Annotated[float, "above 0"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "objective: found no 'size', expected a value for it"),
        ({"size": 1, "rato": 2}, "objective: found 'rato', expected one of size, rate; did you mean 'rate'?"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        registry().make("full", options, "objective")


def test_a_name_is_registered_once() -> None:
    parts = registry()

    @parts.add("own")
    class Own(Part):
        pass

    assert parts["own"] is Own
    with pytest.raises(ValueError, match="part 'own': found another part of this name"):
        parts.add("own")(Part)
