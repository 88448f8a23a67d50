"""Patches as tokens, and latents that are maps: their systems."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxae import systems
from jaxae.losses import gaussian_kl
from jaxae.systems.autoregressive import patches
from jaxae.systems.base import variables
from jaxae.systems.gaussian import map_vae
from jaxae.train.config import base


def _config(module, **model):
    config = base()
    config.system = module.__name__.removeprefix("jaxae.systems.")
    config.model = module.defaults()
    config.model.update(model)
    return config


def test_patches_are_tiles_in_raster_order_and_go_back():
    x = np.random.default_rng(0).random((3, 6, 4, 2)).astype(np.float32)
    rows = np.asarray(patches.to_patches(jnp.asarray(x), 2))
    assert rows.shape == (3, 6, 8)
    for t in range(6):
        i, j = divmod(t, 2)
        np.testing.assert_array_equal(rows[:, t], x[:, 2 * i:2 * i + 2, 2 * j:2 * j + 2].reshape(3, -1))
    np.testing.assert_array_equal(patches.from_patches(jnp.asarray(rows), (6, 4, 2), 2), x)
    with pytest.raises(ValueError, match="patches of 4 x 4 do not tile images of 6 x 4"):
        patches.to_patches(jnp.asarray(x), 4)


def test_a_gaussian_mixture_of_rows_is_refused_and_classes_want_a_number():
    batch = {"x": jax.ShapeDtypeStruct((4, 8, 8, 1), jnp.float32)}
    with pytest.raises(ValueError, match="masked_continuous, causal_continuous"):
        systems.build(_config(patches, prior="gaussian_mixture"), batch)
    with pytest.raises(ValueError, match="set model.classes"):
        systems.build(_config(patches, conditional=True), batch)
    with pytest.raises(ValueError, match=r"images \[n h w c\]"):
        systems.build(_config(patches), {"x": jax.ShapeDtypeStruct((4, 8), jnp.float32)})


def test_samples_are_images_in_the_units_of_the_pixels():
    """`prepare` gives the prior patches of mean 0 and deviation 1 at each of their pixels; samples go back."""
    config = _config(patches, hidden=8, layers=2, heads=2, head_hidden=8, head_layers=1, steps=2, iterations=1)
    x = 5 + 0.01 * jnp.float32(np.random.default_rng(1).normal(size=(64, 8, 8, 1)))
    system = systems.build(config, jax.eval_shape(lambda: {"x": x}))

    @jax.jit
    def run(x, key):
        state = system.prepare(system.init(key, {"x": x}), {"x": x}, key)
        return system.sample(variables(state), key, 50), state.extra

    drawn, (mean, log_std) = run(x, jax.random.key(0))
    rows = np.asarray(patches.to_patches(x, 4)).reshape(-1, 16)
    np.testing.assert_allclose(mean, rows.mean(0), rtol=1e-5)
    np.testing.assert_allclose(np.exp(log_std), rows.std(0), rtol=1e-4)
    assert drawn.shape == (50, 8, 8, 1) and abs(float(drawn.mean()) - 5) < 0.05 and 1e-4 < float(drawn.std()) < 0.1


def test_latent_maps_have_the_bound_of_their_posterior():
    """The loss is -E log p + beta KL with a draw of the posterior that `encode` gives the mean of."""
    config = _config(map_vae, channels=(8,), blocks=0, hidden=8, latent=2, beta=0.3, scale=0.5)
    x = jnp.float32(np.random.default_rng(2).random((6, 8, 8, 1)))
    system = systems.build(config, jax.eval_shape(lambda: {"x": x}))
    state = jax.jit(system.init)(jax.random.key(0), {"x": x})
    now, key = variables(state), jax.random.key(1)
    sums = jax.jit(system.evaluate)(state, {"x": x}, key)
    middle, rebuilt, draws = jax.jit(lambda x: (system.encode(now, x), system.reconstruct(now, x), jax.vmap(
        lambda key: system.encode(now, x, key))(jax.random.split(key, 200))))(x)
    assert system.latent.shape == (4, 4, 2) and middle.shape == (6, 4, 4, 2)
    std = np.std(draws, 0)
    np.testing.assert_allclose(np.mean(draws, 0), middle, atol=5 * std.max() / np.sqrt(200))
    kl = np.asarray(gaussian_kl(middle, jnp.log(std))).sum()
    assert float(sums["kl"]) == pytest.approx(kl, rel=0.1)
    assert float(sums["loss"]) == pytest.approx(float(sums["reconstruction"] + 0.3 * sums["kl"]), rel=1e-5)
    assert float(sums["elbo"]) == pytest.approx(-float(sums["reconstruction"] + sums["kl"]), rel=1e-5)
    # The reconstruction is the Gaussian's, of pixels: from its mean the least it can be.
    least = 64 * np.log(0.5 * np.sqrt(2 * np.pi)) * 6
    assert float(sums["reconstruction"]) > least
    assert float(sums["mse"]) == pytest.approx(np.square(rebuilt - x).mean((1, 2, 3)).sum(), rel=1e-4)
