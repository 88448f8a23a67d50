"""Feature choice as a sparsifier: which atom has which quota, thresholds that keep it, and the switch from mutual."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxae import sae
from jaxae.metrics import zipf_quotas
from jaxae.systems import sparsity

N, M, K = 64, 12, 3
OFTEN = np.random.default_rng(0).permutation(np.asarray(zipf_quotas(M, K * N, 1.0, 1.0, N)) / N)


def pre_activations(key):
    """Atoms that are active, about 1, in a share OFTEN of the examples, and else about 0: nothing between."""
    active, noise = jax.random.split(key)
    return jnp.where(jax.random.uniform(active, (N, M)) < OFTEN, 1.0, 0.0) + 0.1 * jax.random.normal(noise, (N, M))


def sparsifier(**changes):
    model = ConfigDict(sparsity.defaults() | dict(sparsifier="feature_choice", k=K, zipf_shift=1.0) | changes)
    return sparsity.sparsifier_of(model, M, N)


def given(state, step, pre, train=True):
    return sparsity.Given({}, state, step, pre, sae.of_pre(pre), jnp.eye(M), {}, train)


def run(chooser, steps: int):
    def one(state, step):
        chosen = chooser.choose(given(state, step, pre_activations(jax.random.fold_in(jax.random.key(0), step))))
        return chosen.threshold, (chosen.codes.values > 0).sum(0)

    return jax.jit(lambda: jax.lax.scan(one, chooser.threshold(M), jnp.arange(steps)))()


def test_the_atoms_that_are_wanted_most_have_the_largest_quotas_and_thresholds_keep_them():
    state, counts = run(sparsifier(), 1500)
    np.testing.assert_allclose(state.wanted, OFTEN, atol=0.03)
    largest = zipf_quotas(M, K * N, 1.0, 1.0, N)[:3].tolist()
    assert [int(counts[-100:, j].max()) for j in np.argsort(-OFTEN)[:3]] == largest
    fresh = jnp.concatenate([pre_activations(jax.random.key(i)) for i in range(1, 41)])
    chosen = jax.jit(lambda: sparsifier().choose(given(state, 0, fresh, False)))()
    assert abs(float(chosen.l0.mean()) / K - 1.0) < 0.03
    np.testing.assert_allclose((chosen.codes.values > 0).mean(0), OFTEN, atol=0.03)
    np.testing.assert_array_equal(sparsity.threshold_of(state), state.threshold)


def test_quotas_by_index_are_those_of_the_order_of_the_atoms():
    _, counts = run(sparsifier(ranks="index", quotas="uniform"), 3)
    assert (np.asarray(counts) <= K * N // M).all()
    _, counts = run(sparsifier(ranks="index"), 3)
    assert (np.asarray(counts) <= zipf_quotas(M, K * N, 1.0, 1.0, N)).all()


def test_it_begins_as_mutual_choice_where_that_is_asked_for():
    chooser, pre = sparsifier(mutual_steps=2), pre_activations(jax.random.key(9))
    pick = jax.jit(lambda step: chooser.choose(given(chooser.threshold(M), step, pre)).codes.values)
    mutual = sae.batch_topk(pre, K)[0].values
    np.testing.assert_array_equal(pick(1), mutual)
    assert not np.array_equal(pick(2), mutual)


def test_unknown_ranks_are_refused():
    with pytest.raises(ValueError, match="model.ranks='size' must be one of wanted, index"):
        sparsifier(ranks="size")
