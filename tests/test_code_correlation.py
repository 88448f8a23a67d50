"""Correlations of latents against numpy's, by groups; consistency over seeds by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxae.metrics.code_correlation import code_correlation, group_correlation
from jaxae.metrics.dictionaries import cross_seed_consistency
from jaxae.metrics.sparse_codes import latent_zscore


def codes(n=300):
    """Six latents; 0, 1 and 2 share a cause, 4 is always silent."""
    rng = np.random.default_rng(0)
    cause = rng.random((n, 1)) < 0.3
    z = rng.random((n, 6)) * (rng.random((n, 6)) < 0.5)
    z[:, :3] *= cause
    z[:, 4] = 0
    return z.astype(np.float32)


def test_correlations_are_numpys_and_a_constant_latent_has_none():
    z = codes()
    found = np.array(jax.jit(code_correlation)(jnp.asarray(z)))
    live = [0, 1, 2, 3, 5]
    np.testing.assert_allclose(found[np.ix_(live, live)], np.corrcoef(z[:, live].T), atol=1e-5)
    assert np.isnan(found[4]).all() and np.isnan(found[:, 4]).all()


def test_groups_are_averaged_over_pairs_of_different_live_latents():
    z, group = codes(), np.array([0, 0, 0, 1, 1, 1])
    found = jax.jit(group_correlation)(jnp.asarray(z), jnp.asarray(group))
    within, between = [], []
    for i in range(6):
        for j in range(i):
            if 4 not in (i, j):
                (within if group[i] == group[j] else between).append(np.corrcoef(z[:, i], z[:, j])[0, 1])
    np.testing.assert_allclose(found.within, np.mean(within), atol=1e-5)
    np.testing.assert_allclose(found.between, np.mean(between), atol=1e-5)
    assert found.pairs == len(within) == 4 and found.within > found.between + 0.1
    alone = group_correlation(jnp.asarray(z), jnp.arange(6))
    assert np.isnan(alone.within) and alone.pairs == 0
    with pytest.raises(ValueError, match="a group for each latent"):
        group_correlation(jnp.asarray(z), jnp.arange(5))


def test_an_atom_is_consistent_if_every_other_run_has_one_near():
    atoms = jnp.eye(4)
    near = jnp.asarray([[1.0, 0.1, 0, 0], [0, -1, 0, 0], [0, 0, 2.0, 0], [0, 0, 0.2, 3.0]])  # 0, 2 and 3
    other = jnp.asarray([[0.5, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, 1.0]])  # 0 and 1
    run = jax.jit(lambda *others: cross_seed_consistency(atoms, others))
    assert float(run(near)) == 0.75 and float(run(near, other)) == 0.25
    keep = latent_zscore(jnp.asarray([[9.0, 1, 1, 1], [0, 1, 0, 0], [0, 0, 0, 1]])) > 1.2
    assert keep.tolist() == [True, False, True, False]
    assert float(cross_seed_consistency(atoms, [near, other], keep)) == 0.5
    with pytest.raises(ValueError, match="at least one other"):
        cross_seed_consistency(atoms, [])
    with pytest.raises(ValueError, match="which of 4 atoms"):
        cross_seed_consistency(atoms, [near], jnp.ones(3, bool))
