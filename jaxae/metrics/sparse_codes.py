"""Sparse codes and what they reconstruct: unexplained variance, active latents, firing frequencies; streamed too."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Real

from jaxae.collectives import mean, total


class CodeStatistics(NamedTuple):
    """Running sums over examples, for `summarize_codes`."""

    count: Float[Array, ""]
    mean: Float[Array, " d"]           # of x
    scatter: Float[Array, ""]          # sum of |x - mean|^2
    error_mean: Float[Array, " d"]     # of x - xhat
    error_scatter: Float[Array, ""]    # sum of |x - xhat - its mean|^2
    fired: Int[Array, " m"]            # examples in which each latent is active


class CodeSummary(NamedTuple):
    """What `CodeStatistics` say of an autoencoder."""

    fvu: Float[Array, ""]
    explained_variance: Float[Array, ""]
    l0: Float[Array, ""]
    alive: Float[Array, ""]            # share of latents that fired at all
    density: Float[Array, " m"]


def fvu(x: Float[Array, "n d"], xhat: Float[Array, "p e"], axis_name: str | None = None) -> Float[Array, ""]:
    """Fraction of variance unexplained: sum |x - xhat|^2 / sum |x - mean x|^2.

    Args:
      x: data.
      xhat: reconstructions.
      axis_name: the mapped axis over which the examples are spread.

    Returns:
      A scalar: 0 when exact, 1 for reconstructing everything by the mean.

    Raises:
      ValueError: for shapes that differ.
    """
    _check(x, xhat)
    x, xhat = x.astype(jnp.float32), xhat.astype(jnp.float32)
    centred = x - mean(x.mean(0), axis_name)
    return total(jnp.square(x - xhat).sum(), axis_name) / total(jnp.square(centred).sum(), axis_name)


def explained_variance(x: Float[Array, "n d"], xhat: Float[Array, "p e"],
                       axis_name: str | None = None) -> Float[Array, ""]:
    """1 - sum_i Var(x_i - xhat_i) / sum_i Var(x_i): like 1 - `fvu`, but a constant error costs nothing."""
    _check(x, xhat)
    x, error = x.astype(jnp.float32), (x - xhat).astype(jnp.float32)
    x, error = (jnp.square(v - mean(v.mean(0), axis_name)).sum() for v in (x, error))
    return 1.0 - total(error, axis_name) / total(x, axis_name)


def normalised_mse(x: Float[Array, "n d"], xhat: Float[Array, "p e"]) -> Float[Array, " n"]:
    """|x - xhat|^2 / |x|^2 of each example `[n]`; the published reference of 2406.04093 averages it over examples."""
    _check(x, xhat)
    x = x.astype(jnp.float32)
    return jnp.square(x - xhat).sum(1) / jnp.square(x).sum(1)


def l0(codes: Real[Array, "n m"], threshold: float = 0.0) -> Int[Array, " n"]:
    """Active latents of each example, `[n]` integers: those with |z| > threshold, of codes z `[n m]`."""
    return (jnp.abs(codes) > threshold).sum(1)


def density(codes: Real[Array, "n m"], threshold: float = 0.0, axis_name: str | None = None) -> Float[Array, " m"]:
    """Share of the examples in which each latent is active, |z| > threshold: `[m]` in [0, 1].

    Args:
      codes: z.
      threshold: activations up to it count as none.
      axis_name: the mapped axis: the share is that of the global batch.
    """
    return mean((jnp.abs(codes) > threshold).mean(0, dtype=jnp.float32), axis_name)


def alive_fraction(density: Float[Array, " m"], least: float = 0.0) -> Float[Array, ""]:
    """Share of the latents that are active in more than `least` of the examples; the dead are the rest."""
    return (density > least).mean(dtype=jnp.float32)


def density_histogram(density: Float[Array, " m"], bins: int = 20,
                      low: float = -6.0) -> tuple[Int[Array, " {bins}"], Float[Array, " {bins}+1"]]:
    """Histogram of log10 of the firing frequencies of the latents that fire.

    Args:
      density: share of the examples in which each is active.
      bins: of equal width.
      low: log10 of the least frequency; rarer ones count in the first bin.

    Returns:
      Counts, which sum to the number of latents alive, and edges from `low` to 0.

    >>> import jax.numpy as jnp
    >>> density_histogram(jnp.array([0.0, 1e-4, 0.5, 1.0]), bins=3)[0].tolist()
    [0, 1, 2]
    """
    edges = jnp.linspace(low, 0.0, bins + 1)
    place = jnp.floor((jnp.log10(jnp.maximum(density, 1e-30)) - low) / -low * bins + 1e-5).astype(jnp.int32)
    place = jnp.where(density > 0, jnp.clip(place, 0, bins - 1), bins)
    return jnp.zeros(bins + 1, jnp.int32).at[place].add(1)[:bins], edges


def support_changes(codes: Real[Array, "n m"], again: Real[Array, "n m"]) -> Bool[Array, " n"]:
    """Whether other latents are active when the reconstruction is encoded again; its mean is the round-trip error.

    Reference: Song et al., 'Mechanistic interpretability should prioritize feature consistency in SAEs', 2025, arXiv
    2505.20254.
    """
    return ((codes != 0) != (again != 0)).any(1)


def top_example_overlap(a: Float[Array, "n k"], b: Float[Array, "n k"], top: int = 20) -> Float[Array, " k"]:
    """Jaccard index of the examples on which two latents are most active: whether matched latents mean the same.

    It needs no explanations: |A and B| / |A or B|, with A the `top` examples of the largest a, without those where it
    is not active, and B likewise.

    Args:
      a: codes of some latents.
      b: codes of their partners in another dictionary, column by column.
      top: examples of each.

    Returns:
      In [0, 1], for each pair; 0 where neither is ever active.

    Raises:
      ValueError: for codes of different shapes or more examples than there are.

    Reference: in the place of similar explanations in Song et al., 2025, arXiv 2505.20254.
    """
    if a.shape != b.shape or not 1 <= top <= a.shape[0]:
        raise ValueError(f"top_example_overlap wants two [n k] of one shape and 1 <= top <= n; got {a.shape}, "
                         f"{b.shape}, top={top}")

    def chosen(codes):
        value, place = lax.top_k(codes.T, top)
        rows = jnp.arange(codes.shape[1])[:, None]
        return jnp.zeros(codes.T.shape, bool).at[rows, place].set(value > 0)

    a, b = chosen(a), chosen(b)
    return (a & b).sum(1) / jnp.maximum((a | b).sum(1), 1)


def latent_zscore(codes: Float[Array, "n m"]) -> Float[Array, " m"]:
    """(max - mean) / std of each latent over the examples: large for one that is selective; 0 for a constant one.

    Reference: Chen et al., 'Taming polysemanticity in LLMs', 2025, arXiv 2506.14002.
    """
    codes = codes.astype(jnp.float32)
    std = codes.std(0)
    return jnp.where(std > 0, (codes.max(0) - codes.mean(0)) / jnp.where(std > 0, std, 1.0), 0.0)


def init_code_statistics(dim: int, latents: int) -> CodeStatistics:
    """Statistics of no examples, for `update_code_statistics`: of x with `dim` coordinates and `latents` codes."""
    zero, vector = jnp.zeros(()), jnp.zeros(dim)
    return CodeStatistics(zero, vector, zero, vector, zero, jnp.zeros(latents, jnp.int32))


def update_code_statistics(statistics: CodeStatistics, x: Float[Array, "n d"], xhat: Float[Array, "p e"],
                           codes: Real[Array, "n m"], mask: Bool[Array, " n"] | None = None,
                           axis_name: str | None = None) -> CodeStatistics:
    """The statistics with one more batch.

    Args:
      statistics: so far.
      x: data.
      xhat: reconstructions.
      codes: their codes.
      mask: False for padding that does not count.
      axis_name: the mapped axis; the statistics are then of the global batch, equal on every replica.

    Returns:
      The new statistics.
    """
    _check(x, xhat)
    weight = jnp.ones(x.shape[0]) if mask is None else mask.astype(jnp.float32)
    count = total(weight.sum(), axis_name)
    parts = []
    for v in (x.astype(jnp.float32), (x - xhat).astype(jnp.float32)):
        centre = total(weight @ v, axis_name) / jnp.maximum(count, 1.0)
        parts += [centre, total(weight @ jnp.square(v - centre).sum(1), axis_name)]
    fired = total(((codes != 0) & (weight > 0)[:, None]).sum(0, dtype=jnp.int32), axis_name)
    return merge_code_statistics(statistics, CodeStatistics(count, *parts, fired))


def merge_code_statistics(a: CodeStatistics, b: CodeStatistics) -> CodeStatistics:
    """The statistics of the union of two sets, without cancellation (Chan, Golub, LeVeque, 1979)."""
    count = a.count + b.count
    share = b.count / jnp.maximum(count, 1.0)

    def pooled(mean_a, scatter_a, mean_b, scatter_b):
        delta = mean_b - mean_a
        return mean_a + delta * share, scatter_a + scatter_b + jnp.square(delta).sum() * a.count * share

    return CodeStatistics(count, *pooled(a.mean, a.scatter, b.mean, b.scatter),
                          *pooled(a.error_mean, a.error_scatter, b.error_mean, b.error_scatter), a.fired + b.fired)


def summarize_codes(statistics: CodeStatistics) -> CodeSummary:
    """`fvu`, `explained_variance`, mean `l0`, `alive_fraction` and `density` of all examples that were counted."""
    s = statistics
    share = s.fired / jnp.maximum(s.count, 1.0)
    squares = s.error_scatter + s.count * jnp.square(s.error_mean).sum()
    return CodeSummary(squares / s.scatter, 1.0 - s.error_scatter / s.scatter, share.sum(), alive_fraction(share),
                       share)


def _check(x, xhat):
    if x.shape != xhat.shape:
        raise ValueError(f"x and xhat must be of one shape [n d]; got {x.shape} and {xhat.shape}")
