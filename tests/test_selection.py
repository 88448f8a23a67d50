"""Selection of data from a pool, coverage of tokens, worst groups and names of atoms, against brute force."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import f1_score

from jaxae.data.selection import bm25_scores, dense_scores, select_top, tracin_scores
from jaxae.data.source import DataError
from jaxae.metrics.concepts import name_latents
from jaxae.metrics.coverage import (
    cumulative_coverage,
    token_coverage,
    token_entropy,
    token_f1,
    worst_group_accuracy,
)
from jaxae.sae.influence import attribution
from jaxae.sae.interventions import patch_features

RNG = np.random.default_rng(0)


def test_bm25_is_its_sum_over_words():
    documents = ["a b a c".split(), "b c".split(), "d".split(), "a d d d d d".split(), "e f g".split()]
    queries = [["a", "d"], ["c", "c", "unknown"]]
    mean = sum(map(len, documents)) / 5
    want = np.zeros((2, 5))
    for i, query in enumerate(queries):
        for j, document in enumerate(documents):
            for word in query:
                n, f = sum(word in d for d in documents), document.count(word)
                want[i, j] += (math.log(1 + (5 - n + 0.5) / (n + 0.5)) * f * 2.2
                               / (f + 1.2 * (1 - 0.6 + 0.6 * len(document) / mean)))
    np.testing.assert_allclose(bm25_scores(queries, documents, k1=1.2, b=0.6), want.mean(0), rtol=1e-12)
    np.testing.assert_allclose(bm25_scores(queries, documents, k1=1.2, b=0.6, over="max"), want.max(0), rtol=1e-12)
    with pytest.raises(DataError, match="wants queries"):
        bm25_scores([], documents)


def test_dense_scores_are_cosines_and_the_top_are_the_largest_in_order():
    queries, documents = RNG.standard_normal((3, 5)), RNG.standard_normal((40, 5))
    cosine = (queries @ documents.T) / np.linalg.norm(queries, axis=1)[:, None] / np.linalg.norm(documents, axis=1)
    scores = dense_scores(queries, 7.0 * documents)
    np.testing.assert_allclose(scores, cosine.max(0), atol=1e-6)
    top = select_top(scores, 6)
    assert (np.diff(scores[top]) <= 0).all() and scores[top].min() >= np.delete(scores, top).max()
    assert select_top(np.array([1, 2, 2, 1]), 3).tolist() == [1, 2, 0]
    with pytest.raises(DataError, match="41 of 40"):
        select_top(scores, 41)


def test_traced_influence_is_the_product_of_gradients_row_by_row():
    def loss(params, rows):
        return jnp.square(rows @ params["w"] @ params["w"].T - rows).sum(-1) + rows @ params["b"]

    checkpoints = [{"w": jnp.asarray(RNG.standard_normal((4, 3))), "b": jnp.ones(4)} for _ in range(2)]
    documents, seeds = jnp.asarray(RNG.standard_normal((7, 4))), jnp.asarray(RNG.standard_normal((5, 4)))
    @jax.jit
    def by_rows(params):
        towards = jax.grad(lambda p: loss(p, seeds).mean())(params)
        each = jax.vmap(jax.grad(lambda p, row: loss(p, row[None])[0]), (None, 0))(params, documents)
        small = jax.tree.map(lambda p, g: p - 1e-4 * g[2], params, each)
        fall = loss(params, seeds).mean() - loss(small, seeds).mean()  # by a step on a document
        return sum((each[k] * towards[k]).reshape(7, -1).sum(1) for k in each), fall

    got = jax.jit(lambda: tracin_scores(loss, checkpoints, (0.1, 0.3), documents, seeds))()
    (one, fall), (two, _) = by_rows(checkpoints[0]), by_rows(checkpoints[1])
    np.testing.assert_allclose(got, 0.1 * one + 0.3 * two, rtol=1e-4)
    np.testing.assert_allclose(1e-4 * one[2], fall, rtol=0.05)
    with pytest.raises(DataError, match="1 rates for 2"):
        tracin_scores(loss, checkpoints, (0.1,), documents, seeds)


@pytest.mark.parametrize("mapped", [False, True])
def test_coverage_entropy_and_worst_group_are_those_of_brute_force_on_one_device_and_on_eight(mapped):
    n, m, v = 160, 5, 7
    tokens = RNG.integers(0, v - 1, n)  # the last token is not there
    codes = np.where(RNG.random((n, m)) < 0.2, RNG.random((n, m)), 0.0).astype(np.float32)
    codes[:, 0] = tokens == 2
    codes[:, 4] = 0.0
    label, group = RNG.integers(0, 2, n), RNG.integers(0, 3, n)
    predicted = np.where(group == 1, 0, label)

    def run(codes, tokens, predicted, label, group, axis_name=None):
        return (token_f1(codes, tokens, v, 0.1, axis_name), token_entropy(codes, tokens, v, axis_name),
                worst_group_accuracy(predicted, label, group, 4, axis_name),
                token_coverage(codes, tokens, v, 0.9, 0.1, axis_name))

    given = (codes, tokens, predicted, label, group)
    if mapped:
        out = jax.pmap(lambda *a: run(*a, "batch"), axis_name="batch")(*(a.reshape(8, 20, *a.shape[1:]) for a in given))
        f1, entropy, worst, covered = jax.tree.map(lambda a: np.asarray(a[5]), out)
    else:
        f1, entropy, worst, covered = jax.jit(run)(*given)
    want = [[f1_score(tokens == t, codes[:, j] > 0.1, zero_division=0.0) for t in range(v)] for j in range(m)]
    np.testing.assert_allclose(f1, want, atol=1e-6)
    assert covered.tolist() == [False, False, True, False, False, False, False]
    share = np.array([codes[tokens == t, 1].sum() for t in range(v - 1)]) / codes[:, 1].sum()
    np.testing.assert_allclose(entropy[1], -(share * np.log(share)).sum(), rtol=1e-5)
    assert entropy[0] == 0 and entropy[4] == 0
    np.testing.assert_allclose(worst, (label[group == 1] == 0).mean(), rtol=1e-6)


def test_cumulative_coverage_counts_from_the_most_frequent_token():
    curve = jax.jit(cumulative_coverage)(jnp.array([True, False, True, False]), jnp.array([1, 50, 20, 3]))
    np.testing.assert_allclose(curve, [0.0, 0.5, 0.5, 1.0])


def test_atoms_are_named_by_the_one_word_they_point_to():
    words = ["red", "wet", "loud", "calm"]
    embeddings = np.eye(4)[:, :4] * 3.0 + np.array([9.0, 9.0, 9.0, 9.0])  # a common mean that is no word
    centred = np.eye(4) - 0.25
    between = centred[0] + centred[1]
    atoms = np.stack([5.0 * centred[2], between, centred[3] + 0.5 * centred[0]])
    found = name_latents(atoms, embeddings, words)
    assert [(n.latent, n.word) for n in found] == [(0, "loud"), (2, "calm")]
    np.testing.assert_allclose(found[0].cosine, 1.0)
    assert found[0].ratio == np.inf and 2.0 < found[1].ratio < np.inf
    assert [n.latent for n in name_latents(atoms, embeddings, words, ratio=20.0)] == [0]
    assert len(name_latents(atoms, embeddings, words, ratio=0.5)) == 3
    with pytest.raises(ValueError, match="one for each"):
        name_latents(atoms, embeddings, words[:3])


def test_a_probe_that_learned_a_spurious_atom_is_freed_by_leaving_that_atom_out():
    """Two classes and an attribute that agrees with them in training, twice as strong (the ablation of SHIFT)."""
    atoms = np.eye(6, dtype=np.float32)[:4]  # of class 0 and 1, of attribute 0 and 1

    def draw(label, attribute):
        codes = np.zeros((len(label), 4), np.float32)
        codes[np.arange(len(label)), label], codes[np.arange(len(label)), 2 + attribute] = 1.0, 2.0
        return codes, codes @ atoms + 0.1 * RNG.standard_normal((len(label), 6)).astype(np.float32)

    label, other = RNG.integers(0, 2, 400), RNG.integers(0, 2, 400)
    x = draw(label, label)[1]
    weight = np.linalg.lstsq(x - x.mean(0), label - 0.5, rcond=None)[0]
    codes, x = draw(label, other)
    share = np.abs(jax.jit(attribution)(codes, atoms, np.tile(weight, (400, 1)))).mean(0)
    assert set(np.argsort(share)[2:]) == {2, 3}  # what the probe reads most is the attribute
    drop = jnp.asarray([False, False, True, True])

    label, group = jnp.asarray(label), jnp.asarray(2 * label + other)

    @jax.jit
    def worst(x):
        return worst_group_accuracy(((x - x.mean(0)) @ weight > 0).astype(int), label, group, 4)

    freed = jax.jit(patch_features)(x, codes, jnp.zeros_like(codes), atoms, drop)
    assert float(worst(x)) < 0.1 and float(worst(freed)) > 0.95
