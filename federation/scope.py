"""Which parameters of a network travel and which stay at a site."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from recon import SitePart

from .errors import ConfigError
from .messages import State


@dataclass(frozen=True)
class Scope:
    """Names of the shared and of the kept parameters, each sorted."""

    shared: tuple[str, ...]
    kept: tuple[str, ...]


def parameter_scope(network: nn.Module, keep: Sequence[str] = (), share: Sequence[str] = ()) -> Scope:
    """Decide for every parameter whether it is shared or kept.

    By default what lies below a :class:`recon.SitePart` (data consistency) is kept and all else shared; the patterns
    override that. A tensor registered under several names counts once, under its first name: it is kept if
    one of its places is, and a pattern may use any of its names.

    Parameters
    ----------
    network
        The network, as every site builds it.
    keep, share
        Shell patterns (``*``, ``?``, ``[...]``) of parameter names.

    Raises
    ------
    ConfigError
        If a pattern matches nothing, a parameter is matched twice, nothing is shared, or the network holds
        state that cannot be averaged (buffers with state, parameters that are not floating point).
    """
    aliases = _aliases(network)
    _check_state(network, aliases)
    kept = _kept_by_default(network)
    matched: dict[str, str] = {}
    for table, patterns in (("keep", keep), ("share", share)):
        for pattern in patterns:
            entry = f"[scope] {table} = {pattern!r}"
            names = [name for name, others in aliases.items() if any(fnmatchcase(other, pattern) for other in others)]
            if not names:
                raise ConfigError(f"{entry}: matches no parameter, expected at least one of {_some(aliases)}")
            for name in names:
                if name in matched:
                    raise ConfigError(f"{entry}: {name} is matched by {matched[name]} too; make the entries disjoint")
                matched[name] = entry
            kept = kept | set(names) if table == "keep" else kept - set(names)
    shared = sorted(aliases.keys() - kept)
    if not shared:
        raise ConfigError(
            "[scope]: every parameter is kept and nothing is shared; share some, or train each site on its "
            "own with the arm `local`"
        )
    return Scope(tuple(shared), tuple(sorted(kept)))


def parameters_of(network: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """Copies of the named parameters, on the CPU."""
    parameters = dict(network.named_parameters())
    return {name: parameters[name].detach().cpu().clone() for name in names}


def load_parameters(network: nn.Module, state: State) -> None:
    """Overwrite the named parameters.

    Raises
    ------
    KeyError
        If the network has no such parameter.
    ValueError
        If shape or dtype differ.
    """
    parameters = dict(network.named_parameters())
    with torch.no_grad():
        for name, tensor in state.items():
            parameter = parameters[name]
            if parameter.shape != tensor.shape or parameter.dtype != tensor.dtype:
                raise ValueError(
                    f"load_parameters: {name} is {tensor.dtype} {tuple(tensor.shape)}, expected "
                    f"{parameter.dtype} {tuple(parameter.shape)}"
                )
            parameter.copy_(tensor)


def _aliases(network: nn.Module) -> dict[str, list[str]]:
    """All names of each parameter by its first name."""
    first: dict[int, str] = {}
    aliases: dict[str, list[str]] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        aliases.setdefault(first.setdefault(id(parameter), name), []).append(name)
    return aliases


def _kept_by_default(network: nn.Module) -> set[str]:
    kept = {
        id(parameter)
        for module in network.modules()
        if isinstance(module, SitePart)
        for parameter in module.parameters()
    }
    return {name for name, parameter in network.named_parameters() if id(parameter) in kept}


def _check_state(network: nn.Module, aliases: Mapping[str, Sequence[str]]) -> None:
    names = {name for others in aliases.values() for name in others}
    buffers = sorted(network.state_dict().keys() - names)
    if buffers:
        raise ConfigError(
            f"[scope]: buffers with state cannot be shared or kept: {_some(buffers)}; use InstanceNorm or "
            "GroupNorm for BatchNorm, and register constants with persistent=False"
        )
    wrong = [name for name, parameter in network.named_parameters() if not parameter.is_floating_point()]
    if wrong:
        raise ConfigError(f"[scope]: parameters must be real floating point, found others: {_some(wrong)}")


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
