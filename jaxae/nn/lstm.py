"""LSTM encoder and decoder of token sequences, and ways to write a sequence with a decoder.

Tokens are integers, and 0 is padding: it comes after the end of a sequence only, has no probability, and as the input
of the first step it begins the sequence.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

LATENT = ("every_step", "output")
_NEVER = -1e9  # logit of padding; finite, so that masked terms have finite gradients
Step = Callable[[PyTree, Array], tuple[PyTree, Array]]  # (state, tokens [n]) -> (state, logits [n v])


def sequence_mask(x: Int[Array, "n t"]) -> Bool[Array, "n t"]:
    """Which tokens count: all but the padding."""
    return x != 0


class LSTMEncoder(nn.Module):
    """Tokens to the last hidden state at each sequence's true length: `[n t] -> [n units]`, or `[n 2*units]`.

    Attributes:
      vocabulary: number of tokens, padding included.
      embedding: width of a token's vector.
      units: width of the LSTM.
      bidirectional: whether a second LSTM reads from the end to the beginning.
      dtype: of the computation.
    """

    vocabulary: int
    embedding: int = 32
    units: int = 64
    bidirectional: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Float[Array, "n d"]:
        if x.ndim != 2 or not jnp.issubdtype(x.dtype, jnp.integer):
            raise ValueError(f"an LSTM reads integer tokens [n t], not {x.dtype} {list(x.shape)}: use such data, as "
                             "data.source='sentences', or another model.network")
        words = nn.Embed(self.vocabulary, self.embedding, dtype=self.dtype, name="embed")(x)
        lengths = jnp.maximum(sequence_mask(x).sum(-1), 1)
        ends = []
        for name in ("forward", "backward")[:1 + self.bidirectional]:
            cell = nn.OptimizedLSTMCell(self.units, dtype=self.dtype, name=name)
            (_, h), _ = nn.RNN(cell, return_carry=True, reverse=name == "backward")(words, seq_lengths=lengths)
            ends.append(h)
        return jnp.concatenate(ends, -1)


class LSTMDecoder(nn.Module):
    """p(x | z) = prod_t p(x_t | x_<t, z) as logits: `z [n d]` and inputs `[n t]` to `[n t vocabulary]`, float32.

    The logits are a categorical's natural parameters without redundancy: `head` gives those of all tokens but
    padding, which has none, and token 1, whose logit is 0.

    Attributes:
      vocabulary: number of tokens, padding included.
      head: from the vector of a step, `[m k] -> [m vocabulary-2]`.
      embedding: width of a token's vector.
      units: width of the LSTM.
      latent: 'every_step': z gives the initial state and is read beside each token; 'output': the LSTM sees the
        tokens only, and `head` reads z beside a projection of its state, of as many dimensions as make both together no
        wider than the head's output (an injective head exists then).
      dtype: of the computation.
    """

    vocabulary: int
    head: nn.Module
    embedding: int = 32
    units: int = 64
    latent: str = "every_step"
    dtype: Any = jnp.float32

    def setup(self):
        if self.latent not in LATENT or self.vocabulary < 3:
            raise ValueError(f"latent={self.latent!r} must be one of {', '.join(LATENT)}, and vocabulary="
                             f"{self.vocabulary} at least 3: padding, an end and a word")
        self.embed = nn.Embed(self.vocabulary + 1, self.embedding, dtype=self.dtype)  # the last: a dropped word
        self.cell = nn.OptimizedLSTMCell(self.units, dtype=self.dtype)
        self.layer = nn.RNN(self.cell)
        if self.latent == "every_step":
            self.initial = nn.Dense(2 * self.units, dtype=self.dtype)
        else:
            self.beside = _Beside(self.vocabulary - 2, self.dtype)

    def __call__(self, z: Float[Array, "n d"], inputs: Int[Array, "n t"]) -> Float[Array, "n t v"]:
        """Teacher forcing: logits of x_t from the inputs 0, x_1, ..., x_{t-1}; see `shifted`."""
        _, carry = self.start(z)
        each = jnp.broadcast_to(z[:, None], (*inputs.shape, z.shape[-1]))
        h = self.layer(self._read(each, inputs), initial_carry=carry)
        return self._logits(each, h)

    def start(self, z: Float[Array, "n d"]) -> PyTree:
        """The state before the first token."""
        if self.latent == "every_step":
            c, h = jnp.split(self.initial(z), 2, -1)
            return z, (c, jnp.tanh(h))
        return z, self.cell.initialize_carry(jax.random.key(0), (z.shape[0], self.embedding))

    def step(self, state: PyTree, tokens: Int[Array, " n"]) -> tuple[PyTree, Float[Array, "n v"]]:
        """Reads one token: the next state, and the logits of the token after it. O(1), whatever came before."""
        z, carry = state
        carry, h = self.cell(carry, self._read(z, tokens))
        return (z, carry), self._logits(z, h)

    def _read(self, z, tokens):
        words = self.embed(tokens)
        return jnp.concatenate([words, z.astype(words.dtype)], -1) if self.latent == "every_step" else words

    def _logits(self, z, h):
        h = h if self.latent == "every_step" else self.beside(h, z)
        free = self.head(h.reshape(-1, h.shape[-1])).astype(jnp.float32).reshape(*h.shape[:-1], -1)
        fixed = jnp.broadcast_to(jnp.array([_NEVER, 0.0]), (*h.shape[:-1], 2))
        return jnp.concatenate([fixed, free], -1)


class _Beside(nn.Module):
    """A state beside the latent, projected where both together are wider than `width`."""

    width: int
    dtype: Any

    @nn.compact
    def __call__(self, h, z):
        room = self.width - z.shape[-1]
        if room < 1:
            raise ValueError(f"a latent of {z.shape[-1]} dimensions beside the LSTM's state does not fit the "
                             f"{self.width} free logits of the vocabulary: use a smaller latent")
        h = nn.Dense(room, dtype=self.dtype, name="project")(h) if h.shape[-1] > room else h
        return jnp.concatenate([h.astype(jnp.float32), z], -1)


def shifted(x: Int[Array, "n t"]) -> Int[Array, "n t"]:
    """The decoder's inputs for `x`: 0 begins, the last token is not read."""
    return jnp.pad(x[:, :-1], ((0, 0), (1, 0)))


def roll_out(step: Step, state: PyTree, length: int, end: int, draw: Callable[[Array, Array], Array] | None = None,
             key: Key[Array, ""] | None = None) -> Int[Array, "n t"]:
    """Writes sequences token by token in a scan: the most probable token each time, or what `draw` chooses.

    Args:
      step: `(state, tokens [n]) -> (state, logits [n v])`, such as `LSTMDecoder.step`.
      state: before the first token, leaves `[n ...]`.
      length: t, tokens at most.
      end: the token after which there is padding only.
      draw: `(key, logits [n v]) -> tokens [n]`; None is greedy.
      key: for `draw`.

    Returns:
      int32 `[n t]`.
    """
    def write(carry, key):
        state, token, ended = carry
        state, logits = step(state, token)
        chosen = jnp.argmax(logits, -1) if draw is None else draw(key, logits)
        token = jnp.where(ended, 0, chosen.astype(jnp.int32))
        return (state, token, ended | (token == end)), token

    n = jax.tree.leaves(state)[0].shape[0]
    keys = None if draw is None else jax.random.split(key, length)
    start = (state, jnp.zeros((n,), jnp.int32), jnp.zeros((n,), bool))
    return lax.scan(write, start, keys, length)[1].T


def beam_search(step: Step, state: PyTree, length: int, end: int, width: int,
                length_penalty: float = 0.0) -> Int[Array, "n t"]:
    """The most probable sequence that a beam of `width` prefixes finds; `width=1` is greedy.

    Prefixes are compared by log p / ((5 + l) / 6)^a, where l counts their tokens, the end included, and a is
    `length_penalty`: 0 compares log-probabilities. A sequence that has ended keeps its place in the beam by its score.

    Args:
      step, state, length, end: as in `roll_out`.
      width: prefixes that are kept at each step.
      length_penalty: a.

    Returns:
      int32 `[n t]`.

    Raises:
      ValueError: for a width below 1.

    Reference (the penalty): Wu et al., 'Google's neural machine translation system', 2016, arXiv 1609.08144.
    """
    if width < 1:
        raise ValueError(f"width={width} of a beam must be at least 1")
    n = jax.tree.leaves(state)[0].shape[0]
    state = jax.tree.map(lambda leaf: jnp.repeat(leaf, width, axis=0), state)  # [n*w ...]

    def extend(carry, t):
        state, tokens, ended, score, last = carry  # tokens [n w t], the rest [n w]
        written = (tokens != 0).sum(-1) + ~ended  # each prefix with the next token, where it has one
        state, logits = step(state, last.reshape(-1))
        each = jax.nn.log_softmax(logits, -1).reshape(n, width, -1)  # [n w v]
        padding = jnp.full(each.shape[-1:], -jnp.inf).at[0].set(0.0)
        total = score[..., None] + jnp.where(ended[..., None], padding, each)
        penalty = ((5.0 + written[..., None]) / 6.0) ** length_penalty
        _, chosen = lax.top_k((total / penalty).reshape(n, -1), width)  # [n w]
        score = jnp.take_along_axis(total.reshape(n, -1), chosen, 1)
        parent, last = chosen // each.shape[-1], chosen % each.shape[-1]

        def follow(leaf):
            leaf = leaf.reshape(n, width, *leaf.shape[1:])
            return jax.vmap(lambda rows, i: rows[i])(leaf, parent).reshape(-1, *leaf.shape[2:])

        state = jax.tree.map(follow, state)
        tokens = jnp.take_along_axis(tokens, parent[..., None], 1).at[:, :, t].set(last)
        ended = jnp.take_along_axis(ended, parent, 1) | (last == end)
        return (state, tokens, ended, score, last), None

    start = (state, jnp.zeros((n, width, length), jnp.int32), jnp.zeros((n, width), bool),
             jnp.full((n, width), -jnp.inf).at[:, 0].set(0.0), jnp.zeros((n, width), jnp.int32))
    return lax.scan(extend, start, jnp.arange(length))[0][1][:, 0]
