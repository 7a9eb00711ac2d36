"""Features of a scan as a condition vector: one fixed layout of named entries for MRI and CT, scaled to 0 to 1."""

import difflib
import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from physics import FanBeam, Geometry, calibration_block

MaskFamily = Literal["random", "equispaced", "partial", "plane"]

#: Every entry with the values that become 0 and 1; values beyond are scaled likewise, not clipped. The entries of CT
#: are the seven of HyperFed, whose unit of length, 100 mm, is written out.
FEATURE_RANGES: dict[str, tuple[float, float]] = {
    "log2_acceleration": (0.0, 4.0),
    "center_fraction": (0.0, 0.5),
    "n_coils/16": (0.0, 1.0),
    "log10_noise_std": (-4.0, 0.0),
    "mask_random": (0.0, 1.0),
    "mask_equispaced": (0.0, 1.0),
    "mask_partial": (0.0, 1.0),
    "mask_plane": (0.0, 1.0),
    "log2_views": (4.0, 10.0),
    "detectors/256": (0.0, 4.0),
    "pitch_mm": (0.0, 8.0),
    "angle_step_rad": (0.0, 0.25),
    "source_to_axis_mm": (0.0, 1000.0),
    "axis_to_detector_mm": (0.0, 1000.0),
    "log10_photons": (3.0, 6.0),
}

#: Entries of `Sample.condition`, each followed by its presence bit; absent entries have value 0 and bit 0.
CONDITION_LAYOUT = tuple(FEATURE_RANGES)

#: Length of a condition vector.
CONDITION_DIM = 2 * len(CONDITION_LAYOUT)

#: Family of each sampling in `physics.SAMPLINGS`.
SAMPLING_FAMILIES: dict[str, MaskFamily] = {
    "random": "random",
    "equispaced": "equispaced",
    "equispaced_fraction": "equispaced",
    "magic": "equispaced",
    "magic_fraction": "equispaced",
    "partial_fourier": "partial",
    "poisson": "plane",
    "gaussian": "plane",
}


def condition_vector(values: Mapping[str, float]) -> Tensor:
    """Condition vector of named values, in the order of `CONDITION_LAYOUT`, scaled by `FEATURE_RANGES`.

    Parameters
    ----------
    values
        Unscaled values by name, see :func:`mri_features` and :func:`ct_features`; entries without a value are absent.

    Returns
    -------
        float32 of shape ``(CONDITION_DIM,)``: value, presence bit, value, presence bit, ...

    Raises
    ------
    ValueError
        If a name is unknown or a value is not finite.
    """
    for name, value in values.items():
        if name not in FEATURE_RANGES:
            near = difflib.get_close_matches(name, FEATURE_RANGES, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            names = ", ".join(CONDITION_LAYOUT)
            raise ValueError(f"condition_vector: no entry {name!r}; {hint}expected one of {names}")
        if not math.isfinite(value):
            raise ValueError(f"condition_vector: {name} is {value}, expected a finite number; leave it out if unknown")
    vector: list[float] = []
    for name, (low, high) in FEATURE_RANGES.items():
        vector += [(values[name] - low) / (high - low), 1.0] if name in values else [0.0, 0.0]
    return torch.tensor(vector)


def split_condition(condition: Tensor) -> tuple[Tensor, Tensor]:
    """Scaled values and presence (bool) of condition vectors, each ``(*batch, len(CONDITION_LAYOUT))``.

    Raises
    ------
    ValueError
        If the last axis does not have the length of the layout.
    """
    if condition.ndim < 1 or condition.shape[-1] != CONDITION_DIM:
        raise ValueError(
            f"split_condition: condition has shape {tuple(condition.shape)}, expected (..., {CONDITION_DIM}): the "
            f"{len(CONDITION_LAYOUT)} entries of CONDITION_LAYOUT, each with its presence bit"
        )
    return condition[..., 0::2], condition[..., 1::2] > 0.5


def mri_features(
    *, acceleration: float, center_fraction: float, n_coils: int, noise_std: float, family: MaskFamily | None
) -> dict[str, float]:
    """Unscaled features of a Cartesian MRI scan.

    Parameters
    ----------
    acceleration
        Positions per sampled position, at least 1.
    center_fraction
        Fraction of the columns in the calibration block.
    noise_std
        Noise level in scaled units, see :class:`Sample`; 0: unknown, the entry is absent.
    family
        Family of the mask, see :func:`mask_family`; None: the entries are absent.

    Raises
    ------
    ValueError
        If the acceleration is below 1 or the family unknown.
    """
    if not acceleration >= 1:
        raise ValueError(f"mri_features: acceleration is {acceleration}, expected at least 1")
    families = ("random", "equispaced", "partial", "plane")
    if family is not None and family not in families:
        raise ValueError(f"mri_features: family is {family!r}, expected one of {', '.join(families)}, or None")
    features = {
        "log2_acceleration": math.log2(acceleration),
        "center_fraction": center_fraction,
        "n_coils/16": n_coils / 16,
    }
    if noise_std > 0:
        features["log10_noise_std"] = math.log10(noise_std)
    if family is not None:
        features |= {f"mask_{name}": float(name == family) for name in families}
    return features


def ct_features(geometry: Geometry, photons: float | None) -> dict[str, float]:
    """Unscaled features of a CT scan, as in HyperFed; the distances of a parallel beam are absent.

    Parameters
    ----------
    geometry
        Geometry of the views that are used.
    photons
        Mean photons per ray; None: unknown, the entry is absent.

    Raises
    ------
    ValueError
        If the photons are not positive.

    References
    ----------
    .. [HyperFed] Yang et al., Hypernetwork-based physics-driven personalized federated learning for CT imaging, IEEE
       Trans. Neural Netw. Learn. Syst., 2023.
    """
    if photons is not None and not photons > 0:
        raise ValueError(f"ct_features: photons is {photons}, expected more than 0, or None where they are unknown")
    views, detectors = geometry.shape
    geometry = geometry.nominal
    features = {
        "log2_views": math.log2(views),
        "detectors/256": detectors / 256,
        "pitch_mm": geometry.pitch_mm,
    }
    if views > 1:
        # The median ignores the gap of a limited angle; views may come in any order.
        features["angle_step_rad"] = float(np.median(np.diff(np.sort(geometry.angles))))
    if isinstance(geometry, FanBeam):
        features["source_to_axis_mm"] = geometry.source_to_axis_mm
        features["axis_to_detector_mm"] = geometry.source_to_detector_mm - geometry.source_to_axis_mm
    if photons is not None:
        features["log10_photons"] = math.log10(photons)
    return features


def mask_family(mask: Tensor) -> MaskFamily | None:
    """Family of a mask, guessed from its columns; None if all columns are sampled, or only a center.

    ``plane`` if rows differ. ``partial`` if one end of k-space lacks more columns than the other, by more than a
    sixteenth of the width and more than the largest gap between samples. ``equispaced`` if the gaps on both sides of
    the calibration block differ by one at most, as after rounding; otherwise ``random``. A random mask of few columns
    may look like another family by chance: where the sampling is known, use `SAMPLING_FAMILIES`.

    Parameters
    ----------
    mask
        ``(width,)`` or ``(1 | height, width)``, boolean or 0/1.

    Raises
    ------
    ValueError
        If it samples nothing or has another shape.
    """
    if mask.ndim not in (1, 2) or not bool(mask.any()):
        found = f"shape {tuple(mask.shape)}" if mask.ndim not in (1, 2) else "no sampled position"
        raise ValueError(f"mask_family: mask has {found}, expected (width,) or (height, width) with samples")
    rows = mask.reshape(-1, mask.shape[-1]) != 0
    if not torch.equal(rows, rows[:1].expand_as(rows)):
        return "plane"
    row, width = rows[0], rows.shape[1]
    columns = row.nonzero().flatten()
    center = calibration_block(row)[0] if row[width // 2] else slice(width // 2, width // 2)
    gaps = torch.cat((columns[columns < center.start].diff(), columns[columns >= center.stop].diff()))
    largest = int(gaps.max()) if len(gaps) else 1
    lacking = abs(int(columns[0]) - (width - 1 - int(columns[-1])))
    if lacking > max(largest, width / 16):
        return "partial"
    if largest == 1:
        return None
    return "equispaced" if largest - int(gaps.min()) <= 1 else "random"


def nearest_code(codes: Mapping[str, Tensor], condition: Tensor) -> str:
    """Name of the condition vector nearest to a condition: an unseen site takes the code of a known protocol [S]_.

    The distance is the root mean square difference over the entries that both have [D]_. Of equally near codes the one
    with more entries in common is taken, then the first by name.

    Parameters
    ----------
    codes
        Condition vectors by name, at least one.
    condition
        Shape ``(CONDITION_DIM,)``.

    Raises
    ------
    ValueError
        If there is no code, a vector has another layout, or the condition shares no entry with any code.

    References
    ----------
    .. [S] Yang et al., Patient-level anatomy meets scanning-level physics: personalized federated low-dose CT denoising
       empowered by large language model (SCAN-PhysFed), CVPR 2025. There the codes are learned embeddings; here they
       are the scans' own features.
    .. [D] Dixon, Pattern recognition with partly missing data, IEEE Trans. Syst. Man Cybern. 9, 1979.
    """
    if not codes:
        raise ValueError("nearest_code: got no code, expected at least one")
    for name, vector in {**codes, "the condition": condition}.items():
        if vector.shape != (CONDITION_DIM,) or not bool(vector.isfinite().all()):
            found = f"shape {tuple(vector.shape)}" if vector.shape != (CONDITION_DIM,) else "NaN or infinity"
            raise ValueError(f"nearest_code: {name} has {found}, expected a finite vector of length {CONDITION_DIM}")
    values, present = split_condition(condition.detach().cpu())
    found_codes: list[tuple[float, int, str]] = []
    for name, code in codes.items():
        code_values, code_present = split_condition(code.detach().cpu())
        common = present & code_present
        if common.any():
            difference = (values - code_values)[common].double()
            found_codes.append((float(difference.square().mean()), -int(common.sum()), name))
    if not found_codes:
        names = ", ".join(sorted(codes))
        raise ValueError(f"nearest_code: the condition shares no entry with {names}; is it of another modality?")
    return min(found_codes)[2]
