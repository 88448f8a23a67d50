"""What a set of latents says of a model: active units, the aggregate posterior, clusters, intrinsic dimension."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Int, Integer

from jaxae.collectives import gather, mean, total
from jaxae.distributions import normal_log_prob
from jaxae.metrics.codes import code_counts


def active_units(means: Float[ArrayLike, "n d"], threshold: float = 1e-2,
                 axis_name: str | None = None) -> Int[Array, ""]:
    """How many latent units the encoder uses: those with Var_x(E_q[z_j | x]) > threshold.

    Args:
      means: posterior means of a data set.
      threshold: on the variance.
      axis_name: the mapped axis over which the examples are spread.

    Returns:
      Count in [0, d], int32.

    Reference: Burda, Grosse, Salakhutdinov, 'Importance weighted autoencoders', 2016, arXiv 1509.00519.
    """
    means = jnp.asarray(means, jnp.float32)
    centre = mean(means.mean(0), axis_name)
    return (mean(jnp.square(means - centre).mean(0), axis_name) > threshold).sum()


def aggregate_logdet(z: Float[ArrayLike, "n d"], axis_name: str | None = None) -> Float[Array, ""]:
    """log det of the sample covariance (n - 1) of codes, in nats: 0 if they are as spread as N(0, I).

    From the QR factors of the centred codes, since in float32 a covariance loses its small eigenvalues.

    Args:
      z: codes drawn from the posteriors of a data set, more than there are dimensions.
      axis_name: the mapped axis over which the codes are spread.

    Returns:
      Nats, a scalar; very negative, or -inf, if the codes lie in a hyperplane.

    Raises:
      ValueError: for n <= d, where the covariance is singular whatever the codes are.

    Reference: Zhao, Song, Ermon, 'InfoVAE', 2017, arXiv 1706.02262.
    """
    z = gather(jnp.asarray(z, jnp.float32), axis_name)
    n, d = z.shape
    if n <= d:
        raise ValueError(f"the covariance of {n} codes in {d} dimensions is singular: give more than {d}")
    factor = jnp.linalg.qr(z - z.mean(0), mode="r")
    return 2.0 * jnp.log(jnp.abs(jnp.diagonal(factor))).sum() - d * math.log(n - 1)


def latent_mutual_information(z: Float[ArrayLike, "n d"], means: Float[ArrayLike, "m e"],
                              log_std: Float[ArrayLike, "o f"], chunk: int = 32,
                              axis_name: str | None = None) -> Float[Array, ""]:
    """I_q(x; z) = mean_i (log q(z_i | x_i) - log q(z_i)) of Gaussian posteriors, q(z) = mean_j q(z | x_j), in nats.

    It is the part of the KL term that tells examples apart: mean KL(q(z | x) || p) = I_q + KL(q(z) || p). The
    examples given are taken for the whole data set, so the estimate is at most log n, and far below the truth where
    that exceeds log n: then no estimate from n examples can see it.

    Args:
      z: a draw from each posterior.
      means: of the posteriors.
      log_std: of the posteriors.
      chunk: rows of the n^2 densities in memory at once.
      axis_name: the mapped axis over which the examples are spread.

    Returns:
      Nats, a scalar.

    Raises:
      ValueError: for shapes that differ.

    >>> import jax.numpy as jnp
    >>> z = jnp.array([[-50.0], [50.0]])
    >>> f'{latent_mutual_information(z, z, jnp.zeros((2, 1))):.4f}'  # posteriors that do not overlap: log 2
    '0.6931'

    Reference: Hoffman and Johnson, 'ELBO surgery', NeurIPS workshop on approximate inference, 2016.
    """
    z, means, log_std = (jnp.asarray(a, jnp.float32) for a in (z, means, log_std))
    if not z.shape == means.shape == log_std.shape:
        raise ValueError("latent_mutual_information wants z, means and log_std of one shape [n d]; got "
                         f"{z.shape}, {means.shape}, {log_std.shape}")
    all_means, all_log_std = gather(means, axis_name), gather(log_std, axis_name)

    @jax.checkpoint  # or the gradient would keep n^2 d numbers
    def pointwise(row):
        code, *own = row
        marginal = jax.nn.logsumexp(normal_log_prob(code, all_means, all_log_std).sum(-1))
        return normal_log_prob(code, *own).sum(-1) - marginal + math.log(all_means.shape[0])

    return mean(lax.map(pointwise, (z, means, log_std), batch_size=min(chunk, z.shape[0])).mean(), axis_name)


def class_mismatch(labels: Integer[ArrayLike, " n"], classes: int, expected: Float[ArrayLike, " c"] | None = None,
                   axis_name: str | None = None) -> Float[Array, ""]:
    """L2 distance of the share of each class among labels from the expected one, uniform by default.

    Args:
      labels: a classifier's labels of samples from a model, in [0, classes).
      classes: number of classes.
      expected: probabilities `[classes]` of the data.
      axis_name: the mapped axis over which the labels are spread.

    Returns:
      A scalar in [0, sqrt 2].

    Raises:
      ValueError: for expected probabilities of another number of classes.

    Reference: Zhao, Song, Ermon, 'InfoVAE', 2017, arXiv 1706.02262.
    """
    expected = jnp.full(classes, 1.0 / classes) if expected is None else jnp.asarray(expected)
    if expected.shape != (classes,):
        raise ValueError(f"expected probabilities of {classes} classes, please; got {expected.shape}")
    labels = jnp.asarray(labels, jnp.int32)
    share = code_counts(labels, classes, axis_name) / total(labels.shape[0], axis_name)
    return jnp.linalg.norm(share - expected)


def cluster_accuracy(assignment: Integer[ArrayLike, " n"], label: Integer[ArrayLike, " m"]) -> float:
    """Share of examples whose cluster is the one matched to their class, under the best one-to-one matching.

    Clusters without a class, where there are more of them, count as wrong. The matching is scipy's Hungarian method,
    so arrays are on the host.

    Args:
      assignment: cluster of each example, any integers.
      label: its class, any integers.

    Returns:
      A share in (0, 1].

    Raises:
      ValueError: for columns of different lengths, or none.

    >>> import numpy as np
    >>> cluster_accuracy(np.array([7, 7, 7, 2]), np.array([0, 0, 1, 1]))
    0.75
    """
    from scipy.optimize import linear_sum_assignment

    assignment, label = np.asarray(assignment), np.asarray(label)
    if assignment.shape != label.shape or not label.size:
        raise ValueError(f"cluster_accuracy wants two columns of one length; got {assignment.shape}, {label.shape}")
    (clusters, rows), (classes, columns) = (np.unique(v, return_inverse=True) for v in (assignment, label))
    table = np.zeros((clusters.size, classes.size), np.int64)
    np.add.at(table, (rows, columns), 1)
    return float(table[linear_sum_assignment(table, maximize=True)].sum() / label.size)


def intrinsic_dimension_mle(x: Float[ArrayLike, "n m"], k: int = 10, block: int = 512,
                            axis_name: str | None = None) -> Float[Array, ""]:
    """Intrinsic dimension from the k nearest neighbours of each point, by maximum likelihood.

    1 / d = mean_i 1 / (k - 1) sum_{j < k} log(T_k(x_i) / T_j(x_i)), with T_j the distance to the j-th neighbour.
    Averaging 1 / d over points, as MacKay and Ghahramani ('Comments on maximum likelihood estimation of intrinsic
    dimension', 2005) propose, keeps the estimate free of the original's bias (k - 1) / (k - 2). What remains is a bias
    downwards, from edges and from few points, that grows with the dimension.

    Args:
      x: points, all different: those with a copy are left out.
      k: neighbours, at least 2.
      block: points whose distances to all are in memory at once.
      axis_name: the mapped axis over which the points are spread.

    Returns:
      The dimension, a scalar; NaN if every point has a copy.

    Raises:
      ValueError: for k < 2 or fewer than k + 1 points.

    Reference: Levina and Bickel, 'Maximum likelihood estimation of intrinsic dimension', NeurIPS 2004.
    """
    if k < 2:
        raise ValueError(f"intrinsic_dimension_mle wants k >= 2 neighbours; got {k}")
    squared = _neighbours(x, axis_name, k, block)
    single = squared[:, 0] > 0
    logs = 0.5 * jnp.log(jnp.where(single[:, None], squared, 1.0))
    inverse = (logs[:, -1:] - logs[:, :-1]).mean(1)
    return single.sum() / inverse.sum()


def intrinsic_dimension_two_nn(x: Float[ArrayLike, "n m"], discard: float = 0.1, block: int = 512,
                               axis_name: str | None = None) -> Float[Array, ""]:
    """Intrinsic dimension from the ratio of the distances to the two nearest neighbours.

    mu = T_2 / T_1 has the law 1 - mu^-d where the density hardly changes between them, so that -log(1 - F(mu)) is
    d log mu: d is the slope of the line through the origin fitted to the empirical F, without the largest ratios.

    Args:
      x: points, all different: those with a copy are left out.
      discard: share of the largest ratios left out, .1 in the paper.
      block: points whose distances to all are in memory at once.
      axis_name: the mapped axis over which the points are spread.

    Returns:
      The dimension, a scalar; NaN if every point has a copy.

    Raises:
      ValueError: for fewer than 3 points or a share outside [0, 1).

    Reference: Facco, d'Errico, Rodriguez, Laio, 'Estimating the intrinsic dimension of datasets by a minimal
    neighborhood information', Scientific Reports, 2017.
    """
    if not 0 <= discard < 1:
        raise ValueError(f"intrinsic_dimension_two_nn discards a share in [0, 1); got {discard}")
    squared = _neighbours(x, axis_name, 2, block)
    single = squared[:, 0] > 0
    ratio = jnp.where(single, squared[:, 1] / jnp.where(single, squared[:, 0], 1.0), jnp.inf)
    ratio, rank, number = jnp.sort(ratio), jnp.arange(ratio.size), single.sum()
    kept = (rank + 1 <= (1.0 - discard) * number) & (rank + 1 < number)  # F = 1 has no logarithm
    log_ratio = jnp.where(kept, 0.5 * jnp.log(jnp.where(kept, ratio, 1.0)), 0.0)
    tail = -jnp.log1p(-jnp.where(kept, (rank + 1.0) / number, 0.0))
    return (tail * log_ratio).sum() / jnp.square(log_ratio).sum()


def box_counting_dimension(x: Float[ArrayLike, "n m"], sides: Float[ArrayLike, " s"],
                           axis_name: str | None = None) -> Float[Array, ""]:
    """Box-counting (Minkowski) dimension: the slope of log N against log(1 / side), N the boxes that hold a point.

    The grid starts at the least value of each coordinate. Sides must be so large that boxes hold many points each:
    n points fill n boxes at most, and the slope levels off. So it serves dimensions up to two or three.

    Args:
      x: points.
      sides: of the boxes, at least two different ones, in the units of x.
      axis_name: the mapped axis over which the points are spread.

    Returns:
      The slope of the least-squares line, a scalar; NaN if a point is not finite.

    Raises:
      ValueError: for fewer than two sides.
    """
    sides = jnp.asarray(sides)
    if sides.size < 2:
        raise ValueError(f"box_counting_dimension fits a line to at least two sides; got {sides.size}")
    x = gather(jnp.asarray(x, jnp.float32), axis_name)
    x = x - x.min(0)
    weights = np.random.default_rng(0).integers(2**32, size=(2, x.shape[1]), dtype=np.uint32)

    def boxes(side):
        # Two random linear hashes stand for the box: 64 bits, so that no two boxes share them.
        place = jnp.floor(x / side).astype(jnp.uint32)
        first, second = lax.sort(((place * weights[0]).sum(1), (place * weights[1]).sum(1)), num_keys=2)
        return 1 + ((jnp.diff(first) != 0) | (jnp.diff(second) != 0)).sum()

    fine, number = -jnp.log(sides), jnp.log(lax.map(boxes, sides).astype(jnp.float32))
    fine = fine - fine.mean()
    return jnp.where(jnp.isfinite(x).all(), (fine * number).sum() / jnp.square(fine).sum(), jnp.nan)


def _neighbours(x, axis_name, k, block):
    """Squared distances to the k nearest others, ascending `[n k]`."""
    x = gather(jnp.asarray(x, jnp.float32), axis_name)
    n = x.shape[0]
    if n <= k:
        raise ValueError(f"{k} neighbours want at least {k + 1} points; got {n}")
    x = x - x.mean(0)
    squares = jnp.square(x).sum(1)

    def search(i):
        # Products find the neighbours, differences measure them: nothing cancels in what is returned.
        near = 2.0 * jnp.matmul(x, x[i], precision=lax.Precision.HIGHEST) - squares
        chosen = lax.top_k(near.at[i].set(-jnp.inf), k)[1]
        return jnp.sort(jnp.square(x[chosen] - x[i]).sum(1))

    return lax.map(search, jnp.arange(n), batch_size=min(block, n))
