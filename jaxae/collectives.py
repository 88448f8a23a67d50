"""Reductions and random draws over the global batch, on one device or over a mapped axis.

Under `jit` with sharded arrays a mean over the batch is global by construction and `axis_name` stays None.
Inside `pmap` or `shard_map` each replica sees its slice of the batch, and these functions restore the
global number over `axis_name`. Both give what one device gives.
"""

from collections.abc import Callable, Sequence

import jax
from jax import lax
from jaxtyping import Array, PyTree, Shaped


def gather(x: Shaped[Array, "n ..."], axis_name: str | None = None) -> Shaped[Array, "m ..."]:
    """The global batch `[m ...]` from each replica's `[n ...]`, in replica order; `x` itself without an axis.

    Differentiable: the gradient of a loss of the gathered batch, averaged over replicas as data-parallel
    training does, is the gradient on one device.
    """
    return x if axis_name is None else lax.all_gather(x, axis_name, axis=0, tiled=True)


def mean(tree: PyTree, axis_name: str | None = None) -> PyTree:
    """Mean over replicas of every leaf; the tree itself without an axis."""
    return tree if axis_name is None else lax.pmean(tree, axis_name)


def total(tree: PyTree, axis_name: str | None = None) -> PyTree:
    """Sum over replicas of every leaf; the tree itself without an axis."""
    return tree if axis_name is None else lax.psum(tree, axis_name)


def take_slice(x: Shaped[Array, "m ..."], axis_name: str | None = None) -> Shaped[Array, "n ..."]:
    """This replica's slice of a global batch: the inverse of `gather`."""
    if axis_name is None:
        return x
    n = x.shape[0] // lax.axis_size(axis_name)
    return lax.dynamic_slice_in_dim(x, lax.axis_index(axis_name) * n, n)


def draw(sampler: Callable[..., Array], key: Array, shape: Sequence[int],
         axis_name: str | None = None) -> Array:
    """Noise for this replica's batch, cut from the draw for the global batch.

    One key gives one global draw however the batch is spread, so 1 device and N devices see the same noise.

    Args:
      sampler: `sampler(key, shape) -> array`, such as `jax.random.normal`.
      key: one key, the same on every replica.
      shape: shape for this replica, batch axis first.
      axis_name: the mapped axis, or None under plain `jit`.

    Returns:
      An array of `shape`.
    """
    if axis_name is None:
        return sampler(key, tuple(shape))
    n, *rest = shape
    return take_slice(sampler(key, (n * lax.axis_size(axis_name), *rest)), axis_name)


def split_keys(key: Array, names: Sequence[str]) -> dict[str, Array]:
    """One key for each use, `keys[name]`, independent of one another; equal keys and names give equal ones."""
    return dict(zip(names, jax.random.split(key, len(names)), strict=True))
