"""Codes at test time otherwise than in training: by one threshold, or with better values on the same atoms."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae import collectives
from jaxae.sae.codes import Codes
from jaxae.sae.sparsifiers import kth_largest


def threshold_at(pre: Float[Array, "n m"], l0: float | Float[Array, ""],
                 axis_name: str | None = None) -> Float[Array, ""]:
    """The threshold above which so many pre-activations of an example are, on average over the examples.

    A model that was trained to take k atoms of each example can take `above(pre, threshold)` afterwards: as many on
    average, and more where more are large.

    Args:
      pre: pre-activations of many examples.
      l0: active atoms of an example, on average; at least 1 / n.
      axis_name: the mapped axis of the examples.

    Returns:
      A scalar for `above`: the largest pre-activation that is left out, 0 where fewer are positive.

    Reference: Gao et al., Scaling and evaluating sparse autoencoders, 2024, arXiv 2406.04093.

    >>> import jax.numpy as jnp
    >>> float(threshold_at(jnp.array([[3.0, 2.0, -1.0], [1.0, 0.5, 0.2]]), 1.5))
    0.5
    """
    active = jax.nn.relu(pre)
    rows = collectives.total(jnp.float32(pre.shape[0]), axis_name)
    return kth_largest(active, jnp.round(rows * l0).astype(jnp.int32) + 1, axis_name)


def refined(y: Float[Array, "n o"], codes: Codes, atoms: Float[Array, "m o"], sweeps: int = 30) -> Codes:
    r"""The codes on the same atoms that reconstruct best: $\min_{z \ge 0} |y - z D|^2$ where codes are positive.

    How much larger they are says how far the encoder shrinks. By coordinate descent: no sweep raises the error.

    Args:
      y: targets, without the decoder's offset.
      codes: positive values choose the atoms; others stay zero.
      atoms: rows of D.
      sweeps: over all coordinates.

    Reference: Gao et al. 2024, arXiv 2406.04093 (refinement of activations).
    """
    if codes.indices is None:
        gram, near = atoms @ atoms.T, y @ atoms.T
        return codes._replace(values=_descend(codes.values, gram, near, sweeps))

    def one(row):
        values, indices, target = row
        own = atoms[indices]
        return _descend(values[None], own @ own.T, (own @ target)[None], sweeps)[0]

    return codes._replace(values=jax.lax.map(one, (codes.values, codes.indices, y), batch_size=64))


def _descend(z, gram, near, sweeps):
    chosen, width = z > 0, gram.shape[0]
    squares = jnp.maximum(jnp.diagonal(gram), 1e-12)

    def coordinate(i, z):
        j = i % width
        value = jax.nn.relu(z[:, j] + (near[:, j] - z @ gram[:, j]) / squares[j])
        return z.at[:, j].set(jnp.where(chosen[:, j], value, 0.0))

    return jax.lax.fori_loop(0, sweeps * width, coordinate, jnp.where(chosen, z, 0.0))


__all__ = ["refined", "threshold_at"]
