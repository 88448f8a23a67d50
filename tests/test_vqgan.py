"""VQGAN: distances of features, VGG16, the networks of taming transformers, and both players of the system."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate2d
from test_configs import get_config
from test_transformer import random_like

from jaxae import systems
from jaxae.losses.hinge_gan import hinge_discriminator_loss
from jaxae.losses.perceptual import feature_distance, perceptual_distance
from jaxae.metrics.features import digit_maps
from jaxae.nn import Conv
from jaxae.nn.patch import PatchGAN
from jaxae.nn.taming import TamingDecoder, TamingEncoder
from jaxae.nn.vgg import VGG16, read_vgg16, stage_weights, vgg16_maps
from jaxae.systems.base import Variables
from jaxae.systems.discrete import vqgan
from jaxae.train.config import base

RNG = np.random.default_rng(0)

# ------------------------------------------------------------------------------------------- the distance of features


def maps_of(*sizes, n=2):
    return [jnp.float32(RNG.normal(size=(n, h, w, c))) for h, w, c in sizes]


def test_distance_is_that_of_unit_vectors_weighted_averaged_and_summed():
    f, g = maps_of((3, 4, 5), (2, 1, 3)), maps_of((3, 4, 5), (2, 1, 3))
    weights = [jnp.float32(RNG.random(5)), jnp.float32(RNG.random(3))]
    for given in (weights, None):
        want = np.zeros(2)
        for n in range(2):
            for layer, (a, b) in enumerate(zip(f, g, strict=True)):
                places = [(a[n, i, j], b[n, i, j]) for i in range(a.shape[1]) for j in range(a.shape[2])]
                w = weights[layer] if given else 1.0
                want[n] += np.mean([np.sum(w * (p / np.sqrt(p @ p) - q / np.sqrt(q @ q)) ** 2) for p, q in places])
        np.testing.assert_allclose(jax.jit(feature_distance)(f, g, given), want, rtol=1e-5)
    scaled = [3.0 * a for a in f]  # directions alone count
    np.testing.assert_allclose(feature_distance(f, scaled, weights), 0.0, atol=1e-10)


def test_distance_of_equal_images_is_zero_and_dead_features_have_a_gradient():
    x = jnp.float32(RNG.random((2, 8, 8, 1)))
    distance, slope = jax.jit(jax.value_and_grad(lambda y: perceptual_distance(x, y, digit_maps()).sum()))(x)
    np.testing.assert_allclose([distance, jnp.abs(slope).max()], 0.0, atol=1e-6)
    slope = jax.grad(lambda y: perceptual_distance(x, y, lambda a: [jax.nn.relu(a - 2.0)]).sum())(x)
    np.testing.assert_array_equal(slope, 0.0)  # not NaN, where nothing is above the threshold
    assert np.all(perceptual_distance(x, x[:, ::-1], digit_maps()) > 0.05)


@pytest.mark.parametrize("g, weights", [(maps_of((3, 4, 5), (2, 1, 4)), None), (maps_of((3, 4, 5)), None),
                                        (maps_of((3, 4, 5), (2, 1, 3)), [jnp.ones(5), jnp.ones(4)])])
def test_layers_that_do_not_correspond_are_refused(g, weights):
    with pytest.raises(ValueError, match="cannot be compared"):
        feature_distance(maps_of((3, 4, 5), (2, 1, 3)), g, weights)


def test_maps_of_the_digit_classifier_are_those_its_logits_come_from():
    """Its dense layers on the mean of the last map's quarters give the features that `digit_features` gives."""
    from jaxae.metrics.features import WEIGHTS, digit_features

    x = jnp.float32(RNG.random((2, 28, 28, 1)))
    last = np.asarray(digit_maps()(x)[-1])
    assert [m.shape for m in digit_maps()(x)] == [(2, 14, 14, 32), (2, 7, 7, 64), (2, 7, 7, 64)]
    quarters = [last[:, a, b].mean((1, 2)) for a in (slice(0, 4), slice(4, 7)) for b in (slice(0, 4), slice(4, 7))]
    with np.load(WEIGHTS) as file:
        dense = np.concatenate(quarters, -1) @ file["features/kernel"] + file["features/bias"]
    np.testing.assert_allclose(np.maximum(dense, 0.0), digit_features()(x), rtol=1e-3, atol=1e-4)


# --------------------------------------------------------------------------------------------------------------- VGG16


def conv_by_scipy(x, kernel, bias, stride=1, ends=False):
    """`[h w c]` -> `[h' w' o]` with zeros around, or with `ends` only at the end, as the published code halves."""
    side = kernel.shape[0]
    before = 0 if ends else side // 2
    x = np.pad(x, ((before, side // 2), (before, side // 2), (0, 0)))
    out = [sum(correlate2d(x[..., c], kernel[..., c, o], "valid") for c in range(x.shape[-1]))
           for o in range(kernel.shape[-1])]
    return np.stack(out, -1)[::stride, ::stride] + bias


SMALL = ((2, 3), (4,), (2, 3, 2))


def small_vgg():
    names, channels = {}, 3
    for i, widths in enumerate(SMALL, 1):
        for j, width in enumerate(widths, 1):
            names |= {f"conv{i}_{j}/kernel": (3, 3, channels, width), f"conv{i}_{j}/bias": (width,)}
            channels = width
    return {name: np.float32(RNG.normal(size=shape)) for name, shape in names.items()}


def test_maps_of_vgg_are_convolutions_by_scipy_between_maxima_of_squares():
    weights, x = small_vgg(), RNG.random((1, 10, 7, 3))
    y, want = (x[0] - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225], []
    for i, widths in enumerate(SMALL, 1):
        if i > 1:
            h, w = y.shape[0] // 2, y.shape[1] // 2
            y = y[:2 * h, :2 * w].reshape(h, 2, w, 2, -1).max((1, 3))
        for j in range(1, len(widths) + 1):
            y = np.maximum(conv_by_scipy(y, weights[f"conv{i}_{j}/kernel"], weights[f"conv{i}_{j}/bias"]), 0.0)
        want.append(y)
    for got, one in zip(jax.jit(vgg16_maps)(weights, jnp.float32(x)), want, strict=True):
        np.testing.assert_allclose(got[0], one, rtol=2e-4, atol=1e-4)
    grey = jnp.float32(x[..., :1])
    for a, b in zip(vgg16_maps(weights, grey), vgg16_maps(weights, jnp.repeat(grey, 3, -1)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_vgg16_has_its_14_714_688_parameters_and_five_maps():
    shapes, channels = {}, 3
    for i, widths in enumerate(VGG16, 1):
        for j, width in enumerate(widths, 1):
            shapes[f"conv{i}_{j}/kernel"] = jax.ShapeDtypeStruct((3, 3, channels, width), jnp.float32)
            shapes[f"conv{i}_{j}/bias"] = jax.ShapeDtypeStruct((width,), jnp.float32)
            channels = width
    assert sum(math.prod(leaf.shape) for leaf in shapes.values()) == 14_714_688
    found = jax.eval_shape(vgg16_maps, shapes, jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32))
    assert [m.shape[1:] for m in found] == [(224, 224, 64), (112, 112, 128), (56, 56, 256), (28, 28, 512),
                                            (14, 14, 512)]


def test_weights_come_from_a_file_and_what_is_wrong_with_it_is_said(tmp_path):
    path, weights = tmp_path / "vgg16.npz", small_vgg()
    lines = {f"lin{i}": np.float32(RNG.random(widths[-1])) for i, widths in enumerate(SMALL)}
    np.savez(path, **weights, **lines, other=np.zeros(3))
    found = read_vgg16(path, SMALL)
    assert set(found) == {*weights, *lines}
    for a, b in zip(stage_weights(found), lines.values(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert stage_weights(weights) is None
    with pytest.raises(ValueError, match="no weights of VGG16 at"):
        read_vgg16(tmp_path / "nothing.npz")
    for changes, message in ((dict(lin1=-lines["lin1"]), "negative weights in lin1"),
                             ({"conv2_1/bias": np.zeros(5)}, r"conv2_1/bias of shape \(5,\)")):
        np.savez(path, **(weights | lines | changes))
        with pytest.raises(ValueError, match=message):
            read_vgg16(path, SMALL)
    np.savez(path, **{name: value for name, value in weights.items() if name != "conv3_2/kernel"})
    with pytest.raises(ValueError, match="has no conv3_2/kernel"):
        read_vgg16(path, SMALL)


# -------------------------------------------------------------------------------------------------------- the networks


def reference_block(p, x):
    y = conv_by_scipy(act(p["norm0"], x), **p["conv0"])
    y = conv_by_scipy(act(p["norm1"], y), **p["conv1"])
    return y + (conv_by_scipy(x, **p["shortcut"]) if "shortcut" in p else x)


def normed(p, x, size):
    h, w, c = x.shape
    groups = x.reshape(h * w, c // size, size)
    mean, var = groups.mean((0, 2), keepdims=True), groups.var((0, 2), keepdims=True)
    return ((groups - mean) / np.sqrt(var + 1e-6)).reshape(h, w, c) * p["scale"] + p["bias"]


def act(p, x):
    y = normed(p, x, 2)  # channels here are so few that two make a group
    return y / (1.0 + np.exp(-y))


def reference_attention(p, x):
    flat = normed(p["norm"], x, 2).reshape(-1, x.shape[-1])
    q, k, v = (flat @ p["attention"]["qkv"]["kernel"][:, i, 0] + p["attention"]["qkv"]["bias"][i, 0] for i in range(3))
    logits = q @ k.T / math.sqrt(x.shape[-1])
    share = np.exp(logits - logits.max(1, keepdims=True))
    y = share / share.sum(1, keepdims=True) @ v
    return x + (y @ p["attention"]["out"]["kernel"][0] + p["attention"]["out"]["bias"]).reshape(x.shape)


def test_encoder_and_decoder_are_the_published_ones_step_by_step():
    """In numpy: blocks, attention at that size and in the middle, halving padded at the end, nearest neighbours."""
    rest = dict(blocks=1, attention_sizes=(2,), z_channels=6)
    encoder, decoder = TamingEncoder((4, 8), 3, **rest), TamingDecoder((8, 4), 2, **rest)
    x = jnp.float32(RNG.normal(size=(1, 4, 4, 2)))
    shapes = jax.eval_shape(lambda key: (encoder.init(key, x), decoder.init(key, jnp.zeros((1, 2, 2, 3)))),
                            jax.random.key(0))
    e, d = (tree["params"] for tree in random_like(shapes))

    @jax.jit
    def run(e, d, x):
        z = encoder.apply({"params": e}, x)
        return z, decoder.apply({"params": d}, z)

    z, y = run(e, d, x)
    e, d = (jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree) for tree in (e, d))
    h = reference_block(e["block0_0"], conv_by_scipy(np.asarray(x[0]), **e["in"]))
    h = reference_block(e["block1_0"], conv_by_scipy(h, **e["halve1"], stride=2, ends=True))
    h = reference_attention(e["block1_0_attention"], h)
    h = reference_block(e["middle1"], reference_attention(e["middle_attention"], reference_block(e["middle0"], h)))
    want = conv_by_scipy(conv_by_scipy(act(e["norm"], h), **e["out"]), **e["to_codes"])
    assert z.shape == (1, 2, 2, 3)
    np.testing.assert_allclose(z[0], want, rtol=2e-4, atol=2e-4)
    h = conv_by_scipy(conv_by_scipy(want, **d["from_codes"]), **d["in"])
    h = reference_block(d["middle1"], reference_attention(d["middle_attention"], reference_block(d["middle0"], h)))
    for j in range(2):  # one block more than the encoder
        h = reference_attention(d[f"block0_{j}_attention"], reference_block(d[f"block0_{j}"], h))
    h = conv_by_scipy(np.repeat(np.repeat(h, 2, 0), 2, 1), **d["double1"])
    for j in range(2):
        h = reference_block(d[f"block1_{j}"], h)
    assert y.shape == (1, 4, 4, 2)
    np.testing.assert_allclose(y[0], conv_by_scipy(act(d["norm"], h), **d["out"]), rtol=1e-3, atol=1e-3)


def conv_size(a, b, side=3):
    return (side * side * a + 1) * b


def block_size(a, b):
    return 2 * a + conv_size(a, b) + 2 * b + conv_size(b, b) + (conv_size(a, b, 1) if a != b else 0)


@pytest.mark.parametrize("channels, attention, z, width, codes, millions", [
    ((128, 128, 256, 256, 512), (16,), 256, 8, 16384, 71.9),  # LlamaGen's VQ-16
    ((128, 256, 512), (), 3, 3, 8192, 55.3), ((128, 256, 256, 512), (32,), 4, 4, 16384, 67.7)])  # latent diffusion's
def test_networks_have_the_published_numbers_of_parameters(channels, attention, z, width, codes, millions):
    nets = TamingEncoder(channels, width, 2, attention, z), TamingDecoder(channels[::-1], 3, 2, attention, z)
    places = 256 >> (len(channels) - 1)
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(net.init, jax.random.key(0), jnp.zeros(shape))))
             for net, shape in zip(nets, ((1, 256, 256, 3), (1, places, places, width)), strict=True)]
    last, at_last = channels[-1], bool(attention)  # which attend, attend at the lowest resolution

    def attention_size(c):
        return 2 * c + 4 * conv_size(c, c, 1)

    middle = 2 * block_size(last, last) + attention_size(last)
    down = sum(block_size(a, b) + block_size(b, b) for a, b in zip((channels[0], *channels), channels, strict=False))
    up = sum(block_size(a, b) + 2 * block_size(b, b)
             for a, b in zip((last, *channels[::-1]), channels[::-1], strict=False))
    encoder = (conv_size(3, channels[0]) + down + sum(conv_size(c, c) for c in channels[:-1]) + middle + 2 * last
               + conv_size(last, z) + conv_size(z, width, 1) + 2 * at_last * attention_size(last))
    decoder = (conv_size(width, z, 1) + conv_size(z, last) + middle + up + sum(conv_size(c, c) for c in channels[1:])
               + 2 * channels[0] + conv_size(channels[0], 3) + 3 * at_last * attention_size(last))
    assert sizes == [encoder, decoder]
    assert round((sum(sizes) + codes * width) / 1e6, 1) == millions


# ---------------------------------------------------------------------------------------------------------- the system

SHAPE, RATE, PATCH_RATE = (8, 8, 1), 0.1, 0.3


def system_of(axis_name=None, **changes):
    config = base()
    config.system, config.model = "discrete.vqgan", vqgan.defaults()
    config.model.update(dict(network="conv", channels=(4,), blocks=0, codes=8, width=3, start="uniform", revive=0.0,
                             error_weight=2.0, perceptual=0.5, gan=0.8, gan_start=2, patch_channels=(4,),
                             patch_strides=(2,), patch_rate=PATCH_RATE) | changes)
    config.optim.update(dict(name="sgd", b1=0.0, learning_rate=RATE, schedule="constant", warmup_steps=0))
    return systems.build(config, batch_of(), axis_name)


def batch_of(n=8):
    return {"x": jnp.float32(np.random.default_rng(3).random((n, *SHAPE)))}


@functools.cache
def built():
    """The system, a state with random parameters and codes, and the compiled update."""
    system = system_of()
    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
                         jax.eval_shape(system.init, jax.random.key(0), batch_of()))
    codes = state.extra.codes
    rows = random_like(codes.codes, 1.0)
    state = state._replace(params=random_like(state.params, 0.4), extra=state.extra._replace(
        codes=codes._replace(codes=rows, sums=rows, counts=jnp.ones(8))))
    return system, state, jax.jit(system.step)


def test_evaluation_sums_pixels_features_and_commitment_alone():
    (system, state, _), x = built(), batch_of()["x"]
    report = system.summary(jax.jit(system.evaluate)(state, batch_of(), jax.random.key(0)))
    x_hat = system.reconstruct(Variables(state.params, state.extra), x)
    np.testing.assert_allclose(report["reconstruction"], np.abs(x - x_hat).mean(), rtol=1e-5)
    np.testing.assert_allclose(report["perceptual_distance"], perceptual_distance(x, x_hat, digit_maps()).mean(),
                               rtol=1e-4)
    want = 2.0 * report["reconstruction"] + 0.5 * report["perceptual_distance"] + 0.25 * report["commitment"]
    np.testing.assert_allclose(report["loss"], want, rtol=1e-5)


def test_players_follow_their_own_losses_from_the_start_on_with_the_ratio_of_gradients_as_weight():
    """By plain gradient descent a move is a rate times a gradient: of the last kernel and of the discriminator they
    are compared with jax.grad through the whole model."""
    (system, state, step), batch = built(), batch_of()
    x = batch["x"]

    @jax.jit
    def slopes(params, extra):
        def x_hat_of(kernel):
            decoder = params["decoder"] | {"up0": params["decoder"]["up0"] | {"kernel": kernel}}
            return system.reconstruct(Variables(params | {"decoder": decoder}, extra), x)

        def logits(critic, images):
            return PatchGAN((4,), (2,)).apply({"params": critic}, images)

        def rec(kernel):
            x_hat = x_hat_of(kernel)
            return (2.0 * jnp.abs(x - x_hat).mean((1, 2, 3)) + 0.5 * perceptual_distance(x, x_hat, digit_maps())).mean()

        kernel = params["decoder"]["up0"]["kernel"]
        return (jax.grad(rec)(kernel), jax.grad(lambda k: -logits(params["critic"], x_hat_of(k)).mean())(kernel),
                jax.grad(lambda c: hinge_discriminator_loss(logits(c, x), logits(c, x_hat_of(kernel))).mean())(
                    params["critic"]))

    rec, gan, _ = slopes(state.params, state.extra)
    weight = 0.8 * np.sqrt(np.sum(rec**2)) / (np.sqrt(np.sum(gan**2)) + 1e-4)
    for start in (1, 2):
        on = start >= 2
        now = state._replace(extra=state.extra._replace(step=jnp.int32(start)))
        moved, metrics = step(now, batch, jax.random.key(0))
        assert int(moved.extra.step) == start + 1
        np.testing.assert_allclose(metrics["gan_weight"], on * weight, rtol=1e-3)
        kernels = [s.params["decoder"]["up0"]["kernel"] for s in (state, moved)]
        np.testing.assert_allclose(kernels[0] - kernels[1], RATE * (rec + on * weight * gan), rtol=1e-3, atol=1e-5)
        # The discriminator plays second, against the generator as that now is; the latter it leaves as it is.
        own = slopes(moved.params | {"critic": state.params["critic"]}, moved.extra)[2]
        moves = jax.tree.map(lambda a, b: a - b, state.params["critic"], moved.params["critic"])
        for a, b in zip(jax.tree.leaves(moves), jax.tree.leaves(own), strict=True):
            np.testing.assert_allclose(a, on * PATCH_RATE * b, rtol=1e-3, atol=1e-5)
        assert (metrics["critic/loss"] > 0) == on


def test_update_on_eight_replicas_is_that_of_one():
    (_, state, step), batch, key = built(), batch_of(), jax.random.key(1)
    state = state._replace(extra=state.extra._replace(step=jnp.int32(2)))
    parts = jax.tree.map(lambda a: a.reshape(8, 1, *a.shape[1:]), batch)
    many = system_of("data")
    spread, spread_metrics = jax.tree.map(lambda a: a[0], jax.jit(
        jax.vmap(many.step, (None, 0, None), axis_name="data"))(state, parts, key))
    moved, metrics = step(state, batch, key)
    for name, value in metrics.items():
        np.testing.assert_allclose(spread_metrics[name], value, rtol=1e-3, atol=1e-5, err_msg=name)
    for a, b in zip(jax.tree.leaves((moved.params, moved.extra)), jax.tree.leaves((spread.params, spread.extra)),
                    strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("changes", [dict(estimator="exact"), dict(quantizer="finite_scalar", levels=(3, 3)),
                                     dict(network="taming", channels=(4, 4), z_channels=4, depth=2),
                                     dict(gan=0.0, perceptual=0.0)])
def test_any_quantizer_and_either_network_update_and_keep_the_states_shape(changes):
    system, key = system_of(**changes), jax.random.key(0)
    state = jax.eval_shape(system.init, key, batch_of())
    moved, _ = jax.eval_shape(system.step, state, batch_of(), key)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), moved) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), state)
    assert ("critic" in state.params) == bool(changes.get("gan", True))
    drawn = jax.eval_shape(lambda s, k: system.sample(Variables(s.params, s.extra), k, 3), state, key)
    assert drawn.shape == (3, *SHAPE) and drawn.dtype == jnp.float32


@pytest.mark.parametrize("changes, message", [
    (dict(positions=3), "leave model.likelihood='mse'"), (dict(error="l2"), "'mse' or 'l1'"),
    (dict(perceptual_features="vgg16"), "the path of an .npz"),
    (dict(channels=(4,) * 6, network="taming"), "halved 5 times"),
    (dict(network="mlp"), "needs 'conv' or 'taming'")])
def test_what_cannot_be_built_says_what_to_change(changes, message):
    with pytest.raises(ValueError, match=message):
        system_of(**changes)


def test_colour_images_need_features_of_ones_own():
    config = get_config("vqgan", "tiny")
    with pytest.raises(ValueError, match="for images of one colour"):
        systems.build(config, {"x": jnp.zeros((2, 8, 8, 3))})
    config.model.perceptual_features = "nothing.npz"
    system = systems.build(config, {"x": jnp.zeros((2, 8, 8, 3))})
    state = jax.eval_shape(system.init, jax.random.key(0), {"x": jnp.zeros((2, 8, 8, 3))})
    with pytest.raises(ValueError, match="no weights of VGG16 at 'nothing.npz'"):
        jax.eval_shape(system.step, state, {"x": jnp.zeros((2, 8, 8, 3))}, jax.random.key(0))


def test_halving_pads_at_the_end_as_the_published_code_does():
    """'SAME' of an even side and stride 2 is one row and one column of zeros after the image."""
    x = jnp.float32(RNG.normal(size=(1, 6, 6, 2)))
    net = Conv(3, 3, 2)
    params = random_like(jax.eval_shape(net.init, jax.random.key(0), x))
    want = conv_by_scipy(np.asarray(x[0]), *(np.asarray(params["params"][k]) for k in ("kernel", "bias")), 2, True)
    np.testing.assert_allclose(net.apply(params, x)[0], want, rtol=1e-4, atol=1e-5)
