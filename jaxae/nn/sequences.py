"""Token sequences: their padding, what a decoder reads of them, and ways to write one with a decoder.

Tokens are integers, and 0 is padding: it comes after the end of a sequence only, and as the input of the first step it
begins the sequence.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int, Key, PyTree

Step = Callable[[PyTree, Array], tuple[PyTree, Array]]  # (state, tokens [n]) -> (state, logits [n v])


def sequence_mask(x: Int[Array, "n t"]) -> Bool[Array, "n t"]:
    """Which tokens count: all but the padding."""
    return x != 0


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
