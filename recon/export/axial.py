"""Axial images of a scan whose slices are tilted planes."""

from dataclasses import replace

import numpy as np

from ..errors import DataError, data_error
from .reconstruction import Reconstruction


def axial_reconstruction(found: Reconstruction) -> Reconstruction:
    """Images of tilted planes interpolated along z to axial images; others as they are.

    The axial images are a slice's thickness apart. Between two planes a pixel is on a straight line along z, see
    :meth:`physics.TiltedPlanes.axial_images`. So are the half-widths of error bars: where both planes are within
    theirs, so is the axial image.

    Raises
    ------
    DataError
        If the planes cover no axial image, or the file does not state the thickness of its slices.
    """
    planes, header = found.header.planes, found.header
    if planes is None:
        return found
    if header.thickness_mm is None or header.grid is None:
        raise data_error(found.scan, "thickness_mm", "nothing", "the thickness of a slice", "write the file again")
    grid = header.grid
    try:
        at = planes.axial_mm(grid, header.thickness_mm)
        magnitude, image = (planes.axial_images(images, grid, at) for images in (found.magnitude, found.image))
        bars = None if found.half_width is None else planes.axial_images(found.half_width, grid, at)
    except ValueError as error:
        raise DataError(f"{found.scan}: {error}") from None
    told = f"{len(at)} axial images interpolated from {len(planes.z_mm)} tilted planes"
    return replace(
        found,
        magnitude=magnitude,
        image=image,
        half_width=bars,
        header=header.at_heights(np.asarray(at)),
        attributes={**found.attributes, "planes": told},
    )
