"""Scope of the parameters of a network: shared, kept or frozen; and mixtures of a broadcast with a site's values."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from recon import SitePart

from ..config import ConfigError
from ..serialization import State


@dataclass(frozen=True)
class ScopeRules:
    """Rules for the scope of parameters, by shell patterns (``*``, ``?``, ``[...]``) of their names.

    Parameters
    ----------
    keep, share
        Parameters that stay at the site; parameters that travel.
    freeze
        Parameters that neither travel nor train, and are the same everywhere.
    delta
        Parameters that travel, such as adapters or prompts; all other shared ones are frozen.
    mix
        Weight of the broadcast value at the start of a round; the rest is the site's value after its last training.
    channels
        Part of the output channels in which a site continues with its values after its last training: the channels that
        differ most from the broadcast.
    """

    keep: tuple[str, ...] = ()
    share: tuple[str, ...] = ()
    freeze: tuple[str, ...] = ()
    delta: tuple[str, ...] = ()
    mix: Mapping[str, float] = field(default_factory=dict)
    channels: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Scope:
    """Names of the shared, the kept and the frozen parameters, each sorted.

    ``mix`` and ``channels`` hold the numbers of some shared ones, see :class:`ScopeRules`.
    """

    shared: tuple[str, ...]
    kept: tuple[str, ...]
    frozen: tuple[str, ...] = ()
    mix: Mapping[str, float] = field(default_factory=dict)
    channels: Mapping[str, float] = field(default_factory=dict)

    @property
    def needs_previous(self) -> bool:
        """Whether a site also starts from its shared parameters of the round before."""
        return bool(self.mix or self.channels)

    def blend(self, shared: State, previous: State) -> dict[str, Tensor]:
        """Start of a round: the broadcast, mixed with the site's shared parameters after its last training, if any."""
        blended = dict(shared)
        for name, part in self.mix.items() if previous else ():
            blended[name] = part * shared[name] + (1 - part) * previous[name]
        for name, part in self.channels.items() if previous else ():
            blended[name] = _keep_channels(shared[name], previous[name], part)
        return blended


def parameter_scope(network: nn.Module, rules: ScopeRules | None = None) -> Scope:
    """Decide for every parameter whether it is shared, kept or frozen.

    By default the parameters of every :class:`recon.SitePart` (data consistency) are kept and all others shared; the
    rules override that. A tensor with several names counts once, under its first name. It is kept if any of its modules
    is a :class:`recon.SitePart`, and patterns may match any of its names.

    Raises
    ------
    ConfigError
        If a pattern matches nothing, two match one parameter, nothing is shared, a number is out of range, or the
        network has state that cannot be averaged (buffers with state, parameters that are not floating point).
    """
    rules = ScopeRules() if rules is None else rules
    aliases = _aliases(network)
    _check_state(network, aliases)
    matches = _Matches(aliases)
    keep, share, freeze = (matches.of(key, getattr(rules, key)) for key in ("keep", "share", "freeze"))
    kept = (_kept_by_default(network) | keep) - share - freeze
    shared = aliases.keys() - kept - freeze
    if rules.delta:
        travel = matches.of("delta", rules.delta)
        if at_site := sorted(travel - shared):
            raise ConfigError(f"[scope] delta: {_some(at_site)} stay at the site; share them, or leave them out")
        freeze = freeze | (shared - travel)
        shared = travel
    if not shared:
        raise ConfigError(
            "[scope]: every parameter is kept and nothing is shared; share some, or train each site alone with the "
            "arm `local`"
        )
    mixed = _Matches(aliases)
    mix, channels = (mixed.numbers(key, getattr(rules, key), shared) for key in ("mix", "channels"))
    return Scope(tuple(sorted(shared)), tuple(sorted(kept)), tuple(sorted(freeze)), mix, channels)


def require_nothing_kept(network: nn.Module, scope: Scope) -> None:
    """Check that all parameters that train travel, for noise that sites share: what stays has the noise of one site.

    Raises
    ------
    ConfigError
        With the first name of one that stays and trains.
    """
    parameters = dict(network.named_parameters())
    if names := [name for name in scope.kept if parameters[name].requires_grad]:
        raise ConfigError(
            f"[scope]: {names[0]} stays at the site and trains, expected none that does with privacy.shared_noise: "
            "later gradients would depend on patients through the weak noise of one site; share or freeze it"
        )


class _Matches:
    """Parameter names by pattern; each pattern must match, and no name may match twice."""

    def __init__(self, aliases: Mapping[str, Sequence[str]]) -> None:
        self.aliases = aliases
        self.matched: dict[str, str] = {}

    def of(self, key: str, patterns: Iterable[str]) -> set[str]:
        found: set[str] = set()
        for pattern in patterns:
            entry = f"[scope] {key} = {pattern!r}"
            names = [
                name for name, others in self.aliases.items() if any(fnmatchcase(other, pattern) for other in others)
            ]
            if not names:
                raise ConfigError(f"{entry}: matches no parameter, expected at least one of {_some(self.aliases)}")
            for name in names:
                if name in self.matched:
                    raise ConfigError(
                        f"{entry}: {name} is matched by {self.matched[name]} too; make the entries disjoint"
                    )
                self.matched[name] = entry
            found |= set(names)
        return found

    def numbers(self, key: str, patterns: Mapping[str, float], shared: Iterable[str]) -> dict[str, float]:
        found: dict[str, float] = {}
        for pattern, part in patterns.items():
            if not 0 < part < 1:
                raise ConfigError(f"[scope] {key}: {pattern!r} is {part}, expected 0 < part < 1; keep or share it")
            names = self.of(key, [pattern])
            if others := sorted(names - set(shared)):
                raise ConfigError(f"[scope] {key} = {pattern!r}: {_some(others)} do not travel; share them first")
            found |= dict.fromkeys(names, part)
        return found


def _keep_channels(shared: Tensor, previous: Tensor, part: float) -> Tensor:
    """The broadcast, but ``previous`` in the ``part`` of the output channels (at least one) that differs most."""
    change = previous - shared
    difference = change.flatten(1).norm(dim=1) if change.ndim > 1 else change.abs()
    size = shared.flatten(1).norm(dim=1) if shared.ndim > 1 else shared.abs()
    # Relative to the size of the channel, so that small channels count; for a channel of zeros, absolute.
    order = (difference / torch.where(size > 0, size, 1.0)).argsort(descending=True, stable=True)
    kept = order[: math.ceil(part * len(order))]
    blended = shared.clone()
    blended[kept] = previous[kept]
    return blended


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
        If a shape or dtype differs.
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
    """All names of each parameter, by its first name."""
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
