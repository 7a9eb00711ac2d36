"""Networks that know the scan: small hypernetworks from a condition vector to scales, shifts and steps."""

import torch
from torch import Tensor, nn


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
