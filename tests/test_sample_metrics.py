"""Precision and recall against brute force in float64, the Inception score in closed cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxae.metrics.inception_score import inception_score
from jaxae.metrics.precision_recall import precision_recall


def _brute(real, fake, k):
    """Distances as differences in float64, neighbours by sorting."""
    def distances(a, b):
        return np.sqrt(np.square(a[:, None].astype(np.float64) - b[None]).sum(-1))

    def covered(x, y):
        own = distances(y, y)
        np.fill_diagonal(own, np.inf)
        return (distances(x, y) <= np.sort(own, 1)[:, k - 1]).any(1).mean()

    return covered(fake, real), covered(real, fake)


def _sets(n, m, d, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(5, 1, (n, d)).astype(np.float32), rng.normal(5.5, 0.8, (m, d)).astype(np.float32)


@pytest.mark.parametrize("k, block", [(1, 16), (3, 37), (3, 1024), (5, 50)])
def test_precision_and_recall_equal_brute_force_for_every_block(k, block):
    real, fake = _sets(100, 74, 6)
    found = jax.jit(lambda a, b: precision_recall(a, b, k, block))(real, fake)
    want = _brute(real, fake, k)
    np.testing.assert_allclose(found, want, atol=1e-6)
    assert 0.1 < want[1] < want[0]  # the narrower set: more precision than recall


def test_a_collapsed_generator_has_precision_without_recall_and_a_wide_one_the_reverse():
    rng = np.random.default_rng(1)
    real = rng.normal(size=(300, 3)).astype(np.float32)
    narrow, wide = 0.05 * rng.normal(size=(300, 3)), 6 * rng.normal(size=(300, 3))
    run = jax.jit(precision_recall)
    precision, recall = run(real, np.float32(narrow))
    assert precision > 0.95 and recall < 0.05
    precision, recall = run(real, np.float32(wide))
    assert precision < 0.3 and recall > 0.6


def test_equal_sets_score_one_even_where_vectors_coincide_far_from_the_origin():
    rng = np.random.default_rng(2)
    x = np.repeat(1000 + rng.normal(size=(40, 8)), 5, 0).astype(np.float32)  # each five times: radii of zero
    shuffled = rng.permutation(x)
    assert precision_recall(jnp.asarray(x), jnp.asarray(shuffled), 3, 32) == (1, 1)
    apart = jnp.asarray(shuffled + 1.0)
    assert precision_recall(jnp.asarray(x), apart, 3, 32).precision == 0


def test_sets_that_are_too_small_or_of_other_dimensions_are_refused():
    with pytest.raises(ValueError, match="more than k=3"):
        precision_recall(jnp.zeros((3, 2)), jnp.zeros((9, 2)))
    with pytest.raises(ValueError, match="one dimension"):
        precision_recall(jnp.zeros((9, 2)), jnp.zeros((9, 3)))


def test_inception_score_in_closed_cases():
    score = jax.jit(inception_score, static_argnames="splits")
    same = jnp.tile(jnp.array([0.3, -1.0, 2.0]), (12, 1))
    np.testing.assert_allclose(score(same, splits=3), (1, 0), atol=1e-5)  # nothing to tell samples apart
    certain = jnp.where(jax.nn.one_hot(jnp.arange(12) % 4, 5), 0.0, -jnp.inf)  # log-probabilities, one class unmet
    np.testing.assert_allclose(score(certain, splits=3), (4, 0), atol=1e-5)
    # In order, each part holds one class: the score of each is 1.
    ordered = certain[jnp.argsort(jnp.arange(12) % 4)]
    np.testing.assert_allclose(score(ordered, splits=4), (1, 0), atol=1e-5)
    # Two classes, of which samples are certain with q: mutual information log 2 - H(q).
    q = 0.9
    two = jnp.log(jnp.array([[q, 1 - q], [1 - q, q]] * 5))
    entropy = -q * np.log(q) - (1 - q) * np.log(1 - q)
    np.testing.assert_allclose(score(two, splits=5).mean, 2 * np.exp(-entropy), rtol=1e-5)
    # Parts of other scores: mean and spread by hand; the eleventh sample is left out.
    mixed = jnp.concatenate([certain[:4], certain[:1], certain[:1], certain[:1], certain[:1], certain[:1]])
    np.testing.assert_allclose(score(mixed, splits=2), (2.5, 1.5), atol=1e-5)
    with pytest.raises(ValueError, match="splits=0"):
        inception_score(two, 0)


@pytest.mark.parametrize("metric", [
    lambda a, b, axis_name=None: jnp.stack(precision_recall(a, b, 3, 20, axis_name)),
    lambda a, b, axis_name=None: jnp.stack(inception_score(a, 5, axis_name))])
def test_replicas_get_the_number_of_the_whole(metric):
    real, fake = _sets(64, 64, 4, 3)
    parts = [x.reshape(8, 8, 4) for x in (real, fake)]
    each = jax.jit(jax.vmap(lambda a, b: metric(a, b, axis_name="data"), axis_name="data"))(*parts)
    np.testing.assert_allclose(each, np.tile(jax.jit(metric)(real, fake), (8, 1)), rtol=1e-6)
