"""Support recovery on a dictionary of known coherence, and k as a traced number."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import hadamard

from jaxae.metrics.dictionary_geometry import coherence
from jaxae.sae import k_sparse
from jaxae.sae.codes import dense


def spikes_and_waves(seed=0):
    """256 unit vectors and 256 Hadamard vectors / 16: every product across is 1/16 or -1/16."""
    return jnp.asarray(np.concatenate([np.eye(256), hadamard(256) / 16.0]), jnp.float32)


def ones(n, m, k, seed):
    codes = np.zeros((n, m), np.float32)
    codes[np.arange(n)[:, None], np.random.default_rng(seed).random((n, m)).argsort(1)[:, :k]] = 1.0
    return jnp.asarray(codes)


def test_coherence_is_the_largest_cosine_of_two_atoms():
    np.testing.assert_allclose(jax.jit(coherence)(spikes_and_waves()), 1 / 16, rtol=1e-6)
    atoms = jax.random.normal(jax.random.key(0), (70, 9))  # not of unit norm
    unit = np.asarray(atoms) / np.linalg.norm(atoms, axis=1, keepdims=True)
    products = np.abs(unit @ unit.T) - np.eye(70)
    np.testing.assert_allclose(jax.jit(coherence)(atoms), products.max(), rtol=1e-5)


def test_the_k_largest_products_are_the_support_within_the_bound_and_fail_beyond():
    """Exact wherever k mu <= 1/2, that is k <= 8. Beyond, the bound is not necessary: recovery fades as integer
    arithmetic says, where products are tied between the share without ties and that with all of them won."""
    atoms = spikes_and_waves()
    mu = jnp.asarray(1 / 16)

    @jax.jit
    def run(z, k):
        found = k_sparse.topk_mask((z @ atoms) @ atoms.T, k)
        return (found == (z > 0)).all(-1).mean(), k_sparse.support_recovery_bound(z, mu)

    whole = np.rint(16 * np.asarray(atoms)).astype(np.float32)  # sums of integers: exact
    for k in (4, 8, 12, 16, 32, 64):
        z = ones(2000, 512, k, k)
        exact, bound = run(z, k)
        products = (np.asarray(z) @ whole) @ whole.T
        least, other = np.where(z > 0, products, np.inf).min(1), np.where(z > 0, -np.inf, products).max(1)
        assert (least > other).mean() <= exact <= (least >= other).mean()
        assert bool(bound.all()) == bool(bound.any()) == (k <= 8)
        assert (exact == 1.0) == (k <= 8)
        assert {12: 0.97, 16: 0.7}.get(k, 0.0) <= exact and (exact < 0.01 or k < 32)


def test_the_bound_counts_the_spread_of_the_codes():
    z = jnp.array([[2.0, 0.0, 1.0], [1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [-2.0, 1.0, 1.0]])
    found = [jax.jit(k_sparse.support_recovery_bound)(z, mu).tolist() for mu in (0.125, 0.126, 0.25, 0.08, 0.09)]
    assert [f[:3] for f in found[:3]] == [[True, True, True], [False, True, True], [False, True, True]]
    assert [f[3] for f in found[3:]] == [True, False]  # 3 x 0.08 <= 1/4 < 3 x 0.09


def test_thresholding_with_inversion_recovers_the_codes():
    """Within the bound in one step, though codes are unequal; with signs by magnitude and not by value."""
    atoms, z = spikes_and_waves(), ones(200, 512, 3, 1)
    z = z * jax.random.uniform(jax.random.key(2), z.shape, minval=1.0, maxval=2.0)
    assert bool(k_sparse.support_recovery_bound(z, 1 / 16).all())
    one = jax.jit(partial(k_sparse.iterative_hard_threshold, k=3))(z @ atoms, atoms)
    np.testing.assert_allclose(dense(one, 512), z, atol=1e-5)
    signed = z * jnp.where(jax.random.bernoulli(jax.random.key(3), shape=z.shape), 1.0, -1.0)
    by_size = jax.jit(partial(k_sparse.iterative_hard_threshold, k=3, select="abs"))(signed @ atoms, atoms)
    np.testing.assert_allclose(dense(by_size, 512), signed, atol=1e-5)
    by_value = k_sparse.iterative_hard_threshold(signed @ atoms, atoms, 3)
    assert np.abs(dense(by_value, 512) - signed).max() > 0.5


def test_more_steps_recover_what_one_does_not():
    atoms, z = spikes_and_waves(), ones(200, 512, 20, 4)
    error = [float((np.abs(dense(jax.jit(partial(k_sparse.iterative_hard_threshold, k=20, steps=s))(
        z @ atoms, atoms), 512) - z).max(1) < 1e-3).mean()) for s in (1, 6)]
    assert error[0] < 0.7 < 0.95 < error[1]


def test_a_traced_k_masks_as_top_k_does_also_with_ties():
    z = jnp.round(2.0 * jax.random.normal(jax.random.key(0), (50, 12))) + 0.0  # no -0; many ties, both signs
    mask = jax.jit(k_sparse.topk_mask, static_argnames="select")
    for k in (1, 3, 11, 12):
        for select, score in (("value", z), ("abs", jnp.abs(z))):
            expected = np.zeros((50, 12), bool)
            np.put_along_axis(expected, np.asarray(jax.lax.top_k(score, k)[1]), True, 1)
            np.testing.assert_array_equal(mask(z, k, select=select), expected)
    assert not mask(z, 0).any()


def test_k_falls_linearly_within_a_compiled_loop():
    ks = jax.jit(lambda: jax.lax.map(partial(k_sparse.k_schedule, start=50, end=10, anneal_steps=20), jnp.arange(40)))()
    assert ks.tolist() == [50 - 2 * s for s in range(20)] + [10] * 20
    assert int(k_sparse.k_schedule(0, 50, 10, 0)) == 10


def test_what_does_not_fit_is_said():
    x, atoms = jnp.zeros((2, 256)), spikes_and_waves()
    with pytest.raises(ValueError, match="choose k from 1 to 512"):
        k_sparse.iterative_hard_threshold(x, atoms, 513)
    with pytest.raises(ValueError, match="at least one"):
        k_sparse.iterative_hard_threshold(x, atoms, 3, steps=0)
    with pytest.raises(ValueError, match="do not fit atoms of width 256"):
        k_sparse.iterative_hard_threshold(x[:, 1:], atoms, 3)
    with pytest.raises(ValueError, match="not 'unit'"):
        k_sparse.topk_mask(x, 3, "unit")
