"""Unrolled reconstruction networks, called as ``network(y, A)``."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from physics import LinearOperator, per_sample

from ..method import image_scale
from .conditioning import StepScale
from .data_consistency import DualStep, SiteDataConsistency, SiteStrength
from .operator_corrections import OperatorCorrection
from .regularizers import Regularizer


class UnrolledNetwork(nn.Module):
    r"""Start image, then ``cascades`` times data consistency followed by a regularizer.

    The network divides by a robust maximum of the start image and multiplies the result back: :math:`f(a y) = a f(y)`
    for any units of the scanner. It does not for quantitative operators (CT), so that bone and water have the same
    values at every site.

    Parameters
    ----------
    cascades
        Number of iterations.
    consistency, regularizer
        Constructors of one layer, called once per cascade (the regularizer once if shared).
    share_regularizer
        One regularizer for all cascades; it is registered and sent once.
    ends_in
        ``"regularizer"``, or ``"consistency"``: one more data-consistency layer at the end, which restores the
        measured samples together with the noise of the background.
    combine
        ``"sequence"``: the regularizer gets the image after data consistency. ``"sum"``: both get the same image and
        their changes are added, as in a gradient step on a regularized cost (LEARN [L]_, the variational network).
    site_strength
        Every cascade has a :class:`SiteStrength`, kept at the site.
    start
        ``"operator"``: ``A.start(y)``, which is filtered back-projection or a few iterations of CG-SENSE.
        ``"adjoint"``: the scaled adjoint, which is the zero-filled image in MRI.
    step_scale
        Constructor of one layer per cascade that maps the condition to a factor of the data-consistency step.
    correction
        Constructor of an :class:`OperatorCorrection`, applied first.
    uses_condition
        Whether the regularizers take the condition.

    References
    ----------
    .. [L] Chen et al., LEARN: Learned experts' assessment-based reconstruction network for sparse-data CT, IEEE Trans.
       Med. Imaging 37, 2018.
    """

    def __init__(
        self,
        cascades: int,
        consistency: Callable[[], SiteDataConsistency],
        regularizer: Callable[[], Regularizer],
        *,
        share_regularizer: bool = False,
        ends_in: Literal["regularizer", "consistency"] = "regularizer",
        combine: Literal["sequence", "sum"] = "sequence",
        site_strength: bool = False,
        start: Literal["operator", "adjoint"] = "operator",
        step_scale: Callable[[], StepScale] | None = None,
        correction: Callable[[], OperatorCorrection] | None = None,
        uses_condition: bool = False,
    ) -> None:
        super().__init__()
        if cascades < 1:
            raise ValueError(f"UnrolledNetwork: cascades is {cascades}, expected at least 1")
        if ends_in not in ("regularizer", "consistency"):
            raise ValueError(f"UnrolledNetwork: ends_in is {ends_in!r}, expected 'regularizer' or 'consistency'")
        if combine not in ("sequence", "sum"):
            raise ValueError(f"UnrolledNetwork: combine is {combine!r}, expected 'sequence' or 'sum'")
        if start not in ("operator", "adjoint"):
            raise ValueError(f"UnrolledNetwork: start is {start!r}, expected 'operator' or 'adjoint'")
        self.cascades, self.combine, self.start = cascades, combine, start
        self._regularizers_use_condition = uses_condition
        n_consistency = cascades + (ends_in == "consistency")
        # Shared parts are drawn first: they start equal at all sites, whatever kept parts a site has.
        regularizers = [regularizer() for _ in range(1 if share_regularizer else cascades)]
        scales = [] if step_scale is None else [step_scale() for _ in range(n_consistency)]
        self.correction = None if correction is None else correction()
        self.consistency = nn.ModuleList(consistency() for _ in range(n_consistency))
        if len(self._layers) < n_consistency:
            found = type(self.consistency[0]).__name__
            raise ValueError(f"consistency: found {found}, expected a subclass of recon.SiteDataConsistency")
        self.strengths = nn.ModuleList(SiteStrength() for _ in range(cascades if site_strength else 0))
        self.regularizers = nn.ModuleList(regularizers)
        self.scales = nn.ModuleList(scales)

    @property
    def uses_condition(self) -> bool:
        """Whether the network must be called with a condition."""
        return self._regularizers_use_condition or len(self.scales) > 0

    @property
    def _layers(self) -> list[SiteDataConsistency]:
        return [layer for layer in self.consistency if isinstance(layer, SiteDataConsistency)]

    def forward(self, y: Tensor, A: LinearOperator, condition: Tensor | None = None) -> Tensor:
        """Reconstruct, ``(*batch, *A.range_shape) -> (*batch, *A.domain_shape)``, in the units of ``y``.

        Raises
        ------
        ValueError
            If the network uses a condition and gets none, or gets a condition and uses none.
        """
        if (condition is not None) != self.uses_condition:
            found = "none" if condition is None else f"one of shape {tuple(condition.shape)}"
            raise ValueError(
                f"UnrolledNetwork: got {found} as condition, expected "
                + ("one; set network.condition to none where samples have none" if condition is None else "none")
            )
        if self.correction is not None:
            y, A = self.correction(y, A)
        start = A.start(y) if self.start == "operator" else LinearOperator.normalized_adjoint(A, y)
        if A.quantitative:
            return self._iterate(start, y, A, condition)
        scale = image_scale(start, len(A.domain_shape))
        y = y / per_sample(scale, len(A.range_shape))
        x = start / per_sample(scale, len(A.domain_shape))
        return self._iterate(x, y, A, condition) * per_sample(scale, len(A.domain_shape))

    def _iterate(self, x: Tensor, y: Tensor, A: LinearOperator, condition: Tensor | None) -> Tensor:
        backprojection = A.adjoint(y) if any(layer.uses_backprojection for layer in self._layers) else None
        memory: Tensor | None = None
        seen_condition = condition if self._regularizers_use_condition else None
        for index, layer in enumerate(self._layers):
            before = x
            if isinstance(layer, DualStep):
                x, memory = layer.update(x, y, A, memory)
            else:
                x = layer(x, y, A, backprojection)
            if self.scales:
                factor = per_sample(self.scales[index](condition), len(A.domain_shape))
                x = before + factor * (x - before)
            if index < self.cascades:
                seen = before if self.combine == "sum" else x
                refined = self.regularizers[index % len(self.regularizers)](seen, seen_condition)
                if self.strengths:
                    refined = self.strengths[index](seen, refined)
                x = x + refined - seen if self.combine == "sum" else refined
        return x
