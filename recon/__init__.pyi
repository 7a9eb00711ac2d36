from .checks import (
    PartError as PartError,
)
from .checks import (
    check_classical as check_classical,
)
from .checks import (
    check_data_consistency as check_data_consistency,
)
from .checks import (
    check_penalty as check_penalty,
)
from .checks import (
    check_reader as check_reader,
)
from .checks import (
    check_regularizer as check_regularizer,
)
from .checks import (
    check_task as check_task,
)
from .classical import (
    CGLS as CGLS,
)
from .classical import (
    SIRT as SIRT,
)
from .classical import (
    CGSense as CGSense,
)
from .classical import (
    ClassicalMethod as ClassicalMethod,
)
from .classical import (
    FilteredBackprojection as FilteredBackprojection,
)
from .classical import (
    L1Wavelet as L1Wavelet,
)
from .classical import (
    PenalizedTV as PenalizedTV,
)
from .classical import (
    TotalVariation as TotalVariation,
)
from .classical import (
    ZeroFilled as ZeroFilled,
)
from .classical import (
    tune as tune,
)
from .comparison import (
    MIN_SEEDS as MIN_SEEDS,
)
from .comparison import (
    SEEDS_OF_SMALL_EFFECT as SEEDS_OF_SMALL_EFFECT,
)
from .comparison import (
    Aim as Aim,
)
from .comparison import (
    ArmDetails as ArmDetails,
)
from .comparison import (
    ComparedTable as ComparedTable,
)
from .comparison import (
    Hypothesis as Hypothesis,
)
from .comparison import (
    Interval as Interval,
)
from .comparison import (
    ScoreRow as ScoreRow,
)
from .comparison import (
    compare_arms as compare_arms,
)
from .comparison import (
    comparison_text as comparison_text,
)
from .comparison import (
    paired_difference as paired_difference,
)
from .comparison import (
    read_scores as read_scores,
)
from .comparison import (
    seeds_needed as seeds_needed,
)
from .comparison import (
    select_table as select_table,
)
from .comparison import (
    summarize_arm as summarize_arm,
)
from .comparison import (
    write_comparison as write_comparison,
)
from .comparison import (
    write_scores as write_scores,
)
from .data import (
    CONDITION_DIM as CONDITION_DIM,
)
from .data import (
    CONDITION_LAYOUT as CONDITION_LAYOUT,
)
from .data import (
    CT_READERS as CT_READERS,
)
from .data import (
    CT_SCALE as CT_SCALE,
)
from .data import (
    MRI_READERS as MRI_READERS,
)
from .data import (
    Augmentation as Augmentation,
)
from .data import (
    Codebook as Codebook,
)
from .data import (
    Header as Header,
)
from .data import (
    KSpaceSlices as KSpaceSlices,
)
from .data import (
    KSpaceVolume as KSpaceVolume,
)
from .data import (
    MapsMethod as MapsMethod,
)
from .data import (
    ReferenceChoice as ReferenceChoice,
)
from .data import (
    Sample as Sample,
)
from .data import (
    SampleMeta as SampleMeta,
)
from .data import (
    Samples as Samples,
)
from .data import (
    ScanSimulation as ScanSimulation,
)
from .data import (
    Simulation as Simulation,
)
from .data import (
    SinogramSlices as SinogramSlices,
)
from .data import (
    SinogramVolume as SinogramVolume,
)
from .data import (
    Volume as Volume,
)
from .data import (
    VolumeSlices as VolumeSlices,
)
from .data import (
    batches as batches,
)
from .data import (
    center_crop as center_crop,
)
from .data import (
    collate as collate,
)
from .data import (
    condition_vector as condition_vector,
)
from .data import (
    ct_features as ct_features,
)
from .data import (
    fitting_crop as fitting_crop,
)
from .data import (
    header_xml as header_xml,
)
from .data import (
    held_out_split as held_out_split,
)
from .data import (
    mask_family as mask_family,
)
from .data import (
    mri_features as mri_features,
)
from .data import (
    open_kspace as open_kspace,
)
from .data import (
    open_sinograms as open_sinograms,
)
from .data import (
    open_volume as open_volume,
)
from .data import (
    read_header as read_header,
)
from .data import (
    read_images as read_images,
)
from .data import (
    seed_from as seed_from,
)
from .data import (
    simulate_volume as simulate_volume,
)
from .data import (
    simulated_header as simulated_header,
)
from .data import (
    with_smooth_phase as with_smooth_phase,
)
from .data import (
    write_sinograms as write_sinograms,
)
from .data import (
    write_volume as write_volume,
)
from .errors import DataError as DataError
from .errors import data_error as data_error
from .evaluation import (
    Probe as Probe,
)
from .evaluation import (
    Quality as Quality,
)
from .evaluation import (
    SiteScores as SiteScores,
)
from .evaluation import (
    VolumeImages as VolumeImages,
)
from .evaluation import (
    VolumeScore as VolumeScore,
)
from .evaluation import (
    evaluate as evaluate,
)
from .evaluation import (
    foreground_ssim as foreground_ssim,
)
from .evaluation import (
    measure_quality as measure_quality,
)
from .evaluation import (
    metric_card as metric_card,
)
from .evaluation import (
    nmse as nmse,
)
from .evaluation import (
    psnr as psnr,
)
from .evaluation import (
    reconstruct as reconstruct,
)
from .evaluation import (
    ssim as ssim,
)
from .files import write_atomically as write_atomically
from .files import write_hdf5 as write_hdf5
from .method import apply as apply
from .method import call as call
from .method import image_scale as image_scale
from .modalities import MODALITIES as MODALITIES
from .modalities import Modality as Modality
from .networks import (
    DATA_CONSISTENCY as DATA_CONSISTENCY,
)
from .networks import (
    REGULARIZERS as REGULARIZERS,
)
from .networks import (
    AxisCorrection as AxisCorrection,
)
from .networks import (
    ChebyshevStep as ChebyshevStep,
)
from .networks import (
    ConvRegularizer as ConvRegularizer,
)
from .networks import (
    DataConsistent as DataConsistent,
)
from .networks import (
    DualStep as DualStep,
)
from .networks import (
    FiLM as FiLM,
)
from .networks import (
    FilteredStep as FilteredStep,
)
from .networks import (
    FixedCondition as FixedCondition,
)
from .networks import (
    GradientStep as GradientStep,
)
from .networks import (
    MapsCorrection as MapsCorrection,
)
from .networks import (
    NormalizedStep as NormalizedStep,
)
from .networks import (
    NoStep as NoStep,
)
from .networks import (
    OperatorCorrection as OperatorCorrection,
)
from .networks import (
    ProximalStep as ProximalStep,
)
from .networks import (
    Regularizer as Regularizer,
)
from .networks import (
    SiteDataConsistency as SiteDataConsistency,
)
from .networks import (
    SitePart as SitePart,
)
from .networks import (
    SiteStrength as SiteStrength,
)
from .networks import (
    StepScale as StepScale,
)
from .networks import (
    TwinNetwork as TwinNetwork,
)
from .networks import (
    UNetRegularizer as UNetRegularizer,
)
from .networks import (
    UnrolledNetwork as UnrolledNetwork,
)
from .networks import (
    WeightedStep as WeightedStep,
)
from .networks import (
    add_lora as add_lora,
)
from .networks import (
    add_prompts as add_prompts,
)
from .networks import (
    add_scales as add_scales,
)
from .networks import (
    base_name as base_name,
)
from .networks import (
    freeze_base as freeze_base,
)
from .networks import (
    is_adapter as is_adapter,
)
from .report import (
    html_page as html_page,
)
from .report import (
    html_table as html_table,
)
from .report import (
    line_panel as line_panel,
)
from .report import (
    summarize as summarize,
)
from .report import (
    text_table as text_table,
)
from .report import (
    write_report as write_report,
)
from .report import (
    write_site_report as write_site_report,
)
from .training import (
    LOSSES as LOSSES,
)
from .training import (
    OBJECTIVES as OBJECTIVES,
)
from .training import (
    PENALTIES as PENALTIES,
)
from .training import (
    ContrastiveRatio as ContrastiveRatio,
)
from .training import (
    Distillation as Distillation,
)
from .training import (
    Learner as Learner,
)
from .training import (
    MeasurementResidual as MeasurementResidual,
)
from .training import (
    MomentAlignment as MomentAlignment,
)
from .training import (
    MutualDistillation as MutualDistillation,
)
from .training import (
    Penalty as Penalty,
)
from .training import (
    Proximal as Proximal,
)
from .training import (
    RoundStart as RoundStart,
)
from .training import (
    SelfSupervised as SelfSupervised,
)
from .training import (
    State as State,
)
from .training import (
    Stepper as Stepper,
)
from .training import (
    Supervised as Supervised,
)
from .training import (
    TaskTerm as TaskTerm,
)
from .training import (
    TrainingResult as TrainingResult,
)
from .training import (
    TwoViews as TwoViews,
)
from .training import (
    cosine_learning_rate as cosine_learning_rate,
)
from .training import (
    l1_loss as l1_loss,
)
from .training import (
    l1_ssim_loss as l1_ssim_loss,
)
from .training import (
    measure_moments as measure_moments,
)
from .training import (
    moment_layout as moment_layout,
)
from .training import (
    ssim_loss as ssim_loss,
)
from .training import (
    train_in_turns as train_in_turns,
)
from .training import (
    train_locally as train_locally,
)
