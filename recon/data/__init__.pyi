from .augmentation import Augmentation as Augmentation
from .ct_file import SinogramVolume as SinogramVolume
from .ct_file import write_sinograms as write_sinograms
from .ct_formats import CT_READERS as CT_READERS
from .ct_formats import open_sinograms as open_sinograms
from .ct_slices import CT_SCALE as CT_SCALE
from .ct_slices import ScanSimulation as ScanSimulation
from .ct_slices import SinogramSlices as SinogramSlices
from .hold_out import held_out_split as held_out_split
from .hold_out import hide as hide
from .hold_out import require_fraction as require_fraction
from .image_files import read_images as read_images
from .mri_file import (
    MRI_READERS as MRI_READERS,
)
from .mri_file import (
    KSpaceVolume as KSpaceVolume,
)
from .mri_file import (
    fitting_crop as fitting_crop,
)
from .mri_file import (
    open_kspace as open_kspace,
)
from .mri_file import (
    open_volume as open_volume,
)
from .mri_header import Header as Header
from .mri_header import header_xml as header_xml
from .mri_header import read_header as read_header
from .mri_simulation import (
    simulate_volume as simulate_volume,
)
from .mri_simulation import (
    simulated_header as simulated_header,
)
from .mri_simulation import (
    with_smooth_phase as with_smooth_phase,
)
from .mri_simulation import (
    write_volume as write_volume,
)
from .mri_slices import (
    KSpaceSlices as KSpaceSlices,
)
from .mri_slices import (
    MapsMethod as MapsMethod,
)
from .mri_slices import (
    ReferenceChoice as ReferenceChoice,
)
from .mri_slices import (
    Simulation as Simulation,
)
from .sample import (
    Sample as Sample,
)
from .sample import (
    SampleMeta as SampleMeta,
)
from .sample import (
    Samples as Samples,
)
from .sample import (
    batches as batches,
)
from .sample import (
    center_crop as center_crop,
)
from .sample import (
    collate as collate,
)
from .scan_features import (
    CONDITION_DIM as CONDITION_DIM,
)
from .scan_features import (
    CONDITION_LAYOUT as CONDITION_LAYOUT,
)
from .scan_features import (
    Codebook as Codebook,
)
from .scan_features import (
    condition_vector as condition_vector,
)
from .scan_features import (
    ct_features as ct_features,
)
from .scan_features import (
    mask_family as mask_family,
)
from .scan_features import (
    mri_features as mri_features,
)
from .scan_features import (
    split_condition as split_condition,
)
from .slices import (
    Seed as Seed,
)
from .slices import (
    Volume as Volume,
)
from .slices import (
    VolumeSlices as VolumeSlices,
)
from .slices import (
    generator_for as generator_for,
)
from .slices import (
    seed_from as seed_from,
)
