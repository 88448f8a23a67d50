"""VQ-VAE and VAE against what their definitions say."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from test_configs import get_config

from jaxae import data, systems
from jaxae.losses import gaussian_kl
from jaxae.metrics import importance_sampled_nll
from jaxae.systems.base import variables


def built(name, arg="", **model):
    config = get_config(name, ",".join(filter(None, [arg, "tiny"])))
    config.model.update(model)
    dataset = data.load(config.data)
    batch = dataset.test_transform(dataset.train[np.arange(16)], jax.random.key(0))
    shapes = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in batch.items()}
    system = systems.build(config, shapes)
    return config, system, batch, jax.jit(system.init)(jax.random.key(1), batch)


def test_vae_elbo_is_reconstruction_minus_kl_and_beta_only_weighs_the_loss():
    for beta in (1.0, 4.0):
        _, system, batch, state = built("vae", beta=beta)
        report = system.summary(jax.jit(system.evaluate)(state, batch, jax.random.key(2)))
        np.testing.assert_allclose(report["elbo"], -report["reconstruction"] - report["kl"], rtol=1e-5)
        np.testing.assert_allclose(report["loss"], report["reconstruction"] + beta * report["kl"], rtol=1e-5)
        np.testing.assert_allclose(report["bits_per_dim"], -report["elbo"] / 784 / math.log(2), rtol=1e-5)


def test_vae_mean_log_weight_is_the_elbo_and_more_samples_tighten_the_bound():
    _, system, batch, state = built("vae")
    model = variables(state)
    weights = jax.jit(lambda key: system.log_weights(model, key, batch["x"], 2000))(jax.random.key(0))  # [k n]
    report = system.summary(system.evaluate(state, batch, jax.random.key(5)))
    standard_error = float(jnp.std(weights.mean(1)) / math.sqrt(16)) + 1e-3
    assert abs(float(weights.mean()) - float(report["elbo"])) < 4 * standard_error + 0.5
    nll = importance_sampled_nll(lambda k, x, n: system.log_weights(model, k, x, n), jax.random.key(1), batch["x"],
                                 2000, 100)
    assert np.all(np.asarray(nll) <= -np.asarray(weights.mean(0)) + 0.05)


def test_vae_kl_of_the_posterior_is_the_closed_form_on_its_draws():
    _, system, batch, state = built("vae")
    model = variables(state)
    draws = jax.vmap(lambda k: system.encode(model, batch["x"], k))(jax.random.split(jax.random.key(0), 4000))
    mean = system.encode(model, batch["x"])
    np.testing.assert_allclose(draws.mean(0), mean, atol=0.1)
    report = system.summary(system.evaluate(state, batch, jax.random.key(5)))
    moments = gaussian_kl(draws.mean(0), jnp.log(draws.std(0))).mean()
    np.testing.assert_allclose(moments, report["kl"], rtol=0.1, atol=0.02)


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_vq_vae_round_trip_and_loss_parts(codebook):
    config, system, batch, state = built("vq", codebook=codebook, revive=0.0)
    state = jax.jit(system.prepare)(state, batch, jax.random.key(3))
    model = variables(state)
    indices = jax.jit(system.encode)(model, batch["x"])
    assert indices.shape == (16, *system.latent.shape) and int(indices.max()) < system.latent.codes
    np.testing.assert_allclose(system.decode(model, indices), system.reconstruct(model, batch["x"]), rtol=1e-5)
    sums = jax.jit(system.evaluate)(state, batch, jax.random.key(0))
    counts = np.bincount(np.asarray(indices).ravel(), minlength=system.latent.codes)
    np.testing.assert_array_equal(sums["code_counts"], [counts])
    report = system.summary(sums)
    p = counts[counts > 0] / counts.sum()
    np.testing.assert_allclose(report["perplexity"], np.exp(-(p * np.log(p)).sum()), rtol=1e-4)
    np.testing.assert_allclose(report["usage"], np.mean(counts > 0), rtol=1e-6)
    np.testing.assert_allclose(report["reconstruction"], np.mean((system.reconstruct(model, batch["x"])
                                                                  - batch["x"]) ** 2), rtol=1e-4)
    extra = (1 + config.model.beta) if codebook == "gradient" else config.model.beta
    np.testing.assert_allclose(report["loss"], report["reconstruction"] + extra * report["commitment"], rtol=1e-4)


def test_likelihood_bound_counts_log_k_for_each_position():
    config, system, batch, state = built("vq", "gaussian", scale=0.5)
    report = system.summary(jax.jit(system.evaluate)(state, batch, jax.random.key(0)))
    model = variables(state)
    squares = jnp.sum((batch["x"] - system.reconstruct(model, batch["x"])) ** 2, (1, 2, 3))
    nats = squares / (2 * 0.25) + 784 * (0.5 * math.log(2 * math.pi) + math.log(0.5))
    np.testing.assert_allclose(report["nll_bound"], nats.mean() + 49 * math.log(16), rtol=1e-4)


@pytest.mark.parametrize("arg, places, codes", [
    ("fsq", (7, 7), 240), ("lfq", (7, 7), 256), ("latent", (7, 7, 8), 16), ("product", (7, 7, 4), 16),
    ("residual", (7, 7, 4), 16), ("grouped", (7, 7, 4), 16), ("residual_fsq", (7, 7, 3), 75),
    ("multi_scale", (1 + 4 + 16 + 49,), 16)])
def test_codes_of_every_quantizer_decode_to_the_reconstruction(arg, places, codes):
    """Latents have the shape that the system declares, lie in its codebooks, and what is reported of their use is the
    mean over codebooks."""
    _, system, batch, state = built("vq", arg)
    model = variables(state)
    assert (system.latent.shape, system.latent.codes) == (places, codes)
    indices = jax.jit(system.encode)(model, batch["x"])
    assert indices.shape == (16, *places) and 0 <= int(indices.min()) and int(indices.max()) < codes
    np.testing.assert_allclose(system.decode(model, indices), system.reconstruct(model, batch["x"]), atol=1e-5)
    report = system.summary(jax.jit(system.evaluate)(state, batch, jax.random.key(0)))
    books = places[2] if len(places) == 3 else 1
    columns = np.asarray(indices).reshape(-1, books).T
    np.testing.assert_allclose(report["usage"], np.mean([len(set(column)) / codes for column in columns]), rtol=1e-5)
    drawn = jax.eval_shape(lambda key: system.sample(model, key, 3), jax.random.key(0))
    assert drawn.shape == (3, *batch["x"].shape[1:])
    if arg == "fsq":
        with pytest.raises(ValueError, match=r"has codes \[n, 7, 7\], these are \(3, 6, 7\): decode them by the one"):
            system.decode(model, indices[:3, 1:])
        with pytest.raises(ValueError, match="integers from 0 to 239, these go from 240 to 240"):
            system.decode(model, jnp.full((3, 7, 7), 240))


def test_gradients_by_the_decoder_reach_the_encoder_alone():
    found = {}
    for estimator in ("straight_through", "exact"):
        _, system, batch, state = built("vq", estimator=estimator, codebook="gradient", beta=0.0, revive=0.0)
        state = state._replace(params=state.params | {"codes": 0.3 * state.params["codes"]})
        moved, _ = jax.jit(system.step)(state, batch, jax.random.key(0))
        found[estimator] = jax.tree.map(lambda a, b: a - b, moved.params, state.params)
    same = jax.tree.map(lambda a, b: np.allclose(a, b, atol=1e-7), *found.values())
    assert all(jax.tree.leaves(same["decoder"])) and not all(jax.tree.leaves(same["encoder"]))


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_dead_codes_come_back_and_without_revival_stay_dead(codebook):
    def used(revive):
        _, system, batch, state = built("vq", codebook=codebook, revive=revive, start="data", decay=0.5)
        # All codes but two far away from anything that the encoder gives.
        if codebook == "ema":
            codes = state.extra.codes.at[2:].add(1e3)
            state = state._replace(extra=state.extra._replace(codes=codes, sums=codes))
        else:
            params = state.params | {"codes": state.params["codes"].at[2:].add(1e3)}
            state = state._replace(params=params)
        step = jax.jit(system.step)
        for i in range(12):
            state, _ = step(state, batch, jax.random.key(i))
        return float(system.summary(system.evaluate(state, batch, jax.random.key(0)))["usage"])

    assert used(0.0) <= 2 / 16 < 0.4 <= used(0.5)


def test_any_network_can_be_quantized_by_positions():
    _, system, batch, state = built("vq", network="mlp", features=(32,), positions=5)
    state, metrics = jax.jit(system.step)(state, batch, jax.random.key(0))
    assert system.encode(variables(state), batch["x"]).shape == (16, 5) and np.isfinite(metrics["loss"])


def test_bfloat16_computes_in_bfloat16_and_keeps_parameters_in_float32():
    config = get_config("vae", "tiny")
    config.dtype = "bfloat16"
    dataset = data.load(config.data)
    batch = dataset.test_transform(dataset.train[np.arange(8)], jax.random.key(0))
    system = systems.build(config, batch)
    state = system.init(jax.random.key(0), batch)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    text = jax.jit(system.step).lower(state, batch, jax.random.key(1)).as_text()
    assert "dot_general" in text and "bf16" in text
    new, metrics = jax.jit(system.step)(state, batch, jax.random.key(1))
    assert np.isfinite(metrics["loss"]) and metrics["loss"].dtype == jnp.float32


@pytest.mark.parametrize("name, changes, message", [
    ("vq", dict(codebook="emma"), "codebook='emma' must be one of"), ("vq", dict(network="mlp"), "model.positions"),
    ("vq", dict(likelihood="gauss"), "no likelihood 'gauss'"), ("vq", dict(channels=(8, 8, 8)), "cannot be halved"),
    ("vae", dict(likelihood="mse"), "needs a likelihood"), ("vae", dict(latent=0), "model.latent=0"),
    ("vae", dict(activation="rulu"), "model.activation"), ("vae", dict(decoder="pixel"), "model.decoder"),
])
def test_what_cannot_be_built_says_what_to_change(name, changes, message):
    with pytest.raises(ValueError, match=message):
        built(name, **changes)


@pytest.mark.parametrize("name, message", [("discrete.vq_vea", "did you mean 'discrete.vq_vae'"),
                                           ("latent.larger", "is a part of systems and none itself")])
def test_what_is_no_system_is_said(name, message):
    with pytest.raises(ValueError, match=message):
        systems.build(ConfigDict({"system": name}), {})
