"""Classical CT reconstruction."""

from torch import Tensor, nn

from physics import (
    LinearOperator,
    RadonOperator,
    Registry,
    conjugate_gradient,
    has_filtered_backprojection,
    penalized_tv,
    per_sample,
)

from ..method import image_scale, require_operator
from .tuning import ClassicalMethod


class FilteredBackprojection(ClassicalMethod):
    """Filtered back-projection of the line integrals, the standard method of CT.

    A scan of vectors that has none (:func:`physics.has_filtered_backprojection`) is reconstructed by
    ``RadonOperator.start``, twenty iterations of SIRT; ``sites check`` says so.

    Parameters
    ----------
    cutoff
        Highest frequency as a fraction of the detector's Nyquist frequency.
    window
        Key of :data:`physics.WINDOWS`.
    """

    candidates = (0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0)

    def __init__(self, cutoff: float = 1.0, window: str = "shepp_logan") -> None:
        super().__init__()
        self.cutoff, self.window = cutoff, window

    def forward(self, y: Tensor, A: LinearOperator) -> Tensor:
        """Reconstruct ``(*batch, views, detectors) -> (*batch, height, width)``.

        Raises
        ------
        TypeError
            If ``A`` is not a :class:`physics.RadonOperator`.
        """
        scan = require_operator("FilteredBackprojection", A, RadonOperator)
        if not has_filtered_backprojection(scan.geometry):
            return scan.start(y)
        return scan.backprojected(y, self.window, self.cutoff)


class SIRT(ClassicalMethod):
    r"""Simultaneous iterative reconstruction, :math:`x \leftarrow \max(x + C A^T R (y - A x), 0)`, from zero.

    Parameters
    ----------
    iterations
        Fewer regularize more.

    References
    ----------
    .. [GB] Gregor and Benson, Computational analysis and improvement of SIRT, IEEE Trans. Med. Imaging 27, 2008.
    """

    candidates = (10, 20, 40, 80, 160)

    def __init__(self, iterations: int = 100) -> None:
        super().__init__()
        self.iterations = iterations

    def forward(self, y: Tensor, A: LinearOperator) -> Tensor:
        x = y.new_zeros(*y.shape[: y.ndim - len(A.range_shape)], *A.domain_shape)
        for _ in range(self.iterations):
            x = (x + A.normalized_adjoint(y - A(x))).clamp_min(0)
        return x


class CGLS(ClassicalMethod):
    """Conjugate gradients on the least-squares problem, from zero.

    Parameters
    ----------
    iterations
        Fewer regularize more.
    """

    candidates = (10, 20, 40, 80, 160)

    def __init__(self, iterations: int = 12) -> None:
        super().__init__()
        self.iterations = iterations

    def forward(self, y: Tensor, A: LinearOperator) -> Tensor:
        return conjugate_gradient(A.gram, A.adjoint(y), max_iterations=self.iterations, tolerance=0.0)


class PenalizedTV(ClassicalMethod):
    r"""Penalized weighted least squares with isotropic total variation and :math:`x \ge 0`.

    Solves :math:`\min_x \tfrac12 \|A x - y\|^2 + w \frac{\|A\|^2}{n} \mathrm{TV}(x)`, n pixels along the longer side,
    by :func:`physics.penalized_tv`; ``A`` and ``y`` contain the statistical weights. Images are scaled to a robust
    maximum of 1: the same weight fits every scanner.

    Parameters
    ----------
    weight
        ``w``.
    iterations
        200 suffice for full scans at the best weight; limited angles improve up to 1000.
    """

    candidates_key = "tv_weights_ct"

    def __init__(self, weight: float = 1e-3, iterations: int = 200) -> None:
        super().__init__()
        if not weight > 0:
            raise ValueError(f"PenalizedTV: weight is {weight}, expected a positive number")
        self.weight, self.iterations = weight, iterations

    def forward(self, y: Tensor, A: LinearOperator) -> Tensor:
        start = require_operator("PenalizedTV", A, RadonOperator).start(y)
        scale = per_sample(image_scale(start), 2)
        return penalized_tv(y / scale, A, self.weight / max(A.domain_shape), start / scale, self.iterations) * scale


#: Classical methods of CT by the name of their arm in a report.
CT_METHODS: Registry[nn.Module] = Registry(
    "classical method of CT",
    {"fbp": FilteredBackprojection, "sirt": SIRT, "cgls": CGLS, "tv": PenalizedTV},
)
