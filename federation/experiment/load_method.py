"""Find a reconstruction method by its name or place: a run, trained weights, or a classical method."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recon import MODALITIES, STARTER_WEIGHTS, Modality, load_weights, open_weights

from ..config import config_error, nearest
from .method import Method, RunMethod, WeightsMethod
from .run_folder import RunFolder


def load(
    source: Path | str,
    *,
    site: str | None = None,
    sites: Path | str | None = None,
    modality: str | None = None,
    format: str | None = None,
    **options: Any,
) -> Method:
    """A reconstruction method by its name or place.

    Called with arrays, it writes them to a temporary file first, in the folder ``TMPDIR``: see :class:`Method`.

    Parameters
    ----------
    source
        The folder of a trained run; the name of starter weights or a file of weights; or the name of a classical
        method, such as ``"tv"``, ``"cg_sense"`` or ``"fbp"``. What lies on disk takes precedence.
    site
        With a run: the site whose network is used.
    sites
        With a run: folder of the manifests, if they have moved since training.
    modality
        With a classical method: its modality, if several have one of this name (default: ``"mri"`` before ``"ct"``).
    format
        With weights and classical methods: format of the files (default: told from their content).
    options
        With a classical method: its options, such as ``weight=3e-3``. They are not tuned.

    Raises
    ------
    DataError
        If there is no such method, or it cannot be read.
    """
    if Path(source).is_dir():
        _refuse(source, "a run", {"modality": modality, "format": format, **options})
        return method_of_run(source, site, sites)
    known = {name for kind in MODALITIES.values() for name in kind.methods}
    if not Path(source).is_file() and str(source) in known:
        _refuse(source, "a classical method", {"site": site, "sites": sites})
        return _classical(str(source), modality, format, options)
    if not Path(source).is_file() and str(source) not in STARTER_WEIGHTS:
        expected = "the folder of a run, weights or a classical method"
        names = (*STARTER_WEIGHTS, *sorted(known))
        advice = f"correct the path, or choose one of {', '.join(names)}{nearest(str(source), names)}"
        raise config_error("load", "", repr(str(source)), expected, advice)
    _refuse(source, "weights", {"site": site, "sites": sites, "modality": modality, **options})
    return method_of_weights(source, format)


def method_of_run(path: Path | str, site: str | None, sites: Path | str | None = None) -> RunMethod:
    """The network that a site of a run uses; ``sites`` is the folder of its manifests, if it has moved."""
    run = RunFolder.open(path, sites)
    if site is None:
        names = ", ".join(manifest.name for manifest in run.manifests)
        raise config_error(path, "site", "nothing", f"one of {names}", "name the site whose network is used")
    return RunMethod(run, run.manifest(site))


def method_of_weights(weights: Path | str, format: str | None = None) -> WeightsMethod:
    """The network of trained weights."""
    file = open_weights(weights)
    network = load_weights(weights)
    _require_format(MODALITIES[file.modality], format, f"{file.name} is for {MODALITIES[file.modality].title}")
    return WeightsMethod(file, network, format)


def _classical(name: str, modality: str | None, format: str | None, options: dict[str, Any]) -> Method:
    if modality is not None and modality not in MODALITIES:
        raise config_error("load", "modality", repr(modality), " or ".join(MODALITIES), "correct it")
    kinds = [kind for kind in MODALITIES.values() if name in kind.methods and modality in (None, kind.name)]
    if not kinds:
        has = ", ".join(MODALITIES[str(modality)].methods)
        raise config_error("load", "modality", f"{modality!r} with {name!r}", f"one of {has}", "correct one of both")
    kind = kinds[0]
    _require_format(kind, format, name)
    try:
        method = kind.methods[name](**options)
    except TypeError as error:
        raise config_error(
            "load", name, f"options that fail ({error})", "its options", "see its class in recon"
        ) from None
    return Method(name, method, kind, {"method": name}, format)


def _require_format(kind: Modality, format: str | None, who: str) -> None:
    if format is not None and format not in kind.readers:
        expected = f"one of {', '.join(kind.readers)}{nearest(format, kind.readers)}"
        raise config_error("--format", "", repr(format), expected, who)


def _refuse(source: Path | str, what: str, given: Mapping[str, Any]) -> None:
    """Refuse arguments that do not belong to this kind of source."""
    for key, value in given.items():
        if value is not None:
            raise config_error("load", key, repr(value), f"none with {what} ({source})", "leave it out")
