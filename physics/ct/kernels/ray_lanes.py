"""Vector instructions of the ray kernels: sixteen rows of a sheared image in one vector.

A strip is `ROWS` rows of a batch of images, sheared: row r is moved by ``floor(r * k / ROWS + phase / 2)`` columns. The
shear k and the phase, 0 or 1, are chosen for the ray: in all rows, the ray is then within one column of the same
sheared column. So it crosses three columns of the strip, and the `ROWS` values of a column are adjacent in memory. A
block is some strips, one below the other: flat, ``(strips, phases, columns, batch, rows)``.

The adjoint works on one strip. It collects rays of many views in a list per phase and column, so that a chunk of rays
that cross the same three columns reads and writes them once. Rays are numbered by records. Record 0 is a ray of zeros:
a list ends with it, and it fills chunks.

Offsets count elements. The instructions are generic LLVM, for any processor.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, register_jitable

from ..rays import SHEARS
from .lanes import FLAGS, I32, I64, Lanes, at, data, larger, load, scalar_of, shuffle, smaller, splat

#: Rows of a strip, as many as shears per unit of slope: from one shear to the next no row moves by two columns.
ROWS = SHEARS
#: Rays that :func:`place` places at once.
PLACED = 8
#: Rays of a chunk where lists are short, and where they are long.
FEW, MANY = 2, 4
#: Columns at either side of a strip: a row is moved by less than `ROWS`, and a ray crosses three columns.
MARGIN = ROWS + 3


@register_jitable
def rays_at_once(count: int) -> int:
    """Rays per call for a batch of ``count`` images: a vector has four sums or more."""
    return max(1, 4 // count)


@register_jitable
def strips_of(count: int) -> int:
    """Strips of a block for a batch of ``count`` images: the more, the less a ray costs, if they fit the cache."""
    return 4 if count <= 4 else 2


@intrinsic
def place(
    typing: Any, base: Any, slope: Any, ray: Any, row: Any, shear: Any, columns: Any,
    offsets: Any, phases: Any, shifts: Any, steps: Any, like: Any,
) -> Any:  # fmt: skip
    """Where `PLACED` rays from number ``ray`` on cross the strips of a block of some ``columns``, from ``row`` on.

    A ray is at column ``base + r * slope`` in row r of the image, and at ``shifts + fractions[r] + r * steps``, counted
    from the second column that it crosses, in row r of a strip; see :func:`gather`. Results are ``(strips, PLACED)``,
    ``steps`` ``(PLACED,)``; ``offsets`` are those of the first columns in the block, ``phases`` those of the fractions.
    """
    whole = types.int64
    signature = types.void(base, slope, whole, whole, whole, whole, offsets, phases, shifts, steps, like)
    count = like.count

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        numbers = ir.VectorType(I32, PLACED)
        begin, slopes = (_placed(context, builder, signature, args, index) for index in (0, 1))
        shear = _splat_int(builder, args[4], numbers)
        stride, half = count * ROWS, builder.mul(args[5], I64(count * ROWS))
        _put(context, builder, signature, args, 9, I64(0), _step(builder, slopes, shear))
        table = builder.mul(builder.add(shear, _constant(numbers, ROWS)), _constant(numbers, 2 * ROWS))
        for strip in range(strips_of(count)):
            row = builder.add(args[3], I64(strip * ROWS))
            column, phase, shift = _crossed(builder, begin, slopes, shear, row, args[5])
            offset = builder.mul(column, _constant(numbers, stride))
            offset = builder.add(offset, builder.mul(phase, _splat_int(builder, half, numbers)))
            offset = builder.add(offset, _splat_int(builder, builder.mul(half, I64(2 * strip)), numbers))
            phase = builder.add(table, builder.mul(phase, _constant(numbers, ROWS)))
            for index, values in ((6, offset), (7, phase), (8, shift)):
                _put(context, builder, signature, args, index, I64(strip * PLACED), values)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def gather(
    typing: Any, block: Any, offsets: Any, phases: Any, shifts: Any, steps: Any, first: Any, fractions: Any, like: Any
) -> Any:
    """Sums of the interpolated values over the rows of a block, for `rays_at_once` rays from ``first`` on.

    ``fractions`` is flat, ``(shears, phases, ROWS)``: what the shear of a row lacks to a whole number of columns.
    ``like`` is a tuple of the length of the batch. The result has the images of the batch ray by ray.
    """
    count = like.count
    rays = rays_at_once(count)
    signature = Lanes(block.dtype, rays * count)(block, offsets, phases, shifts, steps, types.int64, fractions, like)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        sums: list[Any] = [None] * (rays * count)
        for ray in range(rays):
            for strip in range(strips_of(count)):
                for image, weight, pointer in _crossing(context, builder, signature, args, ray, strip, count):
                    number = ray * count + image
                    part = builder.fmul(weight, load(builder, pointer, block.dtype), flags=FLAGS)
                    before = sums[number]
                    sums[number] = part if before is None else builder.fadd(before, part, flags=FLAGS)
        return _sums(builder, sums)

    return signature, generate


@intrinsic
def enlist(
    typing: Any, base: Any, slope: Any, ray: Any, valid: Any, row: Any, shear: Any, columns: Any, record: Any,
    heads: Any, nexts: Any, shifts: Any, steps: Any,
) -> Any:  # fmt: skip
    """Put `PLACED` rays from number ``ray`` on, of which ``valid`` are rays of the run, in the lists of a strip.

    ``heads`` holds the first record of each list, ``(phases, columns)`` and one list for rays that are not valid;
    ``nexts`` the next record of a list; ``shifts`` and ``steps`` are as in :func:`place`. The rays get `PLACED` records
    from ``record`` on.
    """
    whole = types.int64
    signature = types.void(base, slope, *(whole,) * 6, heads, nexts, shifts, steps)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        numbers = ir.VectorType(I32, PLACED)
        begin, slopes = (_placed(context, builder, signature, args, index) for index in (0, 1))
        shear = _splat_int(builder, args[5], numbers)
        column, phase, shift = _crossed(builder, begin, slopes, shear, args[4], args[6])
        _put(context, builder, signature, args, 10, args[7], shift)
        _put(context, builder, signature, args, 11, args[7], _step(builder, slopes, shear))
        columns = _splat_int(builder, args[6], numbers)
        places = ir.Constant(numbers, list(range(PLACED)))
        inside = builder.icmp_signed("<", places, _splat_int(builder, args[3], numbers))
        list_number = builder.add(column, builder.mul(phase, columns))
        list_number = builder.select(inside, list_number, builder.mul(columns, _constant(numbers, 2)))
        record = builder.trunc(args[7], I32)
        for place in range(PLACED):
            number = builder.zext(builder.extract_element(list_number, I32(place)), I64)
            head = _from(context, builder, signature, args, 8, number)
            following = _from(context, builder, signature, args, 9, builder.add(args[7], I64(place)))
            builder.store(builder.load(head), following)
            builder.store(builder.add(record, I32(place)), head)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def copy_scaled(
    typing: Any, values: Any, record: Any, sinogram: Any, lengths: Any, ray: Any, like: Any
) -> Any:  # fmt: skip
    """Copy the values of `PLACED` rays from number ``ray`` on, times ``lengths``, to records from ``record`` on."""
    count = like.count
    signature = types.void(values, types.int64, sinogram, lengths, types.int64, like)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        scalar = scalar_of(sinogram.dtype)
        rays, numbers = ir.VectorType(scalar, PLACED), ir.VectorType(scalar, PLACED * count)
        length = builder.bitcast(_from(context, builder, signature, args, 3, args[4]), rays.as_pointer())
        length = load(builder, length, sinogram.dtype)
        length = shuffle(builder, length, length, [ray for ray in range(PLACED) for _ in range(count)])
        source, target = (
            builder.bitcast(
                _from(context, builder, signature, args, index, builder.mul(number, I64(count))), numbers.as_pointer()
            )
            for index, number in ((2, args[4]), (0, args[1]))
        )
        scaled = builder.fmul(load(builder, source, sinogram.dtype), length)
        builder.store(scaled, target, align=sinogram.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return signature, generate


def _scatter(chunk: int) -> Any:
    """Intrinsic that adds the values of ``chunk`` rays of a list to a strip."""

    @intrinsic
    def scatter(
        typing: Any, strip: Any, offset: Any, record: Any, nexts: Any, shifts: Any, steps: Any, fractions: Any,
        phase: Any, values: Any, like: Any,
    ) -> Any:  # fmt: skip
        """Transpose of :func:`gather` for rays of a list, from ``record`` on; the first record that is left.

        The rays cross the three columns from ``offset`` on; ``phase`` is the offset of their ``fractions``. ``values``
        is flat, ``(records, batch)``.
        """
        count, dtype, whole = like.count, strip.dtype, types.int64
        signature = whole(strip, whole, whole, nexts, shifts, steps, fractions, whole, values, like)

        def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            rows = ir.VectorType(scalar_of(dtype), ROWS)

            def vector(index: int, offset: Any) -> Any:
                return builder.bitcast(_from(context, builder, signature, args, index, offset), rows.as_pointer())

            fraction, record = load(builder, vector(6, args[7]), dtype), args[2]
            rays = []
            for _ in range(chunk):
                shift, step, following = (
                    builder.load(_from(context, builder, signature, args, index, record)) for index in (4, 5, 3)
                )
                value = _from(context, builder, signature, args, 8, builder.mul(record, I64(count)))
                rays.append((value, _weights(builder, shift, step, fraction)))
                record = builder.zext(following, I64)
            for image in range(count):
                values = [splat(builder, builder.load(builder.gep(value, [I64(image)])), rows) for value, _ in rays]
                for k in range(3):
                    pointer = vector(0, builder.add(args[1], I64((k * count + image) * ROWS)))
                    total = load(builder, pointer, dtype)
                    for value, (_, weights) in zip(values, rays, strict=True):
                        total = builder.fadd(total, builder.fmul(weights[k], value, flags=FLAGS), flags=FLAGS)
                    builder.store(total, pointer, align=dtype.bitwidth // 8)
            return record

        return signature, generate

    return scatter


scatter_few, scatter_many = _scatter(FEW), _scatter(MANY)


@intrinsic
def add_scaled(typing: Any, array: Any, offset: Any, lengths: Any, ray: Any, like: Any, values: Any) -> Any:
    """Add ``values`` of `rays_at_once` rays, times ``lengths[ray:]``, to ``array[offset:]``."""
    count = like.count
    signature = types.void(array, types.int64, lengths, types.int64, like, values)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        pointer = at(context, builder, signature, args, args[5].type)
        scaled = builder.fmul(args[5], _lengths(context, builder, signature, args, count), flags=FLAGS)
        total = builder.fadd(load(builder, pointer, array.dtype), scaled, flags=FLAGS)
        builder.store(total, pointer, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def move_rows(typing: Any, block: Any, offset: Any, stride: Any, moves: Any, first: Any) -> Any:
    """``block[offset + r] = block[offset + stride + r]`` in those of `ROWS` rows r where ``moves[first + r]`` is 1."""
    signature = types.void(block, types.int64, types.int64, moves, types.int64)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        rows, flags = ir.VectorType(scalar_of(block.dtype), ROWS), ir.VectorType(ir.IntType(8), ROWS)
        pointer = at(context, builder, signature, args, rows)
        after = _from(context, builder, signature, args, 0, builder.add(args[1], args[2]))
        value = load(builder, builder.bitcast(after, rows.as_pointer()), block.dtype)
        mask = builder.bitcast(_from(context, builder, signature, args, 3, args[4]), flags.as_pointer())
        moved = builder.icmp_signed("!=", builder.load(mask, align=1), _constant(flags, 0))
        value = builder.select(moved, value, load(builder, pointer, block.dtype))
        builder.store(value, pointer, align=block.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return signature, generate


def _crossing(
    context: Any, builder: ir.IRBuilder, signature: Any, args: Any, ray: int, strip: int, count: int
) -> list[tuple[int, Any, Any]]:
    """Image, weights of `ROWS` rows and pointer to them, for the three columns that a ray crosses in a strip."""
    dtype = signature.args[0].dtype
    rows = ir.VectorType(scalar_of(dtype), ROWS)
    number = builder.add(args[5], I64(ray))
    here = builder.add(number, I64(strip * PLACED))
    offset, phase, shift, step = (
        builder.load(_from(context, builder, signature, args, i, index))
        for i, index in ((1, here), (2, here), (3, here), (4, number))
    )
    fractions = _from(context, builder, signature, args, 6, builder.zext(phase, I64))
    fraction = load(builder, builder.bitcast(fractions, rows.as_pointer()), dtype)
    weights = _weights(builder, shift, step, fraction)
    start = _from(context, builder, signature, args, 0, builder.zext(offset, I64))
    return [
        (image, weight, builder.bitcast(builder.gep(start, [I64((k * count + image) * ROWS)]), rows.as_pointer()))
        for image in range(count)
        for k, weight in enumerate(weights)
    ]


def _step(builder: ir.IRBuilder, slopes: Any, shear: Any) -> Any:
    """Columns by which rays move from row to row of a strip."""
    doubles = slopes.type
    return builder.fsub(slopes, builder.fmul(builder.sitofp(shear, doubles), _constant(doubles, 1 / ROWS)))


def _crossed(
    builder: ir.IRBuilder, begin: Any, slopes: Any, shear: Any, row: Any, columns: Any
) -> tuple[Any, Any, Any]:
    """First column of the three that rays cross in a strip from ``row`` on, phase, and shift, see :func:`place`."""
    doubles, numbers = begin.type, shear.type
    highest = builder.sitofp(_splat_int(builder, builder.sub(columns, I64(3)), numbers), doubles)
    # The smallest difference from a ray that has the slope of the shear.
    drift = builder.fmul(_step(builder, slopes, shear), _constant(doubles, ROWS - 1.0))
    drift = smaller(builder, drift, _constant(doubles, 0.0))
    row = builder.sitofp(_splat_int(builder, row, numbers), doubles)
    column = builder.fadd(begin, builder.fmul(row, slopes))
    column = builder.fadd(builder.fadd(column, drift), _constant(doubles, float(MARGIN)))
    # A ray beside the image crosses columns of zeros.
    column = smaller(builder, larger(builder, column, _constant(doubles, 0.0)), highest)
    halves = builder.fptosi(builder.fmul(column, _constant(doubles, 2.0)), numbers)
    beyond = builder.fsub(column, builder.fmul(builder.sitofp(halves, doubles), _constant(doubles, 0.5)))
    shift = builder.fsub(builder.fsub(beyond, drift), _constant(doubles, 1.0))
    return builder.ashr(halves, _constant(numbers, 1)), builder.and_(halves, _constant(numbers, 1)), shift


def _weights(builder: ir.IRBuilder, shift: Any, step: Any, fraction: Any) -> tuple[Any, Any, Any]:
    """Weights of `ROWS` rows in the three columns that a ray crosses."""
    rows = fraction.type
    numbers = ir.Constant(rows, [float(r) for r in range(ROWS)])
    # No product is fused with a sum: both directions have the same weights bit for bit.
    column = builder.fmul(numbers, splat(builder, step, rows))
    column = builder.fadd(builder.fadd(splat(builder, shift, rows), fraction), column)
    right = larger(builder, column, _constant(rows, 0.0))
    left = builder.fsub(right, column)
    middle = builder.fsub(_constant(rows, 1.0), builder.fadd(left, right))
    return left, middle, right


def _sums(builder: ir.IRBuilder, vectors: list[Any]) -> Any:
    """Sums of four or eight vectors of `ROWS` values, as one vector.

    Additions of neighbors in four lanes come first: processors exchange these faster than others.
    """

    def fold(a: Any, b: Any, lanes: list[int], distance: int) -> Any:
        later = shuffle(builder, a, b, [lane + distance for lane in lanes])
        return builder.fadd(shuffle(builder, a, b, lanes), later, flags=FLAGS)

    quads = range(0, ROWS, 4)
    for lanes in (
        [i for q in quads for i in (q, ROWS + q, q + 1, ROWS + q + 1)],
        [i for q in quads for i in (q, q + 1, ROWS + q, ROWS + q + 1)],
    ):
        vectors = [fold(a, b, lanes, 2) for a, b in zip(vectors[::2], vectors[1::2], strict=True)]
    if len(vectors) == 1:
        half = fold(vectors[0], vectors[0], list(range(8)), 8)
        return fold(half, half, list(range(4)), 4)
    half = fold(vectors[0], vectors[1], [*range(8), *range(ROWS, ROWS + 8)], 8)
    return fold(half, half, [*range(4), *range(8, 12)], 4)


def _lengths(context: Any, builder: ir.IRBuilder, signature: Any, args: Any, count: int) -> Any:
    """Lengths of `rays_at_once` rays, each ``count`` times."""
    rays, dtype = rays_at_once(count), signature.args[2].dtype
    vector = ir.VectorType(scalar_of(dtype), rays)
    pointer = builder.bitcast(_from(context, builder, signature, args, 2, args[3]), vector.as_pointer())
    lengths = load(builder, pointer, dtype)
    return shuffle(builder, lengths, lengths, [ray for ray in range(rays) for _ in range(count)])


def _from(context: Any, builder: ir.IRBuilder, signature: Any, args: Any, index: int, offset: Any) -> Any:
    """Pointer to an element of the array that is an argument."""
    return builder.gep(data(context, builder, signature, args, index), [offset])


def _placed(context: Any, builder: ir.IRBuilder, signature: Any, args: Any, index: int) -> Any:
    """`PLACED` values of the array that is an argument, from the ray on."""
    pointer = _from(context, builder, signature, args, index, args[2])
    return builder.load(builder.bitcast(pointer, ir.VectorType(ir.DoubleType(), PLACED).as_pointer()), align=8)


def _put(context: Any, builder: ir.IRBuilder, signature: Any, args: Any, index: int, offset: Any, values: Any) -> None:
    """Store `PLACED` values in the array that is an argument, in its precision, from an element on."""
    dtype = signature.args[index].dtype
    if dtype == types.float32:
        values = builder.fptrunc(values, ir.VectorType(ir.FloatType(), PLACED))
    pointer = _from(context, builder, signature, args, index, offset)
    builder.store(values, builder.bitcast(pointer, values.type.as_pointer()), align=dtype.bitwidth // 8)


def _constant(vector: ir.VectorType, value: float) -> Any:
    return ir.Constant(vector, [value] * vector.count)


def _splat_int(builder: ir.IRBuilder, value: Any, numbers: ir.VectorType) -> Any:
    return splat(builder, builder.trunc(value, I32), numbers)
