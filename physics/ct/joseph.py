"""Joseph's model of line integrals: every ray is sampled in the rows of the image or of its transpose.

A ray steeper than 45 degrees crosses every row once, between two pixels. Its integral is the sum over rows of the
linearly interpolated values, times the length of the ray between two rows. A flatter ray does the same in columns.
Forward and adjoint read the same table, so they are one matrix.

References
----------
.. [J] Joseph, An improved algorithm for reprojecting rays through pixel images, IEEE Trans. Med. Imaging 1, 1982.
"""

import numpy as np
import torch
from torch import Tensor

from .rays import RayTable


def project(table: RayTable, images: Tensor) -> Tensor:
    """Line integrals on the CPU, ``(batch, height, width) -> (batch, views, rays)``, for a batch size in `LANES`."""
    from .kernels import compiled, ray_kernels

    array = images.detach().numpy()
    sinogram = np.zeros((*table.base.shape, len(images)), array.dtype)
    rest = (*table.arrays(array.dtype), ray_kernels.Shears.of(array.dtype), sinogram.reshape(-1), (0.0,) * len(images))
    jobs = []
    for segments, image in zip(table.segments, (array, array.transpose(0, 2, 1)), strict=True):
        rows = np.ascontiguousarray(image)
        jobs += [(rows, segments[first:after], *rest) for first, after in compiled.parts(len(segments))]
    compiled.run_threads(ray_kernels.project, jobs)
    return torch.from_numpy(sinogram).movedim(-1, 0)


def backproject(table: RayTable, sinograms: Tensor) -> Tensor:
    """Transpose of :func:`project`, ``(batch, views, rays) -> (batch, height, width)``."""
    from .kernels import compiled, ray_kernels, ray_lanes

    count = len(sinograms)
    given = sinograms.detach().flatten(1).numpy()
    # The kernel reads several rays at a time.
    padded = np.zeros((given.shape[1] + ray_lanes.PLACED, count), given.dtype)
    padded[: given.shape[1]] = given.T
    array = padded.reshape(-1)
    rest = (*table.arrays(array.dtype), ray_kernels.Shears.of(array.dtype), array, (0.0,) * count)
    jobs, images = [], []
    for segments, shape in zip(table.segments, (table.shape, table.shape[::-1]), strict=True):
        images.append(np.zeros((count, *shape), array.dtype))
        blocks = compiled.parts(ray_kernels.blocks_of(shape[0])) if len(segments) else []
        jobs += [(images[-1], block, segments, *rest) for block in blocks]
    compiled.run_threads(ray_kernels.backproject, jobs)
    by_rows, by_columns = (torch.from_numpy(image) for image in images)
    return by_rows + by_columns.transpose(-2, -1)
