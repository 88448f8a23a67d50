"""QG-VAE against what its definitions say, and its U-Net."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from test_configs import get_config

from jaxae import systems
from jaxae.nn.unet import UNet, double, halve, positions
from jaxae.quantizers import prefix_dropout_mask
from jaxae.systems.base import variables
from jaxae.systems.discrete import global_codes

KEY = jax.random.key(0)
X = jax.random.uniform(jax.random.key(7), (16, 4, 4, 1))


def built(arg="", axis_name=None, **model):
    config = get_config("global_codes", ",".join(filter(None, [arg, "tiny"])))
    # One level: the U's own shape is tested by itself, and compiles slowly.
    config.model.update(dict(codebook="gradient", beta=1.0, reset_every=0, reduced=0) | model)
    config.optim.update(dict(name="adam", weight_decay=0.0, eps=1e-3, schedule="constant", learning_rate=1e-2))
    return systems.build(config, {"x": jax.ShapeDtypeStruct(X.shape, X.dtype)}, axis_name)


def normal(shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def test_halving_and_doubling_are_bilinear():
    x = normal((2, 8, 12, 3))
    np.testing.assert_allclose(halve(x), jax.image.resize(x, (2, 4, 6, 3), "bilinear", antialias=False), atol=1e-6)
    np.testing.assert_allclose(double(x), jax.image.resize(x, (2, 16, 24, 3), "bilinear"), atol=1e-6)
    np.testing.assert_allclose(halve(x, 2), halve(halve(x)), atol=1e-6)
    np.testing.assert_allclose(double(x, 2), double(double(x)), atol=1e-6)


def test_positions_are_sines_of_octaves():
    found, want = positions((4, 2), 3), []
    for row, column in np.ndindex(4, 2):
        places = np.array([row / 4, column / 2])[:, None] * np.array([1, 2, 4])
        want.append(np.concatenate([np.sin(places), np.cos(places)], 1).ravel())
    np.testing.assert_allclose(found.reshape(8, -1), want, atol=1e-6)


def test_unet_begins_and_ends_at_any_level_and_its_input_reaches_every_block():
    x = normal((1, 4, 4, 2))
    for begin, end, side in ((0, 1, 2), (1, 0, 8), (0, 0, 4)):
        net = UNet(3, 1 + begin, channels=4, most=8, blocks=1, begin=begin, end=end)
        y, state = jax.eval_shape(lambda x, net=net: net.init_with_output(KEY, x), x)
        assert y.shape == (1, side, side, 3)
        assert sum("condition" in block for block in state["params"].values()) == 2 * net.levels + 2 - begin - end
    with pytest.raises(ValueError, match="between 0 and levels=1"):
        UNet(1, 1, begin=2).init(KEY, x)

    net = UNet(2, 1, channels=4, blocks=1)

    @jax.jit
    def slopes(key):
        params = net.init(key, x)["params"]
        return jax.grad(lambda p: jnp.square(net.apply({"params": p}, x)).sum())(params)

    conditions = [block["condition"]["kernel"] for block in slopes(KEY).values() if "condition" in block]
    assert len(conditions) == 4 and all(np.abs(kernel).max() > 0 for kernel in conditions)


def test_identity_projections_leave_the_u_nets_alone():
    """With as many channels of a token as places, the features pass from one U-Net to the other as they are."""
    encoder = global_codes.GlobalEncoder(UNet(6, 0, 4, 8, 1), 6, 2, 16)
    decoder = global_codes.GlobalDecoder(UNet(1, 0, 4, 8, 1), (4, 4), 2)
    eye = {"projection": jnp.tile(jnp.eye(16), (2, 1, 1))}

    @jax.jit
    def run():
        first = encoder.init(KEY, X)["params"] | eye
        tokens = encoder.apply({"params": first}, X)
        second = decoder.init(KEY, tokens)["params"] | eye
        features = encoder.unet.apply({"params": first["unet"]}, X) + X * first["past"]["kernel"][0, 0]
        out = decoder.unet.apply({"params": second["unet"]}, features) + features @ second["past"]["kernel"][0, 0]
        return tokens, features, decoder.apply({"params": second}, tokens), out

    tokens, features, got, want = run()
    np.testing.assert_allclose(tokens, np.asarray(features).reshape(16, 16, 6).swapaxes(1, 2), atol=1e-5)
    np.testing.assert_allclose(got, want, atol=1e-4)


ORDERED = dict(prefix_dropout=0.7, pyramid=1, reset_every=2)


@pytest.fixture(scope="module")
def ordered():
    """A system with prefix dropout and resets at every second update: its functions, and the states of two steps."""
    system = built("ordered", **ORDERED)
    step, state = jax.jit(system.step), jax.jit(system.init)(KEY, {"x": X})
    states, metrics = [state], []
    for i in range(2):
        state, found = step(state, {"x": X}, jax.random.key(i))
        states, metrics = [*states, state], [*metrics, found]
    encode = jax.jit(system.encode)
    decode = jax.jit(lambda now, indices, kept: system.decode(now, indices, None, kept))
    return system, states, metrics, lambda now: encode(now, X), decode


def test_codes_losses_and_prefixes_are_what_they_are_said_to_be(ordered):
    system, (state, *_), _, encode, decode = ordered
    now = variables(state)
    indices, ones = encode(now), jnp.ones((16, 4))
    assert indices.shape == (16, 4) and system.latent[:2] == ((4,), 8) and system.codebook is None
    whole = decode(now, indices, ones)

    report = system.summary(jax.jit(system.evaluate)(state, {"x": X}, KEY))
    np.testing.assert_allclose(report["reconstruction"], jnp.square(X - whole).mean(), rtol=1e-5)
    np.testing.assert_allclose(report["codebook"], report["commitment"], rtol=1e-6)
    np.testing.assert_allclose(report["loss"], report["reconstruction"] + 1.25 * report["codebook"], rtol=1e-5)
    used = [len(set(column)) for column in np.asarray(indices).T]
    np.testing.assert_allclose(report["usage"], np.mean(used) / 8, rtol=1e-6)

    first_two = jnp.arange(4) < jnp.full((16, 1), 2)
    changed = indices.at[:, 2].set((indices[:, 2] + 1) % 8)
    np.testing.assert_array_equal(decode(now, indices, first_two), decode(now, changed, first_two))
    # What a dropped token leaves is zero: neither its code nor its offset.
    moved = now._replace(params=now.params | {"offset": now.params["offset"].at[2:].add(1.0)})
    np.testing.assert_array_equal(decode(moved, indices, first_two), decode(now, indices, first_two))
    lengths = jax.eval_shape(lambda kept: system.decode(now, indices, None, kept), jnp.arange(16))
    assert lengths.shape == X.shape
    # One token changes nearly every pixel: it stands for no place.
    assert (np.abs(decode(now, changed, ones) - whole) > 1e-3).mean() > 0.9


def test_prefix_dropout_trains_on_prefixes_that_owe_coarse_images(ordered):
    """Two of four tokens, or one, owe the image at half its size."""
    _, states, metrics, encode, decode = ordered
    kept = prefix_dropout_mask(jax.random.split(jax.random.key(0))[1], 16, 4, 0.7)
    now, half = variables(states[0]), jax.image.resize(X, (16, 2, 2, 1), "bilinear", antialias=False)
    few = np.asarray(kept.sum(1) <= 2)[:, None, None, None]
    assert 2 < few.sum() < 12 and 4 < (kept.sum(1) < 4).sum() < 16
    target = np.where(few, jax.image.resize(half, X.shape, "bilinear"), X)
    np.testing.assert_allclose(metrics[0]["reconstruction"],
                               jnp.square(target - decode(now, encode(now), kept)).mean(), rtol=1e-5)


def test_training_starts_as_a_product_quantizer_of_principal_components(ordered):
    """As many different images as codes and as dimensions: each has a code of its own for every token, and returns."""
    system, (state, *_), _, encode, decode = ordered
    now = variables(jax.jit(system.prepare)(state, {"x": X[:8]}, KEY))
    down, up = (now.params[part]["projection"] for part in ("encoder", "decoder"))
    np.testing.assert_array_equal(up, down.swapaxes(1, 2))
    indices = encode(now)
    assert (np.sort(indices[:8], 0) == np.arange(8)[:, None]).all()
    images = np.asarray(decode(now, indices, jnp.ones((16, 4))))
    np.testing.assert_allclose(images[:8], X[:8], atol=1e-4)
    assert np.abs(images[8:] - X[8:]).max() > 0.1
    # In order: the first half of the tokens has the larger half of the components.
    squares = np.linalg.svd(np.asarray(X[:8].reshape(8, -1)), compute_uv=False)**2
    half = decode(now, indices, jnp.arange(4) < jnp.full((16, 1), 2))[:8]
    np.testing.assert_allclose(jnp.square(half - X[:8]).sum(), squares[4:].sum(), rtol=1e-3)


def test_every_second_update_idle_codes_go_beside_busy_ones(ordered):
    _, states, _, encode, _ = ordered
    busy = np.zeros((4, 8), bool)
    for state in states[:2]:
        busy[np.arange(4), np.asarray(encode(variables(state)))] = True
    assert [int(state.extra.codes.batches) for state in states] == [0, 1, 0] and 4 < busy.sum() < 30
    assert states[1].extra.codes.total.any() and not states[2].extra.codes.total.any()
    for own, old, used in zip(*(np.asarray(state.params["codes"]) for state in states[:0:-1]), busy, strict=True):
        beside = np.array([np.abs(own[k] - own[used]).max(-1).min() <= 1.01e-4 for k in np.flatnonzero(~used)], bool)
        assert beside.sum() == min((~used).sum(), used.sum())  # each busy code is split once
        np.testing.assert_array_equal((own[~used] == old[~used]).all(-1), ~beside)


def test_eight_devices_take_the_steps_of_one(ordered):
    one, states, metrics, *_ = ordered
    many = built("ordered", "r", **ORDERED)
    mesh = jax.make_mesh((8,), ("r",), axis_types=(jax.sharding.AxisType.Auto,))
    whole, rows = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("r"))
    spread, sharded = jax.device_put(states[0], whole), jax.jit(one.step, out_shardings=whole)
    mapped, replicas = jax.pmap(many.step, "r", in_axes=(0, 0, None)), jax.tree.map(
        lambda a: jnp.broadcast_to(a, (8, *a.shape)), states[0])
    for i in range(2):
        spread, of_spread = sharded(spread, {"x": jax.device_put(X, rows)}, jax.device_put(jax.random.key(i), whole))
        replicas, of_replicas = mapped(replicas, {"x": X.reshape(8, 2, 4, 4, 1)}, jax.random.key(i))
    for got in ((spread, of_spread), jax.tree.map(lambda a: a[3], (replicas, of_replicas))):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5), got, (states[2], metrics[1]))


def test_discriminator_is_weighed_against_the_reconstruction_and_waits_for_its_turn():
    """On eight devices; by hand on one. Until then the error is the mean square."""
    system = built("sharp", "r", adversarial=0.5, adversarial_start=1, error="l1")
    state, critic = jax.jit(system.init)(KEY, {"x": X}), UNet(1, 0, 4, 8, 1)
    step = jax.pmap(system.step, "r", in_axes=(None, 0, None))

    def moved(state):
        return jax.tree.map(lambda a: a[0], step(state, {"x": X.reshape(8, 2, 4, 4, 1)}, KEY))

    first, metrics = moved(state)
    assert metrics["adversarial_weight"] == 0 and metrics["critic/loss"] == 0
    square = jnp.square(X - jax.jit(system.reconstruct)(variables(state), X)).mean()
    np.testing.assert_allclose(metrics["loss"], square + 1.25 * metrics["codebook"], rtol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, first.params["critic"], state.params["critic"])
    second, metrics = moved(first)
    assert any(np.abs(a - b).max() > 0 for a, b in zip(*map(jax.tree.leaves, (
        second.params["critic"], first.params["critic"])), strict=True))

    @jax.jit
    def by_hand(now, judge):
        def logits(y):
            return critic.apply({"params": judge}, y)

        def x_hat(kernel):
            decoder = now.params["decoder"]
            out = decoder["unet"]["out"] | {"kernel": kernel}
            changed = now.params | {"decoder": decoder | {"unet": decoder["unet"] | {"out": out}}}
            return system.reconstruct(now._replace(params=changed), X)

        def error(kernel):
            return jnp.abs(X - x_hat(kernel)).mean()

        def unreal(kernel):
            return -logits(x_hat(kernel)).mean()

        kernel = now.params["decoder"]["unet"]["out"]["kernel"]
        (of_error, by_error), (of_critic, by_critic) = (jax.value_and_grad(f)(kernel) for f in (error, unreal))
        hinge = jnp.maximum(1 - logits(X), 0).mean() + jnp.maximum(1 + logits(x_hat(kernel)), 0).mean()
        return 0.5 * jnp.linalg.norm(by_error) / jnp.linalg.norm(by_critic), of_error, of_critic, 0.5 * hinge

    weight, error, unreal, _ = by_hand(variables(first), first.params["critic"])
    np.testing.assert_allclose(metrics["adversarial_weight"], weight, rtol=1e-3)
    np.testing.assert_allclose(metrics["unreal"], unreal, atol=1e-5)
    np.testing.assert_allclose(metrics["loss"], 2 * error + 1.25 * metrics["codebook"] + weight * unreal,
                               rtol=1e-3)
    # The discriminator's turn comes after: against the images of the moved decoder.
    hinge = by_hand(variables(second), first.params["critic"])[3]
    np.testing.assert_allclose(metrics["critic/loss"], hinge, rtol=1e-4)


@pytest.mark.parametrize("model, message", [
    (dict(heads=3), "must divide model.tokens=4"), (dict(reduced=4), "cannot be halved 4 times"),
    (dict(adversarial=1.0, likelihood="gaussian"), "model.likelihood='mse'"), (dict(pyramid=1), "model.prefix_dropout"),
    (dict(start="zeros"), "'data' or 'random'"), (dict(codebook="none"), "'gradient' or 'ema'")])
def test_what_cannot_be_built_says_what_to_change(model, message):
    with pytest.raises(ValueError, match=message):
        built(**model)
