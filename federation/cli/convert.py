"""`fedrecon convert`."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recon import DataError

from .arguments import Commands, add_output, add_plugins, display, say

if TYPE_CHECKING:
    from recon import Conversion


def add_convert(commands: Commands) -> None:
    text = "copy MRI scans of any layout into HDF5 of the fastMRI layout, radial and spiral ones into that of fedrecon"
    described = (
        "Prints one line for each file: what was read as what. The layout is told from the content. A file appears "
        "complete or not at all."
    )
    convert = commands.add_parser("convert", help=text, description=described)
    convert.add_argument("source", type=Path, metavar="IN", help="a scan, or a folder of scans")
    convert.add_argument("out", type=Path, metavar="OUT", help="file to write, *.h5, or a folder")
    convert.add_argument("--format", help="name of the reader (default: told from the content)")
    option = "option of the reader, as frame=0; repeat for several"
    convert.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help=option)
    convert.add_argument("--overwrite", action="store_true", help="replace existing files")
    convert.set_defaults(run=_convert)
    add_plugins(convert)
    add_output(convert)


def _convert(arguments: argparse.Namespace) -> None:
    with display(arguments):
        from recon import data_error

        source, out = arguments.source, arguments.out
        options = _options(arguments.option)
        given = {"format": arguments.format, "options": options, "overwrite": arguments.overwrite}
        if source.is_dir():
            _convert_folder(source, out, given)
            return
        if out.suffix.lower() not in (".h5", ".hdf5"):
            if out.is_file() or out.suffix:
                found = f"a name that ends in {out.suffix or 'nothing'}"
                raise data_error(out, "OUT", found, "*.h5, or a folder", "choose another name")
            out = out / f"{source.stem}.h5"
        _convert_file(source, out, given)


def _convert_file(source: Path, out: Path, given: Mapping[str, Any]) -> list["Conversion"]:
    from recon import convert_scan

    made = convert_scan(source, out, **given)
    for one in made:
        say(f"{source} -> {one.path}: read as {one.format}: {one.description}")
        for line in one.warnings:
            say(f"warning: {line}")
    return made


def _convert_folder(folder: Path, out: Path, given: Mapping[str, Any]) -> None:
    """Convert every scan below a folder; goes on after one that cannot be used.

    Raises
    ------
    DataError
        If no file is a scan; at the end, if some were not converted.
    """
    from recon import MRI_READERS, data_error, os_error_line, shown_files

    if out.is_file() or out.suffix.lower() in (".h5", ".hdf5"):
        raise data_error(out, "OUT", "the name of a file", "a folder for the scans", "name a folder")
    files = [file for file in shown_files(folder, recursive=True) if not file.resolve().is_relative_to(out.resolve())]
    read: set[Path] = set()
    places: dict[Path, Path] = {}
    passed, failed = [], []
    for file in files:
        if file in read:
            continue
        place = out / file.relative_to(folder).with_suffix(".h5")
        try:
            told = given["format"] is None or given["format"] in MRI_READERS.built_in
            if told and not MRI_READERS.takes(file):
                passed.append(file.name)
                continue
            if place in places:
                raise data_error(file, "file name", f"{place.name}, the copy of {places[place].name}", "another name",
                                 "rename one of both files")  # fmt: skip
            for one in _convert_file(file, place, given):
                read.update(one.sources)
            places[place] = file
        except (DataError, OSError) as error:
            failed.append(file.name)
            say(f"failed: {os_error_line(error) if isinstance(error, OSError) else error}")
    if passed:
        say(f"passed over {len(passed)} files that no reader takes: {', '.join(passed[:8])}"
            f"{', ...' if len(passed) > 8 else ''}")  # fmt: skip
    if failed:
        count = f"{len(failed)} of {len(places) + len(failed)} scans"
        raise DataError(f"{folder}: {count} were not converted: {', '.join(failed)}; the lines above say why")
    if not places:
        raise data_error(folder, "folder", f"{len(files)} files, none a scan", "scans", "correct the path")


def _options(texts: list[str]) -> dict[str, Any]:
    """Options of a reader: numbers and words of TOML, all else is text."""
    import tomllib

    options: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise DataError(f"--option: found {text!r}, expected KEY=VALUE; write frame=0, for example")
        try:
            options[key.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            options[key.strip()] = value
    return options
