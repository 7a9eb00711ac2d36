"""Registries: parts of one kind by their names in recipes and manifests."""

import difflib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

Part = TypeVar("Part")
Maker = TypeVar("Maker", bound=Callable[..., Any])
_EMPTY = inspect.Parameter.empty


class Registry(Mapping[str, Callable[..., Part]], Generic[Part]):
    """Parts of one kind by name. A part is a class or function; its arguments are its options.

    Parameters
    ----------
    kind
        Name of the kind in messages, such as ``regularizer``.
    parts
        Parts that come with fedrecon; :meth:`add` registers others.
    """

    def __init__(self, kind: str, parts: Mapping[str, Callable[..., Part]]) -> None:
        self.kind = kind
        self._parts = dict(parts)
        #: Names of the parts that come with fedrecon.
        self.built_in = tuple(parts)

    def __getitem__(self, name: str) -> Callable[..., Part]:
        return self._parts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:  # annotations hold registries
        return id(self)

    def __repr__(self) -> str:
        return f"<{self.kind}: {', '.join(self)}>"

    def add(self, name: str) -> Callable[[Maker], Maker]:
        """Decorator that registers a class or function.

        Raises
        ------
        ValueError
            If another part has the name.
        """

        def register(part: Maker) -> Maker:
            if name in self._parts:
                raise ValueError(f"{self.kind} {name!r}: found another part of this name; choose another name")
            self._parts[name] = part
            return part

        return register

    def remove(self, name: str) -> None:
        """Remove a part."""
        del self._parts[name]

    def options(self, name: str) -> dict[str, inspect.Parameter]:
        """Options of a part: its named arguments."""
        return options_of(self[name])

    def check(self, name: str, options: Mapping[str, Any], key: str = "options") -> None:
        """Check the names of the options of a part.

        Parameters
        ----------
        key
            Key of the options in the recipe, for messages.

        Raises
        ------
        ValueError
            If one is unknown or missing.
        """
        known = self.options(name)
        for option in options:
            if option not in known:
                near = difflib.get_close_matches(option, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"{key}: found {option!r}, expected one of {', '.join(known) or 'none'}{hint}")
        for option, parameter in known.items():
            if parameter.default is _EMPTY and option not in options:
                raise ValueError(f"{key}: found no {option!r}, expected a value for it")

    def make(self, name: str, options: Mapping[str, Any], key: str = "options") -> Part:
        """Make a part from its options; parameters as of :meth:`check`.

        Raises
        ------
        ValueError
            If an option is unknown, missing, of another type or out of range; the message begins with ``key``.
        """
        self.check(name, options, key)
        try:
            return self[name](**options)
        except Exception as error:
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__} of "
            raise ValueError(f"{key}: {error} ({kind}{self.kind} {name!r})") from error

    def declared(self, name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that are options of a part."""
        known = self.options(name)
        return {key: value for key, value in settings.items() if key in known}


def options_of(part: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Named arguments of a class or function; annotations that are text become types where their names are known."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    try:
        parameters = inspect.signature(part, eval_str=True).parameters
    except NameError:  # a name that is imported for type checkers alone
        parameters = inspect.signature(part).parameters
    return {key: parameter for key, parameter in parameters.items() if parameter.kind in named}
