"""Axial attention and the Axial Transformer of maps and videos: masks, exact dependencies, sampling, enumeration."""

import functools
from collections import Counter

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_transformer import assert_follows, every_map, key_of, normal, random_like, random_params, split_in_eight

from jaxae.nn.axial import AxialAttention, AxialTransformer
from jaxae.priors.axial import axial

TINY = dict(width=8, outer=1, inner=1, encoder=1, heads=2, mlp_ratio=2)


@pytest.mark.parametrize("axis,causal", [(1, True), (2, False)])
def test_axial_attention_is_full_attention_with_a_block_mask(axis, causal):
    h, w, d, heads = 3, 4, 6, 2
    layer = AxialAttention(heads, axis, causal)
    x = normal(2, h, w, d)
    params = random_like(jax.eval_shape(layer.init, jax.random.key(0), x))
    p = jax.tree.map(np.asarray, params["params"]["attention"])
    row, column = np.divmod(np.arange(h * w), w)
    line, place = (column, row) if axis == 1 else (row, column)
    seen = line[:, None] == line
    if causal:
        seen &= place[:, None] >= place
    qkv = np.einsum("bid,dkhe->kbhie", x.reshape(2, h * w, d), p["qkv"]["kernel"]) + p["qkv"]["bias"][:, None, :, None]
    weights = np.exp(np.einsum("bhie,bhje->bhij", qkv[0], qkv[1]) / np.sqrt(d / heads)) * seen
    weights = weights / weights.sum(-1, keepdims=True)
    y = np.einsum("bhij,bhje,hed->bid", weights, qkv[2], p["out"]["kernel"]) + p["out"]["bias"]
    np.testing.assert_allclose(jax.jit(layer.apply)(params, x), y.reshape(x.shape), atol=1e-5)


def _influence(shape, outer):
    net, size = AxialTransformer(3, shape, 8, outer, 1, heads=2, mlp_ratio=2), int(np.prod(shape))
    x = normal(*shape, 8)
    params = random_like(jax.eval_shape(net.init, jax.random.key(0), x[None]))
    jacobian = jax.jit(jax.jacrev(lambda x: net.apply(params, x[None])[0].sum(-1)))(x)
    return np.abs(jacobian).sum(-1).reshape(size, size) > 0


@pytest.mark.parametrize("shape", [(3, 4), (2, 2, 2, 2)])  # maps, and videos of volumes
def test_logits_depend_on_exactly_the_pixels_before(shape):
    influence = _influence(shape, 1)
    np.testing.assert_array_equal(influence, np.tri(len(influence), k=-1, dtype=bool))  # no leak and no blind spot


def test_without_blocks_over_frames_each_frame_is_on_its_own():
    np.testing.assert_array_equal(_influence((2, 2, 2), (0, 1)), np.kron(np.eye(2), np.tri(4, k=-1)) > 0)


def test_rows_and_pixels_one_by_one_give_the_logits_of_the_whole_map():
    net = AxialTransformer(3, (3, 2), 8, 1, 2, heads=2, mlp_ratio=2)
    x, context = normal(2, 5, 3, 2, 8)
    params = random_like(jax.eval_shape(net.init, jax.random.key(0), x, context))

    @jax.jit
    def both(params):
        u, above, logits = jnp.zeros((5, 1, 2, 8)), net.start_above(5), []
        for i in range(3):
            across = net.start_across(5)
            for j in range(2):
                left = x[:, i:i + 1, j - 1:j] if j else jnp.zeros((5, 1, 1, 8))
                pixel, across = net.apply(params, left, u[:, :, j:j + 1], context[:, i:i + 1, j:j + 1], (i, j), across,
                                          method="across")
                logits.append(pixel[:, 0, 0])
            u, above = net.apply(params, x[:, i:i + 1], context[:, i:i + 1], (i,), above, method="above")
        return jnp.stack(logits, 1), net.apply(params, x, context).reshape(5, 6, 3)

    steps, whole = both(params)
    np.testing.assert_allclose(steps, whole, atol=1e-4)
    assert whole.std() > 0.1


@functools.cache
def _prior(shape):
    """A prior on binary maps, its parameters, and log-probabilities of every map in class 1 and in the null class."""
    prior = axial(shape, 2, num_classes=2, **TINY)
    maps = every_map(shape, 2)
    label = jnp.ones(len(maps), int)
    params, log_prob = random_params(prior, maps, label), jax.jit(prior.log_prob)
    return prior, params, [np.asarray(log_prob(params, maps, y)) for y in (label, label + 1)]


@pytest.mark.parametrize("shape", [(3, 3), (2, 2, 2), (2, 2, 2, 1), (2, 1, 2, 2)])
def test_probabilities_of_all_maps_sum_to_one(shape):
    of_class, null = _prior(shape)[2]
    np.testing.assert_allclose([np.exp(of_class).sum(), np.exp(null).sum()], 1, atol=1e-4)
    assert of_class.std() > 0.4 and np.abs(null - of_class).max() > 0.1


@pytest.mark.parametrize("shape", [(2, 2, 2), (2, 1, 2, 2)])
def test_each_pixel_sees_all_before_it_in_its_channel_all_channels_before_and_all_earlier_frames(shape):
    """Sums of probabilities over what comes later give each conditional, and on what it depends."""
    order = np.moveaxis(np.arange(8).reshape(shape), -1, -3).ravel()  # frame after frame, in each its channels
    table = np.exp(_prior(shape)[2][0]).reshape((2,) * 8).transpose(order)
    for t in range(8):
        joint = table.sum(tuple(range(t + 1, 8)))
        conditional = joint / joint.sum(-1, keepdims=True)
        for s in range(t):
            assert np.abs(np.diff(conditional, axis=s)).max() > 1e-4


def test_samples_have_the_enumerated_probabilities():
    prior, params, (log_p, _) = _prior((2, 2, 2))
    samples = prior.sample(params, key_of(0), 20_000, jnp.ones(20_000, int))
    assert_follows(samples, np.exp(log_p), 2)


def test_sampling_row_by_row_is_sampling_anew_for_each_pixel():
    prior = axial((2, 1, 2, 2), 7, num_classes=2, **TINY)  # two frames of two channels
    label, key = jnp.arange(40) % 2, key_of(3)
    params = random_params(prior, jnp.zeros((40, 2, 1, 2, 2), int), label)
    options = dict(temperature=0.8, guidance=1.5, top_k=5)
    semi = prior.sample(params, key, 40, label, **options)
    np.testing.assert_array_equal(semi, prior.sample(params, key, 40, label, semi_parallel=False, **options))
    assert len(np.unique(semi)) > 4


def test_sampling_calls_the_outer_decoder_once_a_row():
    prior = axial((3, 4), 2, **TINY)
    params = random_params(prior, jnp.zeros((1, 3, 4), int))
    calls = Counter()

    def count(next_function, args, kwargs, context):
        if isinstance(context.module, AxialTransformer):
            jax.debug.callback(calls.update, [context.method_name])
        return next_function(*args, **kwargs)

    with nn.intercept_methods(count):
        jax.block_until_ready(prior.sample(params, key_of(0), 2))
    jax.effects_barrier()
    assert calls["above"] == 3 and calls["across"] == 12


def test_videos_go_on_by_the_logits_of_whole_passes_with_one_call_over_frames_for_each_of_them():
    shape, n = (3, 2, 3, 1), 4
    prior = axial(shape, 4, prefix=1, **TINY)
    given = jnp.arange(n * 6).reshape(n, 1, 2, 3, 1) % 4
    params = random_params(prior, jnp.zeros((1, *shape), int))
    calls, logits, whole = Counter(), {}, []

    def pixel(place, out):
        logits[tuple(map(int, place))] = np.asarray(out).reshape(n, -1)

    def watch(next_function, args, kwargs, context):
        out, name = next_function(*args, **kwargs), context.method_name
        if not isinstance(context.module, AxialTransformer):
            return out
        if name == "above":
            jax.debug.callback(calls.update, ["rows" if len(args) < 5 else "frames"])
        elif name == "across" and len(args) > 3:
            jax.debug.callback(pixel, args[3], out[0])
        elif name == "inside":
            jax.debug.callback(whole.append, out)
        return out

    with nn.intercept_methods(watch):
        drawn = jax.block_until_ready(prior.sample(params, key_of(0), n, given=given))
        jax.effects_barrier()
        assert calls == {"frames": 3, "rows": 6} and len(logits) == 18
        jax.block_until_ready(jax.jit(prior.log_prob)(params, drawn))
    jax.effects_barrier()
    np.testing.assert_array_equal(drawn[:, :1], given)
    steps = np.stack([logits[place] for place in np.ndindex(shape[:3])], 1)
    np.testing.assert_allclose(steps, np.asarray(whole[0]).reshape(steps.shape), atol=1e-4)
    assert steps.std() > 0.1 and len(np.unique(drawn[:, 1:])) == 4


def test_what_is_given_is_no_part_of_the_density():
    prior, params, (log_p, _) = _prior((2, 2, 2, 1))
    rest = axial((2, 2, 2, 1), 2, num_classes=2, prefix=1, **TINY)
    codes = every_map((2, 2, 2, 1), 2)
    joint = log_p.reshape(16, 16)
    want = joint - np.log(np.exp(joint).sum(1, keepdims=True))  # of the second frame, given the first
    np.testing.assert_allclose(jax.jit(rest.log_prob)(params, codes, jnp.ones(256, int)), want.ravel(), atol=1e-4)
    assert np.abs(want - joint).max() > 1
    with pytest.raises(ValueError, match="give it that many rows"):
        rest.sample(params, key_of(0), 2, jnp.ones(2, int))


def test_noise_of_eight_replicas_is_that_of_one():
    def log_prob(axis_name):
        return axial(shape, 2, num_classes=2, dropout=0.3, label_dropout=0.5, axis_name=axis_name, **TINY).log_prob

    shape = (2, 1, 2, 2)
    codes, label, key = every_map(shape, 2)[:16], jnp.arange(16) % 2, key_of(1)
    params = _prior(shape)[1]
    want = jax.jit(log_prob(None))(params, codes, label, key)
    np.testing.assert_allclose(split_in_eight(log_prob, params, codes, label, key), want, atol=1e-5)
    assert np.abs(want - _prior(shape)[2][0][:16]).max() > 1e-2


def test_values_out_of_range_are_nan():
    prior, params, _ = _prior((3, 3))
    codes = jnp.zeros((512, 3, 3), int).at[1, 1, 1].set(2).at[2, 0, 0].set(-1)
    nan = np.isnan(jax.jit(prior.log_prob)(params, codes, jnp.zeros(512, int)))
    np.testing.assert_array_equal(np.flatnonzero(nan), [1, 2])


def test_what_cannot_be_modelled_is_refused():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="2 to 5 axes"):
        axial((9,), 2)
    prior = axial((3, 3), 2, num_classes=2, **TINY)
    with pytest.raises(ValueError, match="needs integer label"):
        prior.sample({}, key, 2)
    with pytest.raises(ValueError, match=r"expected integer codes \[n, 3, 3\]"):
        jax.eval_shape(prior.init, key, jnp.zeros((2, 3, 4), int), jnp.zeros(2, int))
    with pytest.raises(ValueError, match="inner >= 1"):
        jax.eval_shape(AxialTransformer(2, (2, 2), 8, inner=0, heads=2).init, key, jnp.zeros((1, 2, 2, 8)))
    with pytest.raises(ValueError, match="one for each axis but the last"):
        jax.eval_shape(AxialTransformer(2, (2, 2, 2), 8, (1, 1, 1), heads=2).init, key, jnp.zeros((1, 2, 2, 2, 8)))
    with pytest.raises(ValueError, match="prefix=2"):
        axial((2, 3, 3, 1), 2, prefix=2)
    with pytest.raises(ValueError, match="axis=3"):
        jax.eval_shape(AxialAttention(2, 3).init, key, jnp.zeros((1, 2, 2, 8)))
