"""Options of the Wasserstein and the coupled autoencoders against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from scipy.special import logsumexp
from test_systems import built

from jaxae import losses, optim
from jaxae.nn import MLP
from jaxae.systems.transport import wae
from jaxae.systems.transport.coupled import dual_ascent


def report(system, state, batch, key=0):
    return system.summary(jax.jit(system.evaluate)(state, batch, jax.random.key(key)))


def test_the_dual_approaches_sinkhorn_from_below_and_its_plan_has_both_marginals():
    rng = np.random.default_rng(0)
    x, z = (jnp.asarray(rng.normal(size=(48, 2)), jnp.float32) for _ in range(2))
    cost = 2.0 * jnp.square(x[:, None] - z @ jnp.array([[1.2, 0.3], [-0.4, 0.8]])).sum(-1)
    net = MLP((32, 32, 1))
    chunks, columns = z.reshape(4, 12, 2), cost.reshape(48, 4, 12).swapaxes(0, 1)

    @jax.jit
    def ascend(network):
        def judged(u, network):
            v = net.apply(network, z)[:, 0]
            return u, v, losses.dual_objective(u, v, cost, 1.0), losses.coupling_rows(v, cost, 1.0)

        found = dual_ascent(jnp.zeros(48), network, net.apply, chunks, columns, 1.0, 0.03, 3e-3, 300)
        return judged(jnp.zeros(48), network), judged(*found)

    (*_, early, far), (u, v, value, rows) = ascend(net.init(jax.random.key(0), z))
    true_u, true_v = np.zeros(48), np.zeros(48)
    for _ in range(500):  # Sinkhorn's algorithm
        true_v = -logsumexp(true_u[:, None] - cost, axis=0, b=1 / 48)
        true_u = -logsumexp(true_v - cost, axis=1, b=1 / 48)
    truth = true_u.mean() + true_v.mean()
    assert early < value - 0.1 and truth - 0.02 < value < truth
    np.testing.assert_allclose(rows.sum(1), 1.0, rtol=1e-5)
    assert np.abs(rows.mean(0) - 1 / 48).sum() < 0.08 < np.abs(far.mean(0) - 1 / 48).sum()
    # u is Sinkhorn's plus epsilon, up to the constant that moves between the potentials.
    np.testing.assert_allclose(u - u.mean(), true_u - true_u.mean(), atol=0.1)
    np.testing.assert_allclose(u.mean() + v.mean(), truth + 1.0, atol=0.05)


def test_the_dual_form_keeps_its_network_and_trains_at_its_rows():
    config, system, batch, state = built("coupled", "dual", examples=16, draws=20, ascent_steps=100, sampled=False)

    @jax.jit
    def run(state):
        solved = system.prepare(state, batch, jax.random.key(3))
        return solved, system.encode(solved, batch["x"]), system.step(solved, batch, jax.random.key(0))[1]

    solved, codes, metrics = run(state)
    coupling = solved.extra
    v = MLP((*config.model.potential, 1)).apply(coupling.network, coupling.z)[:, 0]
    np.testing.assert_allclose(coupling.v, v, rtol=1e-4, atol=1e-5)
    mean = solved.params["decoder"]["mlp"]
    decoded = jax.nn.relu(coupling.z @ mean["dense0"]["kernel"] + mean["dense0"]["bias"])
    decoded = decoded @ mean["dense1"]["kernel"] + mean["dense1"]["bias"]
    squares = jnp.square(batch["x"][:, None] - decoded).sum(-1)
    rows = jax.nn.softmax(v - squares / (2 * 0.2**2), axis=1)
    np.testing.assert_allclose(codes, rows @ coupling.z, rtol=1e-3, atol=1e-4)
    nats = squares / (2 * 0.2**2) + np.log(2 * np.pi * 0.2**2)
    np.testing.assert_allclose(metrics["loss"], (rows * nats).sum(1).mean(), rtol=1e-4)


def test_the_amortised_form_is_the_bound_with_a_penalty_on_the_aggregate():
    _, system, batch, state = built("coupled", "amortised", epsilon=0.5, rho=3.0, divergence="sinkhorn")
    now = report(system, state, batch)
    expected = now["reconstruction"] + 0.5 * now["kl"] + 3.0 * now["penalty"]
    np.testing.assert_allclose(now["loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(now["elbo"], -now["reconstruction"] - now["kl"], rtol=1e-5)
    assert now["penalty"] > 1e-3
    with pytest.raises(ValueError, match="model.divergence='gan'"):
        built("coupled", "amortised", divergence="gan")


def test_the_weight_grows_by_its_factor_after_every_period():
    _, system, batch, state = built("wae", "sliced", weight=5.0, growth=1.1, growth_every=10, growth_start=20)
    evaluate = jax.jit(system.evaluate)
    for step, weight in ((0, 5.0), (29, 5.0), (30, 5.0 * 1.1), (49, 5.0 * 1.1**2)):
        now = system.summary(evaluate(state._replace(extra=jnp.asarray(step, jnp.int32)), batch, jax.random.key(0)))
        np.testing.assert_allclose(now["loss"], now["cost"] + weight * now["penalty"], rtol=1e-5)


def test_pretraining_moves_the_encoder_alone_and_gives_codes_of_the_priors_moments():
    _, system, batch, state = built("wae", pretrain_steps=60)
    encoder = state.params["encoder"]["mlp"]
    far = encoder | {"dense1": encoder["dense1"] | {"bias": encoder["dense1"]["bias"] + 2.0}}
    state = state._replace(params=state.params | {"encoder": {"mlp": far}})
    step, start = jax.jit(system.step), state
    for i in range(60):
        state, metrics = step(state, batch, jax.random.key(i))
        np.testing.assert_allclose(metrics["loss"], metrics["moments"], rtol=1e-5)
    now = report(system, state, batch)
    assert now["moments"] < 0.2 * report(system, start, batch)["moments"]
    jax.tree.map(np.testing.assert_array_equal, start.params["decoder"], state.params["decoder"])
    state, metrics = step(state, batch, jax.random.key(60))
    np.testing.assert_allclose(metrics["loss"], metrics["cost"] + 10.0 * metrics["penalty"], rtol=1e-5)
    assert not np.array_equal(*(s.params["decoder"]["mlp"]["dense0"]["bias"] for s in (start, state)))


def test_moment_distance_is_its_definition_on_one_device_and_on_eight():
    rng = np.random.default_rng(0)
    z, draws = rng.normal(size=(16, 3)).astype(np.float32) * 2 + 1, rng.normal(size=(16, 3)).astype(np.float32)
    truth = (((z.mean(0) - draws.mean(0)) ** 2).mean()
             + ((np.cov(z.T, bias=True) - np.cov(draws.T, bias=True)) ** 2).mean())
    value, slope = jax.jit(jax.value_and_grad(wae.moment_distance))(z, draws)
    np.testing.assert_allclose(value, truth, rtol=1e-5)

    def replica(z, draws):
        value, slope = jax.value_and_grad(wae.moment_distance)(z, draws, "d")
        return value, slope / 8  # the mean over replicas, as the loop takes it: each holds its own rows

    values, slopes = jax.pmap(replica, "d")(z.reshape(8, 2, 3), draws.reshape(8, 2, 3))
    np.testing.assert_allclose(values, truth, rtol=1e-5)
    np.testing.assert_allclose(slopes.reshape(16, 3), slope, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("adds", [True, False])
def test_discriminator_adds_the_priors_log_density_where_asked(adds):
    config, system, batch, state = built("wae", "gan", critic_prior=adds, weight=1.0)
    z = system.encode(state, batch["x"])
    net = MLP((*config.model.critic, 1)).apply({"params": state.params["adversary"]}, z)[:, 0]
    logit = net + adds * jax.scipy.stats.norm.logpdf(z).sum(-1)
    now = report(system, state, batch)
    np.testing.assert_allclose(now["penalty"], jnp.mean(jax.nn.softplus(-logit)), rtol=1e-4)


def test_random_encoders_match_their_draws_and_not_their_means():
    _, system, batch, state = built("wae", "random")
    encoder = state.params["encoder"]["mlp"]
    bias = encoder["dense1"]["bias"].at[8:].set(3.0)  # standard deviations near e^3
    wide = {"mlp": encoder | {"dense1": encoder["dense1"] | {"bias": bias}}}
    far = state._replace(params=state.params | {"encoder": wide})
    z = [system.encode(far, batch["x"], jax.random.key(i)) for i in range(2)]
    assert 10 < float(jnp.std(z[0] - z[1])) / np.sqrt(2) < 40
    assert report(system, far, batch)["penalty"] > report(system, state, batch)["penalty"] + 0.5


def test_euclidean_cost_is_the_root_of_the_summed_squares():
    _, system, batch, state = built("wae", "plain", cost="euclidean", cost_scale=0.2)
    difference = (batch["x"] - system.reconstruct(state, batch["x"])).reshape(16, -1)
    expected = 0.2 * np.linalg.norm(difference, axis=1).mean()
    np.testing.assert_allclose(report(system, state, batch)["loss"], expected, rtol=1e-5)


def test_rate_drops_at_its_steps_and_the_factors_multiply():
    config = ConfigDict(optim.defaults() | dict(schedule="piecewise", learning_rate=0.1, drops=((30, 0.5), (50, 0.2)),
                                                warmup_steps=10))
    rate = jax.jit(optim.schedule(config, steps=100))
    np.testing.assert_allclose([rate(s) for s in (5, 10, 29, 31, 49, 51, 99)], [0.05, 0.1, 0.1, 0.05, 0.05, 0.01, 0.01],
                               rtol=1e-6)
