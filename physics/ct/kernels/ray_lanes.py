"""Vector instructions of the ray kernels: sixteen rows of a sheared image in a vector.

A block is `ROWS` rows of a batch of images, sheared: row r is moved by ``floor(r * k / ROWS + phase / 2)`` columns,
where ``k / ROWS`` is near the slope of a ray. The ray then crosses three neighboring columns of the block only, and the
`ROWS` values of a column are adjacent in memory, so that no value is read by itself. Blocks are flat, ``(phases,
columns, batch, rows)``; offsets count elements. The instructions are generic LLVM, for any processor.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, register_jitable

from .lanes import FLAGS, I32, Lanes, at, data, load, scalar_of, shuffle, splat

#: Rows of a block, and twice the slopes to which blocks are sheared, less one.
ROWS = 16
#: Rays whose places are computed together.
PLACED = 8
#: Columns at either side of a block: the largest shear, and the columns that a ray crosses.
MARGIN = ROWS + 3


@register_jitable
def rays_at_once(count: int) -> int:
    """Rays that are summed together for a batch of ``count`` images, so that a vector holds four sums or more."""
    return max(1, 4 // count)


@register_jitable
def strips_of(count: int) -> int:
    """Strips of `ROWS` rows that a block has for a batch of ``count`` images."""
    return 4 if count <= 4 else 2


@intrinsic
def place(
    typing: Any, base: Any, slope: Any, ray: Any, row: Any, shear: Any, highest: Any, stride: Any, phase: Any,
    offsets: Any, tables: Any, shifts: Any, steps: Any, like: Any,
) -> Any:  # fmt: skip
    """Where `PLACED` rays from number ``ray`` on cross the block whose first row is ``row``.

    Parameters
    ----------
    base, slope
        A ray is at column ``base + r * slope`` in row r, flat arrays.
    shear
        The block's k.
    highest
        Largest first column, counted from ``-MARGIN``, of the three that a ray crosses.
    stride, phase
        Elements from a column to the next, and from a phase to the other.
    offsets
        Result: the first element of the first column.
    tables
        Result: the first element of the ray's fractions, see :func:`gather`.
    shifts, steps
        Result: in row r, the ray is ``shifts + fractions[r] + r * steps`` columns from the second column.
    """
    double, whole = types.float64, types.int64
    signature = types.void(base, slope, whole, whole, whole, whole, whole, whole, offsets, tables, shifts, steps, like)
    assert double == base.dtype == slope.dtype

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        doubles, numbers = ir.VectorType(ir.DoubleType(), PLACED), ir.VectorType(I32, PLACED)
        reals = ir.VectorType(scalar_of(steps.dtype), PLACED)

        def constant(value: float) -> Any:
            return ir.Constant(doubles, [value] * PLACED)

        def smaller(a: Any, b: Any) -> Any:
            return builder.select(builder.fcmp_ordered("<", a, b), a, b)

        _, _, ray, row_number, shear, highest, stride, phase, *_ = args
        begin, slopes = (
            builder.load(builder.bitcast(builder.gep(data(context, builder, signature, args, i), [ray]),
                                         doubles.as_pointer()), align=8)
            for i in range(2)
        )  # fmt: skip
        near = splat(builder, builder.sitofp(shear, ir.DoubleType()), doubles)
        step = builder.fsub(slopes, builder.fmul(near, constant(1 / ROWS)))
        # The smallest difference from the sheared rows, in any row.
        drift = smaller(builder.fmul(step, constant(ROWS - 1.0)), constant(0.0))
        top = splat(builder, builder.sitofp(highest, ir.DoubleType()), doubles)
        one = ir.Constant(numbers, [1] * PLACED)
        strip_size = builder.trunc(builder.add(phase, phase), I32)
        wide, phase = (splat(builder, builder.trunc(n, I32), numbers) for n in (stride, phase))
        table0 = splat(builder, builder.trunc(shear, I32), numbers)
        table0 = builder.add(table0, ir.Constant(numbers, [ROWS] * PLACED))
        table0 = builder.mul(table0, ir.Constant(numbers, [2] * PLACED))
        narrow = (lambda v: builder.fptrunc(v, reals)) if steps.dtype == types.float32 else (lambda v: v)
        stores = [(narrow(step), 11, 0)]
        for strip in range(strips_of(like.count)):
            row = builder.add(row_number, ir.Constant(ir.IntType(64), strip * ROWS))
            row = splat(builder, builder.sitofp(row, ir.DoubleType()), doubles)
            column = builder.fadd(begin, builder.fmul(row, slopes, flags=FLAGS), flags=FLAGS)
            column = builder.fadd(builder.fadd(column, drift), constant(float(MARGIN)))
            column = builder.select(builder.fcmp_ordered(">", column, constant(0.0)), column, constant(0.0))
            column = smaller(column, top)
            halves = builder.fptosi(builder.fmul(column, constant(2.0)), numbers)
            shift = builder.fsub(column, builder.fmul(builder.sitofp(halves, doubles), constant(0.5)))
            shift = builder.fsub(builder.fsub(shift, drift), constant(1.0))
            second = builder.and_(halves, one)
            offset = builder.add(builder.mul(builder.ashr(halves, one), wide), builder.mul(second, phase))
            begin_strip = builder.mul(strip_size, I32(strip))
            offset = builder.add(offset, splat(builder, begin_strip, numbers))
            table = builder.mul(builder.add(table0, second), ir.Constant(numbers, [ROWS] * PLACED))
            stores += [(offset, 8, strip), (table, 9, strip), (narrow(shift), 10, strip)]
        for value, index, strip in stores:
            target = builder.gep(data(context, builder, signature, args, index), [I32(strip * PLACED)])
            builder.store(value, builder.bitcast(target, value.type.as_pointer()), align=4)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def gather(
    typing: Any, block: Any, offsets: Any, tables: Any, shifts: Any, steps: Any, first: Any, fractions: Any, like: Any
) -> Any:
    """Sums of the interpolated values over the rows of a block, for `rays_at_once` rays from ``first`` on.

    ``fractions`` is flat, ``(2 * ROWS + 1 shears, phases, ROWS)``: the part of the shear that is no whole column. The
    result holds the images of the batch ray by ray.
    """
    count = like.count
    rays = rays_at_once(count)
    signature = Lanes(block.dtype, rays * count)(block, offsets, tables, shifts, steps, types.int64, fractions, like)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        sums: list[Any] = [None] * (rays * count)
        for ray in range(rays):
            for strip in range(strips_of(count)):
                start, weights = _crossing(context, builder, signature, args, ray, strip)
                for image in range(count):
                    total = sums[ray * count + image]
                    for column, weight in enumerate(weights):
                        value = load(
                            builder, _column(builder, start, (column * count + image) * ROWS, weight), block.dtype
                        )
                        part = builder.fmul(weight, value, flags=FLAGS)
                        total = part if total is None else builder.fadd(total, part, flags=FLAGS)
                    sums[ray * count + image] = total
        return _sums(builder, sums)

    return signature, generate


@intrinsic
def scatter(
    typing: Any, block: Any, offsets: Any, tables: Any, shifts: Any, steps: Any, first: Any, fractions: Any, values: Any,
    like: Any,
) -> Any:  # fmt: skip
    """Transpose of :func:`gather`: add ``values`` to the block with the same weights."""
    count = like.count
    signature = types.void(block, offsets, tables, shifts, steps, types.int64, fractions, values, like)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        for ray in range(rays_at_once(count)):
            for strip in range(strips_of(count)):
                start, weights = _crossing(context, builder, signature, args, ray, strip)
                for image in range(count):
                    value = splat(builder, builder.extract_element(args[7], I32(ray * count + image)), weights[0].type)
                    for column, weight in enumerate(weights):
                        pointer = _column(builder, start, (column * count + image) * ROWS, weight)
                        part = builder.fmul(weight, value, flags=FLAGS)
                        total = builder.fadd(load(builder, pointer, block.dtype), part, flags=FLAGS)
                        builder.store(total, pointer, align=block.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def load_scaled(typing: Any, array: Any, offset: Any, lengths: Any, ray: Any, like: Any) -> Any:
    """Values of `rays_at_once` rays from ``array[offset]`` on, times ``lengths[ray:]``."""
    count = like.count
    lanes = Lanes(array.dtype, rays_at_once(count) * count)
    signature = lanes(array, types.int64, lengths, types.int64, like)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        vector = ir.VectorType(scalar_of(array.dtype), lanes.count)
        value = load(builder, at(context, builder, signature, args, vector), array.dtype)
        return builder.fmul(value, _lengths(context, builder, signature, args, count))

    return signature, generate


@intrinsic
def add_scaled(typing: Any, array: Any, offset: Any, lengths: Any, ray: Any, value: Any, like: Any) -> Any:
    """Add to ``array[offset:]`` the values of `rays_at_once` rays, times ``lengths[ray:]``."""
    count = like.count
    signature = types.void(array, types.int64, lengths, types.int64, value, like)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        pointer = at(context, builder, signature, args, args[4].type)
        scaled = builder.fmul(args[4], _lengths(context, builder, signature, args, count), flags=FLAGS)
        total = builder.fadd(load(builder, pointer, array.dtype), scaled, flags=FLAGS)
        builder.store(total, pointer, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def shear_column(typing: Any, block: Any, offset: Any, stride: Any, moves: Any, table: Any) -> Any:
    """Replace ``block[offset + r]`` by ``block[offset + stride + r]`` in the rows r where ``moves[table + r]`` is 1."""
    signature = types.void(block, types.int64, types.int64, moves, types.int64)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        rows = ir.VectorType(scalar_of(block.dtype), ROWS)
        flags = ir.VectorType(ir.IntType(8), ROWS)
        pointer = at(context, builder, signature, args, rows)
        after = builder.bitcast(
            builder.gep(data(context, builder, signature, args, 0), [builder.add(args[1], args[2])]), rows.as_pointer()
        )
        mask = builder.bitcast(
            builder.gep(data(context, builder, signature, args, 3), [args[4]]), flags.as_pointer()
        )
        moved = builder.icmp_signed("!=", builder.load(mask, align=1), ir.Constant(flags, [0] * ROWS))
        value = builder.select(moved, load(builder, after, block.dtype), load(builder, pointer, block.dtype))
        builder.store(value, pointer, align=block.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return signature, generate


def _crossing(context: Any, builder: ir.IRBuilder, signature: Any, args: Any, ray: int, strip: int) -> tuple[Any, list[Any]]:
    """Pointer to the first column that a ray crosses, and the weights of the rows of the three columns."""
    number = builder.add(args[5], ir.Constant(ir.IntType(64), ray))
    here = builder.add(number, ir.Constant(ir.IntType(64), strip * PLACED))
    offset, table, shift, step = (
        builder.load(builder.gep(data(context, builder, signature, args, i), [n]))
        for i, n in ((1, here), (2, here), (3, here), (4, number))
    )
    rows = ir.VectorType(shift.type, ROWS)
    dtype = signature.args[0].dtype
    pointer = builder.gep(data(context, builder, signature, args, 6), [builder.zext(table, ir.IntType(64))])
    fraction = load(builder, builder.bitcast(pointer, rows.as_pointer()), dtype)
    numbers = ir.Constant(rows, [float(r) for r in range(ROWS)])
    place = builder.fmul(numbers, splat(builder, step, rows), flags=FLAGS)
    place = builder.fadd(builder.fadd(place, splat(builder, shift, rows), flags=FLAGS), fraction)
    zero, one = (ir.Constant(rows, [value] * ROWS) for value in (0.0, 1.0))
    right = builder.select(builder.fcmp_ordered(">", place, zero), place, zero)
    left = builder.fsub(right, place)
    bits = ir.VectorType(ir.IntType(dtype.bitwidth), ROWS)
    unsigned = ir.Constant(bits, [2 ** (dtype.bitwidth - 1) - 1] * ROWS)
    middle = builder.fsub(one, builder.bitcast(builder.and_(builder.bitcast(place, bits), unsigned), rows))
    start = builder.gep(data(context, builder, signature, args, 0), [builder.zext(offset, ir.IntType(64))])
    return start, [left, middle, right]


def _lengths(context: Any, builder: ir.IRBuilder, signature: Any, args: Any, count: int) -> Any:
    """Lengths of `rays_at_once` rays, each ``count`` times."""
    rays, dtype = rays_at_once(count), signature.args[2].dtype
    pointer = builder.gep(data(context, builder, signature, args, 2), [args[3]])
    vector = ir.VectorType(scalar_of(dtype), rays)
    lengths = load(builder, builder.bitcast(pointer, vector.as_pointer()), dtype)
    return shuffle(builder, lengths, lengths, [ray for ray in range(rays) for _ in range(count)])


def _column(builder: ir.IRBuilder, start: Any, offset: int, like: Any) -> Any:
    return builder.bitcast(builder.gep(start, [ir.Constant(ir.IntType(64), offset)]), like.type.as_pointer())


def _sums(builder: ir.IRBuilder, vectors: list[Any]) -> Any:
    """Sums of four or eight vectors of `ROWS` values, as one vector. Additions within four lanes come first."""

    def fold(a: Any, b: Any, first: list[int], second: list[int]) -> Any:
        return builder.fadd(shuffle(builder, a, b, first), shuffle(builder, a, b, second), flags=FLAGS)

    quads = range(0, ROWS, 4)
    low = [i for q in quads for i in (q, ROWS + q, q + 1, ROWS + q + 1)]
    high = [i + 2 for i in low]
    vectors = [fold(a, b, low, high) for a, b in zip(vectors[::2], vectors[1::2], strict=True)]
    low = [i for q in quads for i in (q, q + 1, ROWS + q, ROWS + q + 1)]
    high = [i + 2 for i in low]
    vectors = [fold(a, b, low, high) for a, b in zip(vectors[::2], vectors[1::2], strict=True)]
    if len(vectors) == 2:
        half = list(range(8))
        total = fold(*vectors, half + [ROWS + i for i in half], [8 + i for i in half] + [ROWS + 8 + i for i in half])
        four = list(range(4))
        return fold(total, total, four + [8 + i for i in four], [4 + i for i in four] + [12 + i for i in four])
    total = fold(vectors[0], vectors[0], list(range(8)), list(range(8, 16)))
    return fold(total, total, list(range(4)), list(range(4, 8)))
