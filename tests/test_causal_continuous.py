"""The causal prior on real tokens: what conditions see, the cache, random orders, guidance, one device and many."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxae.priors.causal_continuous import CausalContinuousAR, causal_continuous
from jaxae.priors.masked_continuous import _Trunk, masked_continuous
from jaxae.priors.tokens import Head, diffusion_head

LENGTH, D = 5, 2
SMALL = dict(width=8, depth=1, heads=2, buffer=3)


@functools.cache
def _tiny(axis_name=None, learned_variance=True, order="random"):
    prior = causal_continuous((LENGTH, D), 2, diffusion_head(D, 8, 1, times=20, learned_variance=learned_variance),
                              order, axis_name=axis_name, **SMALL)
    shapes = jax.eval_shape(prior.init, jax.random.key(0), jnp.zeros((2, LENGTH, D)), jnp.zeros(2, int))
    return prior, jax.tree.map(_noise(), shapes)


def _noise():
    rng = np.random.default_rng(0)
    return lambda p: jnp.float32(rng.normal(0, 0.3, p.shape))


def _x(n, seed=1):
    return jnp.float32(np.random.default_rng(seed).normal(size=(n, LENGTH, D)))


def test_conditions_depend_on_the_tokens_before_in_the_order_and_on_the_place_to_predict():
    net, noise = CausalContinuousAR((LENGTH,), 2, **SMALL | dict(depth=2)), _noise()
    turns = jnp.array([[3, 0, 4, 1, 2]])
    params = jax.tree.map(noise, jax.eval_shape(net.init, jax.random.key(0), _x(1), turns, jnp.zeros(1, int)))
    run = jax.jit(lambda params, x, turns: net.apply(params, x, turns, jnp.zeros(1, int)))
    slope = np.abs(np.asarray(jax.jit(jax.jacfwd(lambda x: run(params, x, turns)))(_x(1)))).sum((0, 2, 3, 5))
    before = np.tri(LENGTH, k=-1) > 0
    assert np.all(slope[~before] == 0) and np.all(slope[before] > 1e-4)
    # The same tokens before, another place to predict: another condition there, the same ones earlier.
    params["params"]["place"] *= 0  # which every condition has anyway
    this, other = run(params, _x(1), turns), run(params, _x(1), jnp.array([[3, 0, 4, 2, 1]]))
    np.testing.assert_array_equal(other[:, :3], this[:, :3])
    assert np.abs(other - this)[:, 3].max() > 1e-2


def test_cache_gives_what_computing_anew_gives():
    prior, params = _tiny()
    label, key, guidance = jnp.array([0, 1, 1]), jax.random.key(2), 2.5
    cached, anew = (np.asarray(prior.sample(params, key, 3, label, 5, guidance, cache=c)) for c in (True, False))
    np.testing.assert_allclose(cached, anew, rtol=1e-3, atol=1e-4)
    assert np.abs(prior.sample(params, key, 3, 1 - label, 5, guidance) - cached).max() > 1e-2


def test_a_sampled_sequence_has_the_conditions_that_training_would_give_it():
    """Tokens of a head that returns a function of its condition are a fixed point of the parallel pass."""
    head = Head(lambda *_: {}, lambda *_: None, lambda params, key, z, *_: jnp.tanh(z[:, :D]))
    prior = causal_continuous((LENGTH, D), 2, head, "random", **SMALL)
    params, label = {"trunk": _tiny()[1]["trunk"], "head": {}}, jnp.arange(4) % 2
    key = jax.random.key(3)
    x = prior.sample(params, key, 4, label)
    turns = jnp.argsort(jax.random.uniform(jax.random.split(key)[0], (4, LENGTH)), axis=-1)
    in_order = jnp.take_along_axis(x, turns[..., None], axis=1)
    net = CausalContinuousAR((LENGTH,), 2, **SMALL)
    z = jax.jit(lambda x: net.apply({"params": params["trunk"]}, x, turns, label))(in_order)
    np.testing.assert_allclose(jnp.tanh(z[..., :D]), in_order, atol=2e-5)


def test_causal_and_masked_sampling_are_one_where_conditions_agree(monkeypatch):
    """Both trunks replaced by one function of the revealed tokens and of the place: with one order, and an iteration
    for each token, both priors draw the same sequences."""
    weight = jnp.arange(1.0, LENGTH + 1)[:, None]
    head = Head(lambda *_: {}, lambda *_: None, lambda params, key, z, *_: jnp.sin(z[:, :1] + z[:, 1:2]))

    def masked(self, x, hidden, label):
        revealed = (jnp.where(hidden[..., None], 0.0, x) * weight).sum(1)
        return jnp.concatenate([jnp.broadcast_to(revealed[:, None], x.shape), jnp.zeros_like(x) + weight], -1)

    def causal(self, x, turns, label):
        before = jnp.cumsum(x * weight[turns], 1) - x * weight[turns]
        return jnp.concatenate([before, weight[turns]], -1)

    monkeypatch.setattr(_Trunk, "__call__", masked)
    monkeypatch.setattr(CausalContinuousAR, "__call__", causal)
    params, key, net = {"trunk": {}, "head": {}}, jax.random.key(0), dict(width=2, depth=1, heads=1)
    one = causal_continuous((LENGTH, 1), 0, head, "random", **net).sample(params, key, 6, cache=False)
    two = masked_continuous((LENGTH, 1), 0, head, "random", **net).sample(params, key, 6, iterations=LENGTH)
    np.testing.assert_allclose(one, two, atol=1e-5)
    assert np.std(np.asarray(one), axis=0).max() > 0.1  # of six orders


def test_the_raster_is_the_random_order_that_happens_to_be_sorted(monkeypatch):
    raster, params = _tiny(order="raster")
    random, _ = _tiny()
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape, **_: jnp.broadcast_to(jnp.arange(shape[-1]), shape))
    label, key = jnp.arange(3) % 2, jax.random.key(4)
    np.testing.assert_allclose(random.sample(params, key, 3, label, 3), raster.sample(params, key, 3, label, 3),
                               rtol=1e-5, atol=1e-6)  # two programs: each rounds in its own order


def test_guidance_leads_away_from_the_null_class_in_proportion_to_what_is_drawn():
    """A head that returns the weight it is given."""
    weights = Head(lambda *_: {}, lambda *_: None,
                   lambda params, key, z, null, weight, *_: jnp.broadcast_to(weight, (len(z), 1)))
    prior = causal_continuous((LENGTH, 1), 2, weights, **SMALL)
    shapes = jax.eval_shape(prior.init, jax.random.key(0), jnp.zeros((1, LENGTH, 1)), jnp.zeros(1, int))
    params = jax.tree.map(lambda p: jnp.zeros(p.shape), shapes)
    x = prior.sample(params, jax.random.key(5), 2, jnp.zeros(2, int), guidance=3.0)
    np.testing.assert_allclose(x[0, :, 0], 1 + 2 * np.arange(1, LENGTH + 1) / LENGTH, rtol=1e-6)


def test_one_device_and_many_draw_the_same_loss():
    one, params = _tiny()
    many, _ = _tiny(axis_name="batch")
    x, label, key = _x(16), jnp.arange(16) % 2, jax.random.key(6)
    mesh = Mesh(np.array(jax.devices()), ("batch",))
    spread = jax.jit(jax.shard_map(lambda x, label: many.loss(params, x, label, key), mesh=mesh,
                                   in_specs=(P("batch"), P("batch")), out_specs=P("batch"), check_vma=False))
    np.testing.assert_allclose(spread(x, label), jax.jit(one.loss)(params, x, label, key), rtol=2e-5)


def test_what_cannot_be_is_refused():
    for match, options in (("order='spiral'", dict(order="spiral")), ("buffer=0", dict(buffer=0))):
        with pytest.raises(ValueError, match=match):
            causal_continuous((4, 2), **options)
    prior, params = _tiny()
    with pytest.raises(ValueError, match=r"expected real latents \[n, 5, 2\]"):
        prior.loss(params, jnp.zeros((3, 6, 2)), jnp.zeros(3, int), jax.random.key(0))
    with pytest.raises(ValueError, match="num_classes=2 needs integer label"):
        prior.sample(params, jax.random.key(0), 3)
