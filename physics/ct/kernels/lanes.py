"""Vector instructions for numba: a vector holds one value per image of a batch, adjacent in memory.

numba has no vector type, and LLVM's automatic vectorization of a loop over the batch is three times slower than the
vector instructions that these functions emit. The instructions are generic LLVM, for any processor. Used only by the
kernels.

All arrays are flat; offsets count elements. A block is `rows_of` neighboring rows of one image.
"""

from collections.abc import Iterator
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

#: Rows per call: enough to hide the latency of the additions, few enough for the registers.
ROWS = 16
#: Rows per call for a single image, which needs no vector per row: the more, the less its position costs.
SINGLE_ROWS = 64
#: Rows of a single image in a vector.
_VECTOR = 8

_I32, _I64 = ir.IntType(32), ir.IntType(64)
# Products may be fused with sums; the order of summation never changes.
_FLAGS = ("contract", "nsz")


def rows_of(lanes: int) -> int:
    """Rows of a block for a batch of ``lanes`` images."""
    return SINGLE_ROWS if lanes == 1 else ROWS


class Lanes(types.Type):
    """``count`` numbers of one type in a vector register."""

    def __init__(self, dtype: types.Float, count: int) -> None:
        self.dtype, self.count = dtype, count
        super().__init__(name=f"Lanes({dtype}, {count})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: Lanes) -> None:
        super().__init__(manager, lanes, ir.VectorType(_scalar(lanes.dtype), lanes.count))


@intrinsic
def place(
    typing: Any, x: Any, slope: Any, start: Any, last: Any, stride: Any, offsets: Any, weights: Any, like: Any
) -> Any:
    """Offsets and interpolation weights of the pixels on a line through a block; ``like`` as in :func:`gather`.

    In row r the line is at column ``start + x + r * slope``, clamped to ``[0, last]``. ``offsets[r]`` is the offset of
    the pixel left of the line, ``weights[r]`` the weight of the pixel right of it. ``start`` keeps ``x`` small, so that
    single precision suffices.
    """
    real = weights.dtype
    signature = types.void(real, real, types.int64, types.int64, types.int64, offsets, weights, like)
    count = rows_of(like.count)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        scalar = _scalar(real)
        reals, whole = ir.VectorType(scalar, count), ir.VectorType(_I32, count)
        x, slope, start, last, stride, *_ = args
        rows = ir.Constant(reals, [float(r) for r in range(count)])
        steps = builder.fmul(rows, _splat(builder, slope, reals), flags=_FLAGS)
        column = builder.fadd(_splat(builder, x, reals), steps, flags=_FLAGS)
        lowest = _splat(builder, builder.sitofp(builder.neg(start), scalar), reals)
        highest = _splat(builder, builder.sitofp(builder.sub(last, start), scalar), reals)
        column = builder.select(builder.fcmp_ordered("<", column, lowest), lowest, column)
        column = builder.select(builder.fcmp_ordered(">", column, highest), highest, column)
        left = builder.fptosi(column, whole)
        weight = builder.fsub(column, builder.sitofp(left, reals))
        start, stride = (_splat(builder, builder.trunc(v, _I32), whole) for v in (start, stride))
        offset = builder.mul(builder.add(left, start), ir.Constant(whole, [like.count] * count))
        offset = builder.add(offset, builder.mul(ir.Constant(whole, list(range(count))), stride))
        for value, vector, index in ((offset, whole, 5), (weight, reals, 6)):
            pointer = builder.bitcast(_data(context, builder, signature, args, index), vector.as_pointer())
            builder.store(value, pointer, align=4)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def gather(typing: Any, image: Any, start: Any, offsets: Any, weights: Any, like: Any) -> Any:
    """Sum of the interpolated values over the rows of a block; ``like`` is a tuple of the length of the batch."""
    signature = Lanes(image.dtype, like.count)(image, types.int64, offsets, weights, like)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        block = _Block(context, builder, signature, args, like.count)
        if like.count == 1:
            return block.sum_of_rows()
        zero = ir.Constant(block.vector, [0.0] * like.count)
        # Eight partial sums: in a single sum, every addition would wait for the one before.
        plain, sloped = [zero] * 4, [zero] * 4
        for r in range(ROWS):
            weight, left, right = block.row(r)
            a, b = block.load(left), block.load(right)
            plain[r % 4] = builder.fadd(plain[r % 4], a, flags=_FLAGS)
            part = builder.fmul(weight, builder.fsub(b, a, flags=_FLAGS), flags=_FLAGS)
            sloped[r % 4] = builder.fadd(sloped[r % 4], part, flags=_FLAGS)
        sums = [builder.fadd(p, s) for p, s in zip(plain, sloped, strict=True)]
        return builder.fadd(builder.fadd(sums[0], sums[1]), builder.fadd(sums[2], sums[3]))

    return signature, generate


@intrinsic
def scatter(typing: Any, image: Any, start: Any, offsets: Any, weights: Any, value: Any) -> Any:
    """Transpose of :func:`gather`: add ``value`` to the pixels with the same weights."""
    signature = types.void(image, types.int64, offsets, weights, value)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        block = _Block(context, builder, signature, args, value.count)
        if value.count == 1:
            block.add_to_rows(args[4])
            return context.get_dummy_value()
        one = ir.Constant(block.vector, [1.0] * value.count)
        for r in range(ROWS):
            weight, left, right = block.row(r)
            # Rounded like the weights in gather, so that the transpose is exact.
            rest = builder.fsub(one, weight)
            a, b = block.load(left), block.load(right)
            block.store(builder.fadd(a, builder.fmul(rest, args[4], flags=_FLAGS), flags=_FLAGS), left)
            block.store(builder.fadd(b, builder.fmul(weight, args[4], flags=_FLAGS), flags=_FLAGS), right)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def load_scaled(typing: Any, array: Any, offset: Any, factor: Any, like: Any) -> Any:
    """``factor * array[offset:offset + lanes]``."""
    signature = Lanes(array.dtype, like.count)(array, types.int64, array.dtype, like)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        vector = ir.VectorType(_scalar(array.dtype), like.count)
        value = _load(builder, _at(context, builder, signature, args, vector), array.dtype)
        return builder.fmul(value, _splat(builder, args[2], vector))

    return signature, generate


@intrinsic
def add_scaled(typing: Any, array: Any, offset: Any, factor: Any, value: Any) -> Any:
    """``array[offset:offset + lanes] += factor * value``."""
    signature = types.void(array, types.int64, array.dtype, value)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        vector = ir.VectorType(_scalar(array.dtype), value.count)
        pointer = _at(context, builder, signature, args, vector)
        scaled = builder.fmul(args[3], _splat(builder, args[2], vector), flags=_FLAGS)
        total = builder.fadd(_load(builder, pointer, array.dtype), scaled, flags=_FLAGS)
        builder.store(total, pointer, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def place_pixels(
    typing: Any, lateral: Any, lateral_step: Any, depth: Any, depth_step: Any, gain: Any, shift: Any, last: Any,
    lanes: Any, offsets: Any, weights: Any, scales: Any,
) -> Any:  # fmt: skip
    """Detector positions of the rays through `ROWS` neighboring pixels of a row.

    Pixel r projects to element ``gain * (lateral + r * lateral_step) / (depth + r * depth_step) + shift``, clamped to
    ``[0, last]``; ``scales[r]`` is one over its depth squared. Offsets and weights as in :func:`place`.
    """
    double, real = types.float64, weights.dtype
    numbers = (double,) * 6
    signature = types.void(*numbers, types.int64, types.int64, offsets, weights, scales)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        doubles, whole = ir.VectorType(ir.DoubleType(), ROWS), ir.VectorType(_I32, ROWS)
        pixels = ir.Constant(doubles, [float(r) for r in range(ROWS)])
        lateral, lateral_step, depth, depth_step, gain, shift = (_splat(builder, a, doubles) for a in args[:6])
        across = builder.fadd(lateral, builder.fmul(pixels, lateral_step, flags=_FLAGS), flags=_FLAGS)
        along = builder.fadd(depth, builder.fmul(pixels, depth_step, flags=_FLAGS), flags=_FLAGS)
        nearness = builder.fdiv(ir.Constant(doubles, [1.0] * ROWS), along)
        place = builder.fadd(builder.fmul(gain, builder.fmul(across, nearness)), shift)
        nowhere = ir.Constant(doubles, [0.0] * ROWS)
        place = builder.select(builder.fcmp_ordered(">", place, nowhere), place, nowhere)
        highest = _splat(builder, builder.sitofp(args[6], ir.DoubleType()), doubles)
        place = builder.select(builder.fcmp_ordered("<", place, highest), place, highest)
        left = builder.fptosi(place, whole)
        weight = builder.fsub(place, builder.sitofp(left, doubles))
        offset = builder.mul(left, _splat(builder, builder.trunc(args[7], _I32), whole))
        reals = ir.VectorType(_scalar(real), ROWS)
        weight, scale = (
            builder.fptrunc(value, reals) if real == types.float32 else value
            for value in (weight, builder.fmul(nearness, nearness))
        )
        for value, vector, index in ((offset, whole, 8), (weight, reals, 9), (scale, reals, 10)):
            pointer = builder.bitcast(_data(context, builder, signature, args, index), vector.as_pointer())
            builder.store(value, pointer, align=4)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def interpolate(
    typing: Any, sinogram: Any, start: Any, offsets: Any, weights: Any, scales: Any, image: Any, pixel: Any, like: Any
) -> Any:
    """Add the interpolated values of one view, times ``scales``, to `ROWS` pixels from ``pixel`` on."""
    signature = types.void(sinogram, types.int64, offsets, weights, scales, image, types.int64, like)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        for weight, scale, left, right, pixel, block in _pixels(context, builder, signature, args, like.count):
            a, b = block.load(left), block.load(right)
            value = builder.fadd(a, builder.fmul(weight, builder.fsub(b, a), flags=_FLAGS), flags=_FLAGS)
            total = builder.fadd(block.load(pixel), builder.fmul(scale, value, flags=_FLAGS), flags=_FLAGS)
            block.store(total, pixel)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def spread(
    typing: Any, sinogram: Any, start: Any, offsets: Any, weights: Any, scales: Any, image: Any, pixel: Any, like: Any
) -> Any:
    """Transpose of :func:`interpolate`: add `ROWS` pixels to one view."""
    signature = types.void(sinogram, types.int64, offsets, weights, scales, image, types.int64, like)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        for weight, scale, left, right, pixel, block in _pixels(context, builder, signature, args, like.count):
            value = builder.fmul(scale, block.load(pixel))
            part = builder.fmul(weight, value, flags=_FLAGS)
            # One pixel after the other: neighboring pixels meet the same elements.
            block.store(builder.fadd(block.load(left), builder.fsub(value, part), flags=_FLAGS), left)
            block.store(builder.fadd(block.load(right), part, flags=_FLAGS), right)
        return context.get_dummy_value()

    return signature, generate


class _Block:
    """The rows of a block, with the arguments ``image, start, offsets, weights`` of an intrinsic."""

    def __init__(self, context: Any, builder: ir.IRBuilder, signature: Any, args: Any, lanes: int) -> None:
        self.builder, self.lanes, self.dtype = builder, lanes, signature.args[0].dtype
        self.vector = ir.VectorType(_scalar(self.dtype), lanes)
        self.image = builder.gep(_data(context, builder, signature, args, 0), [args[1]])
        self.offsets = _data(context, builder, signature, args, 2)
        self.weights = _data(context, builder, signature, args, 3)

    def row(self, r: int) -> tuple[Any, Any, Any]:
        """Weight of the right pixel, pointers to the left and the right pixel."""
        builder = self.builder
        offset = builder.zext(builder.load(builder.gep(self.offsets, [_I64(r)])), _I64)
        weight = _splat(builder, builder.load(builder.gep(self.weights, [_I64(r)])), self.vector)
        left = builder.gep(self.image, [offset])
        right = builder.gep(left, [_I64(self.lanes)])
        pointer = self.vector.as_pointer()
        return weight, builder.bitcast(left, pointer), builder.bitcast(right, pointer)

    def sum_of_rows(self) -> Any:
        """Sum over the rows of a single image: one load for both pixels of a row, vectors along the rows."""
        builder, weights = self.builder, self.all_weights()
        total: Any = None
        for first in range(0, SINGLE_ROWS, _VECTOR):
            joined = [_load(builder, self.pair(r), self.dtype) for r in range(first, first + _VECTOR)]
            while len(joined) > 1:
                joined = [_join(builder, a, b) for a, b in zip(joined[::2], joined[1::2], strict=True)]
            left, right = (_shuffle(builder, joined[0], joined[0], range(side, 2 * _VECTOR, 2)) for side in range(2))
            weight = _shuffle(builder, weights, weights, range(first, first + _VECTOR))
            part = builder.fmul(weight, builder.fsub(right, left, flags=_FLAGS), flags=_FLAGS)
            part = builder.fadd(left, part, flags=_FLAGS)
            total = part if total is None else builder.fadd(total, part, flags=_FLAGS)
        while total.type.count > 1:
            half = total.type.count // 2
            low, high = (_shuffle(builder, total, total, range(k * half, (k + 1) * half)) for k in range(2))
            total = builder.fadd(low, high)
        return total

    def add_to_rows(self, value: Any) -> None:
        """Add a value to the rows of a single image: one load and one store for both pixels of a row."""
        builder, vector = self.builder, ir.VectorType(_scalar(self.dtype), _VECTOR)
        weights = self.all_weights()
        value = _splat(builder, builder.extract_element(value, _I32(0)), vector)
        for first in range(0, SINGLE_ROWS, _VECTOR):
            weight = _shuffle(builder, weights, weights, range(first, first + _VECTOR))
            rest = builder.fsub(ir.Constant(vector, [1.0] * _VECTOR), weight)
            left, right = builder.fmul(rest, value), builder.fmul(weight, value)
            for r in range(_VECTOR):
                pointer = self.pair(first + r)
                pair = _shuffle(builder, left, right, (r, _VECTOR + r))
                self.store(builder.fadd(_load(builder, pointer, self.dtype), pair), pointer)

    def all_weights(self) -> Any:
        """Weights of the rows of a single image, as one vector: stored as such, they stay in registers."""
        vector = ir.VectorType(_scalar(self.dtype), SINGLE_ROWS)
        return _load(self.builder, self.builder.bitcast(self.weights, vector.as_pointer()), self.dtype)

    def pair(self, r: int) -> Any:
        """Pointer to the left and the right pixel of a row of a single image."""
        builder = self.builder
        offset = builder.zext(builder.load(builder.gep(self.offsets, [_I64(r)])), _I64)
        return builder.bitcast(builder.gep(self.image, [offset]), ir.VectorType(_scalar(self.dtype), 2).as_pointer())

    def load(self, pointer: Any) -> Any:
        return _load(self.builder, pointer, self.dtype)

    def store(self, value: Any, pointer: Any) -> None:
        self.builder.store(value, pointer, align=self.dtype.bitwidth // 8)


def _scalar(dtype: types.Float) -> ir.Type:
    return ir.FloatType() if dtype == types.float32 else ir.DoubleType()


def _splat(builder: ir.IRBuilder, scalar: Any, vector: ir.VectorType) -> Any:
    nothing = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(nothing, scalar, _I32(0))
    return builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(_I32, vector.count), [0] * vector.count))


def _join(builder: ir.IRBuilder, first: Any, second: Any) -> Any:
    return _shuffle(builder, first, second, range(first.type.count + second.type.count))


def _shuffle(builder: ir.IRBuilder, first: Any, second: Any, places: Any) -> Any:
    places = list(places)
    return builder.shuffle_vector(first, second, ir.Constant(ir.VectorType(_I32, len(places)), places))


def _data(context: Any, builder: ir.IRBuilder, signature: Any, args: Any, index: int) -> Any:
    return context.make_array(signature.args[index])(context, builder, args[index]).data


def _at(context: Any, builder: ir.IRBuilder, signature: Any, args: Any, vector: ir.VectorType) -> Any:
    pointer = builder.gep(_data(context, builder, signature, args, 0), [args[1]])
    return builder.bitcast(pointer, vector.as_pointer())


def _load(builder: ir.IRBuilder, pointer: Any, dtype: types.Float) -> Any:
    # Aligned to single values only, not to whole vectors.
    return builder.load(pointer, align=dtype.bitwidth // 8)


def _pixels(context: Any, builder: ir.IRBuilder, signature: Any, args: Any, lanes: int) -> Iterator[Any]:
    """Per pixel: weight, scale, pointers to the left element, the right element and the pixel, the block."""
    block = _Block(context, builder, signature, args, lanes)
    image = builder.gep(_data(context, builder, signature, args, 5), [args[6]])
    scales = _data(context, builder, signature, args, 4)
    for r in range(ROWS):
        weight, left, right = block.row(r)
        scale = _splat(builder, builder.load(builder.gep(scales, [_I64(r)])), block.vector)
        pixel = builder.bitcast(builder.gep(image, [_I64(r * lanes)]), block.vector.as_pointer())
        yield weight, scale, left, right, pixel, block
