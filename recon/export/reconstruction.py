"""The images of one scan, with what its file states of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from physics import attenuation_to_hu

from ..data import ImageHeader

Images = npt.NDArray[np.float32]
#: Slices of a PNG.
PngSlices = Literal["middle", "all"]


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """Images of one scan.

    Parameters
    ----------
    magnitude
        Displayed images ``(slices, height, width)``: magnitudes in units of the file, or attenuation in 1/mm.
    image
        The same before cropping, ``(slices, height, width)``; complex in MRI.
    header
        What the file of the scan states of its images.
    scan
        Name of the scan.
    method
        Name of the method, for a reader of the image.
    attributes
        What else is known of the method, for HDF5.
    half_width
        Calibrated half-widths of the displayed images, in their units; None: the method has no error bars.
    coverage
        Part of the pixels of an object whose error the half-widths should hold.
    """

    magnitude: Images
    image: npt.NDArray[Any]
    header: ImageHeader
    scan: str
    method: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    half_width: Images | None = None
    coverage: float | None = None

    @property
    def displayed(self) -> Images:
        """Displayed images in the unit that viewers expect: Hounsfield units, or those of the file."""
        if not self.header.is_attenuation:
            return self.magnitude
        return attenuation_to_hu(torch.from_numpy(self.magnitude), self.header.mu_water).numpy()

    @property
    def displayed_half_width(self) -> Images | None:
        """Half-widths in the unit of the displayed images; None without error bars."""
        if self.half_width is None or not self.header.is_attenuation:
            return self.half_width
        zero, one = attenuation_to_hu(torch.tensor([0.0, 1.0], dtype=torch.float64), self.header.mu_water).tolist()
        return np.asarray(self.half_width * (one - zero), np.float32)

    @property
    def unit(self) -> str:
        return "HU" if self.header.is_attenuation else "units of the scan"

    @property
    def derivation(self) -> str:
        """One line on where the image comes from."""
        return f"reconstructed with fedrecon {fedrecon_version()}, method {self.method}, not for diagnosis"


def fedrecon_version() -> str:
    """Version of the installed package."""
    try:
        return version("fedrecon")
    except PackageNotFoundError:
        return "of a checkout"
