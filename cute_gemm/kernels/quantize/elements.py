"""What becomes of elements: the largest magnitude of a block, its scale, and e4m3 values.

Bit for bit what :mod:`cute_gemm.quantize` computes in torch. Magnitudes are compared as integers: of floating
point numbers without their signs the order is the same, and behind all others come infinities, then NaNs.
"""

import cutlass
import cutlass.cute as cute
from cutlass import BFloat16, Float16, Float32, Int32, Uint16, Uint32, const_expr

from ...plan.quantizer import E4M3_MAX, SMALLEST_SCALE

MAGNITUDE, _MAGNITUDES_OF_TWO = 0x7FFFFFFF, 0x7FFF7FFF
_FRACTION, _EXPONENT = 0x007FFFFF, 0x7F800000
_NAN = 0x7FC00000


@cute.jit
def scale_of(amax: Int32, is_power_of_two: cutlass.Constexpr[bool]) -> Float32:
    """The scale of a block, see :func:`cute_gemm.quantize_1x128`.

    Args:
        amax: the bits of its largest magnitude.
        is_power_of_two: whether scales are rounded up to a power of two.
    """
    # amax / 448 rounded correctly: the remainder is exact, as 448 has few bits. A division would be a call.
    whole, inverse = amax.bitcast(Float32), Float32(1 / E4M3_MAX)
    near = whole * inverse
    scale = cute.math.fma(cute.math.fma(near, Float32(-E4M3_MAX), whole), inverse, near)
    scale = Float32(cutlass.select_(scale > SMALLEST_SCALE, scale, Float32(SMALLEST_SCALE)))
    if const_expr(is_power_of_two):
        # All ones in the fraction carry into the exponent, unless it is zero.
        scale = ((scale.bitcast(Int32) + _FRACTION) & _EXPONENT).bitcast(Float32)
    scale = Float32(cutlass.select_(amax == 0, Float32(1.0), scale))
    return Float32(cutlass.select_(amax >= _EXPONENT, Int32(_NAN).bitcast(Float32), scale))


@cute.jit
def largest_of_words(words: cute.Tensor, dtype: cutlass.Constexpr[type]) -> Int32:
    """The bits, as FP32, of the largest magnitude among elements of ``dtype`` in 32-bit ``words``."""
    return largest_in(largest_words(words, dtype), dtype)


@cute.jit
def largest_in(word: Uint32, dtype: cutlass.Constexpr[type]) -> Int32:
    """The bits, as FP32, of the largest of the magnitudes that a word has."""
    if const_expr(dtype.width == 32):
        return Int32(word)
    return magnitude(cutlass.max(word >> 16, word & 0xFFFF), dtype)


@cute.jit
def largest_words(words: cute.Tensor, dtype: cutlass.Constexpr[type]) -> Uint32:
    """The largest magnitude among elements that are in the same place of their words, in that place."""
    signless = MAGNITUDE if const_expr(dtype.width == 32) else _MAGNITUDES_OF_TWO
    most = words[0] & signless
    for i in cutlass.range_constexpr(1, cute.size(words)):
        most = larger(most, words[i] & signless, dtype)
    return most


def larger(a: Uint32, b: Uint32, dtype: type) -> Uint32:
    """Of each magnitude in two words the larger one."""
    return Uint32(cutlass.max(a, b)) if dtype.width == 32 else _larger_of_two(a, b)


@cute.jit
def magnitude(bits: Uint32, dtype: cutlass.Constexpr[type]) -> Int32:
    """The bits, as FP32, of a magnitude that is in the lowest bits of a word."""
    if const_expr(dtype.width == 32):
        return Int32(bits)
    if const_expr(dtype is BFloat16):
        return Int32(bits << 16)
    return Uint16(bits).bitcast(Float16).to(Float32).bitcast(Int32)


@cute.jit
def largest(values: cute.Tensor) -> Int32:
    """The bits of the largest magnitude among FP32 elements; of a NaN, where there is one."""
    most = cute.math.absf(values[0])
    for i in cutlass.range_constexpr(1, cute.size(values)):
        most = cute.arch.fmax(most, cute.math.absf(values[i]), nan=True)
    return most.bitcast(Int32)


@cute.jit
def largest_of_lanes(most: Int32, lanes: cutlass.Constexpr[int]) -> Int32:
    """The largest ``most`` of so many neighbouring lanes, a power of two of them."""
    for i in cutlass.range_constexpr(lanes.bit_length() - 1):
        most = cutlass.max(most, cute.arch.shuffle_sync_bfly(most, 1 << i))
    return most


@cute.jit
def floats_of(words: cute.Tensor, dtype: cutlass.Constexpr[type]) -> cute.Tensor:
    """The elements of ``dtype`` in 32-bit ``words``, in FP32."""
    elements = cute.recast_tensor(words, dtype)
    found = cute.make_rmem_tensor(cute.size(elements), Float32)
    if const_expr(dtype is BFloat16):
        # A shift and a mask; a conversion of vectors takes three instructions for two elements.
        for i in cutlass.range_constexpr(cute.size(words)):
            found[2 * i] = Int32(words[i] << 16).bitcast(Float32)
            found[2 * i + 1] = Int32(words[i] & 0xFFFF0000).bitcast(Float32)
    else:
        found.store(elements.load().to(Float32))
    return found


@cute.jit
def inverse_of(scale: Float32) -> Float32:
    """1 / ``scale``, rounded correctly for any that :func:`scale_of` gives, and for whole numbers."""
    # One step of Newton's does that: those scales are normal, and so are their inverses. What the compiler
    # makes of a division looks for the others, too, in a call.
    near = cute.arch.rcp_approx(scale)
    return cute.math.fma(near, cute.math.fma(-scale, near, Float32(1.0)), near)


@cute.jit
def to_e4m3(values: cute.Tensor, inverse: Float32, quantized: cute.Tensor):
    """Values times the inverse of their scale, to the nearest e4m3, ties to even; beyond 448 it is 448."""
    quantized.store((values.load() * inverse).to(cutlass.Float8E4M3FN))


def _larger_of_two(a: Uint32, b: Uint32) -> Uint32:
    """Of each half the larger one."""
    return cute.arch.inline_ptx(
        "max.u16x2 {$w0}, {$r0}, {$r1};", write_only_types=[Uint32], read_only_args=[a, b]
    )
