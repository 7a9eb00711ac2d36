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
    rays, like = table.arrays(array.dtype), (0.0,) * len(images)
    shears = ray_kernels.tables(array.dtype, table.base.shape[1])
    jobs = []
    for segments, image in zip(table.segments, (np.ascontiguousarray(array), np.ascontiguousarray(array.transpose(0, 2, 1))), strict=True):
        if len(segments):
            for first, after in compiled.parts(len(segments)):
                jobs.append((image, segments[first:after], *rays, shears, sinogram.reshape(-1), like))
    compiled.run_threads(ray_kernels.project, jobs)
    return torch.from_numpy(sinogram).movedim(-1, 0)


def backproject(table: RayTable, sinograms: Tensor) -> Tensor:
    """Transpose of :func:`project`, ``(batch, views, rays) -> (batch, height, width)``."""
    from .kernels import compiled, ray_kernels
    from .kernels.ray_lanes import ROWS, strips_of

    count = len(sinograms)
    array = sinograms.detach().movedim(0, -1).contiguous().numpy().reshape(-1)
    rays, like = table.arrays(array.dtype), (0.0,) * count
    shears = ray_kernels.tables(array.dtype, table.base.shape[1])
    height, width = table.shape
    images = [np.zeros((count, *shape), array.dtype) for shape in (table.shape, table.shape[::-1])]
    jobs = []
    for segments, image in zip(table.segments, images, strict=True):
        if len(segments):
            for blocks in compiled.parts(-(-image.shape[1] // (strips_of(count) * ROWS))):
                jobs.append((image, blocks, segments, *rays, shears, array, like))
    compiled.run_threads(ray_kernels.backproject, jobs)
    return torch.from_numpy(images[0]) + torch.from_numpy(images[1]).transpose(-2, -1)
