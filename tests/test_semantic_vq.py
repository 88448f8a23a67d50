"""Coupled VQ-models of images and their semantic maps: wiring, losses, the adversary's weight, the prior given maps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as reference
from test_configs import get_config
from test_transformer import TINY, assert_follows, every_map, key_of, random_like, random_params

from jaxae import data, systems
from jaxae.data.scenes import CLASSES, render, scenes, segment
from jaxae.losses.hinge_gan import adaptive_gan_weight, hinge_discriminator_loss, hinge_generator_loss
from jaxae.metrics.features import colour_features, digit_features
from jaxae.metrics.segmentation import confusion_matrix, mean_iou, pixel_accuracy
from jaxae.nn.patch import PatchGAN
from jaxae.priors import Prior
from jaxae.priors.transformer import transformer
from jaxae.quantizers import Codes
from jaxae.quantizers.ema import ema_codebook
from jaxae.systems.base import Variables
from jaxae.systems.discrete import semantic_vq
from jaxae.systems.image_error import image_error
from jaxae.systems.latent.larger import draw_for_maps
from jaxae.train.config import base

SHAPE = (4, 4, 3)
SMALL = dict(channels=(4,), blocks=0, width=3, codes=7, semantic_codes=5, classes=4, start="uniform", revive=0.0)
FULL = dict(coupling="encoder+decoder", error="l1", gan=0.8, gan_start=1, patch_channels=(4,), patch_strides=(2,))


def model_of(**changes):
    model = semantic_vq.defaults()
    model.update(SMALL | changes)
    return model


def nets_of(**changes):
    nets = semantic_vq.coupled_vq(model_of(**changes), SHAPE)
    return nets, random_like(jax.eval_shape(nets.init, jax.random.key(0)), 0.4)


def batch_of(n=8, seed=0):
    rng = np.random.default_rng(seed)
    return {"x": jnp.float32(rng.random((n, *SHAPE))), "semantic": jnp.uint8(rng.integers(0, 4, (n, *SHAPE[:2])))}


def system_of(axis_name=None, **changes):
    config = base()
    config.system, config.model = "discrete.semantic_vq", model_of(**changes)
    return systems.build(config, batch_of(), axis_name)


def state_of(system):
    """Random parameters and codebooks, without the programs that draw the true first ones."""
    state = jax.eval_shape(system.init, jax.random.key(0), batch_of())
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state)
    extra = {part: ema_codebook(random_like(state.extra[part].codes, 1.0)) for part in semantic_vq.PARTS}
    return zeros._replace(params=random_like(state.params, 0.4), extra=zeros.extra | extra)


@functools.cache
def full():
    """The system with everything and its compiled update."""
    system = system_of(**FULL)
    return system, state_of(system), jax.jit(system.step)


# ------------------------------------------------------------------------------------------------------- the wiring


@pytest.mark.parametrize("coupling", semantic_vq.COUPLINGS)
def test_maps_are_decoded_from_their_codes_alone_and_images_from_both_where_coupled(coupling):
    nets, params = nets_of(coupling=coupling)
    batch = batch_of(1)

    @jax.jit
    def jacobians(x, s):
        def decoded(z):
            return nets.image(params, z["image"], z["semantic"]), nets.semantic(params, z["semantic"])

        def encoded(scale):
            part = jax.tree.map(lambda p: scale * p, params["semantic_encoder"])
            return nets.encode(params | {"semantic_encoder": part}, x, s)

        return jax.jacrev(decoded)(nets.encode(params, x, s)), jax.jacfwd(encoded)(1.0)

    (image, semantic), by_features = jacobians(batch["x"], batch["semantic"])
    assert not np.any(semantic["image"]) and np.abs(semantic["semantic"]).max() > 1e-3
    assert np.abs(image["image"]).max() > 1e-3 and np.abs(by_features["semantic"]).max() > 1e-3
    assert np.abs(image["semantic"]).max() > 1e-3 if coupling != "none" else not np.any(image["semantic"])
    assert np.any(by_features["image"]) == (coupling == "encoder+decoder")


# ----------------------------------------------------------------------------------------------------------- losses


def test_loss_is_the_sum_of_means_over_pixels_that_are_not_void_and_codes_decode_to_what_it_sees():
    (system, state, _), batch = full(), batch_of(2)
    batch["semantic"] = batch["semantic"].at[:, :2].set(255).at[0].set(255)  # of the first nothing is known
    nets, now = semantic_vq.coupled_vq(model_of(**FULL), SHAPE), Variables(state.params, state.extra)

    @jax.jit
    def run(x, s):
        latents = system.encode(now, x, s)
        z_s = latents[:, 0].reshape(-1, *nets.places)
        z_q = nets.quantizers["semantic"].lookup(z_s, Codes((), state.extra["semantic"]))
        return latents, system.decode(now, latents), jax.nn.log_softmax(nets.semantic(state.params, z_q))

    latents, x_hat, log_p = (np.asarray(a) for a in run(batch["x"], batch["semantic"]))
    other = np.asarray(run(1.0 - batch["x"], batch["semantic"])[0])
    assert latents.shape == (2, *system.latent.shape) == (2, 2, 4) and system.latent[1:] == (7, 1, 0)
    np.testing.assert_array_equal(latents[:, 0], other[:, 0])  # another image leaves the map's codes as they are
    assert np.any(latents[:, 1] != other[:, 1]) and latents[:, 0].max() < 5
    evaluate, truth = jax.jit(system.evaluate), np.asarray(batch["semantic"], int)
    for i in range(2):
        row = evaluate(state, batch | {"valid": jnp.float32(jnp.arange(2) == i)}, jax.random.key(0))
        np.testing.assert_allclose(row["reconstruction"], np.abs(batch["x"][i] - x_hat[i]).mean(), rtol=1e-5)
        nats = [-log_p[i, r, c, truth[i, r, c]] for r in range(4) for c in range(4) if truth[i, r, c] < 4]
        np.testing.assert_allclose(row["cross_entropy"], np.mean(nats) if nats else 0.0, rtol=1e-4)
        want = row["reconstruction"] + row["cross_entropy"] + 0.25 * (
            row["image_commitment"] + row["semantic_commitment"])
        np.testing.assert_allclose(row["loss"], want, rtol=1e-5)
    seen = truth[1, 2:].ravel(), log_p[1, 2:].argmax(-1).ravel()
    np.testing.assert_allclose(system.summary(row)["mean_iou"], reference.jaccard_score(*seen, average="macro"),
                               rtol=1e-5)


def test_agreement_of_maps_is_scikit_learns_and_void_counts_nowhere():
    rng = np.random.default_rng(0)
    y, y_hat = rng.integers(0, 4, (2, 300))
    got = jax.jit(confusion_matrix, static_argnums=2)(jnp.array(y), jnp.array(y_hat), 6)
    np.testing.assert_array_equal(got[:4, :4], reference.confusion_matrix(y, y_hat))
    assert got.sum() == 300
    np.testing.assert_allclose(jax.jit(mean_iou)(got), reference.jaccard_score(y, y_hat, average="macro"), rtol=1e-5)
    np.testing.assert_allclose(jax.jit(pixel_accuracy)(got), np.mean(y == y_hat), rtol=1e-6)
    void = jnp.where(jnp.arange(300) < 100, jnp.array([255, -1])[jnp.arange(300) % 2], jnp.array(y))
    np.testing.assert_array_equal(confusion_matrix(void, jnp.array(y_hat), 6)[:4, :4],
                                  reference.confusion_matrix(y[100:], y_hat[100:]))


def test_features_of_colours_are_those_of_each_as_a_grey_image_and_so_is_their_distance():
    x, y = (jnp.float32(np.random.default_rng(seed).random((2, 28, 28, 3))) for seed in range(2))
    model = semantic_vq.defaults()
    model.update(dict(perceptual=1.0, perceptual_features="digits_by_colour", error_weight=0.0))

    @jax.jit
    def run(x, y):
        grey = [jnp.concatenate([a[..., i:i + 1] for i in range(3)]) for a in (x, y)]
        distance = image_error(model, x.shape[1:])(x, y)[0]
        model.perceptual_features = "digits"
        apart = image_error(model, (28, 28, 1))(*grey)[0].reshape(3, 2).mean(0)
        return ((colour_features()(x), jnp.concatenate(jnp.split(digit_features()(grey[0]), 3), -1)),
                (distance, apart))

    for found, want in run(x, y):
        np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)
        assert np.ptp(np.asarray(want)) > 0


# ------------------------------------------------------------------------------------------------------ the adversary


def test_hinge_losses_are_those_of_the_margin():
    real, fake = np.float32([[-0.5, 2.0], [0.0, 1.0]]), np.float32([[-2.0, 0.5], [-1.0, 3.0]])
    np.testing.assert_allclose(jax.jit(hinge_discriminator_loss)(real, fake), [0.5 * (0.75 + 0.75), 0.5 * (0.5 + 2.0)])
    np.testing.assert_allclose(jax.jit(hinge_generator_loss)(fake), [0.75, -1.0])


def test_adaptive_weight_is_the_ratio_of_norms_within_its_bounds():
    rec = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[4.0]])}
    gan = {"a": jnp.array([0.0, 1.2]), "b": jnp.array([[1.6]])}
    weight = jax.jit(adaptive_gan_weight)
    np.testing.assert_allclose(weight(rec, gan), 0.8 * 5.0 / 2.0001, rtol=1e-6)
    nothing = jax.tree.map(jnp.zeros_like, gan)
    np.testing.assert_allclose([weight(rec, nothing), weight(jax.tree.map(lambda g: 1e3 * g, rec), nothing)],
                               [0.8e4, 0.8e4], rtol=1e-5)  # 5 / 1e-4 is above the ceiling
    assert not np.any(jax.grad(lambda r: adaptive_gan_weight(r, gan["a"]))(rec["a"]))


def test_weight_in_training_is_that_of_gradients_by_the_last_kernel_and_zero_before_its_start():
    """The kernel's gradients here come through the whole model, by jax.grad of either loss of the whole batch."""
    (system, state, step), batch = full(), batch_of(16)

    @jax.jit
    def slopes(kernel):
        def both(kernel):
            last = state.params["image_decoder"]["up0"] | {"kernel": kernel}
            params = state.params | {"image_decoder": state.params["image_decoder"] | {"up0": last}}
            x_hat = system.reconstruct(Variables(params, state.extra), batch["x"], batch["semantic"])
            logits = PatchGAN((4,), (2,)).apply({"params": params["critic"]}, x_hat)
            return jnp.stack([jnp.mean(jnp.abs(batch["x"] - x_hat)), -logits.mean()])

        return jax.jacrev(both)(kernel)

    rec, gan = np.sqrt(np.square(slopes(state.params["image_decoder"]["up0"]["kernel"])).sum((1, 2, 3, 4)))
    key, found = jax.random.key(3), []
    for start in (0, 1):
        moved, metrics = step(state._replace(extra=state.extra | {"step": jnp.int32(start)}), batch, key)
        move = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), moved.params, state.params)
        found.append((metrics, max(jax.tree.leaves(move["critic"])), move["image_decoder"]["up0"]["kernel"]))
    (early, still, early_move), (late, moves, late_move) = found
    np.testing.assert_allclose(late["gan_weight"], 0.8 * rec / (gan + 1e-4), rtol=1e-4)
    assert early["gan_weight"] == 0.0 == still and moves > 0 and min(early_move, late_move) > 0
    assert early["critic/loss"] == 0.0 < late["critic/loss"]


def test_update_on_eight_replicas_is_that_of_one():
    (_, state, step), batch, key = full(), batch_of(16), jax.random.key(1)
    state = state._replace(extra=state.extra | {"step": jnp.int32(1)})
    parts = jax.tree.map(lambda a: a.reshape(8, 2, *a.shape[1:]), batch)
    many = system_of("data", **FULL)
    spread, spread_metrics = jax.tree.map(lambda a: a[0], jax.jit(
        jax.vmap(many.step, (None, 0, None), axis_name="data"))(state, parts, key))
    moved, metrics = step(state, batch, key)
    for name, value in metrics.items():
        np.testing.assert_allclose(spread_metrics[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
    for a, b in zip(jax.tree.leaves(moved.extra), jax.tree.leaves(spread.extra), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------------------------------------- the prior


def test_prior_given_maps_is_the_conditional_of_the_joint_one():
    """All 81 sequences of two codes of a map, then two of an image."""
    shape, every = (2, 2), every_map((2, 2), 3)
    joint, given = transformer(shape, 3, **TINY), transformer(shape, 3, prefix=1, **TINY)
    params = random_params(joint, every, scale=0.7)
    whole, rest = (np.asarray(jax.jit(prior.log_prob)(params, every), np.float64) for prior in (joint, given))
    table = np.exp(rest).reshape(9, 9)  # [map image]
    np.testing.assert_allclose(table.sum(1), 1.0, atol=1e-5)
    of_both = np.exp(whole).reshape(9, 9)
    np.testing.assert_allclose(table, of_both / of_both.sum(1, keepdims=True), rtol=1e-4)
    assert np.abs(table - table[0]).max() > 0.05  # the map matters
    n = 20_000
    drawn = given.sample(params, key_of(1), n, given=jnp.broadcast_to(every[37, :1], (n, 1, 2)), top_k=3)
    np.testing.assert_array_equal(drawn[:, 0], np.broadcast_to(every[37, 0], (n, 2)))
    assert_follows(drawn[:, 1], table[4], 3)


def test_prior_given_maps_refuses_to_be_without():
    prior = transformer((2, 2), 3, prefix=1, **TINY)
    with pytest.raises(ValueError, match="give it that many rows"):
        prior.sample({}, key_of(0), 2)
    with pytest.raises(ValueError, match="prefix=2 must leave"):
        transformer((2, 2), 3, prefix=2, **TINY)


# ------------------------------------------------------------------------------------------------------- larger maps


def test_images_for_larger_maps_have_codes_by_the_prior_in_their_places_and_pixels_by_the_codes_around():
    """The prior here is certain: the image's code is the map's, in the same place of the window, and one more."""
    def certain(params, latents, label=None):
        return jnp.broadcast_to(1e3 * jax.nn.one_hot((latents[:, :1] + 1) % 7, 7), (*latents.shape, 7))

    system = system_of()
    now, prior = state_of_plain(system), Prior(None, None, None, logits=certain)
    semantic = jnp.array(np.random.default_rng(1).integers(0, 4, (2, 16, 16)))

    @jax.jit
    def run(now, semantic):
        drawn = draw_for_maps(system, now, prior, {}, key_of(0), semantic, SHAPE)
        own = system.encode(now, jnp.ones((2, 16, 16, 3)), semantic)
        return drawn, own, system.decode(now, drawn.codes[:, :, 1:7, 1:7])

    drawn, own, part = run(now, semantic)
    assert drawn.images.shape == (2, 16, 16, 3) and drawn.codes.shape == (2, 2, 8, 8)
    np.testing.assert_array_equal(drawn.codes[:, 0].reshape(2, -1), own[:, 0])
    np.testing.assert_array_equal(drawn.codes[:, 1], (drawn.codes[:, 0] + 1) % 7)
    assert len(np.unique(own[:, 0])) > 2
    # Two codes from the part's border its pixels no longer feel it.
    np.testing.assert_allclose(drawn.images[:, 6:10, 6:10], jnp.clip(part, 0.0, 1.0)[:, 4:8, 4:8], atol=1e-5)


def state_of_plain(system):
    state = jax.eval_shape(system.init, jax.random.key(0), batch_of())
    codes = {part: ema_codebook(random_like(state.extra[part].codes, 1.0)) for part in semantic_vq.PARTS}
    return Variables(random_like(state.params, 0.4), {"step": jnp.int32(0)} | codes)


def test_vqgans_networks_attend_at_the_same_layers_whatever_the_size():
    """By the size of the map attention would leave its layer for one that has no parameters for it."""
    system = system_of(network="taming", channels=(4, 4), blocks=1, attention_sizes=(2,), z_channels=4)
    now = state_of_plain(system)
    assert "block1_0_attention" in now.params["image_decoder"] | now.params["image_encoder"]["body"]
    decoder = now.params["image_decoder"]
    output = decoder["block0_0_attention"]["attention"]
    less = now._replace(params=now.params | {"image_decoder": decoder | {
        "block0_0_attention": decoder["block0_0_attention"] | {"attention": jax.tree.map(jnp.zeros_like, output)}}})
    codes = jnp.array(np.random.default_rng(0).integers(0, 5, (1, 2, 4, 6)))
    x_hat, other = (jax.jit(system.decode)(v, codes) for v in (now, less))
    assert x_hat.shape == (1, 8, 12, 3) and np.abs(x_hat - other).max() > 1e-3
    semantic = jnp.zeros((1, 8, 12), jnp.int32)
    assert jax.eval_shape(system.encode, now, jnp.zeros((1, 8, 12, 3)), semantic).shape == (1, 2, 24)


# --------------------------------------------------------------------------------------------------------- the scenes


@pytest.mark.parametrize("size", [16, 32])
def test_hues_tell_the_class_of_every_pixel(size):
    train, test = scenes(size, 300, 50, seed=1)
    arrays = train.arrays()
    assert arrays["x"].shape == (300, size, size, 3) and len(test) == 50
    np.testing.assert_array_equal(segment(arrays["x"] / 255), arrays["semantic"])
    objects = [len(np.unique(semantic)) - 1 for semantic in arrays["semantic"]]
    assert max(objects) == 4 and np.mean(objects) > 2 and set(np.unique(arrays["semantic"])) == set(range(len(CLASSES)))
    np.testing.assert_array_equal(scenes(size, 5, 1, seed=1)[0].arrays()["semantic"].shape, (5, size, size))
    assert np.any(arrays["x"][:50] != test.arrays()["x"])


def test_shapes_have_their_areas_and_later_objects_cover_earlier_ones():
    place = np.tile(np.array([0.0, 0.0, 0.5]), (4, 1, 1))
    _, semantic = render(np.arange(1, 5)[:, None], place, np.zeros((4, 2, 2), int), size=200)
    areas = (semantic > 0).mean((1, 2)) * 4 / 0.25  # of the frame, in units of the radius squared
    np.testing.assert_allclose(areas, [1.7**2, np.pi, 1.8**2 / 2, 2 * 0.7 * 2 - 0.7**2], rtol=0.03)
    x, semantic = render(np.array([[1, 2]]), np.array([[[0, 0, 0.5], [0, 0, 0.3]]]), np.zeros((1, 3, 2), int))
    assert semantic[0, 16, 16] == 2 and semantic[0, 16, 16 + 6] == 1 and semantic[0, 0, 0] == 0


def test_textures_differ_between_objects_of_one_class_and_are_not_in_the_map():
    texture = np.array([[[0, 0], [1, 0], [2, 1]]])
    x, semantic = render(np.array([[1, 1]]), np.array([[[-0.5, 0, 0.4], [0.5, 0, 0.4]]]), texture)
    left, right = x[0, 12:20, 4:12].max(-1), x[0, 12:20, 20:28].max(-1)
    assert np.all(left == left[:, :1]) and np.ptp(left[:, 0]) > 0  # rows
    assert np.all(right == right[:1]) and np.ptp(right[0]) > 0  # columns
    np.testing.assert_array_equal(semantic[0, 12:20, 4:12], semantic[0, 12:20, 20:28])


def test_an_image_is_mirrored_with_its_map():
    dataset = data.load(dict(source="scenes", size=16, num_train=40, num_test=10, augment=("flip",)))
    stored = dataset.train[:40]
    batch = jax.jit(dataset.transform)(stored, key_of(0))
    np.testing.assert_array_equal(segment(np.asarray(batch["x"])), batch["semantic"])
    mirrored = np.any(batch["semantic"] != stored["semantic"], (1, 2))
    assert 8 < mirrored.sum() < 32
    np.testing.assert_array_equal(batch["semantic"][mirrored], stored["semantic"][mirrored][:, :, ::-1])


def test_maps_of_ones_own_come_by_npz(tmp_path):
    arrays = scenes(16, 20, 5)[0].arrays()
    np.savez(tmp_path / "own.npz", x=arrays["x"], semantic=arrays["semantic"])
    own = data.load(dict(source=f"npz:{tmp_path / 'own.npz'}", test_fraction=0.2))
    both = [part.arrays() for part in (own.train, own.test)]
    assert [len(part["x"]) for part in both] == [16, 4]
    for part in both:  # shuffled together
        np.testing.assert_array_equal(segment(part["x"] / 255), part["semantic"])
    with pytest.raises(data.DataError, match="a class for each pixel"):
        data.load(dict(source=f"npz:{tmp_path / 'own.npz'}", size=8))


# ------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("changes, message", [
    (dict(coupling="both"), "must be one of none"),
    (dict(width=4, heads=2), "one code at each place"), (dict(estimator="exact"), "one code at each place"),
    (dict(error="l2"), "'mse' or 'l1'")])
def test_what_cannot_be_built_says_what_to_change(changes, message):
    with pytest.raises(ValueError, match=message):
        system_of(**changes)


def test_data_without_maps_or_augmented_apart_from_them_are_refused():
    config = get_config("semantic_vq", "tiny")
    with pytest.raises(ValueError, match="data.source='scenes'"):
        systems.build(config, {"x": batch_of()["x"]})
    with pytest.raises(data.DataError, match="would move without its map"):
        data.load(dict(source="scenes", size=16, num_train=10, num_test=10, augment=("shift",)))
