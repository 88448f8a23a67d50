"""A transformer that reads and one that writes, attentive pooling, and the search for the likeliest sentence."""

import itertools
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxae.nn.attention import CrossAttention, SelfAttention
from jaxae.nn.attentive_pool import MultiheadPool, multihead_pool
from jaxae.nn.mlp import MLP
from jaxae.nn.seq2seq import Seq2Seq
from jaxae.nn.sequences import beam_search, roll_out, shifted
from jaxae.nn.transformer import sinusoids

V, T, D, END = 4, 3, 8, 1
NET = Seq2Seq(T, D, 1, 2, 12)
TABLE = jax.random.normal(jax.random.key(0), (V, D))
MEMORY = jax.random.normal(jax.random.key(1), (3, 2, D)) * 3
PARAMS = jax.jit(NET.init)(jax.random.key(2), TABLE, jnp.ones((1, T), jnp.int32))["params"]
WRITE = jax.jit(partial(NET.apply, method="write"))


def step(state, tokens):
    return NET.apply({"params": PARAMS}, TABLE, state, tokens, method="step")


def every_sentence():
    """All that can be written: words, an end and padding, or words up to the length."""
    found = []
    for tokens in itertools.product(range(1, V), repeat=T):
        cut = tokens.index(END) + 1 if END in tokens else T
        found.append((*tokens[:cut], *[0] * (T - cut)))
    return np.array(sorted(set(found)), np.int32)


@pytest.fixture(scope="module")
def scores():
    """log p(y | memory), [memories sentences]."""
    sentences = every_sentence()
    logits = jnp.stack([WRITE({"params": PARAMS}, TABLE, jnp.broadcast_to(m, (len(sentences), *m.shape)),
                              shifted(jnp.asarray(sentences))) for m in MEMORY])
    each = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), sentences[None, ..., None], -1)[..., 0]
    return np.where(sentences > 0, each, 0.0).sum(-1)


def test_probabilities_of_all_sentences_sum_to_one(scores):
    np.testing.assert_allclose(np.exp(scores).sum(-1), 1.0, rtol=1e-5)


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_beam_of_full_width_finds_the_best_of_all_sentences(scores, penalty):
    sentences = every_sentence()
    best = (scores / ((5 + (sentences > 0).sum(-1)) / 6) ** penalty).argmax(-1)
    search = jax.jit(partial(beam_search, step, length=T, end=END, width=V**T, length_penalty=penalty))
    np.testing.assert_array_equal(search(NET.start(MEMORY)), sentences[best])


def test_a_length_penalty_favours_longer_sentences():
    # The end at once has log .5 = -.69, three words have log(.5 .8 .8) = -1.14: -.64 where divided by (8/6)^2.
    def known(state, tokens):
        go_on = jnp.where(state == 0, 0.5, 0.8)[:, None]
        return state + 1, jnp.log(jnp.concatenate([0 * go_on, 1 - go_on, go_on, 0 * go_on], -1) + 1e-9)

    def found(penalty):
        return jax.jit(partial(beam_search, known, length=3, end=END, width=4, length_penalty=penalty))(jnp.zeros(1))

    for penalty, best in ((0.0, [1, 0, 0]), (1.0, [1, 0, 0]), (2.0, [2, 2, 2])):
        np.testing.assert_array_equal(found(penalty), [best])


def test_greedy_steps_on_a_cache_are_teacher_forcing():
    written = jax.jit(lambda memory: roll_out(step, NET.start(memory), T, END))(MEMORY)
    logits = WRITE({"params": PARAMS}, TABLE, MEMORY, shifted(written))
    best = np.where(np.asarray(written) > 0, np.asarray(logits.argmax(-1)), 0)
    np.testing.assert_array_equal(written, best)
    state, seen = NET.start(MEMORY), []
    for tokens in np.asarray(shifted(written)).T:
        state, out = jax.jit(step)(state, jnp.asarray(tokens))
        seen.append(out)
    np.testing.assert_allclose(jnp.stack(seen, 1), logits, rtol=1e-4, atol=1e-5)


def test_the_reader_does_not_see_padding_and_the_writer_not_the_future():
    read = jax.jit(partial(NET.apply, method="read"))
    h = read({"params": PARAMS}, TABLE, jnp.array([[2, 1, 0], [2, 3, 1]]))
    other = read({"params": PARAMS}, TABLE.at[0].set(7.0), jnp.array([[2, 1, 0], [2, 3, 1]]))
    np.testing.assert_allclose(h[0, :2], other[0, :2], rtol=1e-5)
    assert np.isfinite(read({"params": PARAMS}, TABLE, jnp.zeros((1, T), jnp.int32))).all()
    a, b = (WRITE({"params": PARAMS}, TABLE, MEMORY[:1], jnp.array([[0, 2, last]])) for last in (2, 3))
    np.testing.assert_allclose(a[:, :2], b[:, :2], rtol=1e-5)
    assert np.abs(a[:, 2, 1:] - b[:, 2, 1:]).max() > 1e-3
    hidden = WRITE({"params": PARAMS}, TABLE, MEMORY[:1], jnp.array([[0, 2, 3]]), jnp.array([[True, True, False]]))
    unknown = WRITE({"params": PARAMS}, TABLE.at[3].set(0.0), MEMORY[:1], jnp.array([[0, 2, 3]]))
    np.testing.assert_allclose(hidden[..., 1:3], unknown[..., 1:3], rtol=1e-5)


def test_the_first_transformers_blocks_have_their_norms_after_the_sums_and_sinusoids_for_positions():
    places = sinusoids(5, 6)
    for t, i in itertools.product(range(5), range(3)):
        angle = t / 10_000 ** (2 * i / 6)
        np.testing.assert_allclose(places[t, 2 * i:2 * i + 2], [np.sin(angle), np.cos(angle)], atol=1e-6)
    net = Seq2Seq(T, D, 1, 2, 12, norm="post", positions="sinusoidal", directional=True)
    shapes = jax.eval_shape(net.init, jax.random.key(2), TABLE, jnp.ones((1, T), jnp.int32))
    noise = np.random.default_rng(0)
    variables = jax.tree.map(lambda s: jnp.float32(noise.normal(0, 0.5, s.shape)), shapes)
    params, inputs = variables["params"]["decoder"], jnp.array([[0, 2, 3], [0, 3, 2], [0, 2, 2]])
    assert "positions" not in params
    block = params["block0"]

    def norm(x, name, of=block):
        return nn.LayerNorm().apply({"params": of[name]}, x)

    @jax.jit
    def run(tokens):
        x = D**0.5 * TABLE[inputs] + sinusoids(T, D)
        x = norm(x + SelfAttention(2, True).apply({"params": block["attention"]}, x), "norm0")
        x = norm(x + CrossAttention(2).apply({"params": block["cross"]}, x, MEMORY), "cross_norm")
        x = norm(x + MLP((12, D), nn.relu).apply({"params": block["mlp"]}, x), "norm1")
        x = norm(x, "norm", params)
        want = (x @ params["logits"]["kernel"] + params["logits"]["bias"]) @ TABLE.T

        state, one = net.start(MEMORY), []
        for column in inputs.T:  # word by word on a cache
            state, out = net.apply(variables, TABLE, state, column, method="step")
            one.append(out)
        return want, net.apply(variables, TABLE, MEMORY, inputs, method="write"), jnp.stack(one, 1), net.apply(
            variables, TABLE, tokens, method="read")

    want, got, one, read = run(jnp.array([[2, 3, 1], [2, 3, 2], [3, 3, 1]]))
    np.testing.assert_allclose(got[..., 1:], want[..., 1:], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(one[..., 1:], want[..., 1:], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(read[0, :2], read[1, :2], atol=1e-6)  # a directional reader does not see what follows
    assert np.abs(read[0, 2] - read[1, 2]).max() > 1e-3 and np.abs(read[0, 1:] - read[2, 1:]).max() > 1e-3


def test_cross_attention_is_softmax_of_queries_and_keys():
    x, memory = jax.random.normal(jax.random.key(0), (2, 3, 4)), jax.random.normal(jax.random.key(1), (2, 5, 6))
    net = CrossAttention(2)
    y, variables = jax.jit(net.init_with_output)(jax.random.key(2), x, memory)
    p = jax.tree.map(np.asarray, variables["params"])
    for b in range(2):
        out = p["out"]["bias"].copy() * np.ones((3, 1))
        for h in range(2):
            q = x[b] @ p["q"]["kernel"][:, h] + p["q"]["bias"][h]
            k, v = (memory[b] @ p["kv"]["kernel"][:, i, h] + p["kv"]["bias"][i, h] for i in range(2))
            weights = np.exp(q @ k.T / np.sqrt(2))
            out = out + weights / weights.sum(-1, keepdims=True) @ v @ p["out"]["kernel"][h]
        np.testing.assert_allclose(y[b], out, rtol=1e-4, atol=1e-5)


def test_each_pooled_head_is_a_mean_under_its_own_weights():
    rng = np.random.default_rng(0)
    values, scores = rng.normal(size=(2, 4, 3, 5)).astype(np.float32), rng.normal(size=(2, 4, 3)).astype(np.float32)
    mask = np.array([[1, 1, 1, 1], [1, 1, 0, 0]], bool)
    got = jax.jit(multihead_pool)(values, scores, mask)
    for b, h in itertools.product(range(2), range(3)):
        weights = np.exp(scores[b, mask[b], h])
        np.testing.assert_allclose(got[b, h], weights @ values[b, mask[b], h] / weights.sum(), rtol=1e-5)
    net, x = MultiheadPool(3, 5, dropout=0.5), rng.normal(size=(400, 4, 6)).astype(np.float32)
    params = jax.jit(net.init)(jax.random.key(0), x)
    noisy = jax.jit(lambda x: net.apply(params, x, deterministic=False, rngs={"dropout": jax.random.key(1)}))(
        np.broadcast_to(x[:1], x.shape))
    plain = net.apply(params, jnp.asarray(x[:1]))
    assert noisy.std() > 0.1
    np.testing.assert_allclose(noisy.mean(0), plain[0], atol=0.15)
