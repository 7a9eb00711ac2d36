from .ct_quality import Probe as Probe, Quality as Quality, measure_quality as measure_quality
from .evaluate import (
    SiteScores as SiteScores,
    VolumeImages as VolumeImages,
    VolumeScore as VolumeScore,
    evaluate as evaluate,
    reconstruct as reconstruct,
)
from .metrics import (
    METRICS as METRICS,
    foreground_ssim as foreground_ssim,
    metric_card as metric_card,
    nmse as nmse,
    psnr as psnr,
    ssim as ssim,
)
