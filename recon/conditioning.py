"""Networks that know the scan: small hypernetworks from a condition vector to scales, shifts and steps."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from .scan_features import split_condition


class FiLM(nn.Module):
    r"""Scale and shift of every channel by the condition, :math:`(1 + s(c)) \odot h + t(c)`, starting as the identity.

    :math:`(s, t)` come from a hypernetwork of one hidden layer whose last layer starts at zero. Its parameters lie
    under ``hyper``.

    Parameters
    ----------
    n_features
        Channels of the features.
    condition_dim
        Length of a condition vector.
    hidden
        Width of the hypernetwork.

    References
    ----------
    .. [F] Perez et al., FiLM: Visual reasoning with a general conditioning layer, AAAI 2018.
    .. [H] Yang et al., Hypernetwork-based physics-driven personalized federated learning for CT imaging, IEEE Trans.
       Neural Netw. Learn. Syst., 2023: a scale and a shift of every layer from the site's scan.
    """

    def __init__(self, n_features: int, condition_dim: int, hidden: int = 16) -> None:
        super().__init__()
        self.n_features, self.condition_dim = n_features, condition_dim
        self.hyper = _hypernetwork("FiLM", condition_dim, hidden, 2 * n_features)

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        """Modulate features ``(batch, n_features, height, width)``, shape kept.

        Parameters
        ----------
        condition
            ``(batch, condition_dim)``, or ``(condition_dim,)`` for all samples alike.

        Raises
        ------
        ValueError
            If a shape does not fit.
        """
        if features.ndim != 4 or features.shape[1] != self.n_features:
            expected = f"(batch, {self.n_features}, height, width)"
            raise ValueError(f"FiLM: features have shape {tuple(features.shape)}, expected {expected}")
        require_condition("FiLM", condition, self.condition_dim, features.shape[:1])
        scale, shift = self.hyper(condition)[..., None, None].chunk(2, dim=-3)
        out: Tensor = (1 + scale) * features + shift
        return out


class StepScale(nn.Module):
    r"""A positive factor from the condition, :math:`e^{g(c)}`, starting at 1: how far a data-consistency step goes.

    For a layer D it is meant as :math:`x + e^{g(c)} (D(x) - x)`, which for a layer of one step (gradient, filtered,
    normalized) is that step times the factor. Parameters lie under ``hyper``.

    Parameters
    ----------
    condition_dim
        Length of a condition vector.
    hidden
        Width of the hypernetwork.
    """

    def __init__(self, condition_dim: int, hidden: int = 16) -> None:
        super().__init__()
        self.condition_dim = condition_dim
        self.hyper = _hypernetwork("StepScale", condition_dim, hidden, 1)

    def forward(self, condition: Tensor) -> Tensor:
        """One factor per sample, ``(*batch, condition_dim) -> (*batch,)``.

        Raises
        ------
        ValueError
            If the length of the condition is another.
        """
        require_condition("StepScale", condition, self.condition_dim, condition.shape[:-1])
        factor: Tensor = self.hyper(condition)[..., 0].exp()
        return factor


@dataclass(frozen=True, eq=False)
class Codebook:
    """Condition vectors of known protocols by name: an unseen site takes the nearest.

    Parameters
    ----------
    codes
        Vectors in the layout of `CONDITION_LAYOUT`, at least one.

    Raises
    ------
    ValueError
        If there is none, or one is not a finite vector of that layout.

    References
    ----------
    .. [S] Yang et al., Patient-level anatomy meets scanning-level physics: personalized federated low-dose CT denoising
       empowered by large language model (SCAN-PhysFed), CVPR 2025. There the codes are learned embeddings; here they
       are the scans' own features.
    """

    codes: Mapping[str, Tensor]

    _PREFIX = "code."

    def __post_init__(self) -> None:
        if not self.codes:
            raise ValueError("Codebook: no code, expected at least one")
        for name, code in self.codes.items():
            split_condition(code)
            if code.ndim != 1 or not bool(code.isfinite().all()):
                found = f"shape {tuple(code.shape)}" if code.ndim != 1 else "NaN or infinity"
                raise ValueError(f"Codebook: code {name!r} has {found}, expected one finite vector")

    def nearest(self, condition: Tensor) -> str:
        """Name of the code nearest to a condition ``(CONDITION_DIM,)``.

        The distance is the root mean square difference over the entries that both have: what one of the two does not
        know decides nothing [D]_. Of equally near codes the one with more entries in common is taken, then the first
        by name.

        Raises
        ------
        ValueError
            If the condition is not one vector of the layout, or shares no entry with any code.

        References
        ----------
        .. [D] Dixon, Pattern recognition with partly missing data, IEEE Trans. Syst. Man Cybern. 9, 1979.
        """
        values, present = split_condition(condition.detach().cpu())
        if values.ndim != 1:
            raise ValueError(f"Codebook: condition has shape {tuple(condition.shape)}, expected one vector")
        found: list[tuple[float, int, str]] = []
        for name, code in self.codes.items():
            code_values, code_present = split_condition(code.detach().cpu())
            common = present & code_present
            if common.any():
                difference = (values - code_values)[common].double()
                found.append((float(difference.square().mean()), -int(common.sum()), name))
        if not found:
            raise ValueError(
                f"Codebook: the condition shares no entry with any of {', '.join(sorted(self.codes))}; "
                "is it of another modality?"
            )
        return min(found)[2]

    def state(self) -> dict[str, Tensor]:
        """The codes as plain tensors by name, sorted."""
        return {self._PREFIX + name: self.codes[name].detach().cpu().clone() for name in sorted(self.codes)}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Self:
        """The codebook of :meth:`state`; tensors of other names are left alone."""
        named = {name.removeprefix(cls._PREFIX): code for name, code in state.items() if name.startswith(cls._PREFIX)}
        return cls(named)


def require_condition(who: str, condition: Tensor, condition_dim: int, batch: torch.Size) -> None:
    """Check that a condition is ``(condition_dim,)`` or ``(*batch, condition_dim)``.

    Raises
    ------
    ValueError
        Otherwise.
    """
    if condition.shape not in ((condition_dim,), (*batch, condition_dim)):
        many = f" or {(*batch, condition_dim)}" if batch else ""
        raise ValueError(
            f"{who}: condition has shape {tuple(condition.shape)}, expected {(condition_dim,)}{many}; values and "
            "presence bits in the layout that the network was made for"
        )


def _hypernetwork(who: str, condition_dim: int, hidden: int, n_out: int) -> nn.Sequential:
    """An MLP of one hidden layer that says zero until it is trained."""
    if min(condition_dim, hidden, n_out) < 1:
        sizes = f"condition_dim {condition_dim}, hidden {hidden}, outputs {n_out}"
        raise ValueError(f"{who}: got {sizes}, expected at least 1 each")
    last = nn.Linear(hidden, n_out)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(condition_dim, hidden), nn.ReLU(), last)
