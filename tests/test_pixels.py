"""Models of pixels: mixtures of logistics over levels, pixels as real numbers, the system's bits per dimension."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from test_transformer import assert_follows, every_map, key_of, normal, random_like, random_params

from jaxae import data, systems
from jaxae.nn.axial import AxialTransformer
from jaxae.nn.transformer import Transformer
from jaxae.priors import autoregressive, axial, transformer
from jaxae.priors.outputs import logistic_mixture, output_of
from jaxae.priors.transformer import CausalTransformer
from jaxae.systems.autoregressive import pixels
from jaxae.systems.base import variables
from jaxae.train.config import base

TINY = dict(width=8, layers=1, heads=2, mlp_ratio=2)


def test_mixture_of_logistics_is_the_formula_and_sums_to_one():
    levels, head = 6, logistic_mixture(6, components=3)
    out = 2 * normal(40, head.size)
    w, m, s = np.split(np.asarray(out, np.float64), 3, -1)
    scale = np.exp(np.log1p(np.exp(s + 7.0)) - 7.0)  # softly floored
    edges = np.concatenate([[-np.inf], (np.arange(1, levels) - 0.5) / (levels - 1) * 2 - 1, [np.inf]])  # in [-1, 1]
    below = 1 / (1 + np.exp(-(edges[:, None, None] - m) / scale))  # [levels + 1 n k]
    weight = np.exp(w) / np.exp(w).sum(-1, keepdims=True)
    want = (weight * np.diff(below, axis=0)).sum(-1).T  # [n levels]
    np.testing.assert_allclose(want.sum(1), 1, atol=1e-9)
    np.testing.assert_allclose(np.exp(jax.jit(head.logits)(out)), want, atol=2e-6)
    codes = np.random.default_rng(0).integers(0, levels, 40)
    np.testing.assert_allclose(np.exp(jax.jit(head.log_prob)(out, codes)), want[np.arange(40), codes], atol=2e-6)
    assert np.isnan(head.log_prob(out[:2], jnp.array([-1, levels]))).all()


MODELS = {
    "transformer": lambda **kw: transformer((2, 3), 3, attention="softmax", inputs="values", **TINY, **kw),
    "linear": lambda **kw: transformer((2, 3), 3, attention="linear", inputs="values", **TINY, **kw),
    "axial": lambda **kw: axial((2, 3), 3, width=8, outer=1, inner=1, heads=2, mlp_ratio=2, **kw),
    "pixelcnn": lambda **kw: autoregressive((2, 3), 3, hidden=8, layers=2, embed=4, **kw),
}


@functools.cache
def _model(name):
    prior = MODELS[name](output="logistic_mixture", components=2)
    maps = every_map((2, 3), 3)
    params = random_params(prior, maps)
    return prior, params, np.asarray(jax.jit(prior.log_prob)(params, maps))


@pytest.mark.parametrize("name", MODELS)
def test_probabilities_of_all_images_sum_to_one(name):
    log_p = _model(name)[2]
    np.testing.assert_allclose(np.exp(log_p).sum(), 1, atol=1e-4)
    assert log_p.std() > 0.3


@pytest.mark.parametrize("name", ["linear", "axial"])
def test_samples_and_what_they_begin_with_have_the_enumerated_probabilities(name):
    prior, params, log_p = _model(name)
    assert_follows(prior.sample(params, key_of(0), 8000), np.exp(log_p), 3)
    given = jnp.broadcast_to(jnp.array([2, 0, 1]), (8000, 1, 3))
    drawn = prior.sample(params, key_of(1), 8000, given=given)
    rest = log_p.reshape((3,) * 6)[2, 0, 1].reshape(-1)  # of the second row, given the first
    np.testing.assert_array_equal(drawn[:, :1], given)
    assert_follows(drawn[:, 1], np.exp(rest) / np.exp(rest).sum(), 3)


@pytest.mark.parametrize("name, whole", [("linear", dict(cache=False))])
def test_pixels_one_by_one_are_those_of_whole_passes(name, whole):
    prior, params, _ = _model(name)
    given = jnp.arange(50)[:, None, None] % jnp.array([3, 2, 1])
    fast, slow = (prior.sample(params, key_of(2), 50, given=given, **kw) for kw in ({}, whole))
    np.testing.assert_array_equal(fast, slow)
    assert len(np.unique(fast[:, 1])) == 3


def test_values_enter_linearly_with_a_line_for_each_channel():
    net = CausalTransformer(5, 0, Transformer(2, (1, 2, 2), **TINY), "values")
    codes = jnp.array([[0, 0, 0, 0], [2, 2, 2, 2], [4, 4, 4, 4]])
    params = random_like(jax.eval_shape(net.init, jax.random.key(0), codes, None))
    x = jax.jit(lambda codes: net.apply(params, codes, jnp.arange(4), method="_tokens"))(codes)
    np.testing.assert_allclose(x[1], (x[0] + x[2]) / 2, atol=1e-6)
    np.testing.assert_allclose(x[:, 0], x[:, 2], atol=1e-6)  # the same channel
    assert np.abs(x[:, 0] - x[:, 1]).min() > 1e-3 and np.abs(x[2] - x[0]).min() > 1e-3


def test_one_channel_at_random_is_an_unbiased_loss():
    net = dict(width=8, outer=1, inner=1, encoder=1, heads=2, mlp_ratio=2)
    exact, prior = axial((2, 2, 2), 2, **net), axial((2, 2, 2), 2, one_channel=True, **net)
    codes = every_map((2, 2, 2), 2)[::17]
    params = random_params(prior, codes)
    keys = jax.random.split(jax.random.key(0), 30)
    losses = np.asarray(jax.jit(jax.vmap(lambda key: prior.loss(params, codes, None, key)))(keys))  # [30 n]
    values = [np.unique(column.round(4)) for column in losses.T]
    assert exact.loss is None and all(len(pair) == 2 for pair in values)  # one for each channel
    want = -np.asarray(jax.jit(prior.log_prob)(params, codes))
    np.testing.assert_allclose(np.mean(values, 1), want, atol=1e-3)


def test_without_outer_blocks_rows_know_nothing_of_each_other():
    net = AxialTransformer(3, (3, 4), 8, 0, 1, heads=2, mlp_ratio=2)
    x = normal(3, 4, 8)
    params = random_like(jax.eval_shape(net.init, jax.random.key(0), x[None]))
    jacobian = jax.jit(jax.jacrev(lambda x: net.apply(params, x[None])[0]))(x)
    influence = np.abs(jacobian).sum((2, 5)).reshape(12, 12) > 0
    np.testing.assert_array_equal(influence, np.kron(np.eye(3), np.tri(4, k=-1)) > 0)
    prior = axial((3, 2), 2, width=8, outer=0, inner=1, heads=2, mlp_ratio=2)
    params = random_params(prior, jnp.zeros((1, 3, 2), int))
    same = [prior.sample(params, key_of(0), 20, semi_parallel=way) for way in (True, False)]
    np.testing.assert_array_equal(*same)


# ----------------------------------------------------------------------------------------------------- the system


def _state(system, batch):
    shapes = jax.eval_shape(system.init, jax.random.key(0), batch)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return zeros._replace(params=random_like(shapes.params))


def _config(**model):
    config = base()
    config.system, config.model = "autoregressive.pixels", pixels.defaults()
    config.model.update(dict(prior="transformer", hidden=8, layers=1, heads=2) | model)
    return config


@pytest.mark.parametrize("channels", [1, 2])
def test_bits_per_dim_are_of_all_images_that_there_are(channels):
    """sum_x p(x) = 1 over images of 2 x 2 pixels in 3 levels (or 1 x 2 in 2 channels), read in [0, 1]."""
    shape = (2, 2, 1) if channels == 1 else (1, 2, 2)
    x = every_map(shape, 3) / 2.0
    batch = {"x": x, "index": jnp.arange(len(x))}
    system = systems.build(_config(levels=3), batch)
    state = _state(system, batch)

    @jax.jit
    def report(rows):
        return system.summary(system.evaluate(state, batch | {"x": rows[None]}, jax.random.key(0)))

    each = jax.vmap(report)(x)
    np.testing.assert_allclose(np.exp(-each["nll"]).sum(), 1, atol=1e-4)
    np.testing.assert_allclose(each["bits_per_dim"], each["nll"] / np.log(2) / 4, rtol=1e-5)
    if channels == 2:
        drawn = system.sample(variables(state), key_of(0), 6000)
        assert drawn.shape == (6000, *shape)
        assert_follows(np.rint(np.asarray(drawn) * 2).astype(int), np.exp(-np.asarray(each["nll"])), 3)


def test_completions_keep_the_upper_half():
    config = _config(prior="linear_transformer", conditional=True, classes=10, levels=4)
    dataset = data.load(dict(source="digits", size=6, num_train=16, num_test=8, levels=4))
    batch = dataset.test_transform(dataset.test[:8], jax.random.key(0))
    system = systems.build(config, batch)
    figures = system.figures(_state(system, batch), batch, key_of(1))
    x, upper, *ways = np.asarray(figures["completions"])
    np.testing.assert_allclose(x, batch["x"], atol=1e-6)
    for row in (upper, *ways):
        np.testing.assert_array_equal(row[:, :3], x[:, :3])
    assert not upper[:, 3:].any() and (ways[0] != ways[1]).any()
    assert figures["samples"].shape == (100, 6, 6, 1)


@pytest.fixture(scope="module")
def videos():
    """A digit in 3 frames of 6 x 6 pixels."""
    return data.load(dict(source="moving_digits", size=6, frames=3, digit_size=4, levels=3, num_train=16, num_test=8))


def test_videos_go_on_from_their_first_frames_and_bits_are_of_the_rest(videos):
    batch = videos.test_transform(videos.test[:8], jax.random.key(0))
    given, whole = (systems.build(_config(prior="axial", levels=3, **changes), batch)
                    for changes in (dict(given=True, prefix=1), {}))
    state = _state(whole, batch)

    @jax.jit
    def report(batch):
        return [system.summary(system.evaluate(state, batch, jax.random.key(0))) for system in (given, whole)]

    rest, all_ = report(batch)
    np.testing.assert_allclose(rest["bits_per_dim"], rest["nll"] / np.log(2) / (2 * 36), rtol=1e-5)
    np.testing.assert_allclose(all_["bits_per_dim"], all_["nll"] / np.log(2) / (3 * 36), rtol=1e-5)
    assert rest["nll"] < all_["nll"]
    figures = jax.jit(given.figures)(state, batch, key_of(1))
    completions, samples = np.asarray(figures["completions"]), np.asarray(figures["samples"])
    assert completions.shape == (4, 3, 3, 6, 6, 1) and samples.shape == (8, 3, 6, 6, 1)
    np.testing.assert_allclose(completions[:, 0], batch["x"][:4], atol=1e-6)
    np.testing.assert_allclose(completions[:, :, 0], np.stack([batch["x"][:4, 0]] * 3, 1), atol=1e-6)
    np.testing.assert_allclose(samples[:, 0], batch["x"][:, 0], atol=1e-6)
    assert (completions[:, 1, 1:] != completions[:, 2, 1:]).any()


@pytest.mark.parametrize("changes, x, message", [
    (dict(levels=8, prior="transformer"), jnp.zeros((2, 3, 4, 4, 1)), "of these do axial, row, frame"),
    (dict(levels=8, prior="masked", given=True, prefix=1), jnp.zeros((2, 4, 4, 1)), "'axial'.* rows or frames"),
    (dict(levels=1), jnp.zeros((2, 3, 3, 1)), "two levels or more"),
    (dict(levels=8), jnp.zeros((2, 9)), r"models images \[n h w c\] in \[0, 1\], or videos"),
    (dict(levels=8, conditional=True), jnp.zeros((2, 3, 3, 1)), "set model.classes"),
    (dict(levels=8, prior="next_scale"), jnp.zeros((2, 3, 3, 1)), "multi-scale"),
    (dict(levels=8, output="logits"), jnp.zeros((2, 3, 3, 1)), "'softmax' or 'logistic_mixture'")])
def test_what_cannot_be_modelled_is_refused(changes, x, message):
    with pytest.raises(ValueError, match=message):
        systems.build(_config(**changes), {"x": x, "label": jnp.zeros(2, int)})


def test_outputs_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="two levels"):
        output_of("logistic_mixture", 1)
    prior = transformer((2, 3), 3, inputs="pixels", **TINY)
    with pytest.raises(ValueError, match="'codes' or 'values'"):
        jax.eval_shape(prior.init, jax.random.key(0), jnp.zeros((2, 2, 3), int))
    prior = transformer((2, 3), 3, **TINY)
    with pytest.raises(ValueError, match="first rows of 2 maps"):
        prior.sample({}, jax.random.key(0), 2, given=jnp.zeros((2, 1, 2), int))
    assert isinstance(_config(), ConfigDict)
