"""Latent quantization: the nearest value of each dimension, and gradients that reach the values by one loss only."""

import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxae import quantizers
from jaxae.quantizers import Codes
from jaxae.quantizers.latent import latent_lookup, latent_quantization, latent_values

GOLDEN = np.load(pathlib.Path(__file__).parent / "golden" / "scalar_quantizers.npz")
KEY = jax.random.key(0)
Z = 0.5 * jax.random.normal(jax.random.key(1), (6, 7, 4))
VALUES = jax.random.normal(jax.random.key(2), (4, 5))  # in no order, as training may leave them
latent_quantize = jax.jit(quantizers.latent_quantize)


def brute_force(z, values):
    z, values = np.asarray(z, np.float64), np.broadcast_to(np.asarray(values, np.float64), (z.shape[-1], 5))
    indices = np.array([np.abs(z[i] - values[i[-1]]).argmin() for i in np.ndindex(z.shape)]).reshape(z.shape)
    return indices, values[np.arange(z.shape[-1]), indices]


@pytest.mark.parametrize("values", [VALUES, VALUES[0]])
def test_values_are_the_nearest_of_their_dimension_and_losses_means(values):
    found = latent_quantize(Z, values)
    indices, nearest = brute_force(Z, values)
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_allclose(found.z_q, nearest, atol=1e-6)
    np.testing.assert_allclose(jax.jit(latent_lookup)(found.indices, values), nearest, atol=1e-6)
    for loss in (found.quantization_loss, found.commitment_loss):
        np.testing.assert_allclose(loss, ((np.asarray(Z) - nearest)**2).mean((1, 2)), rtol=1e-5)
    ties = latent_quantize(jnp.zeros((1, 4)), jnp.tile(jnp.array([9.0, 0.5, -0.5, 0.5, 9.0]), (4, 1)))
    assert ties.indices.tolist() == [[1, 1, 1, 1]]


def test_bfloat16_numbers_are_compared_in_float32():
    # In bfloat16 both values would be 302.
    z, values = jnp.array([[300.0], [302.0]], jnp.bfloat16), jnp.array([[301.1, 302.5]])
    found = latent_quantize(z, values)
    assert found.indices.tolist() == [[0], [1]] and found.z_q.dtype == jnp.bfloat16


@pytest.mark.parametrize("shared", [False, True])
def test_gradients_are_the_closed_form_of_the_paper(shared):
    """With a linear decoder: its gradient and the commitment's reach z, the quantization loss alone reaches the
    values, and none that no number chose."""
    quantizer = latent_quantization(4, 5, 0.3, 0.2, shared=shared)
    w = jax.random.normal(jax.random.key(3), (7, 4))
    values = VALUES[0] if shared else VALUES

    def loss(z, values):
        found = quantizer.quantize(z, Codes(values), KEY, True)
        return (found.loss + (found.z_q * w).sum((1, 2))).mean()

    by_z, by_values = jax.jit(jax.grad(loss, (0, 1)))(Z, values)
    indices, nearest = brute_force(Z, values)
    gap = np.asarray(Z, np.float64) - nearest
    np.testing.assert_allclose(by_z, (np.asarray(w) + 2 * 0.2 * gap / 28) / 6, atol=1e-6)
    pulled = np.zeros((4, 5))
    np.add.at(pulled, (np.arange(4), indices), -2 * 0.3 * gap / (28 * 6))
    np.testing.assert_allclose(by_values, pulled.sum(0) if shared else pulled, atol=1e-6)
    assert (pulled == 0).any() and (pulled != 0).any()


@pytest.mark.parametrize("width, learned, shared", [(4, True, False), (4, False, False), (1, True, True)])
def test_quantizers_keep_the_contract(width, learned, shared):
    quantizer = latent_quantization(width, 10, learned=learned, shared=shared)
    state = quantizer.init(KEY)
    values, idle = (state.learned, state.moving) if learned else (state.moving, state.learned)
    np.testing.assert_allclose(values, np.broadcast_to(np.linspace(-0.5, 0.5, 10), (10,) if shared else (width, 10)),
                               atol=1e-6)
    z = Z[..., :width]
    got = jax.jit(quantizer.quantize, static_argnums=3)(z, state, KEY, True)
    assert idle == () and quantizer.codes == 10 and quantizer.places == quantizer.width == width
    assert got.indices.shape == (6, 7, 4)[:3 if width > 1 else 2] and got.indices.dtype == jnp.int32
    np.testing.assert_allclose(jax.jit(quantizer.lookup)(got.indices, state), got.z_q, atol=1e-6)
    np.testing.assert_allclose(got.loss, 0.01 * got.metrics["quantization"] + 0.01 * got.metrics["commitment"],
                               rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, got.state, state)


def test_every_code_of_the_grid_is_its_own_nearest():
    quantizer = latent_quantization(3, 8)
    state = quantizer.init(KEY)
    indices = jnp.array(list(itertools.product(range(8), repeat=3)))
    codes = jax.jit(quantizer.lookup)(indices, state)
    found = jax.jit(quantizer.quantize, static_argnums=3)(codes, state, KEY, False)
    np.testing.assert_array_equal(found.indices, indices)
    assert len(np.unique(codes, axis=0)) == 8**3 and np.abs(found.loss).max() == 0.0


def test_values_move_to_the_means_of_their_cells_and_fixed_ones_do_not():
    """Gradient descent on the quantization loss is online k-means of each dimension by itself."""
    planted = jnp.array([[-0.7, 0.1, 0.4], [-0.4, -0.1, 0.3]])
    z = planted[jnp.arange(2), jax.random.randint(KEY, (600, 2), 0, 3)] + 0.01 * jax.random.normal(KEY, (600, 2))

    def train(quantizer):
        def step(_, state):
            slope = jax.grad(lambda s: quantizer.quantize(z, s, KEY, True).loss.mean())(state)
            return jax.tree.map(lambda v, g: v - 0.8 * g, state, slope)
        return jax.jit(lambda state: jax.lax.fori_loop(0, 300, step, state))(quantizer.init(KEY))

    learned = train(latent_quantization(2, 3, 1.0, 1.0)).learned
    np.testing.assert_allclose(learned, planted, atol=0.005)
    fixed = train(latent_quantization(2, 3, 1.0, 1.0, learned=False)).moving
    np.testing.assert_allclose(fixed, [[-0.5, 0.0, 0.5]] * 2, atol=1e-6)


def test_vector_quantize_pytorch_has_the_values_but_neither_their_gradient_nor_the_commitments_sign():
    """Right there: the nearest value and the straight-through output, for odd sizes. Wrong there: no gradient reaches
    the values, since both losses are of the straight-through output; that turns the commitment's sign, so that with
    the greater weight on it the encoder is pushed AWAY from the values; and even grids lack +1/2."""
    for name, size in (("odd", 5), ("even", 4)):
        z, theirs = GOLDEN[f"latent/{name}/z"], GOLDEN[f"latent/{name}/values"]
        found = latent_quantize(z, theirs)
        np.testing.assert_allclose(found.z_q, GOLDEN[f"latent/{name}/codes"], atol=1e-6)
        np.testing.assert_allclose(0.2 * found.quantization_loss.mean() + 0.3 * found.commitment_loss.mean(),
                                   GOLDEN[f"latent/{name}/loss"], rtol=1e-5)
        gap = z - np.asarray(found.z_q)
        np.testing.assert_allclose(GOLDEN[f"latent/{name}/gradient"], (0.2 - 0.3) * 2 * gap / gap.size, atol=1e-6)
        assert not GOLDEN[f"latent/{name}/values_reached"].any()
        ours = np.asarray(latent_values(1, size))[0]
        if name == "odd":
            np.testing.assert_allclose(theirs, ours, atol=1e-6)
        else:
            assert theirs.max() == 0.25 and ours.max() == 0.5


def test_bad_input_is_told_what_to_do():
    with pytest.raises(ValueError, match="at least 2 values"):
        latent_quantization(3, 1)
    with pytest.raises(ValueError, match="3 dimensions, the quantizer takes 4"):
        latent_quantization(4).quantize(jnp.zeros((2, 3)), Codes(VALUES), KEY, True)
    with pytest.raises(ValueError, match=r"3 dimensions, the values are \(4, 5\)"):
        latent_quantize(jnp.zeros((2, 3)), VALUES)
