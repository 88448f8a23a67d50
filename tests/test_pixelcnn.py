"""Gated PixelCNN: causality, reach and conditioning, read off its Jacobian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxae.nn.pixelcnn import PixelCNN


def _randomised(net, x, *conditions):
    """Parameters with random biases too, so that no dependence vanishes by symmetry at zero."""
    shapes = jax.eval_shape(net.init, jax.random.key(0), x, *conditions)
    noise = np.random.default_rng(0)
    return jax.tree.map(lambda p: jnp.float32(noise.normal(0, 0.2, p.shape)), shapes)


def _influence(net, params, x):
    """[h w] outputs by [h w] inputs: how strongly each output depends on each input."""
    jacobian = jax.jit(jax.jacrev(lambda x: net.apply(params, x[None])[0]))(x)  # [h w out h w c]
    return np.abs(jacobian).sum((2, 5))


def _inside(height, width, radius):
    """The pixels before (i, j) in raster order, at most `radius` rows up and `radius` columns away."""
    i, j, p, q = np.ogrid[:height, :width, :height, :width]
    rows_above = (p < i) & (i - p <= radius) & (np.abs(q - j) <= radius)
    return rows_above | ((p == i) & (q < j) & (j - q <= radius))


@pytest.mark.parametrize("height,width,kernel,first_kernel,layers", [
    (6, 5, 5, 3, 2), (6, 7, 3, 3, 3), (5, 5, 1, 5, 2), (4, 4, 5, 7, 1), (1, 9, 3, 3, 4),
])
def test_depends_on_exactly_the_previous_pixels_within_reach(height, width, kernel, first_kernel, layers):
    net = PixelCNN(out=3, hidden=8, layers=layers, kernel=kernel, first_kernel=first_kernel)
    x = jax.random.normal(jax.random.key(2), (height, width, 2))
    influence = _influence(net, _randomised(net, x[None]), x)
    expected = _inside(height, width, first_kernel // 2 + (layers - 1) * (kernel // 2))
    assert np.all(influence[~expected] == 0)  # exactly zero: neither the future nor the pixel itself
    assert np.all(influence[expected] > 0)  # no blind spot


def test_default_network_sees_every_previous_pixel_of_a_7x7_map():
    net = PixelCNN(out=2, hidden=8)
    x = jax.random.normal(jax.random.key(2), (7, 7, 2))
    influence = _influence(net, _randomised(net, x[None]), x).reshape(49, 49)
    np.testing.assert_array_equal(influence > 0, np.tri(49, k=-1, dtype=bool))


@pytest.mark.parametrize("height", [1, 4])
def test_a_vector_reaches_every_output(height):
    net = PixelCNN(out=2, hidden=16, layers=2)
    x, vector = jax.random.normal(jax.random.key(0), (1, height, 4, 3)), jnp.ones((1, 5))
    params = _randomised(net, x, vector)
    jacobian = jax.jit(jax.jacrev(lambda v: net.apply(params, x, v)[0]))(vector)  # [h w out 1 v]
    assert np.all(np.abs(jacobian).sum((2, 3, 4)) > 0)


@pytest.mark.parametrize("height", [1, 4])
def test_a_spatial_condition_reaches_its_own_output_and_is_causal_otherwise(height):
    net = PixelCNN(out=2, hidden=8, layers=3)
    x = jax.random.normal(jax.random.key(0), (1, height, 4, 3))
    spatial = jax.random.normal(jax.random.key(1), (1, height, 4, 5))
    params = _randomised(net, x, None, spatial)
    jacobian = jax.jit(jax.jacrev(lambda s: net.apply(params, x, None, s)[0]))(spatial)[:, :, :, 0]
    influence = np.abs(jacobian).sum((2, 5)).reshape(4 * height, 4 * height)
    assert np.all(np.diagonal(influence) > 0)
    assert np.all(influence[np.triu_indices(4 * height, k=1)] == 0)


def test_a_constant_spatial_condition_equals_a_vector_with_the_same_weights():
    net = PixelCNN(out=2, hidden=8, layers=2)
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    vector = jax.random.normal(jax.random.key(1), (2, 5))
    params = _randomised(net, x, vector)
    renamed = {"params": {k.replace("vector", "spatial"): v for k, v in params["params"].items()}}
    spatial = jnp.broadcast_to(vector[:, None, None], (2, 4, 4, 5))
    by_vector = jax.jit(net.apply)(params, x, vector)
    by_map = jax.jit(lambda p, x, s: net.apply(p, x, None, s))(renamed, x, spatial)
    np.testing.assert_allclose(by_vector, by_map, atol=1e-5)
    assert np.abs(by_vector - jax.jit(net.apply)(params, x, vector + 1)).min(-1).max() > 1e-3


def test_dropout_noise_is_that_of_the_global_batch():
    x = jax.random.normal(jax.random.key(0), (4, 3, 3, 2))
    one = PixelCNN(out=2, hidden=8, layers=1, dropout=0.5)
    many = one.clone(axis_name="data")
    params = _randomised(one, x)
    rngs = {"dropout": jax.random.key(2)}
    whole = jax.jit(lambda x: one.apply(params, x, deterministic=False, rngs=rngs))(x)
    split = jax.vmap(lambda x: many.apply(params, x, deterministic=False, rngs=rngs), axis_name="data")
    halves = jax.jit(split)(x.reshape(2, 2, 3, 3, 2))
    np.testing.assert_allclose(whole, halves.reshape(whole.shape), atol=1e-5)
    assert np.abs(whole - jax.jit(one.apply)(params, x)).max() > 1e-3


def test_half_precision_computes_the_same_function_and_keeps_float32_outside():
    x = jax.random.normal(jax.random.key(0), (2, 5, 5, 4))
    exact = PixelCNN(out=3, hidden=8, layers=2)
    half = exact.clone(dtype=jnp.bfloat16)
    params = _randomised(half, x)
    assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    logits, rough = jax.jit(exact.apply)(params, x), jax.jit(half.apply)(params, x)
    assert rough.dtype == jnp.float32
    assert 0 < np.abs(logits - rough).max() < 0.03 * np.abs(logits).max()


@pytest.mark.parametrize("options", [
    dict(kernel=4), dict(first_kernel=6), dict(first_kernel=1), dict(layers=0),
])
def test_impossible_kernels_are_refused(options):
    with pytest.raises(ValueError, match="odd kernels"):
        PixelCNN(out=2, **options).init(jax.random.key(0), jnp.zeros((1, 3, 3, 1)))
