from .ct import (
    CGLS as CGLS,
    CT_METHODS as CT_METHODS,
    SIRT as SIRT,
    FilteredBackprojection as FilteredBackprojection,
    PenalizedTV as PenalizedTV,
)
from .mri import (
    MRI_METHODS as MRI_METHODS,
    CGSense as CGSense,
    L1Wavelet as L1Wavelet,
    TotalVariation as TotalVariation,
    ZeroFilled as ZeroFilled,
)
from .tuning import ClassicalMethod as ClassicalMethod, tune as tune
