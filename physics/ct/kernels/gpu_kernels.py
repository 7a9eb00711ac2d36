"""Forward and adjoint of a table of rays on a GPU, in Triton; used only by :mod:`physics.ct.gpu`.

Memory layout of images and sinograms: `LANES` of the batch are innermost, one load of a thread; the rest of the batch
is outermost, ``parts`` below. The place of a ray is its column in a row of the image or, where it is driven by columns,
its row in a column; the row or column is its line.

Positions are whole numbers in units of 2**-40 pixels. So forward and adjoint compute the same weights bit by bit,
whatever a compiler does to sums of floating-point numbers, and a GPU needs no fast double precision. The forward runs
over rays, the adjoint over pixels: no two threads write to the same value, and sums have one order.
"""

import triton
import triton.language as tl

#: Bits of a position after the point: in 4096 lines a ray is exact to 2e-9 pixels, and positions reach 8e6 pixels.
_BITS: tl.constexpr = tl.constexpr(40)
#: These bits of a position, their unit; bits that single precision has no place for, and the unit of the others.
_MASK: tl.constexpr = tl.constexpr(2**40 - 1)
_UNIT: tl.constexpr = tl.constexpr(2.0**-40)
_EXCESS: tl.constexpr = tl.constexpr(40 - 24)
_SINGLE_UNIT: tl.constexpr = tl.constexpr(2.0**-24)
#: Kinds of detector, as in :mod:`physics.ct.places`.
_PARALLEL: tl.constexpr = tl.constexpr(0)
_FLAT: tl.constexpr = tl.constexpr(1)
#: Part of the distance from the source to the axis below which a pixel is too near to the source to place it.
_NEAR: tl.constexpr = tl.constexpr(1 / 64)


@triton.jit
def _split(position, dtype: tl.constexpr):
    """Pixel left of a position, and the weight of the pixel right of it."""
    left = (position >> _BITS).to(tl.int32)
    rest = position & _MASK
    if dtype == tl.float64:
        weight = rest.to(tl.float64) * _UNIT
    else:  # in 32 bits: conversions of 64 bits are slow on many GPUs
        weight = (rest >> _EXCESS).to(tl.int32).to(tl.float32) * _SINGLE_UNIT
    return left, weight


@triton.jit
def project(
    images, bases, slopes, lengths, by_rows, spans, sinogram, rays, height, width, RAYS: tl.constexpr,
    LANES: tl.constexpr,
):  # fmt: skip
    """Line integrals of `RAYS` rays of a view, for `LANES` images.

    Parameters
    ----------
    images
        ``(parts, 2, pixels, LANES)``, row by row and then column by column: neighboring rays read neighboring values.
    bases, slopes, lengths, by_rows
        The rays, ``(views, rays)``, see :class:`physics.ct.gpu.GpuRays`.
    spans
        First line and line after the last in which a ray meets the image, ``(views, rays, 2)``.
    sinogram
        Result, ``(parts, views, rays, LANES)``.
    """
    dtype: tl.constexpr = sinogram.dtype.element_ty
    part = tl.program_id(2).to(tl.int64) * LANES
    images += part * (2 * height * width)
    sinogram += part * (tl.num_programs(0) * rays)
    ray = tl.program_id(1) * RAYS + tl.arange(0, RAYS)[:, None]
    there = ray < rays
    number = tl.program_id(0) * rays + ray
    driven = tl.load(by_rows + number, mask=there, other=1) != 0
    slope = tl.load(slopes + number, mask=there, other=0)
    first = tl.load(spans + 2 * number, mask=there, other=2147483647)
    after = tl.load(spans + 2 * number + 1, mask=there, other=0)
    start, stop = tl.min(first), tl.max(after)
    base = tl.load(bases + number, mask=there, other=0)
    length = tl.where(driven, width, height)
    origin = tl.where(driven, 0, height * width)
    lane = tl.arange(0, LANES)[None, :]
    total = tl.zeros((RAYS, LANES), dtype)
    for line in range(start, stop):
        left, weight = _split(base + line * slope, dtype)
        meets = (line >= first) & (line < after)
        value = images + (origin + line * length + left) * LANES + lane
        a = tl.load(value, mask=meets & (left >= 0) & (left < length), other=0.0)
        b = tl.load(value + LANES, mask=meets & (left >= -1) & (left < length - 1), other=0.0)
        total += a + weight * (b - a)
    total *= tl.load(lengths + number, mask=there, other=0.0)
    tl.store(sinogram + number * LANES + lane, total, mask=there)


@triton.jit
def backproject(
    sinogram, bases, slopes, by_rows, beams, image, views, rays, height, width, margin, KIND: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Transpose of :func:`project` for `ROWS` x `COLUMNS` pixels of `LANES` images.

    From every view a pixel takes the rays that may pass between its neighbors, and weighs them as the forward does.

    Parameters
    ----------
    sinogram
        ``(parts, views, rays, LANES)``, multiplied by the lengths of the rays.
    beams
        ``(views, 10)``, see :func:`physics.ct.gpu.pixel_beams`.
    image
        Result, ``(parts, height, width, LANES)``.
    margin
        Elements by which the places of a pixel may be wrong.
    KIND
        Kind of detector.
    """
    dtype: tl.constexpr = image.dtype.element_ty
    part = tl.program_id(2).to(tl.int64) * LANES
    sinogram += part * (views * rays)
    image += part * (height * width)
    pixel = tl.arange(0, ROWS * COLUMNS)[:, None]
    row = tl.program_id(0) * ROWS + pixel // COLUMNS
    column = tl.program_id(1) * COLUMNS + pixel % COLUMNS
    there = (row < height) & (column < width)
    lane = tl.arange(0, LANES)[None, :]
    total = tl.zeros((ROWS * COLUMNS, LANES), dtype)
    for view in range(views):
        first, last = _between(beams + view * 10, row, column, rays, margin, KIND)
        count = tl.max(tl.where(there, last - first + 1, 0))
        for step in range(count):
            ray = first + step
            near = there & (ray <= last)
            number = view * rays + ray
            driven = tl.load(by_rows + number, mask=near, other=1) != 0
            line, place = tl.where(driven, row, column), tl.where(driven, column, row)
            base = tl.load(bases + number, mask=near, other=0)
            slope = tl.load(slopes + number, mask=near, other=0)
            left, weight = _split(base + line * slope, dtype)
            share = tl.where(left == place, 1.0 - weight, tl.where(left == place - 1, weight, 0.0))
            value = sinogram + number * LANES + lane
            total += share * tl.load(value, mask=near & (share != 0.0), other=0.0)
    tl.store(image + (row * width + column) * LANES + lane, total, mask=there)


@triton.jit
def _between(beam, row, column, rays, margin, KIND: tl.constexpr):
    """First and last element whose rays may pass between the neighbors of a pixel."""
    across_row, across_column = tl.load(beam + 1), tl.load(beam + 2)
    depth_row, depth_column = tl.load(beam + 4), tl.load(beam + 5)
    across = tl.load(beam) + across_row * row + across_column * column
    depth = tl.load(beam + 3) + depth_row * row + depth_column * column
    above = _element(beam, across - across_row, depth - depth_row, KIND)
    below = _element(beam, across + across_row, depth + depth_row, KIND)
    before = _element(beam, across - across_column, depth - depth_column, KIND)
    behind = _element(beam, across + across_column, depth + depth_column, KIND)
    low = tl.ceil(tl.minimum(tl.minimum(above, below), tl.minimum(before, behind)) - margin)
    high = tl.floor(tl.maximum(tl.maximum(above, below), tl.maximum(before, behind)) + margin)
    # So near to the source any ray may pass.
    close = depth - tl.maximum(tl.abs(depth_row), tl.abs(depth_column)) < _NEAR
    first = tl.where(close, 0.0, tl.minimum(tl.maximum(low, 0.0), rays * 1.0))
    last = tl.where(close, rays - 1.0, tl.minimum(tl.maximum(high, -1.0), rays - 1.0))
    return first.to(tl.int32), last.to(tl.int32)


@triton.jit
def _element(beam, across, depth, KIND: tl.constexpr):
    """Number of the element at which a point meets the detector."""
    if KIND == _PARALLEL:
        element = across
    elif KIND == _FLAT:
        element = across / depth
    else:
        distance = tl.sqrt(across * across + depth * depth)
        off = (tl.load(beam + 8) * depth - tl.load(beam + 9) * across) / distance
        # The tangents of half the angle of the point, and of half of what the detector's own focus adds.
        half = _arctan(across / (depth + distance))
        half += _arctan(off / (1.0 + tl.sqrt(tl.maximum(1.0 - off * off, 0.0))))
        element = 2.0 * tl.load(beam + 6) * half + tl.load(beam + 7)
    return element


@triton.jit
def _arctan(x):
    """Arc tangent for ``-1 <= x <= 1``, exact to 2e-6."""
    s = x * x
    series = 0.05265332 - 0.01172120 * s
    series = -0.11643287 + series * s
    series = 0.19354346 + series * s
    series = -0.33262347 + series * s
    return x * (0.99997726 + series * s)
