"""What solvers of entropic transport share: rows in blocks, checked arguments, and values with known gradients."""

import jax
import jax.numpy as jnp
from jax import lax

from jaxae.losses.coupling import marginal_weights, positive_epsilon


@jax.custom_jvp
def with_gradient(value, gradients, arguments):
    """`value`, whose derivative by each of `arguments` is its one of `gradients`; jit drops them where unused."""
    return value


@with_gradient.defjvp
def _with_gradient_jvp(primals, tangents):
    moves = zip(primals[1], tangents[2], strict=True)
    return primals[0], sum(jnp.vdot(g, move).astype(primals[0].dtype) for g, move in moves)


def over_rows(f, carry, rows, block):
    """`f(carry, rows) -> (carry, outputs)` for all rows at once, or over blocks of them."""
    if block is None:
        return f(carry, rows)
    carry, out = lax.scan(f, carry, jax.tree.map(lambda z: z.reshape(-1, block, *z.shape[1:]), rows))
    return carry, jax.tree.map(lambda z: z.reshape(-1, *z.shape[2:]), out)


def in_blocks(x, a, block):
    """Points and weights filled up to whole blocks by copies of the last point that weigh nothing."""
    if block is None or block >= x.shape[0]:
        return x, a, None
    if block < 1:
        raise ValueError(f"block={block} rows at a time: give at least one")
    more = -x.shape[0] % block
    return jnp.pad(x, [(0, more)] + [(0, 0)] * (x.ndim - 1), mode="edge"), jnp.pad(a, (0, more)), block


def checked_arguments(n, m, a, b, v, epsilon, max_iterations):
    """Weights and epsilon as arrays. Raises ValueError for numbers that make no problem."""
    if max_iterations < 1:
        raise ValueError(f"max_iterations={max_iterations}: at least one step is needed")
    a, b = marginal_weights(a, n, "a"), marginal_weights(b, m, "b")
    if v is not None and v.shape != (m,):
        raise ValueError(f"v starts from a potential of the {m} columns; got shape {v.shape}")
    return a, b, jnp.asarray(positive_epsilon(epsilon), a.dtype)
