"""Samples and readers, unrolled networks, classical methods, metrics, training and evaluation."""

from pathlib import Path

import physics

if Path(physics.__file__ or "").resolve().parent != Path(__file__).resolve().parents[1] / "physics":
    foreign = physics.__file__ or list(physics.__path__)
    advice = "install fedrecon into an environment of its own"
    raise ImportError(f"recon: `import physics` found a foreign package, {foreign}; {advice}")

from .augmentation import Augmentation
from .classical import CLASSICAL, CGSense, L1Wavelet, TotalVariation, ZeroFilled, tune
from .classical_ct import CGLS, SIRT, FilteredBackprojection, PenalizedTV
from .consistency import (
    DATA_CONSISTENCY,
    ChebyshevStep,
    DualStep,
    FilteredStep,
    GradientStep,
    NormalizedStep,
    ProximalStep,
    SiteDataConsistency,
    SitePart,
    SiteStrength,
)
from .ct_quality import Probe, Quality, measure_quality
from .errors import DataError, data_error
from .evaluation import SiteScores, VolumeImages, VolumeScore, evaluate, reconstruct
from .files import write_atomically, write_hdf5
from .kspace import KSpaceSlices, MapsMethod, ReferenceChoice, Simulation
from .losses import LOSSES, l1_loss, l1_ssim_loss, ssim_loss
from .metrics import foreground_ssim, metric_card, nmse, psnr, ssim
from .mri_file import Volume, fitting_crop, open_volume
from .mri_header import Header, header_xml, read_header
from .networks import UnrolledNetwork, image_scale
from .regularizers import REGULARIZERS, ConvRegularizer, Regularizer, UNetRegularizer
from .report import summarize, text_table, write_report, write_site_report
from .sample import (
    CONDITION_LAYOUT,
    Sample,
    SampleMeta,
    Samples,
    batches,
    center_crop,
    collate,
    held_out_split,
)
from .simulate import read_images, simulate_volume, simulated_header, with_smooth_phase, write_volume
from .sinogram_file import ScanSetup, SinogramFormat, SinogramVolume, open_sinograms, write_sinograms
from .sinograms import CT_SCALE, ScanSimulation, SinogramSlices
from .training import TrainingResult, cosine_learning_rate, train_locally

__all__ = [
    "CGLS",
    "CLASSICAL",
    "CONDITION_LAYOUT",
    "CT_SCALE",
    "DATA_CONSISTENCY",
    "LOSSES",
    "REGULARIZERS",
    "SIRT",
    "Augmentation",
    "CGSense",
    "ChebyshevStep",
    "ConvRegularizer",
    "DataError",
    "DualStep",
    "FilteredBackprojection",
    "FilteredStep",
    "GradientStep",
    "Header",
    "KSpaceSlices",
    "L1Wavelet",
    "MapsMethod",
    "NormalizedStep",
    "PenalizedTV",
    "Probe",
    "ProximalStep",
    "Quality",
    "ReferenceChoice",
    "Regularizer",
    "Sample",
    "SampleMeta",
    "Samples",
    "ScanSetup",
    "ScanSimulation",
    "Simulation",
    "SinogramFormat",
    "SinogramSlices",
    "SinogramVolume",
    "SiteDataConsistency",
    "SitePart",
    "SiteScores",
    "SiteStrength",
    "TotalVariation",
    "TrainingResult",
    "UNetRegularizer",
    "UnrolledNetwork",
    "Volume",
    "VolumeImages",
    "VolumeScore",
    "ZeroFilled",
    "batches",
    "center_crop",
    "collate",
    "cosine_learning_rate",
    "data_error",
    "evaluate",
    "fitting_crop",
    "foreground_ssim",
    "header_xml",
    "held_out_split",
    "image_scale",
    "l1_loss",
    "l1_ssim_loss",
    "measure_quality",
    "metric_card",
    "nmse",
    "open_sinograms",
    "open_volume",
    "psnr",
    "read_header",
    "read_images",
    "reconstruct",
    "simulate_volume",
    "simulated_header",
    "ssim",
    "ssim_loss",
    "summarize",
    "text_table",
    "train_locally",
    "tune",
    "with_smooth_phase",
    "write_atomically",
    "write_hdf5",
    "write_report",
    "write_sinograms",
    "write_site_report",
    "write_volume",
]
