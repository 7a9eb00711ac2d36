"""`fedrecon import-weights`."""

import argparse
import hashlib
from pathlib import Path

from .arguments import Commands, say

#: Program of the original weights by the architecture.
_PROGRAMS = {"varnet": "fastMRI", "direct_varnet": "DIRECT"}


def add_import_weights(commands: Commands) -> None:
    imported = commands.add_parser(
        "import-weights",
        help="convert the weights of fastMRI's or DIRECT's VarNet, a base for reconstruction and adapters",
        epilog="`fedrecon reconstruct --weights`, `--start-from` and `network.base` take the file that is written.",
    )
    imported.add_argument(
        "file",
        metavar="FILE",
        type=Path,
        help="state dict of fastmri.models.VarNet, or checkpoint of its training; or checkpoint of DIRECT's VarNet",
    )
    text = "file to write, with a card of the same name and the end .md (default: FILE with the end .safetensors)"
    imported.add_argument("--out", type=Path, help=text)
    imported.add_argument("--title", help="what the weights are for, in one line (default: the kind and size)")
    imported.add_argument("--overwrite", action="store_true", help="replace existing files")
    imported.set_defaults(run=_import)


def _import(arguments: argparse.Namespace) -> None:
    from recon import import_varnet, save_weights, write_atomically

    from ..config import config_error

    source, out = arguments.file, arguments.out or arguments.file.with_suffix(".safetensors")
    card = out.with_suffix(".md")
    if out.suffix != ".safetensors":
        raise config_error(out, "--out", f"the end {out.suffix!r}", "the end .safetensors", "rename it")
    settings, network = import_varnet(source)
    if source.resolve() in (out.resolve(), card.resolve()):
        raise config_error(out, "--out", "FILE itself", "a new name", "choose another --out")
    if taken := [path for path in (out, card) if path.exists() and not arguments.overwrite]:
        raise config_error(taken[0], "--out", "a file", "a new name", "choose another --out or --overwrite")
    program = _PROGRAMS[settings.architecture]
    cascades = f"{settings.cascades} cascade{'s' * (settings.cascades > 1)}"
    size = f"VarNet of {program}, {cascades} of {settings.channels} channels"
    title = arguments.title or f"{size}, from {source.name}"
    save_weights(network, out, settings, "mri", title)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    write_atomically(card, _card(out.name, title, size, source.name, digest).encode())
    count = sum(parameter.numel() for parameter in network.parameters())
    say(f"{size}, {count} parameters\nweights: {out}   card: {card}")


def _card(name: str, title: str, size: str, source: str, digest: str) -> str:
    return (
        f"# {name}: {title}\n\n{size}; converted by `fedrecon import-weights` from `{source}`, SHA-256 `{digest}`.\n\n"
        "## Data, license, scores\n\nThose of the original weights; the file does not state them. Write them here.\n\n"
        "## Limits\n\nMRI with a column mask that samples the center of k-space. Its largest matrix and acceleration "
        "are unknown. For research, not for diagnosis.\n"
    )
