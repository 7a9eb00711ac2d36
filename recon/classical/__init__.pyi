from .ct import (
    CGLS as CGLS,
)
from .ct import (
    CT_METHODS as CT_METHODS,
)
from .ct import (
    SIRT as SIRT,
)
from .ct import (
    FilteredBackprojection as FilteredBackprojection,
)
from .ct import (
    PenalizedTV as PenalizedTV,
)
from .mri import (
    MRI_METHODS as MRI_METHODS,
)
from .mri import (
    CGSense as CGSense,
)
from .mri import (
    L1Wavelet as L1Wavelet,
)
from .mri import (
    TotalVariation as TotalVariation,
)
from .mri import (
    ZeroFilled as ZeroFilled,
)
from .tuning import ClassicalMethod as ClassicalMethod
from .tuning import tune as tune
