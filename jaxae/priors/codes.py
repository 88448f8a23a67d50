"""What priors on integer codes have in common: checks, log-probabilities, the choice of a code."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, Int


def check_codes(codes: Array, shape: tuple[int, ...]) -> Array:
    """The codes, or a ValueError where they are not integers `[n, *shape]`."""
    if codes.shape[1:] != shape or not jnp.issubdtype(codes.dtype, jnp.integer):
        raise ValueError(f"expected integer codes [n, {', '.join(map(str, shape))}]; got {codes.dtype} {codes.shape}.")
    return codes


def check_shape(name: str, shape: tuple[int, ...], axes: tuple[int, ...], num_codes: int, num_classes: int,
                label_dropout: float, prefix: int = 0) -> tuple[int, ...]:
    """The shape as a tuple; ValueError where a prior on codes cannot be made with these arguments."""
    shape = tuple(shape)
    if len(shape) not in axes or min(shape) < 1:
        raise ValueError(f"{name} needs the shape of one code map, of {axes[0]} to {axes[-1]} axes; got {shape}.")
    if num_codes < 1:
        raise ValueError(f"{name} needs one code or more; got {num_codes}.")
    if label_dropout and not num_classes or not 0 <= label_dropout < 1:
        raise ValueError(f"{name}: label_dropout={label_dropout} must be in [0, 1), and 0 without classes.")
    if not 0 <= prefix < shape[0]:
        raise ValueError(f"prefix={prefix} must leave at least one row of a map of shape {shape} to model.")
    return shape


def code_log_prob(logits: Float[Array, "*n k"], codes: Int[Array, "*n"]) -> Float[Array, "*n"]:
    """log softmax(logits)[code], NaN for a code outside `[0, k)`."""
    # optax counts a negative code from the end of the codebook, so it needs its own check.
    nats = -optax.losses.softmax_cross_entropy_with_integer_labels(logits, codes)
    return jnp.where((codes >= 0) & (codes < logits.shape[-1]), nats, jnp.nan)


def codebooks_of(shape: tuple[int, ...], axis: int | None = None) -> np.ndarray:
    """Which codebook each code of a flat map of this shape is from: int32 `[t]`, 0 .. their number - 1.

    The same integer means another vector in each of the codebooks of residual and product quantizers.

    Args:
      shape: of one code map.
      axis: along which codebooks differ; None takes the last of three axes, and one codebook for a map of fewer.

    Raises:
      ValueError: for an axis that the map does not have.

    >>> codebooks_of((2, 3)).tolist(), codebooks_of((2, 3), axis=0).tolist(), codebooks_of((1, 2, 3)).tolist()
    ([0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2])
    """
    if axis is None and len(shape) < 3:
        return np.zeros(np.prod(shape, dtype=int), np.int32)
    axis = 2 if axis is None else axis
    if not 0 <= axis < len(shape):
        raise ValueError(f"codebook_axis={axis} must be an axis of a code map of shape {tuple(shape)}.")
    return np.indices(shape)[axis].reshape(-1).astype(np.int32)


def beginning(given: Array | None, n: int, shape: tuple[int, ...], prefix: int = 0) -> tuple[Array, Array]:
    """What samples must begin with, `[n *shape]` with anything after it, and the number of rows that it fills.

    Args:
      given: integers `[n r *shape[1:]]` with r up to `shape[0]`, or None for nothing.
      n: number of samples.
      shape: of one code map.
      prefix: rows that must be given.

    Raises:
      ValueError: for another shape or type, or fewer rows.
    """
    if prefix and (given is None or given.shape[1] < prefix):
        raise ValueError(f"a prior with prefix={prefix} samples what follows: give it that many rows, given=...")
    if given is None:
        return jnp.zeros((n, *shape), jnp.int32), jnp.int32(0)
    fits = given.ndim == 1 + len(shape) and given.shape[0] == n and given.shape[2:] == tuple(shape[1:])
    if not fits or given.shape[1] > shape[0] or not jnp.issubdtype(given.dtype, jnp.integer):
        raise ValueError(f"given must hold the first rows of {n} maps of shape {tuple(shape)}, as integers; got "
                         f"{given.dtype} {given.shape}.")
    rows = given.shape[1]
    padding = ((0, 0), (0, shape[0] - rows)) + ((0, 0),) * (len(shape) - 1)
    return jnp.pad(given, padding).astype(jnp.int32), jnp.int32(rows)


def choose(key: Array, logits: Array, temperature: Array, top_k: int | None = None) -> Array:
    """Codes from `softmax(logits / temperature)` of the `top_k` largest logits; the likeliest at temperature 0."""
    if top_k is not None and top_k < logits.shape[-1]:
        logits = jnp.where(logits < lax.top_k(logits, top_k)[0][..., -1:], -jnp.inf, logits)
    # The Gumbel-max trick: exact for temperature > 0 and greedy at 0.
    return jnp.argmax(logits + temperature * jax.random.gumbel(key, logits.shape), -1).astype(jnp.int32)
