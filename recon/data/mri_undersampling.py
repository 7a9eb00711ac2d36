"""Retrospective undersampling of fully sampled Cartesian k-space."""

import math
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le
from torch import Tensor

from physics import SAMPLINGS, file_seed, make_mask

from ..errors import DataError
from .mri_volume import KSpaceVolume
from .slices import Seed


@dataclass(frozen=True)
class Simulation:
    """Retrospective degradation of fully sampled data.

    Parameters
    ----------
    sampling
        A name in `physics.SAMPLINGS`.
    acceleration, center_fraction
        Arguments of the sampling. The file name seeds the mask of a volume, as in fastMRI.
    noise_std
        ``sqrt(E |n|^2)`` of the noise added to each complex k-space sample, over the maximum of the volume's
        root-sum-of-squares image. The covariance over coils is proportional to the ``noise_covariance`` of the file,
        white where it states none.
    seed
        Seed of masks and noise.
    nested
        Whether a file may be undersampled already; the masks are intersected.

    Raises
    ------
    ValueError
        If a name is unknown or a number out of range.
    """

    sampling: Annotated[str, SAMPLINGS]
    acceleration: Annotated[float, Ge(1)]
    center_fraction: Annotated[float, Gt(0), Le(1)]
    noise_std: Annotated[float, Ge(0)] = 0.0
    seed: Seed = 0
    nested: bool = False

    def __post_init__(self) -> None:
        if self.sampling not in SAMPLINGS:
            raise ValueError(f"Simulation: sampling is {self.sampling!r}, expected one of {', '.join(SAMPLINGS)}")
        if not self.acceleration >= 1:
            raise ValueError(f"Simulation: acceleration is {self.acceleration}, expected at least 1")
        if not 0 <= self.center_fraction <= 1:
            raise ValueError(f"Simulation: center_fraction is {self.center_fraction}, expected 0 to 1")
        if not 0 <= self.noise_std < math.inf:
            raise ValueError(f"Simulation: noise_std is {self.noise_std}, expected 0 or more")


def drawn_mask(volume: KSpaceVolume, name: str, simulate: Simulation, draw: int | None = None) -> Tensor:
    """Mask of a simulation for a volume of this name; ``draw`` seeds another than that of the scan.

    Raises
    ------
    DataError
        If the simulation does not suit the size of the volume.
    """
    seed = file_seed(name) + ((simulate.seed,) if simulate.seed else ()) + (() if draw is None else (draw,))
    shape = (volume.shape[2], volume.shape[3])
    try:
        drawn = make_mask(simulate.sampling, shape, simulate.acceleration, simulate.center_fraction, seed)
    except ValueError as error:
        raise DataError(f"{volume.path}: [simulate]: {error}") from None
    return drawn.mask
