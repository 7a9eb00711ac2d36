"""Vector instructions for numba: a vector holds one value per image of a batch, adjacent in memory.

numba has no vector type, and LLVM's automatic vectorization of a loop over the batch is three times slower than the
vector instructions that these functions emit. The instructions are generic LLVM, for any processor. Used only by the
kernels.

All arrays are flat; offsets count elements. A block is `ROWS` neighboring pixels.
"""

from collections.abc import Iterator
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

#: Pixels per call: enough to hide the latency of the additions, few enough for the registers.
ROWS = 16

I32, I64 = ir.IntType(32), ir.IntType(64)
# Products may be fused with sums; the order of summation never changes.
FLAGS = ("contract", "nsz")


class Lanes(types.Type):
    """``count`` numbers of one type in a vector register."""

    def __init__(self, dtype: types.Float, count: int) -> None:
        self.dtype, self.count = dtype, count
        super().__init__(name=f"Lanes({dtype}, {count})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: Lanes) -> None:
        super().__init__(manager, lanes, ir.VectorType(scalar_of(lanes.dtype), lanes.count))


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
        doubles, whole = ir.VectorType(ir.DoubleType(), ROWS), ir.VectorType(I32, ROWS)
        pixels = ir.Constant(doubles, [float(r) for r in range(ROWS)])
        lateral, lateral_step, depth, depth_step, gain, shift = (splat(builder, a, doubles) for a in args[:6])
        across = builder.fadd(lateral, builder.fmul(pixels, lateral_step, flags=FLAGS), flags=FLAGS)
        along = builder.fadd(depth, builder.fmul(pixels, depth_step, flags=FLAGS), flags=FLAGS)
        nearness = builder.fdiv(ir.Constant(doubles, [1.0] * ROWS), along)
        place = builder.fadd(builder.fmul(gain, builder.fmul(across, nearness)), shift)
        nowhere = ir.Constant(doubles, [0.0] * ROWS)
        highest = splat(builder, builder.sitofp(args[6], ir.DoubleType()), doubles)
        place = smaller(builder, larger(builder, place, nowhere), highest)
        left = builder.fptosi(place, whole)
        weight = builder.fsub(place, builder.sitofp(left, doubles))
        offset = builder.mul(left, splat(builder, builder.trunc(args[7], I32), whole))
        reals = ir.VectorType(scalar_of(real), ROWS)
        weight, scale = (
            builder.fptrunc(value, reals) if real == types.float32 else value
            for value in (weight, builder.fmul(nearness, nearness))
        )
        for value, vector, index in ((offset, whole, 8), (weight, reals, 9), (scale, reals, 10)):
            pointer = builder.bitcast(data(context, builder, signature, args, index), vector.as_pointer())
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
            value = builder.fadd(a, builder.fmul(weight, builder.fsub(b, a), flags=FLAGS), flags=FLAGS)
            total = builder.fadd(block.load(pixel), builder.fmul(scale, value, flags=FLAGS), flags=FLAGS)
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
            part = builder.fmul(weight, value, flags=FLAGS)
            # One pixel after the other: neighboring pixels meet the same elements.
            block.store(builder.fadd(block.load(left), builder.fsub(value, part), flags=FLAGS), left)
            block.store(builder.fadd(block.load(right), part, flags=FLAGS), right)
        return context.get_dummy_value()

    return signature, generate


class _Block:
    """The rows of a block, with the arguments ``image, start, offsets, weights`` of an intrinsic."""

    def __init__(self, context: Any, builder: ir.IRBuilder, signature: Any, args: Any, lanes: int) -> None:
        self.builder, self.lanes, self.dtype = builder, lanes, signature.args[0].dtype
        self.vector = ir.VectorType(scalar_of(self.dtype), lanes)
        self.image = builder.gep(data(context, builder, signature, args, 0), [args[1]])
        self.offsets = data(context, builder, signature, args, 2)
        self.weights = data(context, builder, signature, args, 3)

    def row(self, r: int) -> tuple[Any, Any, Any]:
        """Weight of the right pixel, pointers to the left and the right pixel."""
        builder = self.builder
        offset = builder.zext(builder.load(builder.gep(self.offsets, [I64(r)])), I64)
        weight = splat(builder, builder.load(builder.gep(self.weights, [I64(r)])), self.vector)
        left = builder.gep(self.image, [offset])
        right = builder.gep(left, [I64(self.lanes)])
        pointer = self.vector.as_pointer()
        return weight, builder.bitcast(left, pointer), builder.bitcast(right, pointer)

    def load(self, pointer: Any) -> Any:
        return load(self.builder, pointer, self.dtype)

    def store(self, value: Any, pointer: Any) -> None:
        self.builder.store(value, pointer, align=self.dtype.bitwidth // 8)


def scalar_of(dtype: types.Float) -> ir.Type:
    return ir.FloatType() if dtype == types.float32 else ir.DoubleType()


def splat(builder: ir.IRBuilder, scalar: Any, vector: ir.VectorType) -> Any:
    nothing = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(nothing, scalar, I32(0))
    return builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(I32, vector.count), [0] * vector.count))


def smaller(builder: ir.IRBuilder, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered("<", a, b), a, b)


def larger(builder: ir.IRBuilder, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def shuffle(builder: ir.IRBuilder, first: Any, second: Any, places: Any) -> Any:
    places = list(places)
    return builder.shuffle_vector(first, second, ir.Constant(ir.VectorType(I32, len(places)), places))


def data(context: Any, builder: ir.IRBuilder, signature: Any, args: Any, index: int) -> Any:
    return context.make_array(signature.args[index])(context, builder, args[index]).data


def at(context: Any, builder: ir.IRBuilder, signature: Any, args: Any, vector: ir.VectorType) -> Any:
    pointer = builder.gep(data(context, builder, signature, args, 0), [args[1]])
    return builder.bitcast(pointer, vector.as_pointer())


def load(builder: ir.IRBuilder, pointer: Any, dtype: types.Float) -> Any:
    # Aligned to single values only, not to whole vectors.
    return builder.load(pointer, align=dtype.bitwidth // 8)


def _pixels(context: Any, builder: ir.IRBuilder, signature: Any, args: Any, lanes: int) -> Iterator[Any]:
    """Per pixel: weight, scale, pointers to the left element, the right element and the pixel, the block."""
    block = _Block(context, builder, signature, args, lanes)
    image = builder.gep(data(context, builder, signature, args, 5), [args[6]])
    scales = data(context, builder, signature, args, 4)
    for r in range(ROWS):
        weight, left, right = block.row(r)
        scale = splat(builder, builder.load(builder.gep(scales, [I64(r)])), block.vector)
        pixel = builder.bitcast(builder.gep(image, [I64(r * lanes)]), block.vector.as_pointer())
        yield weight, scale, left, right, pixel, block
