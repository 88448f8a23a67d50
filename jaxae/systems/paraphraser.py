"""A sentence model with a latent in two parts, meaning and form: what Separator and its baselines are made of."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree
from ml_collections import ConfigDict

from jaxae import collectives
from jaxae.data.sentences import END
from jaxae.nn.attentive_pool import MultiheadPool
from jaxae.nn.dropout import dropout
from jaxae.nn.seq2seq import Seq2Seq
from jaxae.nn.sequences import beam_search, roll_out, sequence_mask, shifted
from jaxae.quantizers import Codes, Quantizer
from jaxae.systems.base import Variables
from jaxae.systems.discrete import bottlenecks
from jaxae.systems.posteriors import Posterior, posterior
from jaxae.systems.sentence_networks import sequence_log_prob


def defaults() -> dict[str, Any]:
    """Keys of `config.model` for the model, beside those of `bottlenecks.defaults` for the form, whose width follows.

    `vocabulary`: number of tokens, 0 for padding and 1 for the end included. `transformer_width`, `transformer_layers`,
    `transformer_heads`, `transformer_hidden`, `transformer_norm` ('pre', 'post'), `transformer_positions` ('learned',
    'sinusoidal'), `transformer_directional`: of encoder and decoder, each, see `Seq2Seq`. `dropout`: in both.
    `token_dropout`: share of the decoder's inputs that training hides. `embeddings`: an npy file with the words'
    vectors [vocabulary width], which then stay as they are; '' learns them. `form_heads`: how many of the
    `transformer_heads` pooled heads are the form, 0 for a latent of one part. `variational`: whether the meaning is a
    Gaussian, or a point. `beam`: width of the search for outputs, 1 is greedy; `length_penalty`: see `beam_search`.
    `predictor_hidden`, `predictor_dropout`: of the code predictor.
    """
    form = dict(codes=256, heads=4, temperature=1.0, soft=True, start="normal")
    return {key: value for key, value in bottlenecks.defaults().items() if key != "width"} | form | dict(
        vocabulary=0, transformer_width=128, transformer_layers=2, transformer_heads=8, transformer_hidden=512,
        transformer_norm="pre", transformer_positions="learned", transformer_directional=False, dropout=0.1,
        token_dropout=0.2, embeddings="", form_heads=2, variational=True, beam=4, length_penalty=1.0,
        predictor_hidden=512, predictor_dropout=0.2)


class Read(NamedTuple):
    """What the encoder makes of sentences."""

    meaning: Array  # [n m], or [n 2m] with log standard deviations: what the posterior takes
    form: Array  # [n f] before its bottleneck
    pooled: Array  # [n width], means of the meaning and form: what the code predictor reads


class Paraphraser(NamedTuple):
    """The pieces. `now` below is `Variables`: params and the quantizer's moving state."""

    meaning: int  # width of the meaning, m
    form: int  # width of the form, f; 0 for none
    posterior: Posterior  # of the meaning
    quantizer: Quantizer | None  # of the form
    init: Callable[..., tuple[PyTree, PyTree]]  # (key, x) -> params, moving
    read: Callable[..., Read]  # (params, x, key=None) -> Read; with dropout by a key
    log_prob: Callable[..., Array]  # (params, memory [n width], y, key=None) -> [n] nats; noisy by a key
    predict: Callable[..., Array]  # (params, pooled, key=None) -> logits [n heads K] of codes of form
    codes_of: Callable[..., Array]  # (now, x) -> [n heads]
    write: Callable[..., Array]  # (now, memory) -> tokens [n t] that the search finds
    join: Callable[..., Array]  # (now, z [n m], codes [n heads]) -> memory [n width]

    def meaning_of(self, now: Variables, x: Array, key: Array | None = None) -> Array:
        """The posterior's mean, or a draw where there is a key: [n m]."""
        out = self.read(now.params, x).meaning
        return self.posterior.mean(out) if key is None else self.posterior.sample(out, key)

    def transfer(self, now: Variables, x: Array, exemplar: Array) -> Array:
        """What x says in the form of the exemplar; with a reference as exemplar it is the oracle."""
        return self.write(now, self.join(now, self.meaning_of(now, x), self.codes_of(now, exemplar)))

    def predicted_codes(self, now: Variables, x: Array) -> Array:
        """The most probable code of each head for a paraphrase of x: [n heads]."""
        return self.predict(now.params, self.read(now.params, x).pooled).argmax(-1)

    def paraphrase(self, now: Variables, x: Array) -> Array:
        """What x says in the form that the predictor chooses; without a form what the latent keeps of x."""
        codes = self.predicted_codes(now, x) if self.form else None
        return self.write(now, self.join(now, self.meaning_of(now, x), codes))


class CodePredictor(nn.Module):
    """A softmax over the codes of each head, from an encoding: `[n d] -> [n heads codes]`, three dense layers.

    Reference: Hosking and Lapata, 2021, arXiv 2105.15053.
    """

    heads: int
    codes: int
    hidden: int
    dropout: float = 0.0
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, deterministic: bool = True) -> Array:
        for i in range(2):
            x = nn.relu(nn.Dense(self.hidden, dtype=self.dtype, name=f"dense{i}")(x))
            if not deterministic and self.dropout:
                x = dropout(x, self.dropout, self.make_rng("dropout"), self.axis_name)
        logits = nn.Dense(self.heads * self.codes, dtype=self.dtype, name="dense2")(x).astype(jnp.float32)
        return logits.reshape(-1, self.heads, self.codes)


def paraphraser(config: ConfigDict, example: PyTree, axis_name: str | None = None) -> Paraphraser:
    """The model of `config.model`.

    Raises:
      ValueError: for options that do not exist or do not fit the data or one another.
    """
    model, dtype = config.model, jnp.dtype(config.dtype)
    _check(model, example)
    length, width, heads = example["x"].shape[1], model.transformer_width, model.transformer_heads
    each = width // heads
    form, meaning = model.form_heads * each, (heads - model.form_heads) * each
    family = posterior("diagonal" if model.variational else "point", meaning)
    quantizer = form and bottlenecks.quantizer_of(ConfigDict(dict(model) | {"width": form}), axis_name)
    seq = Seq2Seq(length, width, model.transformer_layers, heads, model.transformer_hidden, model.dropout, axis_name,
                  dtype, norm=model.transformer_norm, positions=model.transformer_positions,
                  directional=model.transformer_directional)
    pool = MultiheadPool(heads, each, model.dropout, axis_name, dtype)
    spread = MultiheadPool(meaning // each, each, model.dropout, axis_name, dtype)
    if form:
        predictor = CodePredictor(quantizer.places, quantizer.codes, model.predictor_hidden, model.predictor_dropout,
                                  axis_name, dtype)

    def init(key, x):
        keys = collectives.split_keys(key, ("words", "seq", "pool", "spread", "codes", "predictor"))
        words = _embeddings(model) if model.embeddings else jax.random.normal(
            keys["words"], (model.vocabulary, width)) / width**0.5
        h = jnp.zeros((1, length, width))
        params = {"words": words, "seq": seq.init(keys["seq"], words, x)["params"],
                  "pool": pool.init(keys["pool"], h)["params"]}
        if model.variational:
            params["spread"] = spread.init(keys["spread"], h)["params"]
        if not form:
            return params, ()
        state = quantizer.init(keys["codes"])
        params["predictor"] = predictor.init(keys["predictor"], jnp.zeros((1, width)))["params"]
        return params | ({"codes": state.learned} if jax.tree.leaves(state.learned) else {}), state.moving

    def read(params, x, key=None):
        mask, noise = sequence_mask(x), _noise(key, 3)
        h = seq.apply({"params": params["seq"]}, params["words"], x, method="read", **noise[0])
        pooled = pool.apply({"params": params["pool"]}, h, mask, **noise[1]).reshape(-1, width).astype(jnp.float32)
        out = pooled[:, :meaning]
        if model.variational:
            log_std = spread.apply({"params": params["spread"]}, h, mask, **noise[2])
            out = jnp.concatenate([out, log_std.reshape(-1, meaning).astype(jnp.float32)], -1)
        return Read(out, pooled[:, meaning:], pooled)

    def log_prob(params, memory, y, key=None):
        kept, noise = None, {}
        if key is not None:
            noise, = _noise(jax.random.fold_in(key, 0), 1)
            drawn = collectives.draw(jax.random.uniform, jax.random.fold_in(key, 1), y.shape, axis_name)
            kept = (drawn >= model.token_dropout).at[:, 0].set(True)  # the first is no word: a sentence begins
        logits = seq.apply({"params": params["seq"]}, params["words"], memory[:, None], shifted(y), kept,
                           method="write", **noise)
        return sequence_log_prob(logits, y)

    def predict(params, pooled, key=None):
        noise, = _noise(key, 1)
        return predictor.apply({"params": params["predictor"]}, pooled, **noise)

    def state_of(now):
        return Codes(now.params.get("codes", ()), now.extra)

    def codes_of(now, x):
        found = quantizer.quantize(read(now.params, x).form, state_of(now), jax.random.key(0), False)
        return found.indices.reshape(x.shape[0], quantizer.places)

    def join(now, z, codes=None):
        if not form:
            return z
        codes = codes if quantizer.places > 1 else codes[..., 0]
        return jnp.concatenate([z, quantizer.lookup(codes, state_of(now)).astype(jnp.float32)], -1)

    def write(now, memory):
        def step(state, tokens):
            return seq.apply({"params": now.params["seq"]}, now.params["words"], state, tokens, method="step")

        state = seq.start(memory[:, None])
        if model.beam > 1:
            return beam_search(step, state, length, END, model.beam, model.length_penalty)
        return roll_out(step, state, length, END)

    return Paraphraser(meaning, form, family, quantizer or None, init, read, log_prob, predict, codes_of, write, join)


def _noise(key, count):
    """Arguments of `apply` for so many modules: with dropout by a key of each, without it for None."""
    if key is None:
        return [{} for _ in range(count)]
    return [dict(deterministic=False, rngs={"dropout": k}) for k in jax.random.split(key, count)]


def _embeddings(model):
    table = np.load(model.embeddings)
    if table.shape != (model.vocabulary, model.transformer_width):
        raise ValueError(f"model.embeddings={model.embeddings!r} holds {list(table.shape)}: it must be [vocabulary "
                         f"transformer_width] = [{model.vocabulary}, {model.transformer_width}]")
    return jnp.asarray(table, jnp.float32)


def _check(model, example):
    x = example["x"]
    if len(x.shape) != 2 or not jnp.issubdtype(x.dtype, jnp.integer):
        raise ValueError(f"a paraphraser reads integer tokens [n t], not {x.dtype} {list(x.shape)}: use such data, as "
                         "data.source='paraphrases'")
    if model.vocabulary < 3:
        raise ValueError(f"model.vocabulary={model.vocabulary} must be the number of tokens of the data: padding, an "
                         "end and words")
    if model.transformer_width % model.transformer_heads:
        raise ValueError(f"model.transformer_width={model.transformer_width} must be a multiple of "
                         f"model.transformer_heads={model.transformer_heads}")
    if not 0 <= model.form_heads < model.transformer_heads:
        raise ValueError(f"model.form_heads={model.form_heads} must leave at least one of the model.transformer_heads="
                         f"{model.transformer_heads} for the meaning")
    if not 0 <= model.token_dropout < 1 or not 0 <= model.dropout < 1 or model.beam < 1:
        raise ValueError(f"model.token_dropout={model.token_dropout} and model.dropout={model.dropout} must be in "
                         f"[0, 1), and model.beam={model.beam} at least 1")
