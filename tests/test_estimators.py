"""Gradient estimators of quantizers against explicitly built rotations, reflections and relaxations."""

import pathlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_codebooks import KEY, normal, step_of

from jaxae import quantizers
from jaxae.quantizers.codebook import row_noise, vector
from jaxae.quantizers.estimators import ESTIMATORS, estimator_of, householder_to, rotate_to, rotation_matrix
from jaxae.quantizers.gumbel import gumbel

GOLDEN = np.load(pathlib.Path(__file__).parent / "golden" / "quantizers.npz")


def pulled(estimator):
    """Jitted (z, z_q, g) -> value, gradient at z, gradient at z_q."""
    def run(z, z_q, g):
        value, pull = jax.vjp(estimator, z, z_q)
        return value, *pull(g)
    return jax.jit(run)


ROTATED, REFLECTED = pulled(rotate_to), pulled(householder_to)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal((3, *shape)).astype(np.float32)


def length(x):
    return np.linalg.norm(np.asarray(x, np.float64), axis=-1)


def rodrigues(e, q):
    """The rotation from e^ to q^ by the angle between them: another formula than the one under test."""
    a, b = e / length(e), q / length(q)
    cosine = a @ b
    n = b - cosine * a
    sine = length(n)
    n = n / sine
    return (np.eye(len(a)) + sine * (np.outer(n, a) - np.outer(a, n))
            + (cosine - 1) * (np.outer(a, a) + np.outer(n, n)))


@pytest.mark.parametrize("d", [2, 3, 64])
def test_rotation_pulls_the_gradient_back_by_the_rotation_of_e_to_q(d):
    e, q, g = draw(5, d)
    value, by_e, by_q = ROTATED(e, q, g)
    np.testing.assert_array_equal(value, q)
    assert not np.any(by_q)
    matrices = np.asarray(jax.jit(jax.vmap(rotation_matrix))(e, q), np.float64)
    for i in range(5):
        r, unit_e, unit_q = rodrigues(e[i].astype(np.float64), q[i]), e[i] / length(e[i]), q[i] / length(q[i])
        np.testing.assert_allclose(matrices[i], r, atol=1e-5)
        np.testing.assert_allclose(r @ unit_e, unit_q, atol=1e-6)
        np.testing.assert_allclose(matrices[i] @ matrices[i].T, np.eye(d), atol=2e-5)
        assert abs(np.linalg.det(matrices[i]) - 1.0) < 1e-4
        plane, _ = np.linalg.qr(np.stack([unit_e, unit_q], 1))
        aside = g[i] - plane @ (plane.T @ g[i])  # off the plane nothing turns
        np.testing.assert_allclose(matrices[i] @ aside, aside, atol=2e-5)
        np.testing.assert_allclose(by_e[i], length(q[i]) / length(e[i]) * r.T @ g[i], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("d", [2, 3, 64])
def test_angle_and_norm_of_the_gradient_move_with_the_vector(d):
    e, q, g = draw(200, d, seed=1)
    _, by_e, _ = ROTATED(e, q, g)

    def cosine(a, b):
        return (np.asarray(a, np.float64) * b).sum(-1) / length(a) / length(b)

    np.testing.assert_allclose(length(by_e), length(q) / length(e) * length(g), rtol=1e-4)
    np.testing.assert_allclose(cosine(by_e, e), cosine(g, q), atol=1e-4)


def test_reflection_has_the_value_and_the_wrong_determinant():
    e, q, _ = draw(4, 3, seed=2)
    basis = np.eye(3, dtype=np.float32)
    for i in range(4):
        many_e, many_q = np.tile(e[i], (3, 1)), np.tile(q[i], (3, 1))
        value, rows, by_q = REFLECTED(many_e, many_q, basis)
        _, turned, _ = ROTATED(many_e, many_q, basis)
        np.testing.assert_array_equal(value, many_q)
        assert not np.any(by_q)
        scale = length(q[i]) / length(e[i])
        matrix = np.asarray(rows, np.float64) / scale  # rows g^T H
        np.testing.assert_allclose(matrix @ e[i] * scale, q[i], atol=1e-5)
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-5)
        assert abs(np.linalg.det(matrix) + 1.0) < 1e-5
        assert abs(np.linalg.det(np.asarray(turned, np.float64) / scale) - 1.0) < 1e-5


@pytest.mark.parametrize("estimator", ["rotation", "householder"])
def test_gradients_are_straight_through_where_no_direction_is_defined(estimator):
    """One row each: e = q, q = -e, e = 0, q = 0, both 0, and q a rounding error away from e and from -e."""
    (e, _, g), zero = draw(7, 4, seed=3), np.zeros(4, np.float32)
    q = np.stack([e[0], -e[1], e[2], zero, zero, e[5] * (1 + 1e-7), -e[6] + 1e-7])
    e = np.stack([e[0], e[1], zero, e[3], zero, e[5], e[6]])
    value, by_e, by_q = (ROTATED if estimator == "rotation" else REFLECTED)(e, q, g)
    np.testing.assert_array_equal(value, q)
    assert np.isfinite(by_e).all() and not np.any(by_q)
    # The rotation of e to itself is no rotation; a reflection takes e to -e by turning its sign along e.
    straight = range(7) if estimator == "rotation" else (0, 2, 3, 4, 5)
    for i in straight:
        np.testing.assert_allclose(by_e[i], g[i], rtol=1e-4, atol=1e-5)


def test_rotation_tends_to_straight_through_and_keeps_half_precision():
    e, _, g = draw(50, 8, seed=4)
    _, by_e, _ = ROTATED(e, e + 1e-4 * g, g)
    np.testing.assert_allclose(by_e, g, atol=2e-3)
    e, g = jnp.asarray(e, jnp.bfloat16), jnp.asarray(g, jnp.bfloat16)
    value, by_half, _ = ROTATED(e, g, e)
    assert value.dtype == by_half.dtype == jnp.bfloat16
    np.testing.assert_array_equal(value, g)


def test_points_of_one_cell_part_under_rotation_and_move_together_under_straight_through():
    """The paper's picture: one code on the x axis, points around it on a circle, one gradient. A point at angle t to
    the code is sent the gradient turned by t: with g along -x the points above and below come apart."""
    angles = np.linspace(-1.2, 1.2, 9)
    e = np.stack([2.0 * np.cos(angles), 2.0 * np.sin(angles)], -1).astype(np.float32)
    q, g = np.tile(np.float32([1.0, 0.0]), (9, 1)), np.tile(np.float32([-1.0, 0.0]), (9, 1))
    _, by_e, _ = ROTATED(e, q, g)
    np.testing.assert_allclose(by_e, 0.5 * np.stack([-np.cos(angles), -np.sin(angles)], -1), atol=1e-6)
    assert len(np.unique(np.round(np.asarray(by_e), 3), axis=0)) == 9
    _, same, _ = pulled(ESTIMATORS["straight_through"])(e, q, g)
    np.testing.assert_array_equal(same, g)


def test_rotation_makes_no_matrix():
    d = 2048
    shape = jax.ShapeDtypeStruct((16, d), jnp.float32)
    memory = ROTATED.lower(shape, shape, shape).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4 * d * d / 4


def test_rotation_agrees_with_vector_quantize_pytorch_except_where_that_is_wrong():
    e, q, g = (GOLDEN[f"rotation/{name}"] for name in "eqg")
    value, by_e, _ = ROTATED(e, q, g)
    theirs, their_gradient = GOLDEN["rotation/value"], GOLDEN["rotation/gradient"]
    np.testing.assert_allclose(value[2:], theirs[2:], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(by_e[2:], their_gradient[2:], rtol=1e-4, atol=1e-5)
    # q = -e: theirs is a reflection along e (determinant -1). e = 0: their value is 0 and not q, their gradient 1e6.
    unit = e[0] / length(e[0])
    np.testing.assert_allclose(their_gradient[0], g[0] - 2 * unit * (unit @ g[0]), rtol=1e-3, atol=1e-3)
    assert not np.any(theirs[1]) and length(their_gradient[1]) > 1e5
    np.testing.assert_array_equal(value[:2], q[:2])
    np.testing.assert_array_equal(by_e[:2], g[:2])


def test_rotation_in_the_quantizer_agrees_with_vector_quantize_pytorch():
    quantizer = vector(8, 4, estimator="rotation", beta=0.0, decay=0.8, revive=0.0)
    state = quantizers.Codes((), quantizers.ema_codebook(jnp.asarray(GOLDEN["rotated/start"])))
    found, _, by_z = step_of(quantizer)(GOLDEN["rotated/g"][0], state, GOLDEN["rotated/x"][0], KEY)
    np.testing.assert_allclose(found.z_q, GOLDEN["rotated/0/z_q"], atol=1e-5)
    np.testing.assert_allclose(3 * by_z, GOLDEN["rotated/0/gradient"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("logits", ["projection", "distance"])
def test_gumbel_is_a_draw_with_the_gradient_of_its_relaxation(logits):
    """Against one-hot + soft - sg[soft] times the codes, with the noise that the contract names."""
    n, k, d, temperature = 6, 5, 3, 0.8
    quantizer = gumbel(k, d, logits=logits, temperature=lambda steps: 1.6 / (1.0 + steps), kl_weight=0.1)
    state, z, g = quantizer.init(KEY)._replace(moving=jnp.array(1)), normal(11, n, d), normal(99, n, d)
    found, by_learned, by_z = step_of(quantizer)(g, state, z, jax.random.key(5))
    assert int(found.state.moving) == 2  # a training batch more

    def relaxed(learned, z):
        codes = learned["codes"]
        scores = z @ learned["kernel"] + learned["bias"] if logits == "projection" else -(
            (z[:, None] - codes) ** 2).sum(-1)
        noisy = scores + row_noise(jax.random.key(5), jnp.arange(n), k)
        soft = jax.nn.softmax(noisy / temperature)
        hard = jax.nn.one_hot(noisy.argmax(-1), k)
        p = jax.nn.softmax(scores)
        kl = jnp.sum(p * jnp.log(p * k), -1)
        value = jnp.mean(0.1 * kl + jnp.sum((hard + soft - jax.lax.stop_gradient(soft)) @ codes * g, -1))
        return value, (kl, noisy.argmax(-1), scores.argmax(-1), quantizer.quantize(
            z, state._replace(learned=learned), KEY, False).indices)

    (by_hand, by_z_hand), (kl, drawn, best, still) = jax.jit(jax.grad(relaxed, (0, 1), has_aux=True))(state.learned, z)
    np.testing.assert_array_equal(found.indices, drawn)
    np.testing.assert_array_equal(still, best)
    np.testing.assert_allclose(found.loss, 0.1 * kl, rtol=1e-4, atol=1e-7)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), (by_learned, by_z), (by_hand, by_z_hand))


def test_an_unknown_estimator_is_answered_with_the_list():
    with pytest.raises(ValueError, match="choose one of straight_through, rotation, householder"):
        estimator_of("ste")
