"""The systems on the latent-variable core: objectives add up, players keep to what is theirs, plans have marginals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_systems import built

from jaxae.systems.base import variables


def reported(system, state, batch):
    sums = jax.jit(system.evaluate)(state, batch, jax.random.key(2))
    return jax.tree.map(np.asarray, system.summary(sums))


def test_autogen_counts_the_likelihood_once_more_for_every_m():
    _, system, batch, state = built("vae", "autogen", m=2.5)
    report = reported(system, state, batch)
    np.testing.assert_allclose(report["loss"], 3.5 * report["reconstruction"] + report["kl"], rtol=1e-5)
    np.testing.assert_allclose(report["elbo"], -report["reconstruction"] - report["kl"], rtol=1e-5)


def test_capacity_grows_with_the_updates_and_draws_the_kl_to_it():
    _, system, batch, state = built("vae", "capacity", capacity=6.0, capacity_steps=4, gamma=7.0)
    step, seen = jax.jit(system.step), []
    for i in range(6):
        state, metrics = step(state, batch, jax.random.key(i))
        seen.append(float(metrics["capacity"]))
    np.testing.assert_allclose(seen, [0.0, 1.5, 3.0, 4.5, 6.0, 6.0], rtol=1e-6)
    report = reported(system, state, batch)
    np.testing.assert_allclose(report["loss"], report["reconstruction"] + 7.0 * abs(report["kl"] - 6.0), rtol=1e-5)


@pytest.mark.parametrize("arg", ["", "two_layers"])
def test_importance_weighted_bound_is_that_of_its_own_weights_and_above_the_elbo(arg):
    _, system, batch, state = built("iwae", arg, samples=50)
    report = reported(system, state, batch)
    weights = jax.jit(lambda key: system.log_weights(variables(state), key, batch["x"], 4000))(jax.random.key(0))
    groups = jax.nn.logsumexp(weights.reshape(80, 50, -1), axis=1) - np.log(50)  # 80 bounds of 50 samples
    error = float(groups.mean(1).std())
    assert abs(report["bound"] - float(groups.mean())) < 5 * error
    np.testing.assert_allclose(report["loss"], -report["bound"], rtol=1e-6)
    assert report["bound"] > report["elbo"] + 0.01


def test_joint_latents_are_gaussian_numbers_beside_one_hot_categories():
    _, system, batch, state = built("vae", "joint", categories=(3, 4))
    z = jax.jit(system.encode)(variables(state), batch["x"])
    assert z.shape == (16, 4 + 7)
    np.testing.assert_array_equal(np.sort(z[:, 4:7]), [[0, 0, 1]] * 16)
    np.testing.assert_array_equal(np.asarray(z[:, 7:]).sum(1), 1.0)
    relaxed = jax.jit(system.encode)(variables(state), batch["x"], jax.random.key(0))
    np.testing.assert_allclose(np.asarray(relaxed[:, 4:7]).sum(1), 1.0, rtol=1e-5)
    assert 0.0 < float(relaxed[:, 4:].min()) and float(relaxed[:, 4:].max()) < 1.0


@pytest.mark.parametrize("name, arg", [("vae", "factor"), ("wae", "gan")])
def test_an_adversary_moves_its_own_parameters_and_the_autoencoder_the_rest(name, arg):
    config, system, batch, state = built(name, arg)
    after = jax.jit(system.step)(state, batch, jax.random.key(0))[0]
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), state.params, after.params)
    # Adam's first update is the learning rate in every parameter with a gradient.
    for part in ("encoder", "decoder"):
        np.testing.assert_allclose(max(jax.tree.leaves(moved[part])), config.optim.learning_rate, rtol=1e-3)
    np.testing.assert_allclose(max(jax.tree.leaves(moved["adversary"])), config.model.critic_rate, rtol=1e-3)


@pytest.mark.parametrize("form", ["primal", "semidual"])
def test_the_plan_has_both_marginals(form):
    _, system, batch, state = built("coupled", form=form, examples=16, draws=30, chunk=10, ascent_steps=3000)
    state = jax.jit(system.prepare)(state, batch, jax.random.key(3))
    rows = jax.jit(lambda key: jax.vmap(lambda k: system.encode(variables(state), batch["x"], k))(
        jax.random.split(key, 3000)))(jax.random.key(0))  # [draws n d], latents drawn from the rows
    z = np.asarray(state.extra.z)
    index = ((np.asarray(rows)[:, :, None] - z) ** 2).sum(-1).argmin(-1)
    shares = np.bincount(index.ravel(), minlength=30) / index.size
    # The rows are conditionals by construction; that their mean is the prior's draws is what the potential does.
    np.testing.assert_allclose(shares, 1 / 30, atol=0.006)


def test_the_spherical_vae_stays_on_the_sphere():
    _, system, batch, state = built("vae", "spherical")
    for key in (None, jax.random.key(1)):
        z = jax.jit(system.encode)(variables(state), batch["x"], key)
        np.testing.assert_allclose(jnp.linalg.norm(z, axis=1), 1.0, rtol=1e-5)
    report = reported(system, state, batch)
    np.testing.assert_allclose(report["loss"], report["reconstruction"] + report["kl"], rtol=1e-5)


@pytest.mark.parametrize("name, changes, message", [
    ("wae", dict(divergence="js"), "model.divergence"), ("wae", dict(prior="ring", latent=3), "model.latent=2"),
    ("iwae", dict(posterior="point"), "needs densities"), ("iwae", dict(estimator="reinforce"), "no estimator"),
    ("iwae", dict(groups=3), "divide"), ("coupled", dict(epsilon=0.0), "epsilon"), ("coupled", dict(chunk=7), "divide"),
    ("vae", dict(prior="cauchy"), "model.prior"), ("vae", dict(posterior="point"), "density"),
    ("vae autogen", dict(posterior="point"), "density"),
    ("vae", dict(prior="vampprior", pseudo_inputs=0), "pseudo_inputs")])
def test_options_that_make_no_model_say_what_to_change(name, changes, message):
    with pytest.raises(ValueError, match=message):
        _, system, batch, state = built(*name.split(), **changes)
        jax.eval_shape(system.step, state, batch, jax.random.key(0))
