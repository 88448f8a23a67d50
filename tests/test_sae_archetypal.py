"""Archetypal atoms against the convex hull of their candidates, found by nonnegative least squares."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import nnls

from jaxae.sae import archetypal
from jaxae.sae.archetypal import Archetypes, archetypal_dictionary, project_archetypal

M, C, D = 12, 20, 15


def outside():
    """Parameters as an update leaves them: negative weights, sums other than one, long relaxations."""
    keys = jax.random.split(jax.random.key(0), 3)
    return (Archetypes(jax.random.normal(keys[0], (M, C)), 0.3 * jax.random.normal(keys[1], (M, D)), jnp.float32(0.7)),
            2.0 + jax.random.normal(keys[2], (C, D)))


def distance_to_hull(points, candidates):
    """Least |p - w C| with w >= 0 and sum w = 1, the latter by a row of great weight."""
    points, candidates, weight = np.float64(points), np.float64(candidates), 1e4
    system = np.vstack([candidates.T, np.full((1, len(candidates)), weight)])
    weights = [nnls(system, np.append(p, weight), maxiter=1000)[0] for p in points]
    return np.array([np.linalg.norm(w / w.sum() @ candidates - p) for w, p in zip(weights, points, strict=True)])


def test_atoms_are_in_the_hull_of_the_candidates_or_within_delta_of_it():
    params, candidates = outside()
    free = archetypal_dictionary(params, candidates) / np.exp(0.7)
    assert distance_to_hull(free, candidates).min() > 0.3  # the projection is what brings them there
    atoms = {d: jax.jit(lambda p, c, d=d: archetypal_dictionary(project_archetypal(p, d), c))(params, candidates)
             / np.exp(0.7) for d in (0.0, 0.1)}
    assert distance_to_hull(atoms[0.0], candidates).max() < 1e-5
    away = distance_to_hull(atoms[0.1], candidates)
    assert away.max() <= 0.1 + 1e-5 and away.max() > 0.05
    np.testing.assert_allclose(np.linalg.norm(atoms[0.1] - atoms[0.0], axis=1), 0.1, rtol=1e-4)


def test_projection_is_relu_before_sums_and_keeps_what_is_feasible():
    params, _ = outside()
    projected = jax.jit(partial(project_archetypal, delta=0.2))(params)
    positive = np.maximum(params.weights, 0)
    np.testing.assert_allclose(projected.weights, positive / positive.sum(1, keepdims=True), rtol=1e-5)
    again = project_archetypal(projected, 0.2)
    for once, twice in zip(projected, again, strict=True):
        np.testing.assert_allclose(once, twice, atol=1e-6)
    short = params._replace(relax=0.01 * params.relax)
    np.testing.assert_array_equal(project_archetypal(short, 0.2).relax, short.relax)


def test_a_row_without_positive_weight_returns_to_its_nearest_candidate():
    params, candidates = outside()
    params = params._replace(weights=params.weights.at[3].set(-1.0).at[3, 5].set(-0.1), log_scale=jnp.zeros(()))
    atoms = jax.jit(lambda p: archetypal_dictionary(project_archetypal(p, 0.0), candidates))(params)
    np.testing.assert_allclose(atoms[3], candidates[5], rtol=1e-6)


def test_the_start_is_different_candidates_with_finite_gradients():
    _, candidates = outside()
    starts = [archetypal.start_archetypes(jax.random.key(s), candidates, M) for s in (0, 1)]
    atoms = [np.asarray(archetypal_dictionary(s, candidates)) for s in starts]
    for found in atoms:
        nearest = np.abs(found[:, None] - np.asarray(candidates)).max(-1)
        assert nearest.min(1).max() < 1e-5 and len(set(nearest.argmin(1).tolist())) == M
    assert not np.allclose(*atoms)
    slopes = jax.jit(jax.grad(lambda p: jnp.square(archetypal_dictionary(project_archetypal(p, 0.1), candidates)).sum()
                              ))(starts[0]._replace(relax=jnp.zeros((M, D))))
    assert all(np.isfinite(s).all() for s in slopes)


def test_candidates_are_centroids_or_examples():
    rng = np.random.default_rng(0)
    centres = 10.0 * rng.standard_normal((5, 3))
    x = jnp.asarray(np.repeat(centres, 40, 0) + 0.1 * rng.standard_normal((200, 3)), jnp.float32)
    found = archetypal.candidate_points(x, 5, jax.random.key(1))
    away = np.linalg.norm(np.asarray(found)[:, None] - centres, axis=-1)
    assert away.min(0).max() < 0.1 and away.min(1).max() < 0.1
    np.testing.assert_array_equal(found, archetypal.candidate_points(x, 5, jax.random.key(1)))
    drawn = np.asarray(archetypal.candidate_points(x, 7, jax.random.key(1), "random"))
    rows = (drawn[:, None] == np.asarray(x)).all(-1)
    assert rows.any(1).all() and len(set(rows.argmax(1).tolist())) == 7


def test_candidates_are_outliers_or_vertices_of_the_hull():
    rng = np.random.default_rng(1)
    corners = 5.0 * np.array([[1, 1], [1, -1], [-1, 1], [-1, -1], [0, 1.5]])
    x = jnp.asarray(rng.permutation(np.concatenate([corners, rng.uniform(-1, 1, (200, 2))])), jnp.float32)
    for method in ("outliers", "extremes"):
        found = np.asarray(archetypal.candidate_points(x, 5, jax.random.key(2), method))
        assert sorted(map(tuple, found)) == sorted(map(tuple, np.float32(corners)))
    with pytest.raises(ValueError, match="only 5 extremes were found"):
        archetypal.candidate_points(x, 6, jax.random.key(2), "extremes")


def test_what_does_not_fit_is_said():
    params, candidates = outside()
    with pytest.raises(ValueError, match="25 atoms cannot start at 20 different candidates"):
        archetypal.start_archetypes(jax.random.key(0), candidates, 25)
    with pytest.raises(ValueError, match="use those that training started from"):
        archetypal_dictionary(params, candidates[1:])
    with pytest.raises(ValueError, match="use 0 or more"):
        project_archetypal(params, -1.0)
    with pytest.raises(ValueError, match="from 1 to 20"):
        archetypal.candidate_points(candidates, 21, jax.random.key(0))
    with pytest.raises(ValueError, match="not 'hull'"):
        archetypal.candidate_points(candidates, 2, jax.random.key(0), "hull")
