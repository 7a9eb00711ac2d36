"""Metrics, scores per volume, CT image quality."""

from .ct_quality import Probe, Quality, measure_quality
from .evaluate import SiteScores, VolumeImages, VolumeScore, evaluate, reconstruct
from .metrics import METRICS, foreground_ssim, metric_card, nmse, psnr, ssim

__all__ = [
    "METRICS",
    "Probe",
    "Quality",
    "SiteScores",
    "VolumeImages",
    "VolumeScore",
    "evaluate",
    "foreground_ssim",
    "measure_quality",
    "metric_card",
    "nmse",
    "psnr",
    "reconstruct",
    "ssim",
]
