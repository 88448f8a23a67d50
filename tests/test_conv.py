"""Convolutions against brute force, PyTorch's numbers, and each other."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxae.nn import Conv, ConvTranspose
from jaxae.nn.conv import conv, conv_transpose

GOLDEN = np.load(Path(__file__).parent / "golden" / "conv.npz")
FORMS = ("lax", "matmul")
# Rows take every kernel and stride, columns others, so that swapped axes cannot pass.
CELLS = [(k, s) for k in (1, 2, 3, 4, 5) for s in (1, 2, 3)]
QUICK = {"xla_backend_optimization_level": 0}  # compiling is nearly all of the time here
PADDINGS = {"same": "SAME", "valid": "VALID", "wide": ((3, 1), (0, 2)), "odd": ((0, 1), (2, 3))}


def brute_conv(x, kernel, strides, padding):
    """The sum in the docstring, pixel by pixel, in float64."""
    (kh, kw, _, o), (s, s2) = kernel.shape, strides
    if padding == "SAME":
        totals = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(x.shape[1:3], (kh, kw), strides)]
        padding = [(t // 2, t - t // 2) for t in totals]
    elif padding == "VALID":
        padding = [(0, 0), (0, 0)]
    x = np.pad(np.asarray(x, np.float64), ((0, 0), *padding, (0, 0)))
    size = (x.shape[1] - kh) // s + 1, (x.shape[2] - kw) // s2 + 1
    y = np.zeros((len(x), *size, o))
    for p, q in np.ndindex(size):
        y[:, p, q] = np.tensordot(x[:, p * s:p * s + kh, q * s2:q * s2 + kw], np.asarray(kernel, np.float64), 3)
    return y


def brute_conv_transpose(x, kernel, strides, padding):
    """Every pixel paints its kernel on a canvas, which is then cropped; in float64."""
    (kh, kw, _, o), (s, s2), (b, h, w, _) = kernel.shape, strides, x.shape
    if padding == "SAME":
        lows = [max(k - s, 0) // 2 for k, s in zip((kh, kw), strides)]
        padding = [(lo, k - s - lo) for lo, k, s in zip(lows, (kh, kw), strides)]
    elif padding == "VALID":
        padding = [(0, 0), (0, 0)]
    margin = 8
    canvas = np.zeros((b, (h - 1) * s + kh + 2 * margin, (w - 1) * s2 + kw + 2 * margin, o))
    for p, q, i, j in np.ndindex(h, w, kh, kw):
        canvas[:, margin + p * s + i, margin + q * s2 + j] += np.asarray(x, np.float64)[:, p, q] @ kernel[i, j]
    (lo, hi), (lo2, hi2) = padding
    return canvas[:, margin + lo:canvas.shape[1] - margin - hi, margin + lo2:canvas.shape[2] - margin - hi2]


def case(k, s, transposed):
    """Inputs whose columns take another kernel and stride than the rows, on an odd and an even side."""
    k2, s2 = k % 5 + 1, s % 3 + 1
    keys = jax.random.split(jax.random.key(17 * k + s), 2)
    x = jax.random.normal(keys[0], (2, 4, 3, 3) if transposed else (2, 7, 6, 3))
    return x, jax.random.normal(keys[1], (k, k2, 3, 2)), (s, s2)


@pytest.mark.parametrize("function,brute", [(conv, brute_conv), (conv_transpose, brute_conv_transpose)])
@pytest.mark.parametrize("k,s", CELLS)
def test_both_forms_equal_brute_force_and_each_others_gradients(function, brute, k, s):
    x, kernel, strides = case(k, s, function is conv_transpose)

    @partial(jax.jit, compiler_options=QUICK)
    def run(x, kernel, weights):
        """Value and both gradients of a weighted sum, for every padding and form."""
        out = {}
        for name, w in weights.items():
            for form in FORMS:
                def f(x, kernel, padding=PADDINGS[name], form=form):
                    return function(x, kernel, strides=strides, padding=padding, form=form)
                y, pullback = jax.vjp(f, x, kernel)
                out[name, form] = (y, *pullback(w))
        return out

    want, weights = {}, {}
    for name, padding in PADDINGS.items():
        want[name] = brute(x, kernel, strides, padding)
        if min(want[name].shape) > 0:  # a kernel may outgrow the image, a crop may take all
            weights[name] = jax.random.normal(jax.random.key(3), want[name].shape)
    got = run(x, kernel, weights)
    assert {"same", "valid"} <= set(weights)
    for name in weights:
        for form in FORMS:
            assert_allclose(got[name, form][0], want[name], rtol=1e-4, atol=1e-4, err_msg=f"{name} {form}")
        for a, b in zip(got[name, "lax"][1:], got[name, "matmul"][1:]):
            assert_allclose(a, b, rtol=1e-4, atol=1e-4, err_msg=f"gradients, {name}")
