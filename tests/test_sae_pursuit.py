"""Pursuits against loops in numpy, their identities, and planted dictionaries."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from jaxae.data import dictionaries
from jaxae.sae import pursuit
from jaxae.sae.atoms import random_atoms

N, M, D, T = 32, 24, 12, 6


def problem(n=N, m=M, d=D):
    keys = jax.random.split(jax.random.key(0), 2)
    return jax.random.normal(keys[0], (n, d)), random_atoms(keys[1], m, d)


def plain_matching_pursuit(x, atoms, steps, signed, tolerance=0.0):
    x, atoms = np.float64(x), np.float64(atoms)
    codes, indices = np.zeros((len(x), len(atoms))), np.zeros((len(x), steps), int)
    for i, residual in enumerate(x):
        for t in range(steps):
            found = atoms @ residual
            j = np.argmax(np.abs(found) if signed else found)
            indices[i, t] = j
            value = found[j] if signed else max(found[j], 0.0)
            if np.linalg.norm(residual) <= tolerance:
                continue
            codes[i, j] += value
            residual = residual - value * atoms[j]
    return codes, indices


@pytest.mark.parametrize("signed", [False, True])
def test_matching_pursuit_is_the_plain_loop_and_keeps_its_identities(signed):
    x, atoms = problem()
    found = jax.jit(partial(pursuit.matching_pursuit, steps=T, signed=signed))(x, atoms)
    codes, indices = plain_matching_pursuit(x, atoms, T, signed)
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_allclose(found.codes, codes, atol=1e-5)
    np.testing.assert_allclose(found.residual, x - found.codes @ atoms, atol=1e-5)
    assert signed == bool((codes < 0).any())
    residual, energy = np.asarray(x), np.square(x).sum(-1)
    for t in range(T):  # the residual of every step, from its values alone
        chosen, value = np.asarray(atoms)[found.indices[:, t]], np.asarray(found.values)[:, t]
        residual = residual - value[:, None] * chosen
        assert np.abs((residual * chosen).sum(-1))[value != 0].max() < 1e-5
        left = np.square(residual).sum(-1)
        np.testing.assert_allclose(left, energy - value**2, atol=1e-4)
        assert (left <= energy + 1e-6).all()
        energy = left


def test_orthonormal_atoms_are_inverted_exactly():
    x, _ = problem()
    atoms = jnp.linalg.qr(jax.random.normal(jax.random.key(3), (D, D)))[0]
    found = jax.jit(partial(pursuit.matching_pursuit, steps=D, signed=True))(x, atoms)
    np.testing.assert_allclose(found.codes, x @ atoms.T, atol=1e-5)
    assert np.abs(found.residual).max() < 1e-5
    orthogonal = jax.jit(partial(pursuit.orthogonal_matching_pursuit, steps=D, signed=True))(x, atoms)
    np.testing.assert_allclose(orthogonal.codes, x @ atoms.T, atol=1e-5)


def test_examples_stop_at_the_tolerance_each_by_itself():
    x, atoms = problem()
    x = x.at[3].set(0.0)
    found = jax.jit(partial(pursuit.matching_pursuit, steps=20, tolerance=1.0))(x, atoms)
    codes, _ = plain_matching_pursuit(x, atoms, 20, False, 1.0)
    np.testing.assert_allclose(found.codes, codes, atol=1e-5)
    used = np.count_nonzero(found.values, axis=1)
    assert used[3] == 0 and len(set(used.tolist())) > 3


def test_gradients_are_those_of_the_coefficients_at_fixed_choices():
    """Finite differences in float64, at a point where no choice is about to change."""
    with jax.enable_x64(True):
        x, atoms = (jnp.asarray(np.float64(a)) for a in problem(n=4))
        weights = jnp.asarray(np.random.default_rng(0).standard_normal((4, M)))

        def loss(x, atoms, run):
            found = run(x, atoms)
            return (weights * found.codes).sum() + jnp.square(found.residual).sum()

        for run in (partial(pursuit.matching_pursuit, steps=T),
                    partial(pursuit.orthogonal_matching_pursuit, steps=4, signed=True)):
            value = jax.jit(partial(loss, run=run))
            slopes = jax.jit(jax.grad(partial(loss, run=run), (0, 1)))(x, atoms)
            for which, slope in enumerate(slopes):
                step = 1e-6 * jnp.asarray(np.random.default_rng(which).standard_normal(slope.shape))
                up = [a + step if i == which else a for i, a in enumerate((x, atoms))]
                down = [a - step if i == which else a for i, a in enumerate((x, atoms))]
                np.testing.assert_allclose(value(*up) - value(*down), 2 * (slope * step).sum(), rtol=1e-5, atol=1e-11)


def test_gradients_never_hold_every_correlation_of_every_step():
    x, atoms = problem(n=8, m=500, d=4)
    traced = jax.make_jaxpr(jax.grad(lambda a: jnp.square(pursuit.matching_pursuit(x, a, 16).residual).sum()))(atoms)
    sizes = []

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            sizes.extend(v.aval.size for v in equation.outvars if hasattr(v.aval, "size"))
            for inner in jaxprs_in_params(equation.params):
                walk(inner)

    walk(traced.jaxpr)
    assert 8 * 500 <= max(sizes) < 8 * 500 * 16


def test_orthogonal_matching_pursuit_is_least_squares_on_what_it_chose():
    x, atoms = problem()
    found = jax.jit(partial(pursuit.orthogonal_matching_pursuit, steps=T, signed=True))(x, atoms)
    for i in range(N):
        chosen, residual = [], np.float64(x[i])
        for _ in range(T):
            chosen.append(int(np.argmax(np.abs(np.float64(atoms) @ residual))))
            rows = np.float64(atoms)[chosen]
            best = np.linalg.lstsq(rows.T, np.float64(x[i]), rcond=None)[0]
            residual = np.float64(x[i]) - best @ rows
        assert found.indices[i].tolist() == chosen and len(set(chosen)) == T
        np.testing.assert_allclose(found.values[i], best, atol=2e-4)
        np.testing.assert_allclose(found.residual[i], residual, atol=1e-4)


def test_orthogonal_matching_pursuit_needs_no_more_atoms_than_were_planted():
    """Also with steps to spare: they stay unused, though the choice among atoms is then of rounding alone."""
    atoms = random_atoms(jax.random.key(1), 96, 64)
    codes = np.zeros((200, 96), np.float32)
    rng = np.random.default_rng(0)
    for row in codes:
        row[rng.choice(96, 3, replace=False)] = rng.uniform(0.5, 1.5, 3)
    found = jax.jit(partial(pursuit.orthogonal_matching_pursuit, steps=8))(jnp.asarray(codes) @ atoms, atoms)
    exact = np.abs(found.codes - codes).max(1) < 1e-3
    assert exact.mean() > 0.95
    assert np.isfinite(found.codes).all() and (np.count_nonzero(found.values, axis=1)[exact] == 3).all()


def test_gradient_pursuit_is_the_plain_loop():
    x, atoms = problem()
    l0 = np.random.default_rng(1).integers(0, 9, N)
    found = jax.jit(pursuit.gradient_pursuit)(x, atoms, jnp.asarray(l0))
    for i in range(N):
        dictionary, codes, support = np.float64(atoms), np.zeros(M), np.zeros(M)
        for _ in range(l0[i]):
            residual = np.float64(x[i]) - codes @ dictionary
            products = dictionary @ residual
            support[np.argmax(products)] = 1.0
            slope = products * support
            direction = slope @ dictionary
            codes = np.maximum(0.0, codes + (direction @ residual) / (direction @ direction) * slope)
        np.testing.assert_allclose(found[i], codes, atol=1e-4)
    assert (np.count_nonzero(found, axis=1) <= l0).all() and found.min() >= 0


def test_gradient_pursuit_explains_a_planted_dictionary():
    _, test = dictionaries.dictionary(atoms=96, atom_dim=64, active=3, num_train=1, num_test=400)
    x = jnp.asarray(test[np.arange(400)]["x"])
    atoms = jnp.asarray(test.info["atoms"])
    codes = jax.jit(pursuit.gradient_pursuit)(x, atoms, jnp.full((400,), 6))
    fvu = np.square(x - codes @ atoms).sum() / np.square(x - x.mean(0)).sum()
    assert fvu < 0.02


def test_what_does_not_fit_is_said():
    x, atoms = problem()
    with pytest.raises(ValueError, match="do not fit atoms of width 11"):
        pursuit.matching_pursuit(x, atoms[:, 1:], 2)
    with pytest.raises(ValueError, match="at least one"):
        pursuit.matching_pursuit(x, atoms, 0)
    with pytest.raises(ValueError, match="choose k from 1 to 24"):
        pursuit.orthogonal_matching_pursuit(x, atoms, 25)
    with pytest.raises(ValueError, match="give one number of atoms for each"):
        pursuit.gradient_pursuit(x, atoms, jnp.ones((3,), jnp.int32))
