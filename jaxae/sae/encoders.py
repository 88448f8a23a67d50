"""From inputs to pre-activations, whose chosen entries carry gradients."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxae.sae.codes import values_at


class Encoded(NamedTuple):
    """Pre-activations of all atoms, and those at chosen places.

    `pre` is for choosing and carries gradients unless the encoder is `sparse`; `at(indices [n k]) -> [n k]` always
    does.
    """

    pre: Float[Array, "n m"]
    at: Callable[[Int[Array, "n k"]], Float[Array, "n k"]]


def of_pre(pre: Float[Array, "n m"]) -> Encoded:
    """Pre-activations that carry gradients as they are."""
    return Encoded(pre, lambda indices: jnp.take_along_axis(pre, indices, axis=1))


def linear(x: Float[Array, "n _"], encoder: Float[Array, "d m"], bias: Float[Array, " m"],
           sparse: bool = False) -> Encoded:
    r"""$x W + b$.

    Args:
      x: inputs, from which what is to be subtracted is subtracted already.
      encoder: W.
      bias: b.
      sparse: gradients flow through `at` alone, and only to the columns that it reads: for encoders of which k of m
        atoms are in use.

    Raises:
      ValueError: for inputs of another width than the encoder.

    Reference: Gao et al., Scaling and evaluating sparse autoencoders, 2024, arXiv 2406.04093.
    """
    if x.shape[-1] != encoder.shape[0]:
        raise ValueError(f"inputs of width {x.shape[-1]} do not fit a dictionary for width {encoder.shape[0]}: use the "
                         f"activations that it was made for")
    if not sparse:
        return of_pre(x @ encoder + bias)
    pre = jax.lax.stop_gradient(x @ encoder + bias)
    return Encoded(pre, lambda indices: values_at(x, encoder, bias, pre, indices))


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
