"""Separator: where its meaning and its form come from, what each of its phases learns, and the paper's sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_configs import get_config

from jaxae import collectives, data, optim, systems
from jaxae.metrics.text import ibleu
from jaxae.nn.sequences import sequence_mask
from jaxae.systems import paraphraser
from jaxae.systems.base import Variables, variables
from jaxae.systems.discrete import separator
from jaxae.train.config import check


def config_of(arg="", **model):
    config = get_config("separator", ",".join(filter(None, [arg, "tiny"])))
    config.model.update(dict(beam=1, dropout=0.0, token_dropout=0.0, predictor_dropout=0.0) | model)
    return config


DATASET = data.load(config_of().data)
BATCH = {name: jnp.asarray(value, jnp.int32) for name, value in DATASET.train[:8].items()}
SHAPES = jax.eval_shape(lambda: BATCH)


def filled(system):
    """A state of random numbers, which needs no compiled program; of the moving codes all counts are positive."""
    noise = np.random.default_rng(0)

    def numbers(shapes, change=lambda value: value):
        return jax.tree.map(lambda s: jnp.asarray(change(noise.normal(0, 0.3, s.shape)), s.dtype), shapes)

    shapes = jax.eval_shape(system.init, jax.random.key(0), SHAPES)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    moving = numbers(shapes.extra[0], lambda value: np.abs(value) + 0.1)
    return zeros._replace(params=numbers(shapes.params), extra=(moving, jnp.int32(0)))


@pytest.fixture(scope="module")
def model():
    """Parts, a state that no test changes, and what evaluation says of a batch: `sums(state, batch)`."""
    config = config_of(kl_weight=3.0, anneal_start=2, anneal_steps=4, soft=False, temperature=0.0)
    system = systems.build(config, SHAPES)
    state = filled(system)
    evaluate = jax.jit(lambda state, batch: system.evaluate(state, batch, jax.random.key(1)))
    return system, paraphraser.paraphraser(config, SHAPES), state, evaluate


def test_meaning_comes_from_the_paraphrase_and_form_from_the_exemplar(model):
    system, parts, state, _ = model
    assert parts.form == 4 and parts.meaning == 12

    @jax.jit
    def run(x, exemplar):
        now = Variables(state.params, state.extra[0])
        codes = parts.codes_of(now, exemplar)
        memory = jnp.concatenate([parts.read(now.params, x).meaning[:, :12],
                                  parts.quantizer.lookup(codes, separator.Codes((), now.extra))], -1)
        return codes, parts.transfer(now, x, exemplar), parts.write(now, memory), system.encode(variables(state), x), \
            parts.join(now, parts.meaning_of(now, x), parts.codes_of(now, x))

    codes, moved, written, latent, own = run(BATCH["paraphrase"], BATCH["exemplar"])
    assert codes.shape == (8, 2)
    np.testing.assert_array_equal(moved, written)
    np.testing.assert_allclose(latent, own, rtol=1e-5)  # of one sentence: its own meaning and its own form


def test_the_loss_is_that_of_the_published_code(model):
    system, parts, state, evaluate = model

    @jax.jit
    def by_hand():
        now = Variables(state.params, state.extra[0])
        read, form = parts.read(now.params, BATCH["paraphrase"]), parts.read(now.params, BATCH["exemplar"]).form
        z_q = parts.quantizer.lookup(parts.codes_of(now, BATCH["exemplar"]), separator.Codes((), now.extra))
        # One draw of z under the key of `evaluate`, at which the likelihood is.
        z = parts.posterior.sample(read.meaning, collectives.split_keys(
            jax.random.key(1), ("read", "z", "quantize", "write"))["z"])
        log_prob = parts.log_prob(now.params, jnp.concatenate([z, z_q], -1), BATCH["x"])
        return read.meaning, ((form - z_q) ** 2).mean(-1), log_prob

    meaning, commitment, log_prob = by_hand()
    mean, log_std = np.split(np.asarray(meaning, np.float64), 2, -1)
    kl = 0.5 * (mean**2 + np.exp(2 * log_std) - 1 - 2 * log_std)
    tokens = np.asarray(sequence_mask(BATCH["x"]).sum(-1))
    for updates, weight in ((0, 0.0), (2, 0.0), (3, 0.75), (6, 3.0), (9, 3.0)):
        seen = system.summary(evaluate(state._replace(extra=(state.extra[0], jnp.int32(updates))), BATCH))
        np.testing.assert_allclose(seen["kl_weight"], weight, rtol=1e-6)
        np.testing.assert_allclose(seen["kl"], kl.sum(-1).mean(), rtol=1e-5)
        want = -log_prob / tokens + weight * kl.mean(-1) + 0.25 * commitment
        np.testing.assert_allclose(seen["loss"], want.mean(), rtol=1e-5)


def test_each_phase_trains_its_part_and_on_eight_devices_as_on_one(tmp_path):
    table = np.random.default_rng(0).normal(size=(32, 16)).astype(np.float32)
    np.save(tmp_path / "words.npy", table)
    config = config_of(embeddings=str(tmp_path / "words.npy"), temperature=2.0, decay=0.5, dropout=0.3, revive=0.0,
                       token_dropout=0.4, predictor_batch=16)
    config.optim.update(dict(name="sgd", schedule="constant", clip=0.0))  # the update is optax's: a smaller program
    system, parts = systems.build(config, SHAPES), paraphraser.paraphraser(config, SHAPES)
    given = jax.jit(lambda key: parts.init(key, BATCH["x"])[0]["words"])(jax.random.key(0))
    np.testing.assert_array_equal(given, table)
    state, step = filled(system), jax.jit(system.step)
    state.params["words"] = jnp.asarray(table)
    once, metrics = step(state, BATCH, jax.random.key(1))
    other = {name: value[::-1] % 20 for name, value in BATCH.items()}
    twice, second = step(once, BATCH, jax.random.key(2))
    last, _ = step(twice, other, jax.random.key(3))

    def moved(a, b):
        return {name for name in a.params if any(np.any(np.asarray(p) != np.asarray(q)) for p, q in zip(
            jax.tree.leaves(a.params[name]), jax.tree.leaves(b.params[name]), strict=True))}

    # The predictor's batch of 16 is two of the run's.
    assert moved(state, once) == {"seq", "pool", "spread"} and not moved(once, twice)
    assert moved(twice, last) == {"predictor"}
    np.testing.assert_array_equal(last.params["words"], table)  # given words stay as they are
    assert np.abs(state.extra[0].codes - once.extra[0].codes).max() > 1e-3
    np.testing.assert_array_equal(once.extra[0].codes, last.extra[0].codes)
    assert np.isfinite(list(metrics.values())).all() and np.isnan(second["reconstruction"])

    # The second phase's loss is the cross-entropy of the target's codes from the paraphrase's encoding.
    @jax.jit
    def by_hand(now):
        pooled, codes = [], []
        for batch in (BATCH, other):
            pooled.append(parts.read(now.params, batch["paraphrase"]).pooled)
            codes.append(parts.codes_of(now, batch["x"]))

        def loss(predictor, pooled, codes):
            logits = jax.nn.log_softmax(parts.predict({"predictor": predictor}, pooled))
            return -jnp.take_along_axis(logits, codes[..., None], -1).mean()

        predictor = now.params["predictor"]
        return loss(predictor, pooled[0], codes[0]), jax.grad(loss)(
            predictor, jnp.concatenate(pooled), jnp.concatenate(codes))

    value, gradient = by_hand(Variables(once.params, once.extra[0]))
    np.testing.assert_allclose(second["loss"], value, rtol=1e-5)
    adam = last.opt_state[1][0].inner_opt_state[0]  # its mean after one update is a tenth of the gradient
    jax.tree.map(lambda mu, g: np.testing.assert_allclose(mu, 0.1 * g, rtol=1e-4, atol=1e-6), adam.mu["predictor"],
                 gradient)

    config.model.predictor_steps = 0  # the first phase alone
    spread = systems.build(config, SHAPES, axis_name="batch")
    copies = jax.tree.map(lambda a: jnp.stack([a] * 8), state._replace(opt_state=state.opt_state[0]))
    cut = jax.tree.map(lambda a: a.reshape(8, 1, *a.shape[1:]), BATCH)
    other, seen = jax.pmap(lambda s, b: spread.step(s, b, jax.random.key(1)), "batch")(copies, cut)
    for name in ("loss", "gradient_norm", "perplexity"):
        np.testing.assert_allclose(seen[name][0], metrics[name], rtol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[3], rtol=1e-4, atol=1e-6), once.extra, other.extra)


def test_given_words_must_be_of_the_models_size(tmp_path):
    np.save(tmp_path / "words.npy", np.zeros((32, 16), np.float32))
    config = config_of(embeddings=str(tmp_path / "words.npy"), transformer_width=32)
    with pytest.raises(ValueError, match="it must be"):
        systems.build(config, SHAPES)


def test_triples_of_a_file_keep_their_names(tmp_path):
    rows = {name: np.asarray(BATCH[name]) for name in ("x", "paraphrase", "exemplar", "references")}
    np.savez(tmp_path / "a.npz", **rows, **{f"test_{name}": value[:4] for name, value in rows.items()})
    dataset = data.load(dict(source=f"npz:{tmp_path / 'a.npz'}", test_x="test_x"))
    for name, value in rows.items():
        np.testing.assert_array_equal(dataset.train.arrays()[name], value)
        np.testing.assert_array_equal(dataset.test.arrays()[name], value[:4])


def test_evaluation_scores_the_corpus_whatever_the_batches_and_their_padding(model):
    system, parts, state, evaluate = model
    whole = {name: jnp.concatenate([value, value[::-1] % 30]) for name, value in BATCH.items()}

    @jax.jit
    def of_corpus():
        now = Variables(state.params, state.extra[0])
        written = parts.paraphrase(now, whole["paraphrase"])
        return ibleu(written, whole["references"], whole["paraphrase"], end=1)

    batches = [{name: value[i:i + 8] for name, value in whole.items()} | {"valid": jnp.ones(8)} for i in (0, 8)]
    noise = {name: jnp.zeros_like(value[:8]) for name, value in whole.items()} | {"valid": jnp.zeros(8)}
    seen = system.summary(jax.tree.map(lambda *sums: sum(sums), *(evaluate(state, b) for b in (*batches, noise))))
    np.testing.assert_allclose(seen["ibleu"], of_corpus(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(seen["ibleu"], 0.7 * seen["bleu"] - 0.3 * seen["self_bleu"], rtol=1e-4, atol=1e-5)
    assert np.isfinite(list(seen.values())).all()


@pytest.mark.parametrize("arg, change, message", [
    ("", dict(triples=False), "form_heads=0"), ("autoencoder", dict(triples=True), "triples=False"),
    ("", dict(form_heads=8), "at least one"), ("", dict(predictor_steps=2), "part of the 2"),
    ("", dict(transformer_width=20), "multiple"), ("", dict(beam=0), "at least 1"),
    ("", dict(anneal_steps=-1), "not be negative"), ("", dict(predictor_batch=12), "multiple of config.batch_size=8"),
    ("", dict(transformer_norm="mid"), "one of pre, post"), ("", dict(transformer_positions="none"), "sinusoidal"),
    ("", dict(vocabulary=2), "number of tokens")])
def test_options_that_do_not_fit_say_so(arg, change, message):
    with pytest.raises(ValueError, match=message):
        systems.build(config_of(arg, **change), SHAPES)


def test_data_without_triples_say_what_to_give():
    with pytest.raises(ValueError, match="make_triples"):
        systems.build(config_of(), {"x": SHAPES["x"]})
    with pytest.raises(ValueError, match="integer tokens"):
        systems.build(config_of(), {"x": jax.ShapeDtypeStruct((8, 12), jnp.float32)})


@pytest.mark.parametrize("arg, rate, source", [("paper", 5e-5, "paralex:"), ("paper_qqp", 1e-4, "qqp:")])
def test_paper_scale_has_5_layers_of_768_and_4_heads_of_256_codes_on_192_dimensions(arg, rate, source):
    config = get_config("separator", arg)
    check(config)
    assert config.data.source.startswith(source) and config.data.vocabulary and config.data.length == 50
    config.model.embeddings = ""  # as many words, without the file
    batch = {name: jax.ShapeDtypeStruct((64, 50), jnp.int32) for name in ("x", "paraphrase", "exemplar")}
    assert systems.build(config, batch).latent.shape == (768,)
    parts = paraphraser.paraphraser(config, batch)
    params, codes = jax.eval_shape(parts.init, jax.random.key(0), batch["x"])
    assert (parts.meaning, parts.form, parts.quantizer.places, parts.quantizer.codes) == (576, 192, 4, 256)
    assert codes.codes.shape == (4, 256, 48) and params["words"].shape == (30_522, 768)

    def dense(*widths):
        return sum((a + 1) * b for a, b in zip(widths, widths[1:], strict=False))

    attention, mlp, norm = dense(768, 3 * 768) + dense(768, 768), dense(768, 2048, 768), 2 * 768
    head = norm + dense(768, 768)  # the last norm and the output; positions are sinusoids
    sizes = {name: sum(leaf.size for leaf in jax.tree.leaves(params[name])) for name in params}
    assert sizes == {"words": 30_522 * 768, "pool": dense(768, 8) + dense(768, 768),
                     "spread": dense(768, 6) + dense(768, 576), "predictor": dense(768, 3072, 3072, 4 * 256),
                     "seq": 5 * (3 * attention + 2 * mlp + 5 * norm) + 2 * head}
    rates = optim.schedule(config.optim, config.steps)
    for t in (1, 5000, 10_000, 40_000):
        np.testing.assert_allclose(rates(t), 0.005 * min(t**-0.5, t * 10_000**-1.5), rtol=1e-3)
    assert (config.optim.b1, config.optim.b2, config.batch_size, config.model.beam) == (0.9, 0.98, 64, 4)
    model = config.model
    assert (model.predictor_batch, model.predictor_rate) == (1024, rate)
    assert model.predictor_steps * config.batch_size == 30_000 * 1024
    assert (model.transformer_norm, model.transformer_positions) == ("post", "sinusoidal")
