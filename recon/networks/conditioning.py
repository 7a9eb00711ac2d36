"""Conditioning on the scan: small hypernetworks from a condition vector to scales, shifts and step factors."""

import torch
from torch import Tensor, nn

#: Width of the hidden layer of a hypernetwork.
_HIDDEN = 16


class FiLM(nn.Module):
    r"""Scale and shift of feature channels by the condition, :math:`(1 + s(c)) \odot h + t(c)`.

    :math:`(s, t)` are the output of a hypernetwork of one hidden layer, whose last layer starts at zero: FiLM starts as
    the identity.

    Parameters
    ----------
    n_features
        Channels of the features.
    condition_dim
        Length of a condition vector.

    References
    ----------
    .. [F] Perez et al., FiLM: Visual reasoning with a general conditioning layer, AAAI 2018.
    .. [H] Yang et al., Hypernetwork-based physics-driven personalized federated learning for CT imaging, IEEE Trans.
       Neural Netw. Learn. Syst., 2023: scale and shift of every layer depend on the site's scan.
    """

    def __init__(self, n_features: int, condition_dim: int) -> None:
        super().__init__()
        self.n_features, self.condition_dim = n_features, condition_dim
        self.hyper = _hypernetwork("FiLM", condition_dim, 2 * n_features)

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        """Scale and shift features ``(batch, n_features, height, width)``.

        Parameters
        ----------
        condition
            ``(batch, condition_dim)``, or ``(condition_dim,)`` for the whole batch.

        Raises
        ------
        ValueError
            If features or condition have another shape.
        """
        if features.ndim != 4 or features.shape[1] != self.n_features:
            expected = f"(batch, {self.n_features}, height, width)"
            raise ValueError(f"FiLM: features have shape {tuple(features.shape)}, expected {expected}")
        require_condition("FiLM", condition, self.condition_dim, features.shape[:1])
        scale, shift = self.hyper(condition)[..., None, None].chunk(2, dim=-3)
        out: Tensor = (1 + scale) * features + shift
        return out


class StepScale(nn.Module):
    r"""Positive factor :math:`e^{g(c)}` of a data-consistency step, from the condition; 1 at the start.

    The network applies it to a layer D as :math:`x + e^{g(c)} (D(x) - x)`.

    Parameters
    ----------
    condition_dim
        Length of a condition vector.
    """

    def __init__(self, condition_dim: int) -> None:
        super().__init__()
        self.condition_dim = condition_dim
        self.hyper = _hypernetwork("StepScale", condition_dim, 1)

    def forward(self, condition: Tensor) -> Tensor:
        """One factor per sample, ``(*batch, condition_dim) -> (*batch,)``.

        Raises
        ------
        ValueError
            If the condition has another length.
        """
        require_condition("StepScale", condition, self.condition_dim, condition.shape[:-1])
        factor: Tensor = self.hyper(condition)[..., 0].exp()
        return factor


def require_condition(who: str, condition: Tensor, condition_dim: int, batch: torch.Size) -> None:
    """Check that a condition has the shape ``(condition_dim,)`` or ``(*batch, condition_dim)``.

    Raises
    ------
    ValueError
        If it has another shape.
    """
    if condition.shape not in ((condition_dim,), (*batch, condition_dim)):
        many = f" or {(*batch, condition_dim)}" if batch else ""
        raise ValueError(
            f"{who}: condition has shape {tuple(condition.shape)}, expected {(condition_dim,)}{many}: values and "
            "presence bits in the layout of this network"
        )


def _hypernetwork(who: str, condition_dim: int, n_out: int) -> nn.Sequential:
    """An MLP of one hidden layer whose output is zero at the start."""
    if min(condition_dim, n_out) < 1:
        raise ValueError(f"{who}: got condition_dim {condition_dim}, outputs {n_out}, expected at least 1 each")
    last = nn.Linear(_HIDDEN, n_out)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(condition_dim, _HIDDEN), nn.ReLU(), last)
