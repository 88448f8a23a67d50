"""Flows against the determinant of their Jacobian, their inverse, and quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxae.nn.flows import IAF, MADE, CouplingFlow, PlanarFlow


def started(module, *inputs, scale=0.7):
    """Random parameters everywhere, also where a fresh module has zeros."""
    rng = np.random.default_rng(1)

    def fill(leaf):
        return rng.normal(size=leaf.shape).astype(np.float32) * scale / np.sqrt(leaf.shape[0] if leaf.ndim > 1 else 1)

    return jax.tree.map(fill, jax.eval_shape(module.init, jax.random.key(0), *inputs))


def array(*shape, seed=2):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


FLOWS = {"planar": (PlanarFlow(5), 4, 0), "planar of a context": (PlanarFlow(3), 4, 3),
         "planar in one dimension": (PlanarFlow(3), 1, 0), "iaf": (IAF(2, (16, 16)), 4, 3),
         "iaf in one dimension": (IAF(2, (8,)), 1, 0), "coupling": (CouplingFlow(4, 4, (16,)), 4, 0),
         "coupling of odd dimension": (CouplingFlow(3, 3, (16,)), 3, 3),
         "coupling in one dimension": (CouplingFlow(1, 2, (8,)), 1, 0)}


@pytest.mark.parametrize("name", FLOWS)
def test_log_det_is_that_of_the_jacobian(name):
    flow, d, width = FLOWS[name]
    z, context = 2.0 * array(20, d), (array(20, width, seed=3),) if width else ()
    params = started(flow, z, *context)

    @jax.jit
    def both(z, *context):
        out = flow.apply(params, z, *context)
        jacobian = jax.vmap(jax.jacfwd(lambda *row: flow.apply(params, *(r[None] for r in row)).z[0]))(z, *context)
        return out, jacobian

    out, jacobian = both(z, *context)
    assert out.z.shape == z.shape and np.abs(out.z - z).max() > 0.05
    assert_allclose(out.log_det, np.linalg.slogdet(np.asarray(jacobian, np.float64))[1], rtol=1e-3, atol=2e-4)
    if width:
        other = both(z, context[0] + 1.0)[0]
        assert (np.abs(other.z - out.z).max(1) > 1e-4).all()  # every example sees its context


def test_planar_maps_stay_invertible_whatever_the_network_emits():
    """u pointing hard against w would fold space; the determinant stays positive, also where it is nearly 0."""
    flow = PlanarFlow(1)
    z = jnp.linspace(-4, 4, 401)[:, None]
    w, u, b = 2.0, -6.0, 0.3  # w u = -12 < -1
    out = jax.jit(flow.apply)({"params": {"maps": jnp.array([w, u, b])}}, z)
    assert (np.diff(out.z[:, 0]) > 0).all() and np.isfinite(out.log_det).all()
    unconstrained = np.asarray(z[:, 0] + u * np.tanh(w * z[:, 0] + b))
    assert (np.diff(unconstrained) < 0).any()
    # The constraint: w u = -1 + softplus(w u_emitted).
    u_hat = (np.log1p(np.exp(w * u)) - 1) / w
    assert_allclose(out.z[:, 0], z[:, 0] + u_hat * np.tanh(w * z[:, 0] + b), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("d, features", [(5, (16, 16)), (6, (7,)), (4, ())])
def test_made_is_strictly_autoregressive_and_uses_every_earlier_input(d, features):
    made = MADE(features, outputs=2)
    z, context = array(1, d), array(1, 3)
    params = started(made, z, context)
    jacobian, by_context = jax.jit(jax.jacfwd(lambda z, c: made.apply(params, z, c)[0], (0, 1)))(z, context)
    for one in np.asarray(jacobian)[:, :, 0]:
        assert not np.any(np.triu(one))  # exactly 0 on the diagonal and above
    assert (np.abs(jacobian[:, :, 0]).sum(0)[np.tril_indices(d, -1)] > 0).all()
    assert (np.abs(by_context) > 0).all()  # the first output too, which sees no input


def test_posteriors_of_many_samples_broadcast_over_one_context():
    z, context = array(7, 5, 4), array(5, 3)
    for flow in (PlanarFlow(2), IAF(2, (8,))):
        params = started(flow, z, context)
        apply = jax.jit(flow.apply)
        out = apply(params, z, context)
        assert out.log_det.shape == (7, 5)
        assert_allclose(out.z[3], apply(params, z[3], context).z, rtol=1e-5, atol=1e-5)


def test_coupling_flow_comes_back_and_its_determinants_cancel():
    flow, x, context = CouplingFlow(5, 6, (16,)), 2.0 * array(50, 5), array(50, 2)
    params = started(flow, x, context)
    forth = jax.jit(flow.apply)(params, x, context)
    back = jax.jit(lambda p, z, c: flow.apply(p, z, c, method="inverse"))(params, forth.z, context)
    assert np.abs(forth.z - x).max() > 1.0
    assert_allclose(back.z, x, rtol=1e-3, atol=1e-3)
    assert_allclose(back.log_det, -forth.log_det, rtol=1e-3, atol=1e-3)


def test_coupling_density_integrates_to_one_and_is_that_of_its_samples():
    flow = CouplingFlow(2, 4, (16,))
    params = started(flow, jnp.zeros((1, 2)), scale=0.5)
    side = np.linspace(-12, 12, 801, dtype=np.float32)
    cell = float(side[1] - side[0]) ** 2
    grid = jnp.asarray(np.stack(np.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2))
    density = np.exp(np.float64(jax.jit(lambda p, x: flow.apply(p, x, method="log_prob"))(params, grid)))
    assert_allclose(density.sum() * cell, 1.0, atol=2e-3)
    samples = np.asarray(jax.jit(lambda p, k: flow.apply(p, k, 50000, method="sample"))(params, jax.random.key(4)))
    mean = (density[:, None] * np.asarray(grid)).sum(0) * cell
    second = (density[:, None] * np.asarray(grid) ** 2).sum(0) * cell
    assert_allclose(samples.mean(0), mean, atol=5 * samples.std(0).max() / np.sqrt(50000))
    assert_allclose((samples**2).mean(0), second, rtol=0.05)
    # Not a Gaussian in disguise.
    density = density.reshape(801, 801) * cell
    assert np.abs(density - np.outer(density.sum(1), density.sum(0))).sum() > 0.05


def test_a_fresh_coupling_flow_is_the_standard_normal_and_learns():
    flow, x = CouplingFlow(2, 2, (8,)), array(100, 2)
    params = jax.jit(flow.init)(jax.random.key(0), x)
    loss = jax.jit(jax.value_and_grad(lambda p: -flow.apply(p, x + 1.0, method="log_prob").mean()))
    value, gradient = loss(params)
    want = 0.5 * np.square(np.asarray(x + 1.0)).sum(1).mean() + np.log(2 * np.pi)
    assert_allclose(value, want, rtol=1e-5)
    assert loss(jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient))[0] < value


def test_bfloat16_networks_give_float32_flows_whose_determinant_is_still_theirs():
    flow, x = CouplingFlow(4, 4, (16,), dtype=jnp.bfloat16), array(10, 4)
    params = started(flow, x)
    forth = jax.jit(flow.apply)(params, x)
    back = jax.jit(lambda p, z: flow.apply(p, z, method="inverse"))(params, forth.z)
    assert forth.z.dtype == forth.log_det.dtype == jnp.float32
    assert_allclose(back.z, x, atol=0.1)


def test_bad_input_is_told_what_to_do():
    with pytest.raises(ValueError, match="flatten maps first"):
        CouplingFlow(3).init(jax.random.key(0), jnp.zeros((2, 4)))
    with pytest.raises(ValueError, match="PlanarFlow wants layers >= 1"):
        PlanarFlow(0).init(jax.random.key(0), jnp.zeros((2, 4)))
