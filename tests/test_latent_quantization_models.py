"""Autoencoder and generative adversarial network on latent quantization: losses by hand, decay, what is measured."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_configs import dense, get_config

from jaxae import data, systems
from jaxae.systems import figures
from jaxae.systems.base import Latent, System, Variables, variables
from jaxae.systems.discrete import ql_infogan
from jaxae.train import fit
from jaxae.train.config import base
from jaxae.train.evaluators import EVALUATORS


@pytest.fixture(scope="module")
def sprites():
    return data.load(dict(source="sprites", size=8, factor_sizes=(3, 2, 2, 4, 4)))


def qlae_config(**model):
    config = get_config("sprites", "qlae")
    config.model.update(dict(network="mlp", features=(16,), width=3, codes=5) | model)
    return config


def test_an_update_shrinks_the_networks_and_spares_the_values_that_no_number_chose(sprites):
    """The loss is the mean cross-entropy of a pixel + .01 + .01; of the values only those move that were the nearest of
    some number in the batch, while every kernel shrinks by rate * decay beside Adam's step of at most the rate."""
    config = qlae_config()
    config.optim.update(dict(learning_rate=1e-3, schedule="constant", warmup_steps=0, weight_decay=0.1))
    batch = sprites.transform(sprites.train[:20], jax.random.key(0))
    system = systems.build(config, batch)
    state = jax.jit(system.init)(jax.random.key(1), batch)
    far = state.params["codes"].at[:, 0].set(50.0)  # nobody's nearest
    state = state._replace(params=state.params | {"codes": far})
    moved, metrics = jax.jit(system.step)(state, batch, jax.random.key(2))
    indices = np.asarray(system.encode(variables(state), batch["x"]))[:, 0]  # [n 3]
    chosen = np.zeros((3, 5), bool)
    chosen[np.arange(3), indices] = True
    change = np.asarray(moved.params["codes"] - far)
    assert not chosen[:, 0].any() and (change[~chosen] == 0).all() and (change[chosen] != 0).any()
    # Kernels of inputs that are always dark have no gradient: they shrink by exactly 1 - rate * decay.
    dark = np.asarray(batch["x"]).reshape(20, -1).max(0) == 0
    old, new = (np.asarray(s.params["encoder"]["mlp"]["dense0"]["kernel"]) for s in (state, moved))
    assert dark.any()
    np.testing.assert_allclose(new[dark], old[dark] * (1 - 1e-3 * 0.1), rtol=1e-6)
    x_hat = np.asarray(system.reconstruct(variables(state), batch["x"]), np.float64)
    x = np.asarray(batch["x"], np.float64)
    entropy = -(x * np.log(x_hat) + (1 - x) * np.log1p(-x_hat)).mean()
    want = entropy + 0.01 * (metrics["quantization"] + metrics["commitment"])
    np.testing.assert_allclose(metrics["loss"], want, rtol=1e-4)


@pytest.mark.parametrize("changes, codes, extra", [(dict(shared=True), (5,), ()), (dict(learned=False), (), (3, 5))])
def test_ablations_have_one_row_of_values_or_values_that_stay(sprites, changes, codes, extra):
    batch = sprites.transform(sprites.train[:20], jax.random.key(0))
    system = systems.build(qlae_config(**changes), batch)
    state = jax.eval_shape(system.init, jax.random.key(1), batch)
    assert getattr(state.params.get("codes", ()), "shape", ()) == codes
    assert getattr(state.extra, "shape", ()) == extra


def test_code_lines_change_one_code_at_a_time():
    def decode(codes):
        number = codes @ jnp.array([100.0, 10.0, 1.0]) / 1000.0
        return jnp.broadcast_to(number[:, None, None, None], (len(codes), 2, 2, 1))

    shown = jax.jit(lambda i: figures.code_lines(decode, i, jnp.arange(4)))(jnp.array([1, 2, 3]))["traversals"]
    assert shown.shape == (3, 4, 2, 2, 1)
    want = [[23, 123, 223, 323], [103, 113, 123, 133], [120, 121, 122, 123]]
    np.testing.assert_allclose(1000 * shown[:, :, 0, 0, 0], want, rtol=1e-5)
    assert figures.code_lines(decode, jnp.zeros(3, jnp.int32), jnp.arange(17)) == {}


def test_infomec_of_a_system_whose_codes_are_the_factors():
    """Once more with every code twice, in which a source is spread over two latents: InfoC = (1/2 - 1/10) / (1 - 1/10).
    As real vectors the same latents are pruned by range alone and read by a linear map."""
    grid = np.indices((3, 2, 2, 4, 4)).reshape(5, -1).T.astype(np.float32)
    extra = {"factors": np.pad(grid, ((0, 0), (1, 0))).astype(np.int32)}  # and a factor of one value
    dataset = data.from_arrays(grid, extra=extra, test_x=grid[:5], test_extra={"factors": extra["factors"][:5]})

    def scores(encode, codes):
        system = System(init=None, step=None, evaluate=None, encode=encode, latent=Latent((5,), codes))
        return EVALUATORS["infomec"](system, Variables((), ()), dataset, jax.random.key(0), base())

    once = scores(lambda now, x: x[:, ::-1].astype(jnp.int32), 4)
    assert once["active_latents"] == 5
    np.testing.assert_allclose([once[k] for k in ("infom", "infoe", "infoc")], 1.0, atol=1e-2)
    twice = scores(lambda now, x: jnp.concatenate([x, x], 1).astype(jnp.int32), 4)
    np.testing.assert_allclose([twice["infom"], twice["infoc"]], [1.0, (1 / 2 - 1 / 10) / (1 - 1 / 10)], atol=1e-5)
    dead = scores(lambda now, x: x.at[:, 0].multiply(0.01), 0)
    assert dead["active_latents"] == 4 and dead["infoe"] > 0.5


def infogan(sprites, **changes):
    config = base()
    config.system, config.model = "discrete.ql_infogan", ql_infogan.defaults()
    config.model.update(dict(network="mlp", features=(32,), width=2, codes=3) | changes)
    config.optim.update(dict(name="adamw", b1=0.0, b2=0.9, learning_rate=2e-3, weight_decay=1e-3,
                             decay_exclude=("codes", "bias")))
    batch = sprites.transform(sprites.train[:20], jax.random.key(0))
    return systems.build(config, batch), batch


def test_players_of_the_infogan_minimise_the_papers_losses(sprites):
    """From the losses that are reported, and by moving their weights: both are linear in them."""
    totals = {}
    for weights in ((200.0, 1.0, 10.0), (0.0, 1.0, 10.0), (0.0, 0.0, 10.0), (0.0, 0.0, 0.0)):
        named = dict(zip(("latent_weight", "value_weight", "gradient_weight"), weights, strict=True))
        system, batch = infogan(sprites, **named)
        state = jax.jit(system.init)(jax.random.key(1), batch)
        totals[weights] = system.summary(jax.jit(system.evaluate)(state, batch, jax.random.key(2)))
    (full, value, slope, none), rows = totals.values(), totals[(200.0, 1.0, 10.0)]
    for name in ("critic/loss", "loss"):
        latent = rows["critic/latent" if "critic" in name else "latent"]
        np.testing.assert_allclose(full[name] - value[name], 200.0 * latent, rtol=1e-4)
    distance, penalty = rows["critic/distance"], rows["critic/gradient_penalty"]
    np.testing.assert_allclose(value["critic/loss"] - slope["critic/loss"], -distance, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(slope["critic/loss"] - none["critic/loss"], 10 * penalty, rtol=1e-4)
    np.testing.assert_allclose(none["loss"], 0.01 * (rows["quantization"] + rows["commitment"]), rtol=1e-4)


def test_without_a_quantizer_the_infogan_is_told_numbers_of_the_unit_interval(sprites):
    """Latents are what the encoder gives; nothing but their recovery and the critic is in the losses."""
    system, batch = infogan(sprites, codes=0, value_weight=0.0, gradient_weight=0.0)
    state = jax.jit(system.init)(jax.random.key(1), batch)
    assert set(state.params) == {"encoder", "generator"} and system.latent == Latent((2,), 0)
    rows = system.summary(jax.jit(system.evaluate)(state, batch, jax.random.key(2)))
    np.testing.assert_allclose(rows["loss"], 200.0 * rows["latent"], rtol=1e-5)
    now = variables(state)
    z = system.encode(now, batch["x"])
    np.testing.assert_allclose(system.reconstruct(now, batch["x"]), system.decode(now, z), atol=1e-6)
    drawn = jax.random.uniform(jax.random.key(3), (4, 2))
    np.testing.assert_allclose(system.sample(now, jax.random.key(3), 4), system.decode(now, drawn), atol=1e-6)


def test_the_infogan_learns_codes_that_can_be_read_off(sprites):
    """Of 9 codes a guess is right in a third of the latents; after 150 steps nearly all are read off."""
    system, batch = infogan(sprites)
    state, history = fit(system, sprites, 150, jax.random.key(0), batch_size=32)
    assert history[-1]["test/recovered"] > 0.9
    now = variables(state)
    codes = jnp.array([[i, j] for i in range(3) for j in range(3)], jnp.int32)
    images = system.decode(now, codes)
    values = state.params["codes"]
    assert images.shape == (9, 8, 8, 1) and np.ptp(images, axis=0).max() > 0.2
    assert np.mean(system.encode(now, images) == codes) > 0.85
    assert values.shape == (2, 3) and np.abs(values - jnp.linspace(-0.5, 0.5, 3)).max() > 1e-3


@pytest.mark.parametrize("arg, head", [("paper_qlae", 12), ("paper_ql_infogan", 13)])
def test_paper_scale_has_twelve_convolutions_and_four_doublings(arg, head):
    config = get_config("sprites", arg)
    batch = {"x": jax.ShapeDtypeStruct((config.batch_size, 64, 64, 3), jnp.float32)}
    params = jax.eval_shape(systems.build(config, batch).init, jax.random.key(0), batch).params
    sizes = {name: sum(leaf.size for leaf in jax.tree.leaves(tree)) for name, tree in params.items()}
    widths, sides = (3, *(w for w in (32, 64, 128, 256) for _ in range(3))), (3, 3, 4) * 4
    pairs = list(zip(widths, widths[1:], sides, strict=False))
    assert sizes["encoder"] == sum(k * k * a * b + 2 * b for a, b, k in pairs) + dense(4 * 4 * 256, 256, 256, head)
    widths = (256, *(w for w in (256, 128, 64, 32) for _ in range(3)))
    blocks = sum(k * k * a * b + dense(256, 2 * b) for a, b, k in zip(widths, widths[1:], sides, strict=False))
    decoder = sizes.get("decoder", sizes.get("generator"))
    assert decoder == dense(12, 256, 256) + 4 * 4 * 256 + blocks + 9 * 32 * 3 + 3
    assert params["codes"].shape == (12, 10) and config.optim.weight_decay == (0.1 if head == 12 else 1e-3)
    rates = {12: (1e-3, 128, 200_000), 13: (2e-4, 64, 40_000)}[head]
    assert (config.optim.learning_rate, config.batch_size, config.steps) == rates
