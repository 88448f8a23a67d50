"""Sharpness, networks at the papers' scales, and what is known in closed form of the models that use them."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from test_configs import dense, get_config, sizes_at_paper_scale

from jaxae import systems
from jaxae.losses import individual_variance_kl, mmd, population_kl, rbf
from jaxae.metrics.image import laplacian_sharpness
from jaxae.nn.dropout import dropout
from jaxae.nn.pooled import PooledDecoder, PooledEncoder
from jaxae.nn.resnet_v2 import PreActivationBlock, ResNetV2Decoder, ResNetV2Encoder
from jaxae.systems import latent_model
from jaxae.systems.base import Variables
from jaxae.systems.gaussian import generated
from jaxae.train.config import base


def test_sharpness_is_the_variance_of_the_laplacian():
    x = np.random.default_rng(0).normal(size=(3, 7, 6, 2)).astype(np.float32)
    expected = []
    for image in x:
        laplacian = np.zeros((5, 4, 2))
        for i in range(1, 6):
            for j in range(1, 5):
                laplacian[i - 1, j - 1] = (image[i - 1, j] + image[i + 1, j] + image[i, j - 1] + image[i, j + 1]
                                           - 4 * image[i, j])
        expected.append(np.mean([laplacian[..., c].var() for c in range(2)]))
    found = jax.jit(laplacian_sharpness)(x)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    blurred = (x[:, 1:] + x[:, :-1]) / 2
    assert np.all(jax.jit(laplacian_sharpness)(blurred) < found)
    with pytest.raises(ValueError, match="at least 3x3"):
        laplacian_sharpness(jnp.zeros((1, 2, 5, 1)))


def filled(module, x):
    """Parameters of the module's shapes, from a normal distribution: quicker than its own initialisers."""
    rng, shapes = np.random.default_rng(0), jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    return jax.tree.map(lambda leaf: jnp.asarray(0.5 * rng.normal(size=leaf.shape), jnp.float32), shapes)


def test_pre_activation_block_is_the_identity_plus_what_its_last_convolution_adds():
    block, x = PreActivationBlock(8), jax.random.normal(jax.random.key(0), (2, 2, 2, 8))
    params = filled(block, x)
    apply = jax.jit(lambda params, x: block.apply({"params": params}, x))
    silent = params | {"conv2": jax.tree.map(jnp.zeros_like, params["conv2"])}
    np.testing.assert_array_equal(apply(silent, x), x)
    assert not np.allclose(apply(params, x), x)
    assert "shortcut" not in params
    both = apply(params, x)
    np.testing.assert_allclose(apply(params, x.at[1].set(5.0))[0], both[0], atol=1e-6)  # nothing crosses the batch


def test_resnet_v2_halves_and_doubles_and_every_weight_is_used():
    code = jax.eval_shape(lambda x: ResNetV2Encoder((8, 12)).init_with_output(jax.random.key(0), x)[0],
                          jnp.zeros((2, 8, 12, 3)))
    assert code.shape == (2, 2, 3, 12)
    encoder, decoder = ResNetV2Encoder((4,), 0), ResNetV2Decoder((4,), 3, 0)
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    params = {"encoder": filled(encoder, x), "decoder": filled(decoder, jnp.zeros((2, 2, 2, 4)))}

    def loss(params):
        x_hat = decoder.apply({"params": params["decoder"]}, encoder.apply({"params": params["encoder"]}, x))
        assert x_hat.shape == x.shape
        return jnp.sum((x_hat - x) ** 2)

    for path, leaf in jax.tree.leaves_with_path(jax.jit(jax.grad(loss))(params)):
        assert float(jnp.abs(leaf).max()) > 1e-6, path


def conv(side, a, b):
    return side * side * a * b + b


def test_paper_scale_population_vae_halves_faces_seven_times_to_512_latents():
    config, sizes = sizes_at_paper_scale("vae", "population_paper", (256, 256, 3))
    c = 128
    block = 2 * conv(3, c, c) + conv(1, c, c) + 3 * 2 * c
    down, up = block + conv(1, c, c) + 2 * c, conv(1, c, c) + 2 * conv(3, c, c) + 3 * 2 * c
    assert sizes["encoder"] == conv(3, 3, c) + 7 * (2 * block + down) + 2 * c + dense(2 * 2 * c, 2 * 512)
    assert sizes["decoder"] == dense(512, 2 * 2 * c) + conv(3, c, c) + 7 * (block + up) + 2 * c + conv(1, c, 3)
    widths = (3, 128, 128, 128, 64, 64, 1)
    assert sizes["adversary"] == sum(conv(3, a, b) for a, b in zip(widths, widths[1:], strict=False))
    assert (config.optim.learning_rate, config.optim.b1, config.data.augment) == (1e-4, 0.5, ("flip",))


def test_paper_scale_wae_of_faces_has_5x5_filters_and_starts_from_a_map_of_8x8x1024():
    config, sizes = sizes_at_paper_scale("wae", "paper_celeba", (64, 64, 3))
    widths = (3, 128, 256, 512, 1024)
    assert sizes["encoder"] == (sum(conv(5, a, b) + 2 * b for a, b in zip(widths, widths[1:], strict=False))
                                + dense(4 * 4 * 1024, 64))
    assert sizes["decoder"] == (dense(64, 8 * 8 * 1024) + conv(5, 1024, 512) + conv(5, 512, 256) + conv(5, 256, 128)
                                + 2 * (512 + 256 + 128) + conv(5, 128, 3))
    assert (config.model.weight, config.model.input_noise, config.batch_size) == (100.0, 0.005, 100)
    adversarial, sizes = sizes_at_paper_scale("wae", "gan,paper_celeba", (64, 64, 3))
    assert (adversarial.model.weight, adversarial.optim.learning_rate) == (1.0, 3e-4) and "adversary" in sizes


def test_paper_scale_sliced_wae_has_pairs_of_convolutions_with_pooling():
    config, sizes = sizes_at_paper_scale("wae", "paper_sliced")
    assert sizes["encoder"] == (conv(3, 1, 16) + conv(3, 16, 16) + conv(3, 16, 32) + conv(3, 32, 32) + conv(3, 32, 64)
                                + conv(3, 64, 64) + dense(4 * 4 * 64, 128, 2))
    assert sizes["decoder"] == (dense(2, 128, 4 * 4 * 64) + 2 * conv(3, 64, 64) + conv(3, 64, 32) + conv(3, 32, 32)
                                + conv(3, 32, 16) + conv(3, 16, 16) + conv(3, 16, 1))
    assert (config.batch_size, config.model.projections, config.optim.name) == (500, 50, "rmsprop")


def test_pooling_averages_and_doubling_repeats():
    """With kernels that pass their input on, a constant goes through both, and an image comes out as its averages."""
    encoder, decoder = PooledEncoder((1,), ()), PooledDecoder((3, 5), (1,), 1, ())
    x = jax.random.uniform(jax.random.key(0), (2, 3, 5, 1))  # positive: the activation does nothing
    centre = {"kernel": jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1.0), "bias": jnp.zeros(1)}
    code = jax.jit(lambda x: encoder.apply({"params": {"conv0a": centre, "conv0b": centre}}, x))(x)
    padded = np.pad(np.asarray(x), ((0, 0), (0, 1), (0, 1), (0, 0)), mode="edge")
    averages = padded.reshape(2, 2, 2, 3, 2).mean((2, 4))
    np.testing.assert_allclose(code, averages.reshape(2, 6), rtol=1e-6)
    same = {"dense0": {"kernel": jnp.eye(6), "bias": jnp.zeros(6)}, "conv0a": centre, "conv0b": centre, "out": centre}
    drawn = jax.jit(lambda z: decoder.apply({"params": same}, z))(code)
    np.testing.assert_allclose(drawn[..., 0], averages.repeat(2, 1).repeat(2, 2)[:, :3, :5], rtol=1e-6)


def test_dropout_keeps_the_mean_and_is_only_in_training():
    keys = jax.random.split(jax.random.key(0), 200)
    x = jnp.arange(1.0, 9.0).reshape(8, 1)
    many = jax.jit(jax.vmap(lambda key: dropout(x, 0.25, key)))(keys)
    assert set(np.unique(np.asarray(many[:, 2, 0]))) == {0.0, 4.0}
    np.testing.assert_allclose(many.mean((0, 2)) / x[:, 0], 1.0, atol=4 * np.sqrt(0.25 / 0.75 / 200))
    shared = jax.vmap(lambda part: dropout(part, 0.25, keys[0], "data"), axis_name="data")(x.reshape(4, 2, 1))
    np.testing.assert_array_equal(shared.reshape(8, 1), dropout(x, 0.25, keys[0]))
    with pytest.raises(ValueError, match="must be in"):
        dropout(x, 1.0, keys[0])

    block, images = PreActivationBlock(8, dropout=0.5), jax.random.normal(jax.random.key(0), (2, 2, 2, 8))
    params = filled(block, images)
    still, noisy, again = (block.apply({"params": params}, images, rngs=rngs)
                           for rngs in (None, {"dropout": keys[0]}, {"dropout": keys[1]}))
    assert not np.allclose(still, noisy) and not np.allclose(noisy, again)


def test_noise_of_training_reaches_encoder_and_decoder_and_leaves_evaluation_alone():
    config = base()
    config.system, config.model = "gaussian.vae", latent_model.defaults(
        network="resnet_v2", channels=(4,), blocks=2, latent=2, likelihood="gaussian", dropout=0.5)
    example = {"x": jnp.ones((2, 4, 4, 1))}
    for noise, dropped in ((0.0, 0.5), (0.5, 0.0)):
        config.model.update(dict(input_noise=noise, dropout=dropped))
        model = latent_model.latent_model(config, example)
        params = jax.tree.map(lambda a: jnp.full(a.shape, 0.1), jax.eval_shape(
            model.init, jax.random.key(0), example["x"]))
        params = jax.tree.map(lambda a: a + 0.1 * jnp.sin(jnp.arange(a.size)).reshape(a.shape), params)
        terms = {(train, seed): latent_model.pass_through(
            model, params, example["x"] * jnp.linspace(0, 1, 4)[:, None], jax.random.key(seed), jnp.zeros(()), train)
            for train in (True, False) for seed in (0, 1)}
        assert not np.allclose(terms[True, 0].out, terms[True, 1].out)
        np.testing.assert_array_equal(terms[False, 0].out, terms[False, 1].out)
        z = jnp.ones((2, 2))
        assert np.allclose(terms[True, 0].x_hat(z), terms[True, 1].x_hat(z)) == (not dropped)
        np.testing.assert_array_equal(terms[False, 0].x_hat(z), terms[False, 1].x_hat(z))
    config.model.update(dict(network="mlp", dropout=0.5))
    with pytest.raises(ValueError, match="is for model.network='resnet_v2'"):
        latent_model.latent_model(config, example)


def test_paper_scale_unscented_autoencoder_has_six_convolutions_and_a_map_of_8x8x1024():
    config, sizes = sizes_at_paper_scale("vae", "unscented_paper", (32, 32, 1))
    widths = (1, 32, 64, 128, 256, 512, 1024)
    convolutions = sum(conv(3, a, b) + 2 * b for a, b in zip(widths, widths[1:], strict=False))
    assert sizes["encoder"] == convolutions + dense(1024, 128)
    assert sizes["decoder"] == (dense(64, 8 * 8 * 1024) + conv(4, 1024, 512) + conv(4, 512, 256) + 2 * 768
                                + conv(3, 256, 1))
    assert (config.model.points, config.model.weight, config.batch_size) == (1, 2.5e-4, 64)


def test_paper_scale_infovae_is_dcgan_64_128_1024():
    config, sizes = sizes_at_paper_scale("vae", "info_paper")
    assert sizes["encoder"] == conv(4, 1, 64) + conv(4, 64, 128) + dense(7 * 7 * 128, 1024) + dense(1024, 20)
    assert sizes["decoder"] == dense(10, 1024) + dense(1024, 7 * 7 * 128) + conv(4, 128, 64) + conv(4, 64, 1)
    assert (config.model.alpha, config.model.lam, config.batch_size) == (1.0, 1000.0, 200)


def test_paper_scale_generated_loss_is_784_500_500_20():
    _, sizes = sizes_at_paper_scale("vae", "generated_paper")
    assert sizes == {"encoder": dense(784, 500, 500, 40), "decoder": dense(20, 500, 500, 784)}


def linear_vae(covariance, mean, noise, d):
    """The system, its parameters at the optimum of probabilistic PCA, and the eigenvalues and directions it keeps."""
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = values[::-1][:d], vectors[:, ::-1][:, :d]
    config = base()
    config.system, config.model = "gaussian.generated", generated.defaults()
    config.model.update(dict(features=(), latent=d, likelihood="gaussian", scale=noise, augment="none"))
    system = systems.build(config, {"x": jax.ShapeDtypeStruct((4, len(mean)), jnp.float32)})
    loading = vectors * np.sqrt(values - noise**2)  # W
    to_mean = loading / values  # x - mean -> (W^T W + s^2)^-1 W^T (x - mean)
    kernel = np.concatenate([to_mean, np.zeros_like(to_mean)], 1)
    bias = np.concatenate([-mean @ to_mean, np.log(noise / np.sqrt(values))])
    params = {"encoder": {"mlp": {"dense0": {"kernel": kernel, "bias": bias}}},
              "decoder": {"mlp": {"dense0": {"kernel": loading.T, "bias": mean}}}}
    now = Variables(jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), params), ())
    return system, now, loading, values, vectors


def test_repeated_reconstruction_of_a_linear_vae_contracts_each_direction_by_its_share_of_signal():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    covariance, mean, noise = (basis * [4.0, 2.0, 1.0, 0.25, 0.25]) @ basis.T, rng.normal(size=5), 0.5
    system, now, loading, values, vectors = linear_vae(covariance, mean, noise, 3)
    x = jnp.asarray(mean + rng.normal(size=(6, 5)), jnp.float32)

    # It is the optimum: the posterior is exact, so that every importance weight is the density of the data.
    log_w = jax.jit(lambda key, x: system.log_weights(now, key, x, 4))(jax.random.key(0), x)
    full = loading @ loading.T + noise**2 * np.eye(5)
    np.testing.assert_allclose(full, covariance, atol=1e-6)
    offset = np.asarray(x) - mean
    density = -0.5 * (np.einsum("ni,ij,nj->n", offset, np.linalg.inv(full), offset) + np.linalg.slogdet(full)[1]
                      + 5 * math.log(2 * math.pi))
    np.testing.assert_allclose(log_w, np.broadcast_to(density, (4, 6)), atol=1e-3)

    iterates = np.asarray(jax.jit(lambda x: generated.iterated(system, now, x, 200))(x))
    assert iterates.shape == (201, 6, 5)
    np.testing.assert_array_equal(iterates[0], x)
    kept = (iterates - mean) @ vectors
    factor = (values - noise**2) / values
    for t in (1, 2, 5):
        np.testing.assert_allclose(kept[t], kept[0] * factor**t, atol=1e-3)
    np.testing.assert_allclose(iterates[-1], np.broadcast_to(mean, (6, 5)), atol=1e-3)


def test_scale_of_population_codes_settles_above_one():
    """At the best scale of all codes the mean of V_j + M_j^2 is 1 + 2 weight (1 - mean variance of a posterior)."""
    key, weight = jax.random.key(0), 0.1
    mean, log_std = jax.random.normal(key, (50, 3)) + 0.2, jnp.full((50, 3), -1.5)

    def loss(log_scale):
        return (population_kl(mean * jnp.exp(log_scale), eps=0.0)
                + individual_variance_kl(log_std + log_scale, weight).mean())

    def descend(_, s):
        return s - 0.1 * jax.grad(loss)(s)

    scale = jnp.exp(jax.jit(lambda s: jax.lax.fori_loop(0, 300, descend, s))(0.0))
    second, within = jnp.square(mean * scale).mean(), jnp.square(jnp.exp(log_std) * scale).mean()
    np.testing.assert_allclose(second, 1.0 + 2.0 * weight * (1.0 - within), atol=1e-4)


def test_v_statistics_draw_the_codes_of_a_batch_together_and_u_statistics_do_not():
    """Codes that follow the prior: the gradient of the squared MMD by their scale is 0 on average, if unbiased."""
    n, d = 100, 10
    kernel = rbf(d / 2**0.5)

    def slopes(unbiased):
        def one(key):
            codes, draws = jax.random.normal(key, (2, n, d))
            return jax.grad(lambda c: mmd(c * codes, draws, kernel, unbiased=unbiased))(1.0)
        return jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 400))

    v, u = np.asarray(slopes(False)), np.asarray(slopes(True))
    error = u.std() / np.sqrt(len(u))
    assert abs(u.mean()) < 4 * error
    # E k(z, z') of two codes of scale c is (1 + 2 c^2 / h^2)^(-d/2), and n of the n^2 pairs count 1 in its place.
    square = d**2 / 2
    slope = -d * (1 + 2 / square) ** (-d / 2 - 1) * 2 / square
    np.testing.assert_allclose(v.mean(), -slope / n, atol=4 * error)
    assert -slope / n > 10 * error


def test_networks_answer_sizes_that_do_not_fit():
    model = ConfigDict(get_config("vae", "unscented_paper").model)
    with pytest.raises(ValueError, match="multiples of 4"):
        systems.networks.vector_encoder(model, (30, 30, 1), 8, jnp.float32)
