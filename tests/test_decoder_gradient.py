"""Gradients by the decoder against closed form, and what they leave alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxae.quantizers import gradient_by_decoder

KEYS = jax.random.split(jax.random.key(0), 4)
Z, Z_Q = jax.random.normal(KEYS[0], (5, 3)), jnp.round(jax.random.normal(KEYS[1], (5, 3)))
A = jax.random.normal(KEYS[2], (3, 3))


def gradients(kind, value):
    def total(z, z_q, a):
        path = gradient_by_decoder(lambda at: value(at, a), z, z_q, kind)
        return path.sum(), path

    grads, path = jax.jit(jax.grad(total, (0, 1, 2), has_aux=True))(Z, Z_Q, A)
    np.testing.assert_array_equal(path, 0.0)
    np.testing.assert_array_equal(grads[1], 0.0)
    np.testing.assert_array_equal(grads[2], 0.0)
    return grads[0]


def test_exact_is_the_gradient_at_z_and_hessian_that_of_the_parabola_at_the_code():
    """For a cubic the two differ; for a quadratic form they are one."""
    def cubic(at, a):
        return jnp.sum(at**3, -1)

    np.testing.assert_allclose(gradients("exact", cubic), 3 * Z**2, rtol=1e-5)
    np.testing.assert_allclose(gradients("hessian", cubic), 3 * Z_Q**2 + 6 * Z_Q * (Z - Z_Q), rtol=1e-4, atol=1e-5)

    def quadratic(at, a):
        return jnp.einsum("ni,ij,nj->n", at, a, at)

    want = Z @ (A + A.T)
    for kind in ("exact", "hessian"):
        np.testing.assert_allclose(gradients(kind, quadratic), want, rtol=1e-4, atol=1e-5)


def test_another_kind_is_refused():
    with pytest.raises(ValueError, match="'exact' or 'hessian'"):
        gradient_by_decoder(lambda at: at.sum(-1), Z, Z_Q, "straight")
