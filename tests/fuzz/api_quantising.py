"""Fuzzed quantising, its inverses and M-major scales: by their definition, and refused where they must be."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from api_broken import assert_advice_helps, assert_same_memory, memory, refusal, try_advice
from api_surroundings import draw_surroundings
from api_values import E4M3, WIDTH, bytes_of, chance, codes, scales
from torch import Tensor

import cute_gemm

_LARGEST = 448.0
_SMALLEST_SCALE = 2.0**-126
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def _source(draw: random.Random, *shape: int) -> Tensor:
    """Values to quantise: e4m3 times scales, some of them at the edges of what there is."""
    dtype = draw.choice(_DTYPES)
    kind = draw.choice(("normal", "any", "outliers", "zero blocks", "zero"))
    x = codes(draw, kind, *shape).view(E4M3).float() / 64
    x += bytes_of(draw, *shape).float() / 2**14
    if chance(draw, 0.3):
        x *= draw.choice(
            (2.0**-140, 2.0**-30, 2.0**20, 2.0**110) if dtype is not torch.float16 else (2.0**-12,)
        )
    if x.numel() and chance(draw, 0.1):
        x.flatten()[draw.randrange(x.numel())] = draw.choice((torch.nan, torch.inf, -torch.inf, 2.0**120))
    return x.to(dtype)


def _lies_anyhow(draw: random.Random, x: Tensor) -> Tensor:
    """The same values with other strides."""
    kind = draw.choice(("as it is", "as it is", "columns first", "gaps", "behind others"))
    if kind == "columns first" and x.dim() > 1:
        return x.mT.contiguous().mT
    if kind == "gaps":
        return torch.stack([x, torch.full_like(x, torch.nan)], -1)[..., 0]
    if kind == "behind others":
        return torch.cat([torch.full_like(x[:1], torch.nan), x])[1:]
    return x


def _by_blocks(x: Tensor, height: int) -> Tensor:
    """``[..., row blocks, height, k-blocks, 128]``, filled up with zeros."""
    *_, rows, k = x.shape
    # torch 2.8 does not pad what is empty.
    pad = (0, -k % WIDTH, 0, -rows % height)
    padded = (
        torch.nn.functional.pad(x, pad)
        if x.numel()
        else x.new_empty(*x.shape[:-2], rows + pad[3], k + pad[1])
    )
    return padded.unflatten(-1, (padded.shape[-1] // WIDTH, WIDTH)).unflatten(
        -3, (padded.shape[-2] // height, height)
    )


def _judge(x: Tensor, q: Tensor, s: Tensor, height: int, power_of_two: bool) -> None:
    """The definition, in FP64."""
    assert (q.shape, q.dtype, q.is_contiguous()) == (x.shape, E4M3, True)
    shape = (*x.shape[:-2], -(-x.shape[-2] // height), -(-x.shape[-1] // WIDTH))
    assert (s.shape, s.dtype, s.is_contiguous()) == (shape, torch.float32, True), s.shape
    blocks = _by_blocks(x.double(), height)
    largest = blocks.abs().amax((-3, -1))
    finite = largest.isfinite()
    wanted = (largest / _LARGEST).float().clamp(min=_SMALLEST_SCALE)
    if power_of_two:
        mantissa, exponent = torch.frexp(wanted.double())
        wanted = torch.exp2((exponent - (mantissa == 0.5).int()).double()).float()
    wanted[largest == 0] = 1.0
    wanted[~finite] = torch.nan
    torch.testing.assert_close(s, wanted, rtol=0, atol=0, equal_nan=True)
    wide, of_block = _by_blocks(q.double(), height), s.double()[..., :, None, :, None]
    is_finite = finite[..., :, None, :, None].expand(blocks.shape)
    error = (wide * of_block - blocks).abs()
    # Three bits of mantissa, or half the smallest step; and what rounding the quotient to fp32 may add.
    allowed = blocks.abs() * 2**-4 * (1 + 2**-20) + of_block * 2**-10 * (1 + 2**-20)
    assert bool((error <= allowed)[is_finite].all()), "a value is not the nearest that e4m3 has"
    assert bool(q.float()[~_flat(is_finite, x)].isnan().all()), "a block that is not finite has numbers"


def _flat(blocks: Tensor, like: Tensor) -> Tensor:
    return blocks.flatten(-2).flatten(-3, -2)[..., : like.shape[-2], : like.shape[-1]]


def draw_quantising(draw: random.Random, device: torch.device) -> None:
    """One tensor quantised, and back."""
    rows, k = draw.choice((0, 1, 2, 5, 127, 130)), draw.choice((0, 1, 16, 100, 128, 129, 272))
    leading = draw.choice(((), (), (2,), (3, 1), (0,)))
    x = _lies_anyhow(draw, _source(draw, *leading, rows, k)).to(device)
    height = draw.choice((1, 128))
    quantize, dequantize = (
        (cute_gemm.quantize_1x128, cute_gemm.dequantize_1x128)
        if height == 1
        else (cute_gemm.quantize_128x128, cute_gemm.dequantize_128x128)
    )
    options: dict[str, Any] = {"power_of_two_scales": True} if chance(draw, 0.4) else {}
    dtype = draw.choice((torch.float64, *_DTYPES))
    before = {"x": memory({"x": x})}
    with draw_surroundings(draw):
        (q, s), again = quantize(x, **options), quantize(x, **options)
        back = dequantize(q, _lies_anyhow(draw, s), dtype)
        m_major = cute_gemm.m_major(s) if s.dim() in (2, 3) else None
        both = cute_gemm.quantize_both_ways(x, **options) if chance(draw, 0.3) else ()
    for one, other in zip((q, s), again, strict=True):
        assert torch.equal(one.view(torch.uint8), other.view(torch.uint8)), "the second call gave other bits"
    assert_same_memory({"x": x}, before["x"], "quantised")
    if m_major is not None:
        _judge_m_major(s, m_major)
    # On the host, as a GPU that processes share is slow to start so many kernels.
    x, q, s, back = (each.cpu() for each in (x, q, s, back))
    _judge(x, q, s, height, "power_of_two_scales" in options)
    for source, made in zip((x, x.mT), both, strict=False):
        _judge(source, *(each.cpu() for each in made), 1, "power_of_two_scales" in options)
    wide = s.repeat_interleave(height, -2)[..., :rows, :].repeat_interleave(WIDTH, -1)[..., :k]
    work = torch.float64 if dtype is torch.float64 else torch.float32
    torch.testing.assert_close(back, (q.to(work) * wide.to(work)).to(dtype), rtol=0, atol=0, equal_nan=True)


def _judge_m_major(s: Tensor, found: Tensor) -> None:
    *groups, rows, blocks = s.shape
    step = -(-rows // 4) * 4
    assert found.shape == s.shape
    if not s.numel():
        return
    assert found.stride() == ((1, step) if not groups else (blocks * step, 1, step)), found.stride()
    torch.testing.assert_close(found, s, rtol=0, atol=0, equal_nan=True)
    assert not found.mT.as_strided((*groups, blocks, step), (*found.stride()[:-2], step, 1))[..., rows:].any()


_ODD: dict[str, tuple[type[Exception], Callable[[Tensor], Any]]] = {
    "a list": (TypeError, lambda x: x.tolist()),
    "None": (TypeError, lambda x: None),
    "dtype": (TypeError, lambda x: x.double()),
    "integers": (TypeError, lambda x: x.int()),
    "complex": (TypeError, lambda x: torch.complex(x, x)),
    "sparse": (ValueError, lambda x: x.to_sparse()),
    "sparse rows": (ValueError, lambda x: x.to_sparse_csr()),
    "nested": (ValueError, lambda x: torch.nested.nested_tensor([x, x])),
    "jagged": (ValueError, lambda x: torch.nested.nested_tensor([x, x], layout=torch.jagged)),
    "a number": (ValueError, lambda x: x[0, 0]),
    "uninitialised": (ValueError, lambda x: torch.nn.UninitializedParameter(requires_grad=False)),
    "wants a gradient": (ValueError, lambda x: x.clone().requires_grad_()),
    "tangent": (ValueError, lambda x: torch.autograd.forward_ad.make_dual(x.clone(), torch.zeros_like(x))),
}


def draw_broken_quantising(draw: random.Random, device: torch.device) -> None:
    """A rule of quantising broken."""
    x = scales(draw, 4, 3).to(device)
    rows, weights = codes(draw, "normal", 4, 272), codes(draw, "normal", 400, 272)
    q, w = (y.to(device).view(E4M3) for y in (rows, weights))
    name, call = draw.choice(
        (
            ("x", cute_gemm.quantize_1x128),
            ("w", cute_gemm.quantize_128x128),
            ("s", cute_gemm.m_major),
            ("s", lambda s: cute_gemm.dequantize_1x128(q, s)),
            ("s", lambda s: cute_gemm.dequantize_128x128(w, s)),
        )
    )
    with torch.autograd.forward_ad.dual_level():
        extra = draw.choice(("", "", "", "flag", "dtype", "shape", "device"))
        if extra == "flag":
            value = draw.choice((None, 1, torch.ones(2)))
            refusal(
                lambda: cute_gemm.quantize_1x128(x, power_of_two_scales=value),
                "power_of_two_scales", TypeError, "no bool",
            )  # fmt: skip
        elif extra == "dtype":
            odd_dtype = draw.choice((torch.int32, E4M3, None, "fp32", []))
            refusal(lambda: cute_gemm.dequantize_1x128(q, x, odd_dtype), "dtype", TypeError, "none it has")
        elif extra == "shape":
            refusal(lambda: cute_gemm.dequantize_1x128(q, x[:, :2]), "s", ValueError, "another shape")
        elif extra == "device":
            odd = x.to("meta") if draw.random() < 0.5 or device.type == "cpu" else x.cpu()
            refusal(lambda: cute_gemm.dequantize_1x128(q, odd), "s", ValueError, "another device")
        else:
            which = draw.choice(sorted(_ODD))
            error, change = _ODD[which]
            given = {name: change(x)}
            before = memory(given)
            message = refusal(lambda: call(given[name]), name, error, which)
            assert_same_memory(given, before, which)
            mended = try_advice(message, name, given)
            if mended is not None:
                assert_advice_helps(lambda: call(mended[name]), message)
