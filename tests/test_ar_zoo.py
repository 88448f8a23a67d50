"""The benchmark of autoregressive models: what every registered model sees, its steps and its size."""

import math
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

sys.path.insert(0, str(Path(__file__).parent.parent / "experiments"))

from claims.ar_models import AR_MODELS, SCALES, TOKENIZER, influence, prior_of  # noqa: E402

from jaxae import systems  # noqa: E402
from jaxae.nn.transformer import Transformer  # noqa: E402
from jaxae.priors.codes import code_log_prob  # noqa: E402
from jaxae.priors.masked import BidirectionalTransformer  # noqa: E402
from jaxae.systems import networks  # noqa: E402
from jaxae.systems.discrete import vq_vae  # noqa: E402
from jaxae.systems.pixels import pixel_observation  # noqa: E402
from jaxae.train.config import base  # noqa: E402

SMALL = dict(hidden=8, heads=2, embed=4)


def _shape(model, small=True):
    side = (3, 4) if small else model.map
    return (sum(s * s for s in SCALES),) if model.prior == "next_scale" else side


def _random(prior, codes):
    shapes = jax.eval_shape(prior.init, jax.random.key(0), codes)
    noise = np.random.default_rng(0)
    return jax.tree.map(lambda p: jnp.float32(noise.normal(0, 0.4, p.shape)), shapes)


def _influence(name):
    model = AR_MODELS[name]
    prior = prior_of(model, _shape(model), model.codes, **SMALL | dict(layers=2 if name == "pixelcnn" else 1))
    codes = jax.random.randint(jax.random.key(1), (1, *_shape(model)), 0, model.codes)
    params = _random(prior, codes)
    run = jax.jit(lambda z, key: influence(
        (lambda z: prior.log_prob(params, z)) if prior.log_prob else lambda z: prior.loss(params, z, None, key),
        z, (z + 1) % model.codes))
    return lambda seed=0: [tuple(map(np.asarray, pair)) for pair in run(codes, jax.random.key(seed))]


@pytest.mark.parametrize("name", [name for name in AR_MODELS if AR_MODELS[name].order != "random"])
def test_outputs_change_with_all_codes_before_and_no_other(name):
    model = AR_MODELS[name]
    expected = model.sees(_shape(model))
    found = _influence(name)()
    assert len(found) == len(expected)
    for (change, counts), sees in zip(found, expected, strict=True):
        assert counts.all()  # every output is a term of the log-probability
        np.testing.assert_array_equal(change > 0, sees)


def test_what_the_masked_loss_counts_changes_with_all_it_does_not_count_and_nothing_else():
    run = _influence("vq-masked")
    counted = set()
    for seed in range(4):
        [(change, hidden)] = run(seed)
        np.testing.assert_array_equal(change[hidden] > 0, np.broadcast_to(~hidden, change[hidden].shape))
        counted.add(int(hidden.sum()))
    assert len(counted) > 1 and min(counted) < math.prod(_shape(AR_MODELS["vq-masked"]))


def test_influence_finds_a_leak_and_an_output_that_is_left_out():
    net = BidirectionalTransformer(8, 0, Transformer(8, (2, 2), 8, 1, 2, causal=False))
    codes = jnp.array([[3, 1, 4, 1]])
    shapes = jax.eval_shape(net.init, jax.random.key(0), codes)
    params = jax.tree.map(lambda p: jnp.float32(np.random.default_rng(0).normal(0, 0.4, p.shape)), shapes)
    [(change, counts)] = jax.jit(lambda z: influence(
        lambda z: code_log_prob(net.apply(params, z), z)[:, 1:].sum(-1), z, z + 1))(codes)
    assert (change > 0).all() and counts.tolist() == [False, True, True, True]


@pytest.mark.parametrize("name", [name for name in AR_MODELS if AR_MODELS[name].order != "random"])
def test_steps_are_the_longest_chain_of_codes_that_wait_for_one_another(name):
    model = AR_MODELS[name]
    networks_of = sorted(model.sees(_shape(model)), key=lambda sees: sees.diagonal().any())  # the one that waits last
    depth = np.zeros(len(networks_of[0]), int)
    for sees in networks_of[0]:
        depth[np.argmax(depth == 0)] = 1 + (depth[sees].max() if sees.any() else 0)
    passes = depth.max() + len(networks_of) - 1 + (model.tokenizer is not None)
    assert model.steps((3, 4)) == passes


def _count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def test_all_models_have_the_same_number_of_parameters():
    images = {"x": jax.ShapeDtypeStruct((4, 14, 14, 1), jnp.float32)}
    sizes, tokenizers = {}, {}
    for name, model in AR_MODELS.items():
        shape = _shape(model, small=False)
        prior = prior_of(model, shape, model.codes, 10)
        latents, label = (jax.ShapeDtypeStruct(s, jnp.int32) for s in ((1, *shape), (1,)))
        sizes[name] = _count(jax.eval_shape(prior.init, jax.random.key(0), latents, label))
        kind = model.tokenizer and model.tokenizer["quantizer"]
        if kind and kind not in tokenizers:
            config = base()
            config.system, config.model = "discrete.vq_vae", vq_vae.defaults()
            config.model.update(TOKENIZER | model.tokenizer)
            tokenizers[kind] = _count(
                jax.eval_shape(systems.build(config, images).init, jax.random.key(0), images).params)
        sizes[name] += tokenizers.get(kind, 0)
    middle = np.mean(list(sizes.values()))
    assert all(abs(size / middle - 1) < 0.15 for size in sizes.values()), sizes


def test_the_discretized_logistic_of_a_decoder_sums_to_one_over_the_grey_levels_of_the_config():
    class Options(dict):
        __getattr__ = dict.__getitem__

    model = Options(networks.defaults() | dict(likelihood="discretized_logistic", grey_levels=8))
    observed = pixel_observation(model, (1, 1, 1), lambda channels: nn.Dense(channels), jnp.float32)
    z = jnp.broadcast_to(jax.random.normal(jax.random.key(0), (1, 1, 1, 3)), (8, 1, 1, 3))
    params = observed.init(jax.random.key(1), z)
    x = jnp.arange(8.0).reshape(8, 1, 1, 1) / 7
    np.testing.assert_allclose(jnp.exp(jax.jit(observed.log_prob)(params, z, x)).sum(), 1, atol=1e-5)
