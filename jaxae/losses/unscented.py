"""Sigma points of Gaussian posteriors, and the penalties of the unscented autoencoder."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Real

from jaxae.collectives import draw

METHODS = ("random", "pairs", "mean_pairs", "largest", "smallest")


class SigmaPoints(NamedTuple):
    """Points whose weighted mean and covariance are those of a Gaussian."""

    points: Float[Array, "n p d"]  # p = 2d + 1: the mean, then + every column, then - every column
    weights: Float[Array, " p"]  # sum to one


def sigma_points(mean: Float[Array, "n d"], scale: Float[Array, "n ..."],
                 kappa: float = 1e-3) -> SigmaPoints:
    """The 2d + 1 points of the unscented transform of N(mean, L L^T).

    mean, mean + sqrt(d + kappa) L_:i and mean - sqrt(d + kappa) L_:i for the columns L_:i, with weights
    kappa / (d + kappa) and 1 / (2 (d + kappa)): their weighted mean and covariance are those of the Gaussian, so the
    weighted mean of any quadratic function is exact. (With rows in place of columns the covariance would be L^T L.)

    Args:
      mean: posterior means.
      scale: standard deviations `[n d]`, or Cholesky factors L `[n d d]`, lower triangular.
      kappa: above -d; near zero the mean has almost no weight. The points lie sqrt(d + kappa) standard deviations
        out, whatever the weights.

    Returns:
      `SigmaPoints`, `[n 2d+1 d]` and `[2d+1]`.

    Raises:
      ValueError: for a scale that does not fit the mean, or kappa <= -d.

    >>> sigma_points(jnp.zeros((1, 1)), jnp.full((1, 1), 2.0), kappa=3.0).points.ravel().tolist()
    [0.0, 4.0, -4.0]

    Reference: Julier and Uhlmann, 'Unscented filtering and nonlinear estimation', 2004; in an autoencoder: Janjos,
    Rosenbaum, Dolgov, Zollner, 'Unscented autoencoder', 2023, arXiv 2306.05256.
    """
    d = mean.shape[1]
    if d + kappa <= 0:
        raise ValueError(f"sigma points of {d} dimensions want kappa > -{d}; got {kappa}")
    steps = (d + kappa) ** 0.5 * _cholesky(mean, scale).swapaxes(1, 2)  # row i: column i of L
    centre = mean[:, None]
    weights = np.full(2 * d + 1, 0.5 / (d + kappa))
    weights[0] = kappa / (d + kappa)
    return SigmaPoints(jnp.concatenate([centre, centre + steps, centre - steps], 1), jnp.asarray(weights, mean.dtype))


def select_sigma(key: Array, points: Float[Array, "n p d"], std: Float[Array, "n d"], k: int,
                 method: str = "random", axis_name: str | None = None) -> Float[Array, "n k d"]:
    """k of the 2d + 1 sigma points of each example, drawn afresh or by the size of the posterior's axes.

    random      k different points, all equally likely.
    pairs       k / 2 different random pairs mean +- column.
    mean_pairs  the mean, and (k - 1) / 2 random pairs.
    largest     the pairs of the k // 2 largest standard deviations, and the mean where k is odd.
    smallest    the same of the smallest.

    The published code draws points and pairs with replacement; one point has the same law.

    Args:
      key: the same on every replica; unused by largest and smallest.
      points: from `sigma_points`, in its order.
      std: what ranks the axes: standard deviations, or the diagonal of L as in the published code.
      k: points to keep, at most 2d + 1.
      method: one of the above.
      axis_name: the mapped axis over which the batch is spread, for the draw.

    Returns:
      The chosen points `[n k d]`; the mean first where it belongs, then the plus halves of the pairs, then their
      minus halves.

    Raises:
      ValueError: for an unknown method, points that are not those of d dimensions, or a k that it cannot give.

    >>> points = sigma_points(jnp.zeros((1, 2)), jnp.array([[1.0, 2.0]]), kappa=2.0).points
    >>> select_sigma(jax.random.key(0), points, jnp.array([[1.0, 2.0]]), 2, "largest").tolist()
    [[[0.0, 4.0], [0.0, -4.0]]]

    Reference: Janjos et al., 2023, arXiv 2306.05256.
    """
    n, p, d = points.shape
    if method not in METHODS:
        raise ValueError(f"no selection '{method}' of sigma points: choose one of {', '.join(METHODS)}")
    if p != 2 * d + 1 or std.shape != (n, d):
        raise ValueError(f"select_sigma wants points [n 2d+1 d] and std [n d]; got {points.shape} and {std.shape}")
    parity = {"pairs": 0, "mean_pairs": 1}.get(method, k % 2)
    if not 1 <= k <= p or k % 2 != parity:
        raise ValueError(f"selection '{method}' of {p} points cannot give k={k}: choose 1 to {p}, even for pairs, odd "
                         "for mean_pairs")
    if method == "random":
        ranks = draw(jax.random.uniform, key, (n, p), axis_name)
        index = lax.top_k(ranks, k)[1]
    else:
        if method in ("largest", "smallest"):
            ranks = std if method == "largest" else -std
        else:
            ranks = draw(jax.random.uniform, key, (n, d), axis_name)
        first = 1 + lax.top_k(ranks, k // 2)[1]
        index = jnp.concatenate([jnp.zeros((n, parity), first.dtype), first, first + d], 1)
    return jnp.take_along_axis(points, index[..., None], axis=1)


def cholesky_from_correlations(log_std: Float[Array, "n d"],
                               correlations: Float[Array, "n r"]) -> Float[Array, "n d d"]:
    """Lower-triangular L of a covariance L L^T from what an encoder emits: L_ii = s_i, L_ij = r_ij s_i s_j for i > j.

    Positive diagonals make any such L a Cholesky factor. The r_ij shape the covariance but are not its correlations,
    and s_i^2 is a variance only where r_ij = 0 for all j.

    Args:
      log_std: log s_i.
      correlations: r_ij in [-1, 1], say a tanh, r = d (d - 1) / 2 of them: r_21, r_31, r_32, r_41, ...

    Returns:
      L `[n d d]`.

    Raises:
      ValueError: for a number of correlations that does not fit.

    >>> cholesky_from_correlations(jnp.log(jnp.array([[2.0, 3.0]])), jnp.array([[0.5]])).round(4).tolist()
    [[[2.0, 0.0], [3.0, 3.0]]]

    Reference: Janjos et al., 2023, arXiv 2306.05256 (published code).
    """
    d = log_std.shape[1]
    if correlations.shape != (log_std.shape[0], d * (d - 1) // 2):
        raise ValueError(f"{d} standard deviations want {d * (d - 1) // 2} correlations, d (d - 1) / 2, for each "
                         f"example; got {log_std.shape} and {correlations.shape}")
    std = jnp.exp(log_std)
    rows, columns = np.tril_indices(d, -1)
    below = correlations * std[:, rows] * std[:, columns]
    return jax.vmap(jnp.diag)(std).at[:, rows, columns].set(below)


def sigma_reconstruction(x: Float[Array, "n ..."], decoded: Float[Array, "n k ..."],
                         variance: Real[ArrayLike, ""] = 0.0) -> Float[Array, " n"]:
    """Squared error of the mean of decoded sigma points, plus a multiple of their spread.

    |x - m|^2 + variance (1/k) sum_i |D_i - m|^2 with m = (1/k) sum_i D_i, all weights equal. `variance` 0 is the
    unscented autoencoder's loss; 1 is the squared error of the k decoded points one by one, averaged.

    Args:
      x: data.
      decoded: decoder's outputs at k points of each example.
      variance: weight of the spread.

    Returns:
      Squared error of each example `[n]`, summed over the data dimensions.

    Raises:
      ValueError: for shapes that do not fit.

    >>> sigma_reconstruction(jnp.zeros((1, 1)), jnp.array([[[3.0], [1.0]]]), 1.0).tolist()  # (9 + 1) / 2
    [5.0]

    Reference: Janjos et al., 2023, arXiv 2306.05256.
    """
    if decoded.ndim != x.ndim + 1 or decoded.shape[:1] + decoded.shape[2:] != x.shape:
        raise ValueError(f"decoded points want [n k ...] for data [n ...]; got {decoded.shape} and {x.shape}")
    middle = decoded.mean(1)
    error = jnp.square(x - middle).reshape(x.shape[0], -1).sum(1)
    spread = jnp.square(decoded - middle[:, None]).mean(1).reshape(x.shape[0], -1).sum(1)
    return error + variance * spread


def wasserstein_to_standard(mean: Float[Array, "n d"], scale: Float[Array, "n ..."],
                            squared: bool = True) -> Float[Array, " n"]:
    """|mean|^2 + |L - I|_F^2: the squared 2-Wasserstein distance from N(mean, L L^T) to N(0, I), or a bound on it.

    Exact for standard deviations. For a Cholesky factor it is no less than the distance, in which the symmetric root
    of the covariance stands in place of L.

    Args:
      mean: posterior means.
      scale: standard deviations `[n d]` or Cholesky factors `[n d d]`.
      squared: False gives |mean| + |L - I|_F, the regularizer of the published code.

    Returns:
      Of each example `[n]`, summed over the latent dimensions.

    Raises:
      ValueError: for a scale that does not fit the mean.

    >>> wasserstein_to_standard(jnp.full((1, 2), 3.0), jnp.full((1, 2), 2.0)).tolist()
    [20.0]

    Reference: Janjos et al., 2023, arXiv 2306.05256.
    """
    _check(mean, scale)
    offset = scale - (1.0 if scale.ndim == 2 else jnp.eye(mean.shape[1]))
    parts = jnp.square(mean).sum(1), jnp.square(offset).reshape(mean.shape[0], -1).sum(1)
    return sum(parts) if squared else sum(_root(part) for part in parts)


def scaled_gradient_penalty(decode: Callable[[Array], Array], mean: Float[Array, "n d"],
                            scale: Float[Array, "n ..."],
                            norm: str = "jacobian", key: Array | None = None, probes: int = 1,
                            squared: bool = True, ceiling: float = 100.0,
                            axis_name: str | None = None) -> Float[Array, " n"]:
    """lambda_max(L L^T) |J|^2 at the posterior's mean: how far decoding carries the posterior's noise.

    For J the decoder's Jacobian `[m d]` it bounds the spread tr(J L L^T J^T) of decoded noise to first order.

    jacobian  |J|_F^2 = sum_ij J_ij^2, by Hutchinson's estimate, unbiased: the mean of |J e|^2 over `probes` draws of
              e in {-1, 1}^d; without a key exactly, by d forward derivatives.
    sum       |J^T 1|^2, the gradient of the summed output: what the published code computes, with squared=False. Not a
              norm of J: outputs that move in opposite directions cancel.

    Args:
      decode: `[n d] -> [n ...]`, example by example.
      mean: posterior means, where the decoder is differentiated.
      scale: standard deviations `[n d]` or Cholesky factors `[n d d]`. The penalty's gradient reaches it too.
      norm: one of the above.
      key: for Hutchinson's draws, the same on every replica; None for the exact norm.
      probes: number of draws.
      squared: False takes the norm without its square.
      ceiling: largest lambda_max that counts; above it no gradient reaches the scale.
      axis_name: the mapped axis over which the batch is spread, for the draws.

    Returns:
      Penalty of each example `[n]`, summed over data dimensions.

    Raises:
      ValueError: for an unknown norm, fewer than one probe, or a scale that does not fit the mean.

    >>> decode = lambda z: z @ jnp.array([[1.0, -1.0], [0.0, 2.0]])
    >>> scaled_gradient_penalty(decode, jnp.zeros((1, 2)), jnp.array([[0.5, 1.0]])).tolist()  # 1 + 1 + 4
    [6.0]

    Reference: Janjos et al., 2023, arXiv 2306.05256; the estimate: Hutchinson, 'A stochastic estimator of the trace
    of the influence matrix', 1989.
    """
    _check(mean, scale)
    if norm not in ("sum", "jacobian") or probes < 1:
        raise ValueError(f"gradient penalty: norm must be 'sum' or 'jacobian' and probes >= 1; got {norm!r}, {probes}")
    n, d = mean.shape
    if norm == "sum":
        size = jnp.square(jax.grad(lambda z: decode(z).astype(jnp.float32).sum())(mean)).sum(1)
    else:
        if key is None:
            directions, count = jnp.broadcast_to(jnp.eye(d, dtype=mean.dtype)[:, None], (d, n, d)), 1
        else:  # batch axis first, so that replicas cut the draw of one device
            signs = draw(jax.random.rademacher, key, (n, probes, d), axis_name)
            directions, count = signs.swapaxes(0, 1).astype(mean.dtype), probes

        def moved(total, direction):  # one at a time: memory is that of one derivative
            change = jax.jvp(decode, (mean,), (direction,))[1].astype(jnp.float32)
            return total + jnp.square(change).reshape(n, -1).sum(1), None

        size = lax.scan(moved, jnp.zeros_like(mean[:, 0], jnp.float32), directions)[0] / count
    return jnp.minimum(_largest_variance(scale), ceiling) * (size if squared else _root(size))


def _largest_variance(scale):
    if scale.ndim == 2:
        return jnp.square(scale).max(1)
    return jnp.linalg.eigvalsh(jnp.einsum("nij,nkj->nik", scale, scale, precision=lax.Precision.HIGHEST))[:, -1]


def _root(x):
    """Square root with gradient 0 at 0."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1.0)), 0.0)


def _cholesky(mean, scale):
    _check(mean, scale)
    return jax.vmap(jnp.diag)(scale) if scale.ndim == 2 else scale


def _check(mean, scale):
    n, d = mean.shape
    if scale.shape not in ((n, d), (n, d, d)):
        raise ValueError(f"a scale for means {mean.shape} is std {(n, d)} or Cholesky factors {(n, d, d)}; "
                         f"got {scale.shape}")
