from .augmentation import Augmentation as Augmentation
from .ct_file import SinogramVolume as SinogramVolume, write_sinograms as write_sinograms
from .ct_formats import CT_READERS as CT_READERS, open_sinograms as open_sinograms
from .ct_slices import CT_SCALE as CT_SCALE, ScanSimulation as ScanSimulation, SinogramSlices as SinogramSlices
from .hold_out import held_out_split as held_out_split, hide as hide, require_fraction as require_fraction
from .image_files import read_images as read_images
from .mri_file import (
    MRI_READERS as MRI_READERS,
    KSpaceVolume as KSpaceVolume,
    fitting_crop as fitting_crop,
    open_kspace as open_kspace,
    open_volume as open_volume,
)
from .mri_header import Header as Header, header_xml as header_xml, read_header as read_header
from .mri_simulation import (
    simulate_volume as simulate_volume,
    simulated_header as simulated_header,
    with_smooth_phase as with_smooth_phase,
    write_volume as write_volume,
)
from .mri_slices import (
    KSpaceSlices as KSpaceSlices,
    MapsMethod as MapsMethod,
    ReferenceChoice as ReferenceChoice,
    Simulation as Simulation,
)
from .sample import (
    Sample as Sample,
    SampleMeta as SampleMeta,
    Samples as Samples,
    batches as batches,
    center_crop as center_crop,
    collate as collate,
)
from .scan_features import (
    CONDITION_DIM as CONDITION_DIM,
    CONDITION_LAYOUT as CONDITION_LAYOUT,
    Codebook as Codebook,
    condition_vector as condition_vector,
    ct_features as ct_features,
    mask_family as mask_family,
    mri_features as mri_features,
    split_condition as split_condition,
)
from .slices import (
    Seed as Seed,
    Volume as Volume,
    VolumeSlices as VolumeSlices,
    generator_for as generator_for,
    seed_from as seed_from,
)
