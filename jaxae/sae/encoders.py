"""From inputs to pre-activations, whose chosen entries carry gradients."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae.sae.codes import Codes, by_rows, examples_of, values_at
from jaxae.sae.ranking import top_k

BLOCK = 256  # examples whose pre-activations exist at a time, where they are ranked and forgotten


class Encoded(NamedTuple):
    """Pre-activations of all atoms, and those at chosen places.

    `pre` is for choosing and carries gradients unless the encoder is `sparse`; `at(indices [n k]) -> [n k]`, or
    `at(indices [e], starts) -> [e]` in compressed rows (see `Codes`), always does. `largest(k) -> Codes`
    has the k largest of each example in falling order, with gradients, where they can be found without `pre`.
    """

    pre: Float[Array, "n m"]
    at: Callable[..., Float[Array, "..."]]
    largest: Callable[[int], Codes] | None = None


def _entries(pre, indices, starts=None):
    if starts is None:
        return jnp.take_along_axis(pre, indices, axis=1)
    return pre[examples_of(starts, indices.shape[0]), indices]


def of_pre(pre: Float[Array, "n m"]) -> Encoded:
    """Pre-activations `[n m]` that carry gradients as they are: of encoders for which there is nothing to save."""
    return Encoded(pre, lambda indices, starts=None: _entries(pre, indices, starts))


def linear(x: Float[Array, "n _"], encoder: Float[Array, "d m"], bias: Float[Array, " m"], sparse: bool = False,
           offset: Float[Array, " d"] | None = None, streams: bool = False) -> Encoded:
    r"""$(x - o) W + b$.

    Args:
      x: inputs.
      encoder: W.
      bias: b.
      sparse: gradients flow through `at` and `largest` alone, and only to the columns that these read: for encoders of
        which k of m atoms are in use.
      offset: o, zero where it is None.
      streams: offers `largest`, which holds the pre-activations of some examples at a time: under jit `[n m]` numbers
        never exist, unless `pre` is read, and then all are computed twice. Needs `sparse`.

    Raises:
      ValueError: for inputs of another width than the encoder, and for streams without `sparse`.

    Reference: Gao et al., Scaling and evaluating sparse autoencoders, 2024, arXiv 2406.04093.
    """
    if x.shape[-1] != encoder.shape[0]:
        raise ValueError(f"inputs of width {x.shape[-1]} do not fit a dictionary for width {encoder.shape[0]}: use the "
                         f"activations that it was made for")
    if streams and not sparse:
        raise ValueError("pre-activations that are forgotten carry no gradients of their own: set sparse=True")
    offset = jnp.zeros((x.shape[-1],), x.dtype) if offset is None else offset
    if not sparse:
        return of_pre((x - offset) @ encoder + bias)
    near, fixed, shift = jax.lax.stop_gradient((x - offset, encoder, bias))
    # One product: a sum after it would be a second array [n m] where several read it.
    pre = jnp.pad(near, ((0, 0), (0, 1)), constant_values=1) @ jnp.concatenate([fixed, shift[None]])

    def at(indices, starts=None):
        return values_at(x, offset, encoder, bias, _entries(pre, indices, starts), indices, starts)

    def largest(k):
        values, indices = by_rows(lambda rows: top_k(rows @ fixed + shift, k), (near,), BLOCK)
        return Codes(values_at(x, offset, encoder, bias, values, indices), indices)

    return Encoded(pre, at, largest if streams else None)


def gated(x: Float[Array, "n d"], encoder: Float[Array, "d m"], gate: Float[Array, " m"], scale: Float[Array, " m"],
          bias: Float[Array, " m"]) -> tuple[Float[Array, "n m"], Float[Array, "n m"]]:
    r"""Which atoms are in use, and by how much: $\pi = x W + b_g$ and $x W e^{r} + b_m$.

    Codes are $1[\pi > 0] \, \mathrm{ReLU}(x W e^r + b_m)$; a loss on ReLU(pi) teaches the gate, which has no gradient.

    Args:
      x: inputs.
      encoder: W, shared.
      gate: b_g.
      scale: r, log of the ratio of the two.
      bias: b_m.

    Returns:
      (pi, codes), `[n m]` each.

    Reference: Rajamanoharan et al., Improving dictionary learning with gated sparse autoencoders, 2024,
    arXiv 2404.16014.
    """
    shared = x @ encoder
    chosen = shared + gate
    return chosen, (chosen > 0) * jax.nn.relu(shared * jnp.exp(scale) + bias)
