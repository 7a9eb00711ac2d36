"""Every operator by its name."""

from .ct import RadonOperator
from .mri import CartesianGram, CartesianMRI, CoilMaps, FourierTransform
from .operator import Adjoint, Composition, LinearOperator, Sampling, Scaled, Sum

#: Every operator that can be plugged in; each gets the property tests for free.
OPERATORS: dict[str, type[LinearOperator]] = {
    operator.__name__: operator
    for operator in (
        Adjoint,
        CartesianGram,
        CartesianMRI,
        CoilMaps,
        Composition,
        FourierTransform,
        RadonOperator,
        Sampling,
        Scaled,
        Sum,
    )
}
