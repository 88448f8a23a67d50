"""Sentences: the grammar, LSTMs against enumeration and loops by hand, and what trains on them."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_configs import get_config

from jaxae import data, systems
from jaxae.data import sentences as grammar
from jaxae.metrics.tokens import exact_match, token_accuracy
from jaxae.nn.icnn import InverseLipschitzDecoder, smallest_singular_value
from jaxae.nn.lstm import LSTMDecoder, LSTMEncoder
from jaxae.nn.sequences import beam_search, roll_out, shifted
from jaxae.systems import networks
from jaxae.systems.gaussian import vae
from jaxae.systems.sentence_networks import sequence_log_prob
from jaxae.train.config import check
from jaxae.train.figures import write_figures

SIZES = tuple(len(words) for words in grammar.CHOICES.values())


def test_grammar_is_the_set_of_its_sentences():
    every = grammar.render(np.stack(np.unravel_index(np.arange(np.prod(SIZES)), SIZES), -1))
    language = {tuple(row) for row in every}
    assert len(language) == len(every) == 1944 and len(grammar.VOCABULARY) == 32
    lengths = (every != 0).sum(1)
    assert set(lengths) == {8, 9, 11, 12} and (every[np.arange(len(every)), lengths - 1] == grammar.END).all()
    rng = np.random.default_rng(0)
    chosen = every[rng.permutation(len(every))]
    assert all(map(grammar.parse, chosen))
    changed, at = chosen.copy(), rng.integers(0, grammar.LENGTH, len(chosen))
    changed[np.arange(len(chosen)), at] = rng.integers(0, 32, len(chosen))
    verdicts = [grammar.parse(row) for row in changed]
    assert verdicts == [tuple(row) in language for row in changed] and 0.02 < np.mean(verdicts) < 0.6
    assert [grammar.VOCABULARY.index(word) for word in grammar.to_text(chosen[0]).split()] == list(chosen[0][:lengths[
        np.flatnonzero((every == chosen[0]).all(1))[0]]])


def test_splits_are_disjoint_and_of_the_seed_and_tokens_pass_the_transforms():
    dataset = data.load(dict(source="sentences"))
    train, test = dataset.train.arrays(), dataset.test.arrays()
    assert train["x"].shape == (1750, 12) and test["x"].shape == (194, 12)
    rows = [tuple(row) for row in np.concatenate([train["x"], test["x"]])]
    assert len(set(rows)) == 1944
    np.testing.assert_array_equal(grammar.render(train["factors"]), train["x"])
    np.testing.assert_array_equal(train["label"], train["factors"][:, 1])
    again, other = (data.load(dict(source="sentences", seed=s, num_train=900)) for s in (0, 1))
    np.testing.assert_array_equal(again.train.arrays()["x"], train["x"][:900])
    assert (other.train.arrays()["x"] != train["x"][:900]).any()
    batch = jax.jit(dataset.transform)(dataset.train[:8], jax.random.key(0))
    assert batch["x"].dtype == jnp.int32
    np.testing.assert_array_equal(batch["x"], train["x"][:8])
    for options, problem in ((dict(binarize="dynamic"), "binarize"), (dict(augment=("flip",)), "augment"),
                             (dict(num_train=1900), "ask for fewer")):
        with pytest.raises(data.DataError, match=problem):
            data.load(dict(source="sentences") | options)


LENGTH, VOCABULARY = 3, 5


def small(latent: str = "every_step", **changes):
    """An untrained observation model of sequences of at most 3 of the tokens 1 to 4, with parameters."""
    model = vae.defaults()
    model.update(dict(network="lstm", vocabulary=VOCABULARY, latent=2, lstm_units=6, lstm_embedding=4,
                      lstm_latent=latent) | changes)
    observed = networks.observation(model, (LENGTH,), lambda c: networks.vector_decoder(model, (LENGTH,), c,
                                                                                        jnp.float32), jnp.float32)
    params = jax.jit(observed.init)(jax.random.key(0), jnp.zeros((1, 2)))
    return model, observed, jax.tree.map(lambda p: 3.0 * p + 0.1, params)  # far from uniform


def every_sequence():
    """All sequences of the tokens 1 to 4: ended ones, padded, and those that are cut off unended."""
    rows = [(*words, 1, *[0] * (LENGTH - 1 - n)) for n in range(LENGTH) for words in product((2, 3, 4), repeat=n)]
    return np.array([*rows, *product((2, 3, 4), repeat=LENGTH)], np.int32)


@pytest.mark.parametrize("latent", ["every_step", "output"])
def test_likelihood_search_and_draws_agree_with_enumeration(latent):
    _, observed, params = small(latent)
    x, z = jnp.asarray(every_sequence()), jax.random.normal(jax.random.key(1), (3, 2))
    log_p = np.asarray(jax.jit(jax.vmap(lambda z: observed.log_prob(params, jnp.broadcast_to(z, (len(x), 2)), x)))(z))
    np.testing.assert_allclose(np.exp(log_p).sum(1), 1.0, rtol=1e-5)  # the end counts, padding does not
    assert np.abs(log_p[0] - log_p[1]).max() > 0.05  # z matters
    # The longer frame of the same sequences changes nothing.
    longer = jnp.pad(x, ((0, 0), (0, 4)))
    same = jax.jit(observed.log_prob)(params, jnp.broadcast_to(z[0], (len(x), 2)), longer)
    np.testing.assert_allclose(same, log_p[0], rtol=1e-5)
    model, wide, _ = small(latent, beam=40)
    np.testing.assert_array_equal(jax.jit(wide.mean)(params, z, jax.random.key(0)), x[log_p.argmax(1)])
    drawn = np.asarray(jax.jit(observed.sample)(params, jnp.repeat(z, 4000, 0), jax.random.key(2)))
    code = {tuple(row): i for i, row in enumerate(every_sequence())}
    for rows, truth in zip(drawn.reshape(3, 4000, -1), np.exp(log_p), strict=True):
        counts = np.bincount([code[tuple(row)] for row in rows], minlength=len(x))
        seen = truth > 1e-4
        statistic = ((counts - 4000 * truth)[seen] ** 2 / (4000 * truth)[seen]).sum()
        assert statistic < seen.sum() + 6 * np.sqrt(2 * seen.sum())


def decoder():
    model, _, params = small()
    head = networks.vector_decoder(model, (LENGTH,), VOCABULARY - 2, jnp.float32)
    return LSTMDecoder(VOCABULARY, head, 4, 6), params


def test_teacher_forcing_is_stepping_and_greedy_is_the_argmax_of_each_step():
    module, params = decoder()
    z = jax.random.normal(jax.random.key(1), (4, 2))
    step = jax.jit(lambda state, tokens: module.apply({"params": params}, state, tokens, method="step"))
    first = jax.jit(lambda z: module.apply({"params": params}, z, method="start"))(z)
    x = jnp.array([[2, 3, 1], [4, 1, 0], [1, 0, 0], [3, 3, 3]])
    state, each = first, []
    for token in shifted(x).T:
        state, logits = step(state, token)
        each.append(logits)
    forced = jax.jit(lambda z, x: module.apply({"params": params}, z, shifted(x)))(z, x)
    np.testing.assert_allclose(forced, jnp.stack(each, 1), rtol=1e-5, atol=1e-6)
    by_hand = [sum(float(jax.nn.log_softmax(forced[i, t])[x[i, t]]) for t in range(3) if x[i, t]) for i in range(4)]
    np.testing.assert_allclose(sequence_log_prob(forced, x), by_hand, rtol=1e-5)
    assert np.isnan(sequence_log_prob(forced, x.at[0, 0].set(VOCABULARY))[0])
    # By hand: one sentence at a time, the whole prefix read anew for every word.
    whole = jax.jit(lambda z, x: module.apply({"params": params}, z, shifted(x)))
    greedy = np.zeros((4, 6), np.int32)
    for i in range(4):
        for t in range(6):
            logits = whole(z[i:i + 1], jnp.asarray(greedy[i:i + 1]))[0, t]
            greedy[i, t] = int(logits.argmax())
            if greedy[i, t] == 1:
                break
    np.testing.assert_array_equal(jax.jit(lambda s: roll_out(step, s, 6, 1))(first), greedy)
    np.testing.assert_array_equal(jax.jit(lambda s: beam_search(step, s, 6, 1, 1))(first), greedy)


def test_encoder_reads_both_ways_to_the_true_end():
    encoder = LSTMEncoder(VOCABULARY, 4, 6, bidirectional=True)
    x = jnp.array([[2, 3, 4, 1], [3, 4, 2, 1]])
    params = jax.jit(encoder.init)(jax.random.key(0), x)["params"]
    read = jax.jit(lambda params, x: encoder.apply({"params": params}, x))
    both = read(params, x)
    np.testing.assert_allclose(read(params, jnp.pad(x, ((0, 0), (0, 3)))), both, rtol=1e-5, atol=1e-6)
    swapped = params | {"forward": params["backward"], "backward": params["forward"]}
    np.testing.assert_allclose(read(swapped, x[:, ::-1]), jnp.roll(both, 6, 1), rtol=1e-5, atol=1e-6)
    assert np.abs(both[:, 6:] - both[:, :6]).max() > 0.01
    with pytest.raises(ValueError, match="integer tokens"):
        encoder.init(jax.random.key(0), jnp.zeros((2, 3)))


def test_word_dropout_hides_inputs_in_training_only_and_draws_for_the_global_batch():
    _, plain, params = small()
    module, _ = decoder()
    x = jnp.asarray(every_sequence()[:16])
    z = jax.random.normal(jax.random.key(1), (16, 2))
    _, all_hidden, _ = small(word_dropout=1.0 - 1e-7)
    inputs = jnp.full((16, LENGTH), VOCABULARY).at[:, 0].set(0)
    def seen(z, x):
        return (sequence_log_prob(module.apply({"params": params}, z, inputs), x), plain.log_prob(params, z, x),
                all_hidden.noisy_log_prob(params, z, x, jax.random.key(3)), all_hidden.log_prob(params, z, x))

    unknown, known, training, evaluation = jax.jit(seen)(z, x)
    np.testing.assert_allclose(training, unknown, rtol=1e-5)
    np.testing.assert_allclose(evaluation, known, rtol=1e-5)
    assert np.abs(unknown - known).max() > 0.1
    assert plain.noisy_log_prob is None
    # Dropping and drawing on eight devices are those of one.
    model, half, _ = small(word_dropout=0.5)
    spread = networks.observation(model, (LENGTH,), lambda c: networks.vector_decoder(model, (LENGTH,), c, jnp.float32),
                                  jnp.float32, "batch")
    key = jax.random.key(4)

    def both(observed):
        return lambda z, x: (observed.noisy_log_prob(params, z, x, key), observed.sample(params, z, key))

    one = jax.jit(both(half))(z, x)
    cut = jax.tree.map(lambda a: a.reshape(8, 2, *a.shape[1:]), (z, x))
    mapped = jax.tree.map(lambda a: a.reshape(16, *a.shape[2:]), jax.pmap(both(spread), "batch")(*cut))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), one, mapped)


def test_inverse_lipschitz_logits_move_with_the_latent_at_every_history():
    config = get_config("sentences", "inverse_lipschitz,tiny")
    config.model.update(dict(inverse_lipschitz=0.8, lstm_units=40))
    example = {"x": jax.ShapeDtypeStruct((8, 12), jnp.int32)}
    systems.build(config, example)
    x = jnp.asarray(grammar.sentences(8, 8)[0][:8]["x"])
    module = LSTMDecoder(32, InverseLipschitzDecoder((30,), (8, 8), 0.8), 8, 40, "output")
    z = jax.random.normal(jax.random.key(1), (8, 4))
    params = jax.jit(module.init)(jax.random.key(0), z, x)["params"]

    def logits(z):  # of the fourth word after three given ones
        return module.apply({"params": params}, z[None], shifted(x[:1]))[0, 3, 2:]

    assert jax.jit(lambda z: smallest_singular_value(logits, z))(z).min() >= 0.64 - 1e-4
    config.model.lstm_latent = "every_step"
    with pytest.raises(ValueError, match="does not see it"):
        systems.build(config, example)
    config.model.update(dict(lstm_latent="output", latent=30))
    with pytest.raises(ValueError, match="smaller latent"):
        systems.build(config, example)


def test_annealing_weighs_the_kl_from_nothing_to_beta():
    config = get_config("sentences", "anneal,tiny")
    config.model.update(dict(anneal_steps=2, anneal="linear", beta=4.0, network="mlp", features=(8,)))
    system = systems.build(config, {"x": jax.ShapeDtypeStruct((8, 3), jnp.float32)})
    batch = {"x": jax.random.uniform(jax.random.key(0), (8, 3))}
    state, step = jax.jit(system.init)(jax.random.key(0), batch), jax.jit(system.step)
    for beta in (0.0, 2.0, 4.0, 4.0):
        state, seen = step(state, batch, jax.random.key(1))
        np.testing.assert_allclose(seen["beta"], beta)
        np.testing.assert_allclose(seen["loss"], seen["reconstruction"] + beta * seen["kl"], rtol=1e-5)
    sigmoid = np.asarray(jax.jit(lambda t: vae.warm_up(t, 10, "sigmoid"))(jnp.arange(11)))
    np.testing.assert_allclose(sigmoid + sigmoid[::-1], 1.0, rtol=1e-5)
    assert (np.diff(sigmoid) > 0).all()


def test_figures_are_pages_of_words(tmp_path):
    x = grammar.sentences(4, 4)[0][:4]["x"]
    words, pictures = write_figures(tmp_path, 7, {"samples": x}, grammar.VOCABULARY)
    assert words[0].name == "samples_000007.png"
    for other, same in ((x, True), (np.pad(x, ((0, 0), (0, 2))), True), (x[::-1], False)):
        again = write_figures(tmp_path, 8, {"samples": other}, grammar.VOCABULARY)[1]["samples"]
        assert np.array_equal(again, pictures["samples"]) is same
    assert write_figures(tmp_path, 9, {"samples": x})[1]["samples"].shape[0] == pictures["samples"].shape[0]


def test_reconstructions_are_counted_without_padding():
    x, x_hat = jnp.array([[5, 3, 1, 0], [4, 1, 0, 0]]), jnp.array([[5, 4, 1, 6], [4, 1, 0, 0]])
    np.testing.assert_allclose(jax.jit(token_accuracy)(x, x_hat), [2 / 3, 1.0])
    np.testing.assert_allclose(jax.jit(exact_match)(x, x_hat), [0.0, 1.0])


def test_paper_scale_autogen_has_20000_words_500_units_and_50_latents():
    config = get_config("sentences", "paper")
    check(config)
    batch = {"x": jax.ShapeDtypeStruct((config.batch_size, 30), jnp.int32)}
    system = systems.build(config, batch)
    params = jax.eval_shape(system.init, jax.random.key(0), batch).params
    sizes = {part: sum(leaf.size for leaf in jax.tree.leaves(params[part])) for part in params}

    def lstm(read, units):
        return 4 * units * (read + units + 1)

    assert sizes == {"encoder": 20_000 * 300 + lstm(300, 500) + 501 * 100,
                     "decoder": 20_001 * 300 + lstm(350, 500) + 51 * 1000 + 501 * 19_998}
    assert jax.eval_shape(lambda p, z: system.decode(systems.base.Variables(p, ()), z), params,
                          jax.ShapeDtypeStruct((2, 50), jnp.float32)).shape == (2, 30)
