"""Convolution and transposed convolution in two forms with the same numbers.

Accelerators want the plain `lax.conv_general_dilated`. XLA on CPU does not: its input gradient of a wide
strided convolution is up to 40 times slower than the same sums written as a matrix product. There we cut
shifted slices, concatenate them and multiply once (`matmul_conv.py`); autodiff then turns both gradients into
one product each. `_form` is the only place that chooses. Images are channels last, kernels are `[kh kw in out]`.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from flax.typing import Dtype, Initializer
from jax import lax
from jaxtyping import Array, Float

from jaxae.nn import matmul_conv
from jaxae.nn.matmul_conv import both

Pair = int | Sequence[int]
Padding = str | Sequence[Sequence[int]]

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def conv(x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw ci o"], *, strides: Pair = 1,
         padding: Padding = "SAME", form: str | None = None) -> Float[Array, "b oh ow o"]:
    """Two-dimensional cross-correlation, as every deep learning library calls convolution.

    `y[p, q, o] = sum_{i, j, c} x[p s + i - lo, q s + j - lo, c] kernel[i, j, c, o]`, with zeros outside `x`,
    and `oh = (h + lo + hi - kh) // s + 1`.

    Args:
      x: images `[b h w c]`.
      kernel: weights `[kh kw c o]`.
      strides: one step for both axes, or `(rows, columns)`.
      padding: 'SAME' (`oh = ceil(h / s)`), 'VALID' (none), or `((lo, hi), (lo, hi))` in pixels.
      form: 'lax' or 'matmul'; None chooses by the default backend (CPU: 'matmul').

    Returns:
      `[b oh ow o]` in the dtype of the inputs.

    Raises:
      ValueError: wrong rank, channels that differ, a kernel larger than the padded image, an unknown form.

    Example:
      >>> conv(jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 1)), padding="VALID").tolist()
      [[[[18.0], [18.0]], [[18.0], [18.0]]]]
    """
    _check(x, kernel, "conv")
    strides = _pair(strides, "strides")
    padding = _conv_padding(x.shape[1:3], kernel.shape[:2], strides, padding)
    size = both(lambda n, k, s, p: (n + sum(p) - k) // s + 1,
                x.shape[1:3], kernel.shape[:2], strides, padding)
    if min(size) < 1:
        raise ValueError(f"conv: kernel {kernel.shape[:2]} on {x.shape[1:3]} pixels with padding {padding} "
                         "leaves no output: use a smaller kernel, more padding or a larger image.")
    if _form(form) == "lax":
        return _lax_conv(x, kernel, strides, padding)
    return matmul_conv.conv(x, kernel, strides, _lows(padding), size)


def conv_transpose(x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw ci o"], *, strides: Pair = 1,
                   padding: Padding = "SAME", form: str | None = None) -> Float[Array, "b oh ow o"]:
    """Transposed convolution: every pixel of `x` paints a scaled kernel, `s` pixels apart.

    `y[p s + i - lo, q s + j - lo, o] += sum_c x[p, q, c] kernel[i, j, c, o]`, with
    `oh = (h - 1) s + kh - lo - hi`: `lo` and `hi` crop the painted canvas (negative: extend it by zeros).

    It is the adjoint of `conv`: `<conv(u, k), y> = <u, conv_transpose(y, k.swapaxes(2, 3))>` at the same
    strides and padding, with `hi` less by `(n + lo + hi - kh) % s` where `conv` skipped pixels at the end.

    PyTorch's `ConvTranspose2d(cin, cout, k, stride=s, padding=p, output_padding=op)` is `strides=s`,
    `padding=((p, p - op), (p, p - op))`, `kernel = weight.transpose(2, 3, 0, 1)`.

    Args:
      x: maps `[b h w c]`.
      kernel: weights `[kh kw c o]`, not flipped.
      strides: one upsampling factor for both axes, or `(rows, columns)`.
      padding: 'SAME' (`oh = h s`), 'VALID' (no crop), or the crop `((lo, hi), (lo, hi))` in pixels.
      form: 'lax' or 'matmul'; None chooses by the default backend (CPU: 'matmul').

    Returns:
      `[b oh ow o]` in the dtype of the inputs.

    Raises:
      ValueError: wrong rank, channels that differ, a crop that leaves nothing, an unknown form.

    Example:
      >>> conv_transpose(jnp.ones((1, 2, 2, 1)), jnp.ones((2, 2, 1, 1)), strides=2).shape
      (1, 4, 4, 1)
    """
    _check(x, kernel, "conv_transpose")
    strides = _pair(strides, "strides")
    padding = _transpose_padding(kernel.shape[:2], strides, padding)
    size = both(lambda m, k, s, p: (m - 1) * s + k - sum(p),
                x.shape[1:3], kernel.shape[:2], strides, padding)
    if min(size) < 1:
        raise ValueError(f"conv_transpose: padding {padding} crops all of the output: use less padding.")
    if _form(form) == "lax":
        return _lax_conv_transpose(x, kernel, strides, padding)
    return matmul_conv.conv_transpose(x, kernel, strides, _lows(padding), size)


class Conv(nn.Module):
    """Convolution with bias: `[b h w c] -> [b oh ow features]`.

    Attributes:
      features: output channels.
      kernel_size: one size for both axes, or `(kh, kw)`.
      strides, padding, form: as in `conv`.
      use_bias: add a learned `[features]`.
      dtype: of the computation; None keeps the input's. Parameters `kernel`, `bias` are float32.
      kernel_init: initialiser of `kernel [kh kw c features]`.
    """

    features: int
    kernel_size: Pair = 3
    strides: Pair = 1
    padding: Padding = "SAME"
    use_bias: bool = True
    dtype: Dtype | None = None
    kernel_init: Initializer = nn.initializers.lecun_normal()
    form: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b oh ow o"]:
        return _layer(self, conv, x)


class ConvTranspose(nn.Module):
    """Transposed convolution with bias: `[b h w c] -> [b oh ow features]`; 'SAME' gives `oh = h * strides`.

    Attributes:
      features: output channels.
      kernel_size: one size for both axes, or `(kh, kw)`.
      strides, padding, form: as in `conv_transpose`, which says how PyTorch's arguments map.
      use_bias: add a learned `[features]`.
      dtype: of the computation; None keeps the input's. Parameters `kernel`, `bias` are float32.
      kernel_init: initialiser of `kernel [kh kw c features]`.
    """

    features: int
    kernel_size: Pair = 3
    strides: Pair = 1
    padding: Padding = "SAME"
    use_bias: bool = True
    dtype: Dtype | None = None
    kernel_init: Initializer = nn.initializers.lecun_normal()
    form: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b oh ow o"]:
        return _layer(self, conv_transpose, x)


def _layer(module, function, x):
    if x.ndim != 4:
        raise ValueError(f"{type(module).__name__}: expected images [b h w c], got shape {x.shape}: "
                         "add the batch or the channel axis.")
    shape = (*_pair(module.kernel_size, "kernel_size"), x.shape[-1], module.features)
    kernel = module.param("kernel", module.kernel_init, shape, jnp.float32)
    bias = module.param("bias", nn.initializers.zeros, shape[-1:], jnp.float32) if module.use_bias else None
    x, kernel, bias = promote_dtype(x, kernel, bias, dtype=module.dtype or x.dtype)
    y = function(x, kernel, strides=module.strides, padding=module.padding, form=module.form)
    return y if bias is None else y + bias


def _form(form):
    """The one choice of algorithm, made when a function is traced."""
    if form is None:
        return "matmul" if jax.default_backend() == "cpu" else "lax"
    if form not in ("lax", "matmul"):
        raise ValueError(f"unknown form {form!r}: use 'lax', 'matmul' or None to choose by platform.")
    return form


def _check(x, kernel, name):
    if x.ndim != 4 or kernel.ndim != 4:
        raise ValueError(f"{name}: expected x [b h w c] and kernel [kh kw c o], got {x.shape} and "
                         f"{kernel.shape}: add the batch or the channel axis.")
    if x.shape[-1] != kernel.shape[2]:
        raise ValueError(f"{name}: x has {x.shape[-1]} channels but the kernel {kernel.shape} expects "
                         f"{kernel.shape[2]}: images are [b h w c] with channels last, kernels [kh kw c o].")
    if x.dtype != kernel.dtype:
        raise TypeError(f"{name}: x is {x.dtype} but the kernel is {kernel.dtype}: cast one of them.")


def _pair(value, name):
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or min(pair) < 1:
        raise ValueError(f"{name} must be a positive integer or a pair of them, got {value}.")
    return pair


def _explicit(padding):
    pairs = tuple(tuple(p) for p in padding) if not isinstance(padding, str) else ()
    if len(pairs) != 2 or any(len(p) != 2 for p in pairs):
        raise ValueError(f"padding must be 'SAME', 'VALID' or ((lo, hi), (lo, hi)), got {padding!r}.")
    return pairs


def _lows(padding):
    return tuple(lo for lo, _ in padding)


def _conv_padding(size, kernel, strides, padding):
    if padding == "SAME":
        totals = both(lambda n, k, s: max((-(-n // s) - 1) * s + k - n, 0), size, kernel, strides)
        return tuple((t // 2, t - t // 2) for t in totals)
    return ((0, 0), (0, 0)) if padding == "VALID" else _explicit(padding)


def _transpose_padding(kernel, strides, padding):
    if padding == "SAME":  # the adjoint of conv's 'SAME' on h * s pixels
        lows = both(lambda k, s: max(k - s, 0) // 2, kernel, strides)
        return both(lambda k, s, lo: (lo, k - s - lo), kernel, strides, lows)
    return ((0, 0), (0, 0)) if padding == "VALID" else _explicit(padding)


# XLA on CPU (jaxlib 0.10) reads out of bounds where a convolution's padding is negative: crop apart from it.


def _crop(x, padding):
    rows, columns = ((min(lo, 0), min(hi, 0), 0) for lo, hi in padding)
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), rows, columns, (0, 0, 0)])


def _lax_conv(x, kernel, strides, padding):
    pads = both(lambda p: (max(p[0], 0), max(p[1], 0)), padding)
    return lax.conv_general_dilated(_crop(x, padding), kernel, strides, pads, dimension_numbers=_DIMENSIONS)


def _lax_conv_transpose(x, kernel, strides, padding):
    reach = both(lambda k, p: (k - 1 - p[0], k - 1 - p[1]), kernel.shape[:2], padding)
    pads = both(lambda p: (max(p[0], 0), max(p[1], 0)), reach)
    y = lax.conv_general_dilated(x, kernel[::-1, ::-1], (1, 1), pads, lhs_dilation=strides,
                                 dimension_numbers=_DIMENSIONS)
    return _crop(y, reach)
