"""TOML files as checked models; each mistake becomes one line with file, key and expected value."""

import difflib
import re
import tomllib
import types
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from .errors import ConfigError, config_error

Model = TypeVar("Model", bound="Section")
KeyPath = tuple[str, ...]
SITE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


def safe_name(value: str) -> str:
    """Check a name that is used for folders, files and keys of the report.

    Raises
    ------
    ValueError
        If it is not 1 to 64 lower-case letters, digits, ``-`` and ``_``, the first a letter or digit.
    """
    if not SITE_NAME.fullmatch(value):
        raise ValueError("1 to 64 lower-case letters, digits, - and _, the first a letter or digit")
    return value


Name = Annotated[str, AfterValidator(safe_name)]
Names = Annotated[tuple[str, ...], Field(strict=False)]
NonNegative = Annotated[float, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class Section(BaseModel):
    """A section of a manifest, recipe or policy: immutable, no unknown keys, no silent conversion of types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises
    ------
    ConfigError
        If the file is missing, unreadable or not TOML (with the line of the error).
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise config_error(path, "", "no such file", "a TOML file", "correct the path") from None
    except IsADirectoryError:
        raise config_error(path, "", "a folder", "a TOML file", "correct the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise config_error(path, "", f"unreadable text ({error})", "UTF-8 TOML", "write it anew") from None
    except tomllib.TOMLDecodeError as error:
        raise config_error(path, "", f"a syntax error ({error})", "TOML", "correct that line") from None


def parse_section(
    model: type[Model],
    content: Mapping[str, Any],
    source: Path | str,
    sources: Mapping[KeyPath, str] | None = None,
) -> Model:
    """Check a section against its model.

    Parameters
    ----------
    model
        The expected keys.
    content
        Content of the section.
    source
        Its file, for errors.
    sources
        Other origins of keys (the command line), for errors; each holds for all keys below.

    Raises
    ------
    ConfigError
        One line per mistake.
    """
    try:
        return model.model_validate(dict(content))
    except ValidationError as error:
        lines = _lines(model, error, source, sources or {})
    raise ConfigError("\n".join(lines))


def one_of(registry: Iterable[str] | Callable[[], Iterable[str]]) -> Callable[[str], str]:
    """A validator that accepts the names in a registry and suggests the nearest one.

    Parameters
    ----------
    registry
        The names, or a function that imports and returns them. They are read at validation: later entries count.
    """

    def check(value: str) -> str:
        names = sorted(registry() if callable(registry) else registry)
        if value not in names:
            raise ValueError(f"one of {', '.join(names)}{nearest(value, names)}")
        return value

    return check


def nearest(name: str, valid: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the most similar valid name, empty where none is similar."""
    matches = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.6)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def _lines(
    model: type[Section], error: ValidationError, source: Path | str, sources: Mapping[KeyPath, str]
) -> list[str]:
    details = error.errors(include_url=False)
    unknown = {tuple(map(str, d["loc"])) for d in details if d["type"] == "extra_forbidden"}
    lines = []
    for detail in details:
        loc = tuple(map(str, detail["loc"]))
        # A mistyped required key is one mistake, not two (an unknown key and a missing one).
        siblings = [key[-1] for key in unknown if key[:-1] == loc[:-1]]
        if detail["type"] == "missing" and loc and difflib.get_close_matches(loc[-1], siblings, cutoff=0.6):
            continue
        if (named := _key_in_sentence(detail)) is not None:
            loc = (*loc, named)
        where = next((sources[loc[:n]] for n in range(len(loc), 0, -1) if loc[:n] in sources), source)
        key = ".".join(loc)
        text = f"{where}: {key}: {_explain(model, loc, detail)}" if key else f"{where}: {_explain(model, loc, detail)}"
        lines.append(" ".join(text.split()))
    return lines


def _key_in_sentence(detail: Any) -> str | None:
    """The key that the check of a whole section names first, as in ``depth: found 1, expected ...``."""
    if detail["type"] != "value_error" or not isinstance(detail["input"], Mapping):
        return None
    key, colon, _ = str(detail["ctx"]["error"]).partition(": ")
    return key if colon and re.fullmatch(r"[a-z]\w*", key) else None


def _explain(model: type[Section], loc: KeyPath, detail: Any) -> str:
    """The mistake in one value, and the expected value."""
    if detail["type"] == "extra_forbidden":
        return f"unknown key{_nearest_key(model, loc)}"
    if detail["type"] == "missing":
        return "missing key; add it"
    found = repr(detail["input"])
    found = found if len(found) <= 60 else f"{found[:57]}..."
    if detail["type"] == "value_error":
        expected = str(detail["ctx"]["error"])
        # Checks of a whole section write their own sentence.
        expected = expected.removeprefix(f"{_key_in_sentence(detail)}: ")
        return expected if isinstance(detail["input"], Mapping) else f"found {found}, expected {expected}"
    expected = detail["msg"].removeprefix("Input should be ")
    if expected.startswith(("greater", "less")):
        expected = f"a number {expected}"
    expected = {"model_type": "a section", "tuple_type": "a list"}.get(detail["type"], expected)
    return f"found {found}, expected {expected}"


def _nearest_key(model: type[Section], loc: KeyPath) -> str:
    section = _section_at(model, loc[:-1])
    if section is None:
        return ""
    suggestion = nearest(loc[-1], section.model_fields)
    if suggestion:
        return suggestion
    elsewhere = [path for path in _key_paths(model) if path[-1] == loc[-1]]
    if elsewhere:
        return f"; did you mean '{'.'.join(elsewhere[0])}'?"
    return f", expected one of {', '.join(section.model_fields)}"


def _section_at(model: type[Section], loc: KeyPath) -> type[Section] | None:
    for key in loc:
        field = model.model_fields.get(key)
        below = _as_section(field.annotation) if field is not None else None
        if below is None:
            return None
        model = below
    return model


def _key_paths(model: type[Section], prefix: KeyPath = ()) -> Iterable[KeyPath]:
    for key, field in model.model_fields.items():
        yield (*prefix, key)
        below = _as_section(field.annotation)
        if below is not None:
            yield from _key_paths(below, (*prefix, key))


def _as_section(annotation: Any) -> type[Section] | None:
    """The model behind ``Model`` or ``Model | None``."""
    options = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    return next((o for o in options if isinstance(o, type) and issubclass(o, Section)), None)
