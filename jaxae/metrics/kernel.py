"""Kernel distance between two sets of features: the unbiased squared MMD of a polynomial kernel."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxae.collectives import gather


class KernelDistance(NamedTuple):
    """Kernel distance over random subsets."""

    mean: Float[Array, ""]
    std: Float[Array, ""]  # over the subsets, divided by their number (numpy's default)


def kernel_distance(features_a: Float[Array, "n d"], features_b: Float[Array, "m e"], degree: int = 3,
                    block: int = 1024, axis_name: str | None = None) -> Float[Array, ""]:
    """Unbiased squared MMD under k(x, y) = (x.y / d + 1)^degree (KID, on Inception features).

    sum_{i != j} k(a_i, a_j) / (n (n - 1)) + the same of b - 2 mean_{ij} k(a_i, b_j). Being unbiased it is
    negative at times, and its expectation does not depend on n and m, as the Frechet distance's does.

    A kernel matrix is made `block` rows at a time. A constant, which the three terms cancel, is subtracted
    from the kernel, so that float32 sums stay small.

    Args:
      features_a: at least two vectors.
      features_b: at least two vectors of the same dimension.
      degree: of the polynomial; 3 is the published one.
      block: rows of a kernel matrix in memory at once.
      axis_name: the mapped axis over which both batches are spread.

    Returns:
      The distance, a scalar.

    Raises:
      ValueError: for fewer than two vectors, or dimensions that differ.

    Reference: Binkowski, Sutherland, Arbel, Gretton, 'Demystifying MMD GANs', 2018, arXiv 1801.01401.
    """
    a, b = gather(features_a, axis_name), gather(features_b, axis_name)
    _check(a, b, 2)
    return _squared_mmd(a.astype(jnp.float32), b.astype(jnp.float32), degree, block)


def kernel_distance_subsets(key: Array, features_a: Float[Array, "n d"], features_b: Float[Array, "m e"],
                            subsets: int = 100, size: int = 1000, degree: int = 3, block: int = 1024,
                            axis_name: str | None = None) -> KernelDistance:
    """Mean and standard deviation of `kernel_distance` over random subsets, as papers report it.

    Args:
      key: draws the subsets, without replacement within one; the same on every replica.
      features_a: at least `size` vectors.
      features_b: at least `size` vectors of the same dimension.
      subsets: number of subsets.
      size: vectors of a subset from each side.
      degree: of the polynomial.
      block: rows of a kernel matrix in memory at once.
      axis_name: the mapped axis over which both batches are spread.

    Returns:
      A `KernelDistance`.

    Raises:
      ValueError: for sets smaller than `size`, or dimensions that differ.
    """
    a, b = gather(features_a, axis_name), gather(features_b, axis_name)
    _check(a, b, size)
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)

    def one(key):
        key_a, key_b = jax.random.split(key)
        chosen_a = a[jax.random.choice(key_a, a.shape[0], (size,), replace=False)]
        chosen_b = b[jax.random.choice(key_b, b.shape[0], (size,), replace=False)]
        return _squared_mmd(chosen_a, chosen_b, degree, block)

    distances = lax.map(one, jax.random.split(key, subsets))
    return KernelDistance(distances.mean(), distances.std())


def _check(a, b, size):
    if min(a.shape[0], b.shape[0]) < size or size < 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"the kernel distance wants two sets of at least {max(size, 2)} vectors of one "
                         f"dimension; got {a.shape} and {b.shape}: give more vectors or smaller subsets")


def _squared_mmd(a, b, degree, block):
    n, m, d = a.shape[0], b.shape[0], a.shape[1]
    constant = (a.mean(0) @ b.mean(0) / d + 1.0) ** degree

    def kernel(dot):
        return (dot / d + 1.0) ** degree - constant

    def off_diagonal(x):
        return _block_sum(kernel, x, x, block) - kernel(jnp.square(x).sum(-1)).sum()

    cross = _block_sum(kernel, a, b, block)
    return off_diagonal(a) / (n * (n - 1)) + off_diagonal(b) / (m * (m - 1)) - 2.0 * cross / (n * m)


def _block_sum(kernel, x, y, block):
    """sum_ij kernel(x_i . y_j), with at most [block m] entries at once."""

    def rows_sum(rows):
        return kernel(jnp.matmul(rows, y.T, precision=lax.Precision.HIGHEST)).sum()

    whole = x.shape[0] - x.shape[0] % block
    sums = rows_sum(x[whole:]) if whole < x.shape[0] else jnp.zeros(())
    if whole:
        sums += lax.map(rows_sum, x[:whole].reshape(-1, block, x.shape[1])).sum()
    return sums
