"""Samples and readers, unrolled networks, classical methods, metrics, training and evaluation."""

from pathlib import Path

import physics

if Path(physics.__file__ or "").resolve().parent != Path(__file__).resolve().parents[1] / "physics":
    foreign = physics.__file__ or list(physics.__path__)
    advice = "install fedrecon into an environment of its own"
    raise ImportError(f"recon: `import physics` found a foreign package, {foreign}; {advice}")

from .adapters import add_lora, add_prompts, add_scales, base_name, freeze_base, is_adapter
from .augmentation import Augmentation
from .calls import apply, call
from .claims import MIN_SEEDS, SEEDS_OF_SMALL_EFFECT, Aim, Hypothesis, seeds_needed, verdict
from .classical import CLASSICAL, CGSense, L1Wavelet, TotalVariation, ZeroFilled, tune
from .classical_ct import CGLS, SIRT, FilteredBackprojection, PenalizedTV
from .conditioning import Codebook, FiLM, StepScale
from .consistency import (
    DATA_CONSISTENCY,
    ChebyshevStep,
    DualStep,
    FilteredStep,
    GradientStep,
    NormalizedStep,
    NoStep,
    ProximalStep,
    SiteDataConsistency,
    SitePart,
    SiteStrength,
    WeightedStep,
)
from .corrections import CORRECTIONS, AxisCorrection, MapsCorrection, OperatorCorrection
from .ct_quality import Probe, Quality, measure_quality
from .data_consistent import DataConsistent
from .errors import DataError, data_error
from .evaluation import SiteScores, VolumeImages, VolumeScore, evaluate, reconstruct
from .files import write_atomically, write_hdf5
from .kspace import KSpaceSlices, MapsMethod, ReferenceChoice, Simulation
from .losses import LOSSES, l1_loss, l1_ssim_loss, ssim_loss
from .metrics import foreground_ssim, metric_card, nmse, psnr, ssim
from .moments import MomentAlignment, measure_moments, moment_layout
from .mri_file import Volume, fitting_crop, open_volume
from .mri_header import Header, header_xml, read_header
from .networks import FixedCondition, UnrolledNetwork, image_scale
from .objectives import (
    ContrastiveRatio,
    Distillation,
    MeasurementResidual,
    MutualDistillation,
    Penalty,
    Proximal,
    SelfSupervised,
    Supervised,
    TaskTerm,
    TwoViews,
)
from .regularizers import REGULARIZERS, ConvRegularizer, Regularizer, UNetRegularizer
from .report import (
    ComparedTable,
    compare_arms,
    comparison_text,
    html_page,
    html_table,
    line_panel,
    summarize,
    text_table,
    write_comparison,
    write_report,
    write_site_report,
)
from .sample import (
    Sample,
    SampleMeta,
    Samples,
    batches,
    center_crop,
    collate,
    held_out_split,
)
from .scan_features import CONDITION_DIM, CONDITION_LAYOUT, condition_vector, ct_features, mask_family, mri_features
from .scores import ScoreRow, read_scores, select_table, summarize_arm, write_scores
from .simulate import read_images, simulate_volume, simulated_header, with_smooth_phase, write_volume
from .sinogram_file import ScanSetup, SinogramFormat, SinogramVolume, open_sinograms, write_sinograms
from .sinograms import CT_SCALE, ScanSimulation, SinogramSlices
from .statistics import Interval, holm, paired_difference
from .training import TrainingResult, cosine_learning_rate, train_locally
from .twin import TwinNetwork

__all__ = [
    "CGLS",
    "CLASSICAL",
    "CONDITION_DIM",
    "CONDITION_LAYOUT",
    "CORRECTIONS",
    "CT_SCALE",
    "DATA_CONSISTENCY",
    "LOSSES",
    "MIN_SEEDS",
    "REGULARIZERS",
    "SEEDS_OF_SMALL_EFFECT",
    "SIRT",
    "Aim",
    "Augmentation",
    "AxisCorrection",
    "CGSense",
    "ChebyshevStep",
    "Codebook",
    "ComparedTable",
    "ContrastiveRatio",
    "ConvRegularizer",
    "DataConsistent",
    "DataError",
    "Distillation",
    "DualStep",
    "FiLM",
    "FilteredBackprojection",
    "FilteredStep",
    "FixedCondition",
    "GradientStep",
    "Header",
    "Hypothesis",
    "Interval",
    "KSpaceSlices",
    "L1Wavelet",
    "MapsCorrection",
    "MapsMethod",
    "MeasurementResidual",
    "MomentAlignment",
    "MutualDistillation",
    "NoStep",
    "NormalizedStep",
    "OperatorCorrection",
    "PenalizedTV",
    "Penalty",
    "Probe",
    "Proximal",
    "ProximalStep",
    "Quality",
    "ReferenceChoice",
    "Regularizer",
    "Sample",
    "SampleMeta",
    "Samples",
    "ScanSetup",
    "ScanSimulation",
    "ScoreRow",
    "SelfSupervised",
    "Simulation",
    "SinogramFormat",
    "SinogramSlices",
    "SinogramVolume",
    "SiteDataConsistency",
    "SitePart",
    "SiteScores",
    "SiteStrength",
    "StepScale",
    "Supervised",
    "TaskTerm",
    "TotalVariation",
    "TrainingResult",
    "TwinNetwork",
    "TwoViews",
    "UNetRegularizer",
    "UnrolledNetwork",
    "Volume",
    "VolumeImages",
    "VolumeScore",
    "WeightedStep",
    "ZeroFilled",
    "add_lora",
    "add_prompts",
    "add_scales",
    "apply",
    "base_name",
    "batches",
    "call",
    "center_crop",
    "collate",
    "compare_arms",
    "comparison_text",
    "condition_vector",
    "cosine_learning_rate",
    "ct_features",
    "data_error",
    "evaluate",
    "fitting_crop",
    "foreground_ssim",
    "freeze_base",
    "header_xml",
    "held_out_split",
    "holm",
    "html_page",
    "html_table",
    "image_scale",
    "is_adapter",
    "l1_loss",
    "l1_ssim_loss",
    "line_panel",
    "mask_family",
    "measure_moments",
    "measure_quality",
    "metric_card",
    "moment_layout",
    "mri_features",
    "nmse",
    "open_sinograms",
    "open_volume",
    "paired_difference",
    "psnr",
    "read_header",
    "read_images",
    "read_scores",
    "reconstruct",
    "seeds_needed",
    "select_table",
    "simulate_volume",
    "simulated_header",
    "ssim",
    "ssim_loss",
    "summarize",
    "summarize_arm",
    "text_table",
    "train_locally",
    "tune",
    "verdict",
    "with_smooth_phase",
    "write_atomically",
    "write_comparison",
    "write_hdf5",
    "write_report",
    "write_scores",
    "write_sinograms",
    "write_site_report",
    "write_volume",
]
