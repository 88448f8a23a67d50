"""Encoder and observation model of sentences: what `model.network='lstm'` means."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jaxae import collectives
from jaxae.data.sentences import END
from jaxae.distributions import categorical_log_prob, categorical_sample
from jaxae.metrics.tokens import exact_match, token_accuracy
from jaxae.nn.lstm import LATENT, LSTMDecoder, LSTMEncoder
from jaxae.nn.sequences import beam_search, roll_out, sequence_mask, shifted
from jaxae.systems.observation import Observation


def defaults() -> dict[str, Any]:
    """Keys of `config.model` for network 'lstm', on tokens [n t] with 1 at the end of a sentence and 0 after it.

    `vocabulary`: number of tokens, these two included. `lstm_units`, `lstm_embedding`: widths of the state and of a
    token's vector, in encoder and decoder. `lstm_bidirectional`: whether the encoder reads both ways. `lstm_latent`:
    how z enters the decoder, see `jaxae.nn.lstm.LSTMDecoder`. `word_dropout`: share of the decoder's inputs that
    training replaces by one unknown word. `beam`: width of the search for reconstructions, 1 is greedy.
    """
    return dict(vocabulary=0, lstm_units=64, lstm_embedding=32, lstm_bidirectional=False, lstm_latent="every_step",
                word_dropout=0.0, beam=1)


def encoder(model, shape: tuple[int, ...], dtype) -> nn.Module:
    """A module `x [n t] -> [n d]`.

    Raises:
      ValueError: for options that do not exist or do not fit the data.
    """
    if len(shape) != 1:
        raise ValueError(f"model.network='lstm' needs tokens [n t], the data are [n {' '.join(map(str, shape))}]")
    if model.vocabulary < 3:
        raise ValueError(f"model.vocabulary={model.vocabulary} must be the number of tokens of the data: padding, an "
                         "end and words")
    if model.lstm_latent not in LATENT:
        raise ValueError(f"model.lstm_latent={model.lstm_latent!r} must be one of {', '.join(LATENT)}")
    return LSTMEncoder(model.vocabulary, model.lstm_embedding, model.lstm_units, model.lstm_bidirectional, dtype)


def sequence_log_prob(logits: Array, x: Array) -> Array:
    """sum_t log softmax(logits_t)[x_t] of logits [n t v] and tokens [n t], padding left out: [n] nats.

    The end of a sentence is a token and counts. A token outside the vocabulary gives NaN.
    """
    return jnp.where(sequence_mask(x), categorical_log_prob(x, logits), 0.0).sum(-1)


def observation(model, shape: tuple[int, ...], decoder: Callable[[int], nn.Module], dtype,
                axis_name: str | None = None) -> Observation:
    """p(x | z) of sentences, in nats summed over their tokens, the end included and padding not.

    `mean` writes the sentences that the search finds, `sample` draws each word. Training with `model.word_dropout`
    sees the likelihood under decoder inputs of which some are hidden (Bowman et al., Generating sentences from a
    continuous space, 2016, arXiv 1511.06349); evaluation never does.

    Args:
      model, shape, dtype, axis_name: as of `networks.observation`.
      decoder: `channels -> module` from the vector of a step to the free logits, see `LSTMDecoder`.
    """
    if not 0 <= model.word_dropout < 1:
        raise ValueError(f"model.word_dropout={model.word_dropout} must be in [0, 1)")
    module = LSTMDecoder(model.vocabulary, decoder(model.vocabulary - 2), model.lstm_embedding, model.lstm_units,
                         model.lstm_latent, dtype)

    def init(key: Array, z: Array) -> PyTree:
        return module.init(key, z, jnp.zeros((z.shape[0], *shape), jnp.int32))["params"]

    def given(params: PyTree, z: Array, x: Array, inputs: Array) -> Array:
        return sequence_log_prob(module.apply({"params": params}, z, inputs), x)

    def noisy_log_prob(params, z, x, key):
        inputs = shifted(x)
        dropped = collectives.draw(jax.random.uniform, key, inputs.shape, axis_name) < model.word_dropout
        # The first input is no word of the sentence: it says that one begins.
        return given(params, z, x, jnp.where(dropped.at[:, 0].set(False), model.vocabulary, inputs))

    def writer(params):
        def step(state, tokens):
            return module.apply({"params": params}, state, tokens, method="step")
        return step

    def start(params, z):
        return module.apply({"params": params}, z, method="start")

    def mean(params, z, key):
        if model.beam > 1:
            return beam_search(writer(params), start(params, z), *shape, END, model.beam)
        return roll_out(writer(params), start(params, z), *shape, END)

    def sample(params, z, key):
        return roll_out(writer(params), start(params, z), *shape, END,
                        lambda key, logits: categorical_sample(key, logits, axis_name), key)

    return Observation(init, lambda params, z, x: given(params, z, x, shifted(x)), mean, sample,
                       noisy_log_prob if model.word_dropout else None,
                       lambda x, x_hat: {"token_accuracy": token_accuracy(x, x_hat), "exact": exact_match(x, x_hat)})
