"""What is measured and shown of models of sprites: order of latents, categories, scores against known factors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_configs import dense, get_config

from jaxae import data, systems
from jaxae.distributions import categorical_kl, normal_kl
from jaxae.systems.base import Latent, System, Variables
from jaxae.systems.gaussian import capacity, joint
from jaxae.train import fit
from jaxae.train.config import ConfigError, base
from jaxae.train.evaluators import EVALUATORS, check_evaluators


def config_of(module, **model):
    config = base()
    config.system, config.model = module.__name__.removeprefix("jaxae.systems."), module.defaults()
    config.model.update(dict(features=(16,), latent=3) | model)
    return config


@pytest.fixture(scope="module")
def sprites():
    return data.load(dict(source="sprites", size=8, factor_sizes=(3, 2, 2, 4, 4)))


def test_a_run_tells_the_kl_of_each_latent_and_its_distance_from_the_capacity(sprites):
    """Rows of one step each: the latents' KLs add up to the KL, whose distance from C is reported; gamma = 0 trains
    the reconstruction alone, so that the distance is not small."""
    batch = sprites.transform(sprites.train[:20], jax.random.key(0))
    system = systems.build(config_of(capacity, capacity=2.0, capacity_steps=4, gamma=0.0), batch)
    _, history = fit(system, sprites, 4, jax.random.key(0), batch_size=15, record_every=1)
    for t, row in enumerate(history):
        assert row["kl_of_latents"].shape == (3,)
        np.testing.assert_allclose(row["kl_of_latents"].sum(), row["kl"], rtol=1e-5)
        np.testing.assert_allclose(row["excess"], abs(row["kl"] - 0.5 * t), rtol=1e-4, atol=1e-6)
    assert "test/kl_of_latents" not in history[-1] and history[-1]["test/excess"] > 0


def joint_setup(sprites, **model):
    config = config_of(joint, categories=(3, 2), **model)
    batch = sprites.transform(sprites.train[:20], jax.random.key(0))
    system = systems.build(config, batch)
    return system, system.init(jax.random.key(1), batch), batch


def test_divergences_of_a_joint_posterior_are_those_of_each_latent():
    out = jax.random.normal(jax.random.key(0), (5, 2 * 3 + 5))
    got = jax.jit(lambda out: joint.divergences(out, 3, (3, 2)))(out)
    np.testing.assert_allclose(got[:, :3], normal_kl(out[:, :3], out[:, 3:6]), rtol=1e-6)
    np.testing.assert_allclose(got[:, 3], categorical_kl(out[:, 6:9]), rtol=1e-5)
    np.testing.assert_allclose(got[:, 4], categorical_kl(out[:, 9:]), rtol=1e-5)


def test_zero_capacities_make_a_joint_vae_a_beta_vae(sprites):
    system, state, batch = joint_setup(sprites, capacity=0.0, categorical_capacity=0.0, gamma=4.0,
                                       categorical_gamma=7.0)
    metrics = system.summary(jax.jit(system.evaluate)(state, batch, jax.random.key(2)))
    want = metrics["reconstruction"] + 4.0 * metrics["kl_continuous"] + 7.0 * metrics["kl_discrete"]
    np.testing.assert_allclose(metrics["loss"], want, rtol=1e-5)
    assert metrics["kl_continuous"] > 0 and metrics["kl_discrete"] > 0


def test_the_categorical_capacity_rises_at_its_rate_and_stops_where_the_categories_are_full(sprites):
    system, state, batch = joint_setup(sprites, categorical_capacity=4.0, capacity_steps=3, categorical_steps=8)
    evaluate, reached = jax.jit(system.evaluate), []
    for step in (0, 2, 3, 4, 8):
        sums = evaluate(state._replace(extra=jnp.asarray(step, jnp.int32)), batch, jax.random.key(0))
        reached.append(sums["categorical_capacity"] / sums["count"])
    np.testing.assert_allclose(reached, [0.0, 1.0, 1.5, np.log(6), np.log(6)], rtol=1e-5)


def test_figures_of_a_joint_vae_put_each_category_beside_the_same_gaussian_code(sprites):
    system, state, batch = joint_setup(sprites)
    shown = jax.jit(system.figures)(state, batch, jax.random.key(0))
    now = Variables(state.params, state.extra)
    codes = np.array(system.encode(now, batch["x"][:8]))
    for j, (start, size) in enumerate([(3, 3), (6, 2)]):
        assert shown[f"categories_{j}"].shape == (8, size, 8, 8, 1)
        for value in range(size):
            changed = codes.copy()
            changed[:, start:start + size] = np.eye(size)[value]
            want = system.decode(now, jnp.asarray(changed))
            np.testing.assert_allclose(shown[f"categories_{j}"][:, value], want, atol=1e-5)
    # Lines run through Gaussian latents alone: the rows' middle is z_i = 0, the categories are the first example's.
    assert shown["traversals"].shape == (3, 11, 8, 8, 1) and shown["kl_of_latents"].shape == (5,)
    middle = np.repeat(codes[:1], 3, 0)
    middle[np.arange(3), np.argsort(-shown["kl_of_latents"][:3])] = 0.0
    np.testing.assert_allclose(shown["traversals"][:, 5], system.decode(now, jnp.asarray(middle)), atol=1e-5)


def planted(encode, latent):
    """A system that does nothing but encode."""
    return System(init=None, step=None, evaluate=None, encode=encode, latent=Latent((latent,)))


def test_disentanglement_of_codes_that_are_the_factors_is_perfect(sprites):
    """The data's x is the factors, permuted and scaled, with a constant factor beside them, which no score can use."""
    def smuggled(source):
        rows = source[np.arange(len(source))]
        factors = np.pad(rows["factors"], ((0, 0), (1, 0)))
        return rows["factors"][:, ::-1] * np.array([1.0, -2.0, 1.0, 3.0, 1.0], np.float32), {"factors": factors}

    (x, extra), (test_x, test_extra) = smuggled(sprites.train), smuggled(sprites.test)
    dataset = data.from_arrays(x, extra=extra, test_x=test_x, test_extra=test_extra)
    system = planted(lambda now, x: x, 5)
    config = base()
    config.votes = 400
    scores = EVALUATORS["disentanglement"](system, Variables((), ()), dataset, jax.random.key(0), config)
    for name in ("mig", "modularity", "dci_disentanglement", "dci_completeness", "factor_vae_score", "beta_vae_score"):
        assert scores[name] > 0.93, (name, scores[name])
    # Two of shape's three values and two of four places a code can tell by one threshold against the others.
    assert scores["dci_informativeness"] == 1.0 and scores["sap"] > 0.3


def test_clusters_are_judged_by_the_best_matching_of_the_product_of_categories(sprites):
    """Categories of 3 and 2 that tell shape and scale: 6 clusters, of which 3 can be matched to the shapes."""
    labels = np.asarray(sprites.test[np.arange(len(sprites.test))]["label"])
    scales = np.asarray(sprites.test[np.arange(len(sprites.test))]["factors"])[:, 1]
    # x holds its own codes [z, one-hot shape permuted, one-hot scale].
    x = np.concatenate([np.zeros((len(labels), 2)), np.eye(3)[(labels + 1) % 3], np.eye(2)[scales]], 1)
    dataset = data.from_arrays(x.astype(np.float32), labels, test_x=x.astype(np.float32), test_label=labels)
    config = config_of(joint, categories=(3, 2), latent=2)
    system = planted(lambda now, x: x, 7)
    got = EVALUATORS["clusters"](system, Variables((), ()), dataset, jax.random.key(0), config)
    largest = sum(max(np.sum((labels == k) & (scales == s)) for s in range(2)) for k in range(3))
    np.testing.assert_allclose(got["cluster_accuracy"], largest / len(labels))
    alone = dataset.test_transform(dataset.test[:1], jax.random.key(0))["x"]
    assert alone.shape == (1, 7)
    with pytest.raises(ConfigError, match="categorical"):
        EVALUATORS["clusters"](system, Variables((), ()), dataset, jax.random.key(0), config_of(capacity))


def test_what_the_data_lack_is_said_before_an_evaluator_runs(sprites):
    digits = data.load(dict(source="sklearn_digits"))
    system = planted(lambda now, x: x, 2)
    check_evaluators(("disentanglement", "probe"), system, "planted", sprites)
    with pytest.raises(ConfigError, match="needs data with `factors`"):
        check_evaluators(("disentanglement",), system, "planted", digits)


@pytest.mark.parametrize("arg, side, convolutions, widths, categories", [
    ("paper", 64, (1, 32, 32, 32, 32), (256, 256), 0), ("joint,paper", 64, (1, 32, 32, 64, 64), (256,), 3),
    ("joint_digits,paper", 32, (1, 32, 64, 64), (256,), 10)])
def test_paper_scales_have_the_papers_networks(arg, side, convolutions, widths, categories):
    config = get_config("sprites", arg)
    batch = {"x": jax.ShapeDtypeStruct((config.batch_size, side, side, 1), jnp.float32)}
    params = jax.eval_shape(systems.build(config, batch).init, jax.random.key(0), batch).params
    kernels = sum((16 * a + 1) * b for a, b in zip(convolutions, convolutions[1:], strict=False))
    flat = convolutions[-1] * (side >> len(convolutions) - 1) ** 2
    sizes = {name: sum(leaf.size for leaf in jax.tree.leaves(tree)) for name, tree in params.items()}
    latent = config.model.latent
    assert sizes["encoder"] == kernels + dense(flat, *widths, 2 * latent + categories)
    # Transposed convolutions have the mirrored kernels, and biases on the other side.
    mirrored = kernels - sum(convolutions[1:]) + sum(convolutions[:-1])
    assert sizes["decoder"] == mirrored + dense(latent + categories, *reversed(widths), flat)
    assert (config.batch_size, config.optim.learning_rate, config.optim.schedule) == (64, 5e-4, "constant")
    values = {"paper": (10, 25.0, 1000.0, 100_000), "joint,paper": (6, 40.0, 150.0, 300_000),
              "joint_digits,paper": (10, 5.0, 30.0, 25_000)}[arg]
    assert (latent, config.model.capacity, config.model.gamma, config.model.capacity_steps) == values
