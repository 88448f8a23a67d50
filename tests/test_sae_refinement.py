"""Thresholds that keep a given number of pre-activations, and codes refined on their atoms, against scipy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import nnls

from jaxae.sae.codes import Codes, dense
from jaxae.sae.encoders import of_pre
from jaxae.sae.refinement import refined, threshold_at
from jaxae.sae.sparsifiers import above, topk

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("l0", [0.125, 1.0, 2.5, 7.0])
def test_as_many_exceed_the_threshold_as_were_asked_for_on_one_device_and_on_eight(l0):
    pre = jnp.asarray(RNG.normal(0, 1, (16, 20)), jnp.float32)
    t = jax.jit(threshold_at)(pre, l0)
    assert (above(pre, t).values > 0).sum() == round(16 * l0)
    spread = jax.pmap(partial(threshold_at, l0=l0, axis_name="d"), "d")(pre.reshape(8, 2, 20))
    assert (spread == t).all()


def test_a_budget_beyond_what_is_positive_keeps_what_is_positive():
    pre = jnp.asarray(RNG.normal(-2, 1, (8, 10)), jnp.float32)
    t = threshold_at(pre, 9.0)
    assert t == 0 and ((above(pre, t).values > 0) == (pre > 0)).all()


@pytest.mark.parametrize("sparse", [True, False])
def test_refined_codes_are_the_nonnegative_least_squares_on_the_same_atoms(sparse):
    atoms = jnp.asarray(RNG.normal(0, 1, (12, 6)), jnp.float32)
    y = jnp.asarray(RNG.normal(0, 1, (9, 6)), jnp.float32)
    codes = topk(of_pre(y @ atoms.T), 4)
    if not sparse:
        codes = Codes(dense(codes, 12))
    found = np.asarray(dense(jax.jit(partial(refined, sweeps=300))(y, codes, atoms), 12))
    chosen = np.asarray(dense(codes, 12)) > 0
    for i in range(9):
        support = np.flatnonzero(chosen[i])
        truth = np.zeros(12)
        truth[support] = nnls(np.asarray(atoms)[support].T, np.asarray(y)[i])[0]
        np.testing.assert_allclose(found[i], truth, atol=2e-3)
    assert (found[~chosen] == 0).all() and (found >= 0).all()


def test_no_sweep_raises_the_error_and_atoms_of_zero_are_harmless():
    atoms = jnp.asarray(RNG.normal(0, 1, (6, 4)), jnp.float32).at[2].set(0.0)
    y, codes = jnp.asarray(RNG.normal(0, 1, (5, 4)), jnp.float32), Codes(jnp.ones((5, 6)))
    run = jax.jit(refined, static_argnums=3)
    errors = [np.square(y - run(y, codes, atoms, sweeps).values @ atoms).sum(1) for sweeps in range(4)]
    assert all((after <= before + 1e-5).all() for before, after in zip(errors, errors[1:], strict=False))
