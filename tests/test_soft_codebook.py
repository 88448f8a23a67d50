"""A codebook whose training takes the mean of the codes under softmax(-|z - e|^2 / T)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxae.quantizers.base import Codes
from jaxae.quantizers.codebook import vector
from jaxae.quantizers.combine import product
from jaxae.quantizers.ema import ema_codebook, ema_update, soft_ema_update

HEADS, K, D, N = 3, 5, 2, 16
Z = np.random.default_rng(0).normal(size=(N, HEADS * D)).astype(np.float32)


def of_heads(**options):
    quantizer = product(vector(K, D, start="normal", revive=0.0, **options), HEADS)
    return quantizer, jax.jit(quantizer.init)(jax.random.key(1))


def by_head(z):
    return z.reshape(N, HEADS, D).swapaxes(0, 1)


@pytest.mark.parametrize("options, train", [({}, True), ({}, False), (dict(soft=True, temperature=1.0), False)])
def test_hard_codes_of_heads_are_as_many_searches_of_their_own(options, train):
    quantizer, state = of_heads(**options)
    found = jax.jit(quantizer.quantize, static_argnums=3)(Z, state, jax.random.key(2), train)
    codes = np.asarray(state.moving.codes)  # [heads k d]
    nearest = ((by_head(Z)[:, :, None] - codes[:, None]) ** 2).sum(-1).argmin(-1)  # [heads n]
    np.testing.assert_array_equal(found.indices, nearest.T)
    picked = np.stack([codes[h][nearest[h]] for h in range(HEADS)], 1).reshape(N, -1)
    np.testing.assert_allclose(found.z_q, picked, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(quantizer.lookup)(found.indices, state), picked)
    np.testing.assert_allclose(found.loss, 0.25 * ((Z - picked) ** 2).mean(-1), rtol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_soft_codes_and_their_averages_are_those_by_hand(temperature):
    quantizer, state = of_heads(soft=True, temperature=temperature, decay=0.9, beta=0.5)
    found = jax.jit(quantizer.quantize, static_argnums=3)(Z, state, jax.random.key(2), True)
    codes = np.asarray(state.moving.codes, np.float64)
    score = -((by_head(Z)[:, :, None] - codes[:, None]) ** 2).sum(-1) / temperature  # [heads n k]
    p = np.exp(score) / np.exp(score).sum(-1, keepdims=True)
    mean = (p @ codes).swapaxes(0, 1).reshape(N, -1)
    np.testing.assert_allclose(found.z_q, mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(found.indices, p.argmax(-1).T)
    np.testing.assert_allclose(found.loss, 0.5 * ((Z - mean) ** 2).mean(-1), rtol=1e-4)
    counts = 0.9 + 0.1 * p.sum(1)
    sums = 0.9 * codes + 0.1 * np.einsum("hnk,hnd->hkd", p, by_head(Z))
    total = counts.sum(-1, keepdims=True)
    smoothed = (counts + 1e-5) / (total + K * 1e-5) * total
    new = found.state.moving
    np.testing.assert_allclose(new.counts, counts, rtol=1e-5)
    np.testing.assert_allclose(new.sums, sums, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(new.codes, sums / smoothed[..., None], rtol=1e-4, atol=1e-6)


def test_one_hot_weights_are_the_hard_update():
    state = ema_codebook(jax.random.normal(jax.random.key(0), (K, D)))
    z, indices = jnp.asarray(Z[:, :D]), jnp.arange(N) % K
    soft = jax.jit(soft_ema_update)(state, z, jax.nn.one_hot(indices, K))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), soft,
                 jax.jit(ema_update)(state, z, indices))


def test_the_gradient_is_straight_through_and_that_of_the_commitment():
    quantizer, state = of_heads(soft=True, temperature=1.0)
    direction = jax.random.normal(jax.random.key(3), Z.shape)

    def loss(z):
        found = quantizer.quantize(z, state, jax.random.key(2), True)
        return (found.z_q * direction).sum() + found.loss.sum(), found.z_q

    gradient, z_q = jax.jit(jax.grad(loss, has_aux=True))(jnp.asarray(Z))
    np.testing.assert_allclose(gradient, direction + 0.25 * 2 / (HEADS * D) * (Z - z_q), rtol=1e-4, atol=1e-6)


def test_soft_averages_over_eight_devices_are_those_of_one():
    def step(axis_name):
        quantizer = vector(K, D, start="normal", soft=True, temperature=1.0, axis_name=axis_name)
        state = quantizer.init(jax.random.key(1))
        return lambda z: quantizer.quantize(z, state, jax.random.key(2), True).state

    z = jnp.asarray(Z[:, :D])
    one = jax.jit(step(None))(z)
    mesh = Mesh(np.array(jax.devices()[:8]), ("batch",))
    sharded = jax.jit(step(None))(jax.device_put(z, NamedSharding(mesh, PartitionSpec("batch"))))
    mapped = jax.tree.map(lambda a: a[3], jax.pmap(step("batch"), "batch")(z.reshape(8, -1, D)))
    for other in (sharded, mapped):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, other)
    assert isinstance(one, Codes)


def test_soft_codes_need_a_temperature_and_averages():
    for options in (dict(), dict(temperature=1.0, codebook="gradient"), dict(temperature=1.0, distance="cosine")):
        with pytest.raises(ValueError, match="soft=True wants"):
            vector(K, D, soft=True, **options)
