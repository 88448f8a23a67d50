"""Factorisations against their constraints, their monotone losses and planted factors."""

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import nnls
from sklearn.exceptions import ConvergenceWarning

from jaxae.sae import factorizations
from jaxae.sae.factorizations import archetypal_analysis, convex_nmf, factorize, semi_nmf


def never_grows(losses):
    losses = np.asarray(losses)
    return (np.diff(losses) <= 1e-5 * losses[0]).all()


def mixtures(seed=0, n=200, vertices=5, d=6):
    """Convex combinations of a few points, some of them near a single one but none at it."""
    rng = np.random.default_rng(seed)
    corners = 2 * np.eye(vertices, d) + 0.3 * rng.standard_normal((vertices, d))
    near = 0.9 * np.repeat(np.eye(vertices), 4, 0) + 0.1 * rng.dirichlet(np.ones(vertices), 4 * vertices)
    weights = np.vstack([near, rng.dirichlet(np.ones(vertices), n - len(near))])
    return jnp.asarray(weights @ corners, jnp.float32), corners


def test_archetypal_analysis_finds_the_corners():
    x, corners = mixtures()
    found = jax.jit(partial(archetypal_analysis, atoms=5, steps=20))(jax.random.key(0), x)
    away = np.linalg.norm(np.asarray(found.atoms)[:, None] - corners, axis=-1)
    assert away.min(0).max() < 0.25 and away.min(1).max() < 0.25
    for rows in (found.codes, found.mixture):
        assert float(rows.min()) >= 0
        np.testing.assert_allclose(rows.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(found.atoms, found.mixture @ x, atol=1e-5)
    size = float(jnp.square(x).sum())
    assert never_grows(found.losses) and float(found.losses[-1]) < 1e-3 * size
    best = [min_on_simplex(found.atoms, row) for row in np.asarray(x[:5])]  # by another solver
    ours = np.square(x[:5] - found.codes[:5] @ found.atoms).sum(1)
    np.testing.assert_allclose(ours, best, atol=1e-4)


def min_on_simplex(atoms, target):
    """Least |target - w D|^2 with w >= 0 and sum w = 1, the latter by a row of great weight."""
    system = np.vstack([np.float64(atoms).T, np.full((1, len(atoms)), 1e3)])
    return np.square(target - nnls(system, np.append(np.float64(target), 1e3))[0] @ np.float64(atoms)).sum()


def test_convex_nmf_mixes_data_and_descends():
    x, _ = mixtures(1)
    found = jax.jit(partial(convex_nmf, atoms=5, steps=300))(jax.random.key(1), x)
    assert float(found.codes.min()) >= 0 and float(found.mixture.min()) >= 0
    np.testing.assert_allclose(found.mixture.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(found.atoms, found.mixture @ x, atol=1e-5)
    error = float(jnp.square(x - found.codes @ found.atoms).sum())
    assert error == pytest.approx(float(found.losses[-1]), rel=1e-3)  # the rows' scale went into the codes
    assert never_grows(found.losses) and error < 0.05 * float(jnp.square(x).sum())


def test_semi_nmf_is_stationary_and_explains_what_has_its_rank():
    rng = np.random.default_rng(2)
    codes = rng.exponential(size=(300, 4)) * (rng.random((300, 4)) < 0.4)
    x = jnp.asarray(codes @ rng.standard_normal((4, 10)), jnp.float32)
    found = jax.jit(partial(semi_nmf, atoms=4, steps=2000))(jax.random.key(3), x)
    size = float(jnp.square(x).sum())
    assert float(found.codes.min()) >= 0 and never_grows(found.losses) and float(found.losses[-1]) < 2e-3 * size
    residual = found.codes @ found.atoms - x
    np.testing.assert_allclose(found.codes.T @ residual, 0, atol=1e-3 * size)  # atoms are the least-squares ones
    slope = np.asarray(residual @ found.atoms.T)
    assert np.abs(np.minimum(found.codes, slope)).mean() < 0.02 * np.asarray(found.codes).mean()


@pytest.mark.parametrize("method", ["nmf", "sparse_pca", "dictionary"])
def test_scikit_learns_factorisations_have_our_shapes_and_reconstruct(method):
    x = jnp.abs(mixtures(3)[0])
    warnings.simplefilter("ignore", ConvergenceWarning)  # so few steps are enough here
    found = factorize(x, 4, method, jax.random.key(0), steps=100)
    assert found.codes.shape == (200, 4) and found.atoms.shape == (4, 6) and found.mixture is None
    target = x - x.mean(0) if method == "sparse_pca" else x
    assert float(jnp.square(target - found.codes @ found.atoms).sum()) < 0.7 * float(jnp.square(target).sum())
    if method == "nmf":
        assert float(found.codes.min()) >= 0 and float(found.atoms.min()) >= 0


def test_what_cannot_be_factorised_is_said():
    x, _ = mixtures()
    with pytest.raises(ValueError, match="factorised by one of"):
        factorize(x, 3, "pca", jax.random.key(0))
    with pytest.raises(ValueError, match="not negative"):
        factorize(x, 3, "nmf", jax.random.key(0))
    with pytest.raises(ValueError, match="201 atoms cannot start"):
        factorizations.semi_nmf(jax.random.key(0), x, 201)
