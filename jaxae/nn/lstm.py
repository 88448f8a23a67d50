"""LSTM encoder and decoder of token sequences.

Tokens are integers, and 0 is padding: it comes after the end of a sequence only, has no probability, and as the input
of the first step it begins the sequence.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from jaxae.nn.sequences import sequence_mask

LATENT = ("every_step", "output")
_NEVER = -1e9  # logit of padding; finite, so that masked terms have finite gradients


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
