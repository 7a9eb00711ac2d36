"""Moments of the features inside a network: sites compare feature distributions without sending images."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from ..data import Sample, Samples, batches
from ..method import apply, to_device_of
from .penalty import Penalty, RoundStart, State

#: Added under the root: the gradient of a channel of zeros is finite.
_FLOOR = 1e-12


class MomentAlignment(Penalty):
    r"""Pull the moments of a site's features towards target moments.

    :math:`\frac{w}{2C} \sum_c (\mu_c - \mu_c^*)^2 + (\sigma_c - \sigma_c^*)^2` over all C channels of the matched
    modules. The aim of FL-MRCM [G]_ without its adversary, which would need the features of the target at every site,
    and features reveal images; here two numbers per channel travel. Moments are over the pixels of a slice, averaged
    over slices and calls of the module: they do not depend on the batch size.

    Features are recorded inside :meth:`watch`.

    Parameters
    ----------
    weight
        w; 1 in the paper for its adversarial loss.
    target
        Moments, see :func:`measure_moments`.
    pattern
        Shell pattern of module names, such as ``regularizers.*.down.1``, the bottleneck of a U-Net.

    References
    ----------
    .. [G] Guo et al., Multi-institutional collaborations for improving deep learning-based magnetic resonance image
       reconstruction using federated learning, CVPR 2021.
    """

    def __init__(self, weight: float, target: Mapping[str, Tensor], pattern: str) -> None:
        if not 0 < weight < float("inf"):
            raise ValueError(f"MomentAlignment: weight is {weight}, expected a positive number")
        self.weight, self.pattern = weight, pattern
        self.target = {name: tensor.detach().clone() for name, tensor in target.items()}
        self._records: dict[str, list[Tensor]] | None = None

    @classmethod
    def for_round(cls, weight: float, at: RoundStart, features: str) -> Penalty | None:
        return cls(weight, at.received, features) if at.round > 0 else None

    @classmethod
    def sends(cls, network: nn.Module, features: str) -> State:  # type: ignore[override]
        return moment_layout(network, features)

    @classmethod
    def measure(cls, network: nn.Module, samples: Samples, features: str) -> State:  # type: ignore[override]
        return measure_moments(network, samples, features)

    @contextmanager
    def watch(self, network: nn.Module) -> Iterator[None]:
        """Record the features of ``network`` until the end of the block.

        Raises
        ------
        ValueError
            If the pattern matches no module, or the target's moments are of other modules.
        """
        with _recorded(network, self.pattern) as records:
            expected = {f"{name}.{moment}" for name in records for moment in ("mean", "std")}
            if expected != self.target.keys():
                raise ValueError(
                    f"MomentAlignment: the target has moments {sorted(self.target)}, expected {sorted(expected)}, "
                    f"of the modules that match {self.pattern!r}"
                )
            self._records = records
            try:
                yield
            finally:
                self._records = None

    def __call__(self, network: nn.Module, batch: Sample, image: Tensor) -> Tensor:
        if self._records is None:
            raise RuntimeError("MomentAlignment: called outside `watch`; no features were recorded")
        squares = []
        for name, moments in self._records.items():
            # Features without a gradient come from a validation between two steps.
            recorded = [moment for moment in moments if moment.requires_grad]
            moments.clear()
            if not recorded:
                raise RuntimeError(f"MomentAlignment: {name} was not called, or is frozen with all before it")
            found = torch.cat(recorded).mean(0)
            squares.append((found - self._target(name, found)).square().flatten())
        return self.weight * torch.cat(squares).mean()

    def _target(self, name: str, found: Tensor) -> Tensor:
        target = torch.stack([self.target[f"{name}.mean"], self.target[f"{name}.std"]]).to(found)
        if target.shape != found.shape:
            raise ValueError(
                f"MomentAlignment: the target of {name} has {target.shape[-1]} channels, expected {found.shape[-1]}"
            )
        return target


def watching(network: nn.Module, penalties: Sequence[Penalty]) -> ExitStack:
    """The contexts of all penalties, see :meth:`Penalty.watch`."""
    with ExitStack() as stack:
        for penalty in penalties:
            stack.enter_context(penalty.watch(network))
        return stack.pop_all()


def measure_moments(network: nn.Module, samples: Samples, pattern: str) -> dict[str, Tensor]:
    """Moments of the features of a network on a site's samples, for :class:`MomentAlignment`.

    Parameters
    ----------
    network
        Its mode, training or not, is restored.
    pattern
        Shell pattern of module names.

    Returns
    -------
        For every matched module ``<name>.mean`` and ``<name>.std``, float32, shape ``(channels,)``.

    Raises
    ------
    TypeError
        If the output of a matched module is not real ``(batch, channels, height, width)``.
    ValueError
        If no module matches, one is never called, or there are no samples.
    """
    if len(samples) == 0:
        raise ValueError("measure_moments: got no samples, expected at least one")
    training = network.training
    network.eval()
    try:
        with torch.no_grad(), _recorded(network, pattern) as records:
            for batch in batches(samples, 1):
                apply(network, to_device_of(network, batch))
    finally:
        network.train(training)
    state: dict[str, Tensor] = {}
    for name, moments in records.items():
        if not moments:
            raise ValueError(f"measure_moments: {name} matches {pattern!r} but is never called; narrow the pattern")
        mean, std = torch.cat(moments).double().mean(0).float()
        state |= {f"{name}.mean": mean, f"{name}.std": std}
    return state


def moment_layout(network: nn.Module, pattern: str) -> dict[str, Tensor]:
    """Zeros in the layout of :func:`measure_moments`, without running the network.

    Raises
    ------
    ValueError
        If no module matches, or a matched module has no convolution, which gives its number of channels.
    """
    state: dict[str, Tensor] = {}
    for name, module in _matched(network, pattern).items():
        convolutions = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
        if not convolutions:
            raise ValueError(f"moment_layout: {name} has no convolution, expected a pattern of modules with one")
        zeros = torch.zeros(convolutions[-1].out_channels)
        state |= {f"{name}.mean": zeros, f"{name}.std": zeros.clone()}
    return state


@contextmanager
def _recorded(network: nn.Module, pattern: str) -> Iterator[dict[str, list[Tensor]]]:
    """Moments ``(slices, 2, channels)`` of every call inside the block, by name of the matched module."""
    modules = _matched(network, pattern)
    records: dict[str, list[Tensor]] = {name: [] for name in modules}

    def record(name: str) -> Any:
        return lambda module, inputs, output: records[name].append(_moments(name, output))

    with ExitStack() as stack:
        for name, module in modules.items():
            stack.callback(module.register_forward_hook(record(name)).remove)
        yield records


def _matched(network: nn.Module, pattern: str) -> dict[str, nn.Module]:
    modules = {name: module for name, module in network.named_modules() if fnmatchcase(name, pattern)}
    if not modules:
        names = [name for name, _ in network.named_modules() if name]
        raise ValueError(f"no module matches {pattern!r}, expected some of {', '.join(names[:8])} ...")
    return modules


def _moments(name: str, features: Any) -> Tensor:
    if not isinstance(features, Tensor) or features.ndim != 4 or features.is_complex():
        found = f"{features.dtype} {tuple(features.shape)}" if isinstance(features, Tensor) else type(features).__name__
        raise TypeError(f"module {name} returns {found}, expected real features (batch, channels, height, width)")
    mean = features.mean((-2, -1))
    variance = (features - mean[..., None, None]).square().mean((-2, -1))
    return torch.stack((mean, (variance + _FLOOR).sqrt()), dim=1)
