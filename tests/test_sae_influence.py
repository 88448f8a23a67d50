"""Gradients of a host model, the choice by influence, nested numbers of atoms and underused atoms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxae import data, sae
from jaxae.data.influence import influence
from jaxae.sae import influence as host
from jaxae.sae import losses, nested
from jaxae.sae.atoms import underused, unit_rows
from jaxae.sae.sparsifiers import influence_score, nested_topk, score_topk, topk

N, D, M, V = 16, 6, 20, 9
KEYS = jax.random.split(jax.random.key(0), 6)
X, ATOMS = jax.random.normal(KEYS[0], (N, D)), unit_rows(jax.random.normal(KEYS[1], (M, D)))
G, READ = jax.random.normal(KEYS[2], (N, D)), jax.random.normal(KEYS[3], (D, V))


def test_without_influence_the_choice_is_topk_bit_for_bit_and_with_much_of_it_the_aligned_atom_is_always_in():
    encoded = sae.of_pre(X @ ATOMS.T)
    choose = jax.jit(lambda g, beta, product: score_topk(
        encoded, influence_score(encoded.pre, ATOMS, g, beta, product), 3), static_argnums=2)
    plain = jax.jit(lambda: topk(encoded, 3))()
    for found in (choose(G, 0.0, False), choose(jnp.zeros_like(G), 5.0, False), choose(jnp.zeros_like(G), 5.0, True)):
        np.testing.assert_array_equal(found.values, plain.values)
        np.testing.assert_array_equal(found.indices, plain.indices)
    orthonormal = jnp.eye(M)
    wide = jnp.abs(jax.random.normal(KEYS[4], (N, M))).at[:, 7].set(0.01)  # the smallest of all
    along = jax.jit(lambda beta: score_topk(sae.of_pre(wide), influence_score(
        wide, orthonormal, jnp.tile(orthonormal[7], (N, 1)), beta), 3))
    assert not bool((along(0.0).indices == 7).any()) and bool((along(1e6).indices == 7).any(1).all())
    codes = along(1e6)
    np.testing.assert_array_equal(codes.values, jnp.take_along_axis(wide, codes.indices, 1))  # scores choose, only


class _Host(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(V, D, name="early")(tokens)
        x = jnp.cumsum(jnp.tanh(nn.Dense(D, name="middle")(x)), axis=1)
        return nn.Dense(V, name="read")(x)


def _losses(params, tokens):
    log_p = jax.nn.log_softmax(_Host().apply(params, tokens))
    return -jnp.take_along_axis(log_p, (tokens[..., None] + 1) % V, -1)[..., 0]


def test_gradients_at_a_site_are_those_of_finite_differences_and_a_splice_of_nothing_changes_nothing():
    tokens = jax.random.randint(KEYS[0], (3, 4), 0, V)
    params = jax.jit(_Host().init)(KEYS[4], tokens)
    got = jax.jit(lambda: host.activation_gradients(_losses, params, tokens, site="_Host/early"))()
    assert got.x.shape == got.gradient.shape == (12, D)
    np.testing.assert_allclose(got.x, params["params"]["early"]["embedding"][tokens].reshape(12, D))
    direction = jax.random.normal(KEYS[1], (12, D))
    moved = jax.jit(lambda step: host.spliced(_losses, params, tokens, site="_Host/early",
                                              replace=lambda x: x + step * direction))
    np.testing.assert_allclose(moved(0.0), jax.jit(_losses)(params, tokens), rtol=1e-6)
    np.testing.assert_allclose((moved(1e-2).sum() - moved(-1e-2).sum()) / 2e-2, (got.gradient * direction).sum(),
                               rtol=2e-3)
    first = jnp.tile(jnp.arange(4) == 0, 3)[:, None] * direction  # an early place moves the losses of all later ones
    after = jax.jit(lambda: host.spliced(_losses, params, tokens, site="_Host/early", replace=lambda x: x + first))()
    assert (np.abs(after - moved(0.0)) > 1e-3).all(1).any()
    with pytest.raises(ValueError, match="no module called _Host/late"):
        host.activation_gradients(_losses, params, tokens, site="_Host/late")


def test_attributions_are_what_a_linear_loss_loses_when_an_atom_is_left_out():
    codes = jax.nn.relu(X @ ATOMS.T)
    each = jax.jit(host.attribution)(codes, ATOMS, G)
    x_hat = codes @ ATOMS
    np.testing.assert_allclose(each.sum(1), (x_hat * G).sum(1), rtol=1e-4, atol=1e-5)
    for j in (0, 7):
        without = x_hat - codes[:, j, None] * ATOMS[j]
        np.testing.assert_allclose(((x_hat - without) * G).sum(1), each[:, j], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(jax.jit(host.influence_error)(X, x_hat, G), np.square(((X - x_hat) * G).sum(1)),
                               rtol=1e-5)


def test_steering_moves_the_logits_of_a_linear_host_along_the_atom():
    found = jax.jit(lambda: host.steering_effect(lambda x: x @ READ, X, ATOMS[5], 0.7, top=3))()
    change = 0.7 * np.asarray(ATOMS[5] @ READ)
    np.testing.assert_allclose(found.promoted, np.full(N, np.sort(change)[-3:].mean()), rtol=1e-4)
    before, after = (np.asarray(jax.nn.softmax(v @ READ)) for v in (X, X + 0.7 * ATOMS[5]))
    np.testing.assert_allclose(found.kl, (before * np.log(before / after)).sum(1), rtol=1e-3, atol=1e-6)
    with pytest.raises(ValueError, match="top=10 of 9"):
        host.steering_effect(lambda x: x @ READ, X, ATOMS[5], 0.7)


def test_planted_influence_has_the_gradients_of_its_head_and_weak_atoms_that_size_drops():
    train, test = influence(num_train=500, num_test=10)
    rows, head = train.arrays(), jnp.asarray(train.info["head"])

    def losses_of(x):
        return -jax.nn.log_softmax(x @ head.T)[jnp.arange(len(x)), rows["label"]]

    value, pull = jax.vjp(losses_of, jnp.asarray(rows["x"]))
    np.testing.assert_allclose(pull(jnp.ones(500))[0], rows["gradient"], rtol=1e-3, atol=1e-4)
    c = np.linspace(0.4, 0.6, 2001)
    np.testing.assert_allclose(value.mean(), np.log1p(23 * np.exp(-15 * c)).mean(), rtol=0.1)  # 0.018
    factors, atoms = rows["factors"], train.info["atoms"]
    np.testing.assert_allclose(factors @ atoms, rows["x"], atol=1e-5)
    np.testing.assert_array_equal((factors[:, :40] > 0).sum(1), 3)
    np.testing.assert_array_equal(factors[:, 40:].argmax(1), rows["label"])
    assert (factors.argsort(1)[:, -3:] < 40).all()
    np.testing.assert_allclose(atoms[40:] @ atoms.T, np.eye(64)[40:], atol=1e-6)
    assert not np.array_equal(test.arrays()["x"], rows["x"][:10])
    with pytest.raises(data.DataError, match="even atom_dim"):
        influence(atom_dim=5)


def test_budgets_double_and_the_recovery_curve_is_that_of_separate_choices():
    assert nested.matryoshka_ks(2, 16) == (2, 4, 8, 16) and nested.matryoshka_ks(3, 3) == (3,)
    with pytest.raises(ValueError, match="1 <= first"):
        nested.matryoshka_ks(0, 3)
    pre, offset, ks = X @ ATOMS.T, jnp.arange(D) * 0.1, (1, 4, 20)
    curve = jax.jit(nested.recovery_curve, static_argnums=4)(X, pre, ATOMS, offset, ks)
    for k, row in zip(ks, curve, strict=True):
        y_hat = jnp.where(pre >= jnp.sort(pre, 1)[:, -k, None], jax.nn.relu(pre), 0.0) @ ATOMS + offset
        np.testing.assert_allclose(row, jnp.square(X - y_hat).sum(-1), rtol=1e-4, atol=1e-5)


def test_one_budget_is_topk_and_the_nested_loss_does_not_depend_on_the_scale_of_its_weights():
    encoded = sae.of_pre(X @ ATOMS.T)
    alone, plain = nested_topk(encoded, (4,))[0], topk(encoded, 4)
    np.testing.assert_array_equal(alone.values, plain.values)
    np.testing.assert_array_equal(alone.indices, plain.indices)
    decoded = [codes.values @ ATOMS[:codes.values.shape[1]] for codes in nested_topk(encoded, (2, 4, 8))]
    run = jax.jit(losses.matryoshka, static_argnums=2)
    np.testing.assert_allclose(run(X, decoded, (3.0, 2.0, 1.0)), run(X, decoded, (9.0, 6.0, 3.0)), rtol=1e-6)


def test_underused_atoms_are_those_below_a_share_of_the_law_at_their_rank_and_zeros_among_them():
    frequency = np.random.default_rng(0).permutation(np.r_[np.zeros(3), np.geomspace(0.5, 0.01, 9)]).astype(np.float32)
    expected = np.float32(0.6 / np.arange(1, 13))
    got = jax.jit(underused)(frequency, expected, 0.5)
    rank = [int((frequency > f).sum()) for f in frequency]
    for j in np.flatnonzero(frequency):
        assert bool(got[j]) == (frequency[j] < 0.5 * expected[rank[j]])
    assert got[frequency == 0].all() and 3 < int(got.sum()) < 12
    with pytest.raises(ValueError, match="11 expected frequencies for 12"):
        underused(jnp.asarray(frequency), expected[:11])
    assert not jax.jit(underused)(frequency, np.sort(frequency)[::-1].copy(), 0.99).any()
