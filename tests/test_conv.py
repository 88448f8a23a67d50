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
CELLS = [pytest.param(k, s, marks=[pytest.mark.fast] if (k, s) in ((3, 1), (4, 2), (5, 3)) else [])
         for k in (1, 2, 3, 4, 5) for s in (1, 2, 3)]
QUICK = {"xla_backend_optimization_level": 0}  # compiling is nearly all of the time here
PADDINGS = {"same": "SAME", "valid": "VALID", "wide": ((3, 1), (0, 2)), "odd": ((0, 1), (2, 3))}


def brute_conv(x, kernel, strides, padding):
    """The sum in the docstring, pixel by pixel, in float64."""
    (kh, kw, _, o), (s, s2) = kernel.shape, strides
    if padding == "SAME":
        totals = [max((-(-n // s) - 1) * s + k - n, 0)
                  for n, k, s in zip(x.shape[1:3], (kh, kw), strides, strict=True)]
        padding = [(t // 2, t - t // 2) for t in totals]
    elif padding == "VALID":
        padding = [(0, 0), (0, 0)]
    x = np.pad(np.asarray(x, np.float64), ((0, 0), *padding, (0, 0)))
    size = (x.shape[1] - kh) // s + 1, (x.shape[2] - kw) // s2 + 1
    y = np.zeros((len(x), *size, o))
    for p, q in np.ndindex(size):
        seen = x[:, p * s:p * s + kh, q * s2:q * s2 + kw]
        y[:, p, q] = np.tensordot(seen, np.asarray(kernel, np.float64), 3)
    return y


def brute_conv_transpose(x, kernel, strides, padding):
    """Every pixel paints its kernel on a canvas, which is then cropped; in float64."""
    (kh, kw, _, o), (s, s2), (b, h, w, _) = kernel.shape, strides, x.shape
    if padding == "SAME":
        lows = [max(k - s, 0) // 2 for k, s in zip((kh, kw), strides, strict=True)]
        padding = [(lo, k - s - lo) for lo, k, s in zip(lows, (kh, kw), strides, strict=True)]
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
    for name in ("same", "wide") if (k + s + (function is conv)) % 2 else ("valid", "odd"):
        want[name] = brute(x, kernel, strides, PADDINGS[name])
        if min(want[name].shape) > 0:  # a kernel may outgrow the image, a crop may take all
            weights[name] = jax.random.normal(jax.random.key(3), want[name].shape)
    got = run(x, kernel, weights)
    assert {"same", "valid"} & set(weights)
    for name in weights:
        for form in FORMS:
            assert_allclose(got[name, form][0], want[name], rtol=1e-4, atol=1e-4, err_msg=f"{name} {form}")
        for a, b in zip(got[name, "lax"][1:], got[name, "matmul"][1:], strict=True):
            assert_allclose(a, b, rtol=1e-4, atol=1e-4, err_msg=f"gradients, {name}")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("k,s,p,op", [(3, 2, 1, 0), (3, 2, 1, 1), (4, 2, 1, 0), (5, 3, 0, 2), (2, 3, 0, 1),
                                      (3, 2, 0, 1), (1, 2, 0, 0), (5, 1, 2, 0)])
def test_conv_transpose_module_equals_pytorch_conv_transpose_2d(k, s, p, op, form):
    x, weight, bias, y = (GOLDEN[f"transposed_{k}{s}{p}{op}_{name}"] for name in ("x", "weight", "bias", "y"))
    layer = ConvTranspose(2, k, strides=s, padding=((p, p - op), (p, p - op)), form=form)
    params = {"params": {"kernel": jnp.asarray(weight.transpose(2, 3, 0, 1)), "bias": jnp.asarray(bias)}}
    got = jax.jit(layer.apply)(params, jnp.asarray(x.transpose(0, 2, 3, 1)))
    assert_allclose(got, y.transpose(0, 2, 3, 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("k,s,p", [(4, 2, 1), (3, 1, 1), (5, 3, 2), (1, 2, 0)])
def test_conv_module_equals_pytorch_conv_2d(k, s, p, form):
    x, weight, bias, y = (GOLDEN[f"plain_{k}{s}{p}_{name}"] for name in ("x", "weight", "bias", "y"))
    layer = Conv(2, k, strides=s, padding=((p, p), (p, p)), form=form)
    params = {"params": {"kernel": jnp.asarray(weight.transpose(2, 3, 1, 0)), "bias": jnp.asarray(bias)}}
    got = jax.jit(layer.apply)(params, jnp.asarray(x.transpose(0, 2, 3, 1)))
    assert_allclose(got, y.transpose(0, 2, 3, 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n,k,s,padding", [(8, 4, 2, "SAME"), (9, 3, 3, "SAME"), (6, 2, 3, "SAME"), (7, 5, 1, "SAME"),
                                           (8, 3, 2, (1, 2)), (7, 4, 2, (1, 1)), (9, 3, 2, (0, 0))])
def test_conv_transpose_is_the_adjoint_of_conv(n, k, s, padding, form):
    keys = jax.random.split(jax.random.key(n * k), 3)
    x, kernel = jax.random.normal(keys[0], (2, n, n, 3)), jax.random.normal(keys[1], (k, k, 3, 4))
    crop = padding
    if padding != "SAME":
        lo, hi = padding
        padding, skipped = (padding, padding), (n + lo + hi - k) % s
        crop = ((lo, hi - skipped),) * 2

    @jax.jit
    def products(x, kernel, key):
        there = conv(x, kernel, strides=s, padding=padding, form=form)
        y = jax.random.normal(key, there.shape)
        back = conv_transpose(y, kernel.swapaxes(2, 3), strides=s, padding=crop, form=form)
        return back, jnp.vdot(there, y), jnp.vdot(x, back)

    back, left, right = products(x, kernel, keys[2])
    assert back.shape == x.shape
    assert_allclose(left, right, rtol=1e-5, atol=1e-3)


def test_small_maps_skip_products_with_padding_and_with_cropped_pixels():
    """3x3 -> 1x1 by a 4x4 kernel needs 9 of 16 taps; 4x4 -> 7x7 by a 3x3 kernel 100 of 144 products."""
    def flops(function, x, kernel):
        run = partial(function, strides=2, padding=((1, 1), (1, 1)), form="matmul")
        return jax.jit(run).lower(x, kernel).compile().cost_analysis()["flops"]

    channels = 64
    taps = flops(conv, jnp.ones((1, 3, 3, channels)), jnp.ones((4, 4, channels, channels)))
    products = flops(conv_transpose, jnp.ones((1, 4, 4, channels)), jnp.ones((3, 3, channels, channels)))
    assert taps / (2 * channels**2) == pytest.approx(9, rel=0.1)
    assert products / (2 * channels**2) == pytest.approx(100, rel=0.1)


@pytest.mark.parametrize("function", [conv, conv_transpose])
def test_matmul_form_works_under_vmap_jvp_and_second_derivatives(function):
    keys = jax.random.split(jax.random.key(5), 2)
    x, kernels = jax.random.normal(keys[0], (1, 4, 4, 2)), jax.random.normal(keys[1], (3, 3, 3, 2, 2)) / 4

    def curvature(kernel, form):
        def energy(x):
            return jnp.sum(jnp.tanh(function(x, kernel, strides=2, padding=((1, 1), (1, 1)), form=form)) ** 2)
        return jax.jvp(jax.grad(energy), (x,), (jnp.cos(x),))[1]

    each = jax.jit(jax.vmap(partial(curvature, form="matmul")))(kernels)
    one_by_one = jnp.stack([jax.jit(partial(curvature, form="lax"))(kernel) for kernel in kernels])
    assert_allclose(each, one_by_one, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layer", [Conv, ConvTranspose])
def test_bfloat16_computation_keeps_float32_parameters_and_is_close(layer, form):
    x = jax.random.normal(jax.random.key(0), (2, 6, 6, 16))
    exact, half = (layer(8, 4, strides=2, dtype=dtype, form=form) for dtype in (None, jnp.bfloat16))
    params = jax.jit(half.init)(jax.random.key(1), x)
    loss = jax.jit(jax.value_and_grad(lambda p, m: jnp.sum(m.apply(p, x).astype(jnp.float32) ** 2)), static_argnums=1)
    y, (value, grads) = jax.jit(half.apply)(params, x), loss(params, half)
    want_value, want_grads = loss(params, exact)
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves((params, grads))} == {jnp.dtype("float32")}
    assert_allclose(value, want_value, rtol=0.02)
    kernel, want = grads["params"]["kernel"], want_grads["params"]["kernel"]
    assert jnp.linalg.norm(kernel - want) < 0.02 * jnp.linalg.norm(want)


def test_sharded_batch_gives_the_numbers_of_one_device():
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (8, 6, 6, 3))
    down, up = jax.random.normal(keys[1], (4, 4, 3, 5)), jax.random.normal(keys[2], (3, 3, 5, 3))

    def loss(down, up, x):
        y = conv(x, down, strides=2, form="matmul")
        return jnp.mean((conv_transpose(y, up, strides=2, form="matmul") - x) ** 2)

    want = jax.jit(jax.value_and_grad(loss, (0, 1)))(down, up, x)
    spread = jax.device_put(x, jax.NamedSharding(mesh, jax.P("data")))
    got = jax.jit(jax.value_and_grad(loss, (0, 1)))(down, up, spread)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("function", [conv, conv_transpose])
def test_bad_input_is_answered_with_what_to_do(function):
    x, kernel = jnp.ones((1, 5, 5, 3)), jnp.ones((3, 3, 4, 2))
    with pytest.raises(ValueError, match="3 channels.*expects 4.*channels last"):
        jax.jit(function)(x, kernel)
    with pytest.raises(ValueError, match="unknown form 'fft'.*'lax', 'matmul'"):
        function(x, kernel[:, :, :3], form="fft")
    with pytest.raises(ValueError, match="padding must be 'SAME'"):
        function(x, kernel[:, :, :3], padding="CIRCULAR")
    with pytest.raises(ValueError, match="positive"):
        function(x, kernel[:, :, :3], strides=0)
    with pytest.raises(TypeError, match="cast"):
        function(x, kernel[:, :, :3].astype(jnp.bfloat16))
    with pytest.raises(ValueError, match="less padding" if function is conv_transpose else "smaller kernel"):
        function(x, jnp.ones((7, 7, 3, 2)), padding="VALID" if function is conv else ((6, 6), (6, 6)))
