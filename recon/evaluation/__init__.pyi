from .ct_quality import Probe as Probe
from .ct_quality import Quality as Quality
from .ct_quality import measure_quality as measure_quality
from .evaluate import (
    SiteScores as SiteScores,
)
from .evaluate import (
    VolumeImages as VolumeImages,
)
from .evaluate import (
    VolumeScore as VolumeScore,
)
from .evaluate import (
    evaluate as evaluate,
)
from .evaluate import (
    reconstruct as reconstruct,
)
from .metrics import (
    METRICS as METRICS,
)
from .metrics import (
    foreground_ssim as foreground_ssim,
)
from .metrics import (
    metric_card as metric_card,
)
from .metrics import (
    nmse as nmse,
)
from .metrics import (
    psnr as psnr,
)
from .metrics import (
    ssim as ssim,
)
