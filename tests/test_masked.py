"""MaskGIT: the any-order sampler and its bound against enumeration, decoding against a reference by hand."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_transformer import assert_follows, every_map, key_of, random_params, split_in_eight

from jaxae.nn.transformer import Transformer
from jaxae.priors.masked import BidirectionalTransformer, _still_hidden, masked

N, K = 3, 3  # positions and codes of the toy; K stands for a masked code
TINY = dict(width=8, layers=1, heads=2, mlp_ratio=2)


@functools.cache
def _toy():
    """A prior, its parameters, and its log-probabilities `[K+1]*N + [N K]` of every position in every partial map."""
    prior = masked((N,), K, num_classes=2, **TINY)
    partial = every_map((N,), K + 1)
    label = jnp.ones(len(partial), int)
    # A draw in which the orders disagree, and no code is all but certain.
    params = random_params(prior, jnp.zeros((1, N), int), label[:1], scale=0.8, seed=4)
    params["body"]["logits"]["bias"] *= 0
    params["label"]["embedding"] *= 0.3
    net = BidirectionalTransformer(K + 1, 2, Transformer(K, (N,), causal=False, **TINY))
    logits = jax.jit(net.apply)({"params": params}, partial, label)
    return prior, params, np.asarray(jax.nn.log_softmax(logits)).reshape(*[K + 1] * N, N, K)


def _chains(table):
    """[orders maps] log-probability of each map filled in one code at a time, in each order."""
    chains = []
    for order in itertools.permutations(range(N)):
        for codes in itertools.product(range(K), repeat=N):
            state, total = [K] * N, 0.0
            for i in order:
                total += table[(*state, i, codes[i])]
                state[i] = codes[i]
            chains.append(total)
    return np.array(chains).reshape(math.factorial(N), -1)


def test_one_code_an_iteration_in_random_order_samples_the_mixture_over_orders():
    prior, params, table = _toy()
    chains = _chains(table)
    n = 20_000
    samples = prior.sample(params, key_of(0), n, jnp.ones(n, int), iterations=N, choice_temperature=np.inf)
    assert_follows(samples, np.exp(chains).mean(0), K)
    # The orders disagree, so that a sampler with a fixed order would fail.
    assert np.abs(np.exp(chains[0]) - np.exp(chains).mean(0)).sum() / 2 > 0.1


@pytest.mark.parametrize("schedule", ["cosine", "uniform"])
def test_loss_has_the_enumerated_mean_which_bounds_the_sampler_if_uniform(schedule):
    params, table = _toy()[1:]
    codes, n = (2, 0, 1), 20_000
    expected = 0.0
    for count in range(1, N + 1):
        sets = list(itertools.combinations(range(N), count))
        for hidden in sets:
            state = tuple(K if i in hidden else codes[i] for i in range(N))
            nats = -N * np.mean([table[(*state, i, codes[i])] for i in hidden])
            share = 1 / N if schedule == "uniform" else (
                2 / np.pi * (np.arccos((count - 1) / N) - np.arccos(count / N)))
            expected += share / len(sets) * nats
    loss = jax.jit(masked((N,), K, num_classes=2, schedule=schedule, **TINY).loss)
    nats = loss(params, jnp.tile(jnp.array(codes), (n, 1)), jnp.ones(n, int), key_of(1))
    assert abs(nats.mean() - expected) < 4 * nats.std() / np.sqrt(n)
    if schedule == "uniform":
        chains = _chains(table)[:, int(np.ravel_multi_index(codes, (K,) * N))]
        np.testing.assert_allclose(expected, -chains.mean(), rtol=1e-4)
        assert expected > -np.log(np.exp(chains).mean())


def test_greedy_decoding_keeps_the_most_confident_codes_first():
    t, k, guidance = 6, 5, 2.5
    prior = masked((2, 3), k, num_classes=2, **TINY)
    params = random_params(prior, jnp.zeros((1, 2, 3), int), jnp.zeros(1, int))
    net = BidirectionalTransformer(k + 1, 2, Transformer(k, (2, 3), causal=False, **TINY))
    apply = jax.jit(net.apply)
    label, codes = jnp.arange(2), np.full((2, t), k)
    for left in (math.floor(t * math.cos(math.pi / 6)), math.floor(t * math.cos(math.pi / 3)), 0):
        of_class, null = (apply({"params": params}, jnp.array(codes), y) for y in (label, jnp.full(2, 2)))
        log_p = np.asarray(jax.nn.log_softmax(null + guidance * (of_class - null)))
        for row in range(2):
            hidden = np.flatnonzero(codes[row] == k)
            best = sorted(hidden, key=lambda i: -log_p[row, i].max())[:len(hidden) - left]
            codes[row, best] = log_p[row, best].argmax(-1)
    got = prior.sample(params, key_of(0), 2, label, temperature=0.0, guidance=guidance, choice_temperature=0.0,
                       iterations=3)
    np.testing.assert_array_equal(got.reshape(2, t), codes)


def test_one_iteration_draws_every_code_alone():
    prior, params, table = _toy()
    marginals = np.exp(table[K, K, K])
    n = 20_000
    samples = prior.sample(params, key_of(0), n, jnp.ones(n, int), iterations=1)
    assert_follows(samples, np.einsum("a,b,c->abc", *marginals).ravel(), K)


def test_hidden_counts_follow_the_cosine_and_fall_each_time():
    for length, iterations in [(49, 8), (49, 12), (256, 12), (7, 7), (1, 1), (5, 4)]:
        counts = np.concatenate([[length], _still_hidden(length, iterations)])
        assert np.all(np.diff(counts) <= -1) and counts[-1] == 0
        if length > 2 * iterations:
            cosine = np.floor(length * np.cos(np.pi / 2 * np.arange(iterations) / iterations))
            np.testing.assert_array_equal(counts[1:-1], np.minimum(cosine[1:], length - np.arange(1, iterations)))


def test_noise_of_eight_replicas_is_that_of_one():
    def loss(axis_name):
        return masked((N,), K, num_classes=2, dropout=0.3, label_dropout=0.5, axis_name=axis_name, **TINY).loss

    codes, label, key = every_map((N,), K)[:16], jnp.arange(16) % 2, key_of(1)
    params = _toy()[1]
    want = jax.jit(loss(None))(params, codes, label, key)
    np.testing.assert_allclose(split_in_eight(loss, params, codes, label, key), want, atol=1e-5)
    assert np.abs(want - jax.jit(loss(None))(params, codes, label, key_of(2))).max() > 0.1


def test_codes_out_of_range_are_nan_whether_masked_or_not():
    prior, params, _ = _toy()
    codes = jnp.tile(jnp.array([[0, 1, 2], [0, K, 0], [-1, 0, 0]]), (16, 1))
    nats = jax.jit(prior.loss)(params, codes, jnp.zeros(48, int), key_of(0))
    np.testing.assert_array_equal(np.isnan(nats), np.arange(48) % 3 > 0)


def test_what_cannot_be_modelled_or_sampled_is_refused():
    with pytest.raises(ValueError, match="one of cosine, uniform"):
        masked((4,), 3, schedule="linear")
    prior = masked((4,), 3, **TINY)
    assert prior.log_prob is None and prior.fit is None
    with pytest.raises(ValueError, match=r"iterations=5 must be in 1 .. 4"):
        prior.sample({}, key_of(0), 2, iterations=5)
    with pytest.raises(ValueError, match="needs a class-conditional prior"):
        prior.sample({}, key_of(0), 2, guidance=2.0)
    with pytest.raises(ValueError, match=r"expected integer codes \[n, 4\]"):
        jax.eval_shape(prior.init, jax.random.key(0), jnp.zeros((2, 5), int))
