"""Blocks modulated by a vector against loops over pixels, their decoder and encoder, and the critic's gradient penalty.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxae.losses.gradient_penalty import gradient_penalty
from jaxae.nn.style import InstanceNormEncoder, StyleBlock, StyleDecoder


def filled(module, *inputs):
    """Parameters of the module's shapes, all of them random."""
    rng, shapes = np.random.default_rng(0), jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    return jax.tree.map(lambda leaf: jnp.asarray(0.5 * rng.normal(size=leaf.shape), jnp.float32), shapes)


@pytest.mark.parametrize("kernel, strides", [(3, 1), (4, 2)])
def test_a_block_is_its_formula(kernel, strides):
    """Every pixel paints the kernel; leaky ReLU of slope 0.2; each channel of each image is standardised over its
    pixels; then scale and shift, both past a ReLU, by the image's own vector."""
    x, v = (np.asarray(jax.random.normal(jax.random.key(i), shape)) for i, shape in ((0, (2, 3, 4, 5)), (1, (2, 6))))
    block = StyleBlock(7, kernel, strides)
    params = filled(block, x, v)
    got = jax.jit(block.apply)({"params": params}, x, v)
    weights, n, h, w = np.asarray(params["conv"]["kernel"], np.float64), *x.shape[:3]
    canvas = np.zeros((n, strides * h + kernel, strides * w + kernel, 7))
    for i, j in np.ndindex(h, w):
        for a, b in np.ndindex(kernel, kernel):
            canvas[:, strides * i + a, strides * j + b] += x[:, i, j] @ weights[a, b]
    crop = (kernel - strides) // 2
    painted = canvas[:, crop:crop + strides * h, crop:crop + strides * w]
    painted = np.where(painted > 0, painted, 0.2 * painted)
    style = np.maximum(v @ np.asarray(params["style"]["kernel"]) + np.asarray(params["style"]["bias"]), 0)
    want = np.zeros(painted.shape)
    for i, c in np.ndindex(n, 7):
        channel = painted[i, ..., c]
        want[i, ..., c] = style[i, c] * (channel - channel.mean()) / np.sqrt(channel.var() + 1e-6) + style[i, 7 + c]
    np.testing.assert_allclose(got, want, atol=2e-5)


def test_a_decoder_knows_of_the_vector_by_styles_alone():
    """Without what the styles take from the dense layers all images are one; and every parameter is used."""
    net, z = StyleDecoder((2, 2), (6, 4), 3, features=(8,), blocks=1), jax.random.normal(jax.random.key(0), (4, 5))
    params = filled(net, z)
    apply = jax.jit(lambda params, z: net.apply({"params": params}, z))
    images = apply(params, z)
    assert images.shape == (4, 8, 8, 3) and np.ptp(images, axis=0).max() > 0.1
    deaf = jax.tree_util.tree_map_with_path(
        lambda path, leaf: 0.0 * leaf if [key.key for key in path][1:] == ["style", "kernel"] else leaf, params)
    assert np.ptp(apply(deaf, z), axis=0).max() < 1e-5
    slopes = jax.jit(jax.grad(lambda params: jnp.sum(apply(params, z) ** 2)))(params)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(slopes))  # every parameter has a part
    np.testing.assert_allclose(net.init(jax.random.key(0), z)["params"]["constant"], 0.1)


def test_an_encoder_takes_no_notice_of_contrast():
    """Its first convolution has no bias, and every channel is standardised; no example sees another."""
    net, x = InstanceNormEncoder((4, 6), (8,), blocks=1), jax.random.normal(jax.random.key(0), (3, 8, 8, 2))
    params = filled(net, x)
    apply = jax.jit(lambda x: net.apply({"params": params}, x))
    features = apply(x)
    assert features.shape == (3, 8) and np.ptp(features, axis=0).max() > 0.1
    np.testing.assert_allclose(apply(7.0 * x), features, atol=1e-4)
    np.testing.assert_allclose(apply(x.at[1].set(5.0))[::2], features[::2], atol=1e-5)
    assert sorted(params) == ["conv00", "conv01", "conv10", "conv11", "dense0", "norm00", "norm01", "norm10", "norm11"]
    with pytest.raises(ValueError, match="one pixel"):
        jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 4, 4, 2)))


def test_gradient_penalty_of_a_quadratic_critic_on_any_number_of_devices():
    """D(x) = |x|^2 / 2 has slope |x|, so that the penalty at real = fake is (|x| - 1)^2; between others it is
    (|x'| - 1)^2 at one point of the line, the same however the batch is spread."""
    real, fake, w = (jax.random.normal(jax.random.key(i), (16, 3, 2)) for i in range(3))
    key = jax.random.key(9)

    def critic(w, x):
        return 0.5 * jnp.sum(w[0] * x**2, (1, 2))

    def step(w, real, fake, axis_name=None):
        def mean(w):
            penalty = gradient_penalty(lambda x: critic(w, x), real, fake, key, axis_name)
            return penalty.mean(), penalty

        slope, penalty = jax.grad(mean, has_aux=True)(w)
        return penalty, slope

    ones = jnp.ones_like(w)
    same = jax.jit(step)(ones, real, real)[0]
    norms = np.sqrt(np.square(np.asarray(real)).sum((1, 2)))
    np.testing.assert_allclose(same, (norms - 1) ** 2, rtol=1e-4, atol=1e-6)
    penalty, slope = jax.jit(step)(w, real, fake)
    lines = np.linspace(0, 1, 20001)[:, None, None, None]
    points = np.asarray(w[0]) * (lines * np.asarray(real[:4]) + (1 - lines) * np.asarray(fake[:4]))
    nearest = np.abs((np.sqrt((points**2).sum((2, 3))) - 1) ** 2 - np.asarray(penalty[:4])).min(0)
    assert nearest.max() < 1e-3 and np.unique(np.round(penalty, 4)).size == 16
    mesh = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = [jax.device_put(x, NamedSharding(mesh, PartitionSpec("d"))) for x in (real, fake)]
    mapped = jax.shard_map(lambda w, a, b: (lambda p, g: (p, jax.lax.pmean(g, "d")))(*step(w, a, b, "d")), mesh=mesh,
                           in_specs=(PartitionSpec(), PartitionSpec("d"), PartitionSpec("d")),
                           out_specs=(PartitionSpec("d"), PartitionSpec()), check_vma=False)
    parts = jax.pmap(lambda a, b: step(w, a, b, "d"), "d")(*(x.reshape(8, 2, 3, 2) for x in (real, fake)))
    for other in (jax.jit(step)(w, *spread), jax.jit(mapped)(w, real, fake), (parts[0].reshape(-1), parts[1].mean(0))):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), (penalty, slope), other)
    flat = jax.jit(jax.value_and_grad(lambda w: gradient_penalty(lambda x: 0.0 * critic(w, x), real, fake, key).sum()))
    value, slope = flat(w)
    assert value == 16.0 and np.isfinite(slope).all()
