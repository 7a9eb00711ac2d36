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
    jobs = []
    for segments, axes in zip(table.segments, ((1, 2, 0), (2, 1, 0)), strict=True):
        if len(segments):
            image, width = ray_kernels.padded(array.transpose(axes)), array.shape[axes[1]]
            for first, after in compiled.parts(len(segments), multiple=ray_kernels.VIEWS):
                jobs.append((image, width, segments[first:after], *rays, sinogram.reshape(-1), like))
    compiled.run_threads(ray_kernels.project, jobs)
    return torch.from_numpy(sinogram).movedim(-1, 0)


def backproject(table: RayTable, sinograms: Tensor) -> Tensor:
    """Transpose of :func:`project`, ``(batch, views, rays) -> (batch, height, width)``."""
    from .kernels import compiled, lanes, ray_kernels

    count = len(sinograms)
    array = sinograms.detach().movedim(0, -1).contiguous().numpy().reshape(-1)
    rays, like = table.arrays(array.dtype), (0.0,) * count
    jobs, images = [], []
    for segments, shape in zip(table.segments, (table.shape, table.shape[::-1]), strict=True):
        image = ray_kernels.blank((*shape, count), array.dtype)
        images.append(torch.from_numpy(ray_kernels.unpadded(image, (*shape, count))).movedim(-1, 0))
        if len(segments):
            for blocks in compiled.parts(-(-shape[0] // lanes.rows_of(count))):
                jobs.append((image, shape[1], blocks, segments, *rays, array, like))
    compiled.run_threads(ray_kernels.backproject, jobs)
    return images[0] + images[1].transpose(-2, -1)
