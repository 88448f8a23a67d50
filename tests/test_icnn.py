"""Convexity, and the inverse-Lipschitz constant that the decoder has by construction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxae.nn.icnn import ICNN, BrenierMap, InverseLipschitzDecoder, smallest_singular_value


def shaken(params, key, scale=1.0):
    """Parameters as after many updates: any finite values are allowed."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    return tree.unflatten([leaf + scale * jax.random.normal(k, leaf.shape)
                           for leaf, k in zip(leaves, keys, strict=True)])


def test_the_convex_network_is_convex_for_any_parameters():
    net, (a, b) = ICNN((16, 16)), 3.0 * jax.random.normal(jax.random.key(0), (2, 2000, 3))
    params = shaken(net.init(jax.random.key(1), a), jax.random.key(2))
    phi = jax.jit(lambda u: net.apply(params, u))
    gap = 0.5 * (phi(a) + phi(b)) - phi(0.5 * (a + b))
    assert float(gap.min()) > -1e-4 and float(gap.max()) > 0.1


def test_brenier_map_is_the_gradient_with_a_symmetric_jacobian_of_large_eigenvalues():
    net, u = BrenierMap((16, 16), 0.7), jax.random.normal(jax.random.key(0), (50, 4))
    params = shaken(net.init(jax.random.key(1), u), jax.random.key(2))
    convex = {"params": params["params"]["convex"]}
    potential = jax.vmap(lambda row: ICNN((16, 16)).apply(convex, row[None])[0] + 0.35 * jnp.sum(row**2))
    np.testing.assert_allclose(jax.jit(net.apply)(params, u), jax.grad(lambda u: potential(u).sum())(u), rtol=1e-4,
                               atol=1e-5)
    jacobian = jax.jit(jax.vmap(jax.jacfwd(lambda row: net.apply(params, row[None])[0])))(u)
    np.testing.assert_allclose(jacobian, jacobian.swapaxes(1, 2), atol=1e-4)
    assert float(jnp.linalg.eigvalsh(jacobian).min()) >= 0.7 - 1e-4


@pytest.mark.parametrize("learned", [True, False])
def test_decoder_stretches_every_distance_by_at_least_the_product_of_its_constants(learned):
    net, z = InverseLipschitzDecoder((3, 4), (16, 16), 1.3, learned), jax.random.normal(jax.random.key(0), (200, 2))
    params = shaken(net.init(jax.random.key(1), z), jax.random.key(2), 0.5)
    decode = jax.jit(lambda z: net.apply(params, z))
    assert decode(z).shape == (200, 3, 4)
    stretch = jnp.linalg.norm((decode(z) - decode(z[::-1])).reshape(200, -1), axis=1)
    assert bool(jnp.all(stretch >= 1.69 * jnp.linalg.norm(z - z[::-1], axis=1) - 1e-4))
    slopes = jax.jit(lambda z: smallest_singular_value(lambda row: net.apply(params, row[None])[0], z))(z)
    assert float(slopes.min()) >= 1.69 - 1e-3
    # The constant is what does it: without it the same decoder is flatter somewhere.
    flat = InverseLipschitzDecoder((3, 4), (16, 16), 0.0, learned)
    weak = smallest_singular_value(lambda row: flat.apply(params, row[None])[0], z)
    assert float(weak.min()) < 1.0


@pytest.mark.parametrize("d, features", [(2, (32, 32)), (16, (256, 256)), (200, (32, 32)), (200, (128, 128))])
def test_a_new_map_has_the_same_mean_slope_whatever_its_dimension_and_width(d, features):
    net, u = BrenierMap(features), jax.random.normal(jax.random.key(0), (4, d))
    params = net.init(jax.random.key(1), u)
    jacobian = jax.jit(jax.vmap(jax.jacfwd(lambda row: net.apply(params, row[None])[0])))(u)
    assert 0.1 < float(jnp.trace(jacobian, axis1=1, axis2=2).mean() / d) < 0.4


def test_more_latents_than_outputs_are_refused():
    with pytest.raises(ValueError, match="smaller latent"):
        InverseLipschitzDecoder((2,), (4,)).init(jax.random.key(0), jnp.zeros((1, 3)))
