"""Total correlation of codes: minibatch estimates of q(z), the parts of the KL, and FactorVAE's density ratio."""

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Real

from jaxae.collectives import gather, take_slice
from jaxae.distributions import normal_log_prob, softplus

ESTIMATORS = ("weighted", "stratified", "symmetric")


class AggregateLogDensity(NamedTuple):
    """Estimates of the aggregate posterior at each code, nats."""

    joint: Float[Array, " n"]  # log q(z)
    product: Float[Array, " n"]  # sum_j log q(z_j), of its marginals


class KLDecomposition(NamedTuple):
    """Parts that add up to log q(z | x) - log p(z), whose mean over z ~ q is the KL; nats of each example."""

    mutual_information: Float[Array, " n"]  # log q(z | x) - log q(z): of the code and the example's index
    total_correlation: Float[Array, " n"]  # log q(z) - sum_j log q(z_j)
    dimension_wise_kl: Float[Array, " n"]  # sum_j log q(z_j) - log p(z)


def aggregate_log_density(z: Float[Array, "n d"], mean: Float[Array, "n d"], log_std: Float[Array, "n d"],
                          dataset_size: int,
                          estimator: Literal["weighted", "stratified", "symmetric"] = "stratified",
                          axis_name: str | None = None) -> AggregateLogDensity:
    """log q(z_i) and sum_j log q(z_ij) of q(z) = 1/N sum_k N(z; mean_k, std_k^2) over a data set of N, from a batch.

    log q(z_i) ~ log sum_k w_ik q(z_i | x_k) over the batch of m = M + 1 examples, likewise each marginal:

    weighted    w = 1 / (N m). Simple and far too small: one example's own density is its greater part, yet weighs
                1 / (N m) and not 1 / N. Its gradient is what is used, its value is off by some log N.
    stratified  w_ii = 1 / N, (N - M) / (N M) for the next example (i + 1 mod m), 1 / M for the others. Before the
                logarithm unbiased. (Much-used code puts the odd weight on one column for all rows.)
    symmetric   w_ii = 1 / N, (N - 1) / (N M) for all others: the stratified one averaged over which example is the
                next. The same expectation, less variance; exact where the batch is the whole data set.

    The `[n m d]` densities are never whole in memory: dimensions are taken one at a time.

    Args:
      z: a draw from each posterior, in the order of the batch.
      mean: of the posteriors.
      log_std: of the posteriors.
      dataset_size: N, at least the global batch.
      estimator: one of the above.
      axis_name: the mapped axis over which the batch is spread.

    Returns:
      An `AggregateLogDensity` of this replica's examples `[n]`, nats.

    Raises:
      ValueError: for an unknown estimator, shapes that differ, a batch of one, or one larger than the data set.

    >>> z = jnp.array([[-50.0], [50.0]])
    >>> aggregate_log_density(z, z, jnp.zeros((2, 1)), 2, "symmetric").joint.round(4)  # log(N(0; 0, 1) / 2)
    Array([-1.6121, -1.6121], dtype=float32)

    Reference: Chen, Li, Grosse, Duvenaud, 'Isolating sources of disentanglement in variational autoencoders', 2018,
    arXiv 1802.04942, section 4.1 and appendix C.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"no estimator '{estimator}' of log q(z): choose one of {', '.join(ESTIMATORS)}")
    if not z.shape == mean.shape == log_std.shape:
        raise ValueError(f"z, mean and log_std must have one shape [n d]; got {z.shape}, {mean.shape}, {log_std.shape}")
    everyone = jnp.stack([gather(mean, axis_name), gather(log_std, axis_name)])  # [2 m d]
    m = everyone.shape[1]
    if not 2 <= m <= dataset_size:
        raise ValueError(f"a batch of {m} examples cannot estimate q(z) of {dataset_size}: the batch wants at least "
                         "two, and dataset_size is the number of training examples")
    log_weights = _log_weights(m, dataset_size, estimator, axis_name)

    @jax.checkpoint  # or the gradient would keep d matrices
    def column(codes, parameters):
        log_prob = normal_log_prob(codes[:, None], *parameters)  # [n m]
        return log_prob, jax.nn.logsumexp(log_prob + log_weights, 1)

    def add(log_joint, inputs):
        log_prob, marginal = column(*inputs)
        return log_joint + log_prob, marginal

    joint, marginals = lax.scan(add, log_weights, (z.T, jnp.moveaxis(everyone, 2, 0)))
    return AggregateLogDensity(jax.nn.logsumexp(joint, 1), marginals.sum(0))


def decompose_kl(z: Float[Array, "n d"], mean: Float[Array, "n d"], log_std: Float[Array, "n d"], dataset_size: int,
                 estimator: Literal["weighted", "stratified", "symmetric"] = "stratified",
                 log_pz: Float[Array, " n"] | None = None, axis_name: str | None = None) -> KLDecomposition:
    """KL(q(z | x) || p(z)) in expectation as index-code mutual information + total correlation + dimension-wise KL.

    Args:
      z: a draw from each posterior.
      mean: of the posteriors.
      log_std: of the posteriors.
      dataset_size: number of training examples.
      estimator: as in `aggregate_log_density`.
      log_pz: log p(z) of a factorized prior, nats; by default that of N(0, I).
      axis_name: the mapped axis over which the batch is spread.

    Returns:
      A `KLDecomposition` of this replica's examples `[n]`, nats.

    Raises:
      ValueError: as `aggregate_log_density`.

    Reference: Chen et al., 2018, arXiv 1802.04942, section 3.
    """
    log_q = aggregate_log_density(z, mean, log_std, dataset_size, estimator, axis_name)
    log_conditional = normal_log_prob(z, mean, log_std).sum(1)
    log_pz = normal_log_prob(z, 0.0, 0.0).sum(1) if log_pz is None else log_pz
    return KLDecomposition(log_conditional - log_q.joint, log_q.joint - log_q.product, log_q.product - log_pz)


def beta_tc_kl(parts: KLDecomposition, alpha: Real[ArrayLike, ""] = 1.0, beta: Real[ArrayLike, ""] = 6.0,
               gamma: Real[ArrayLike, ""] = 1.0) -> Float[Array, " n"]:
    """alpha mutual information + beta total correlation + gamma dimension-wise KL: what beta-TC-VAE has for its KL.

    Args:
      parts: from `decompose_kl`.
      alpha: of the index-code mutual information.
      beta: of the total correlation; 6 is the paper's for dSprites.
      gamma: of the dimension-wise KL.

    Returns:
      Nats of each example `[n]`, to be minimized with -log p(x | z); alpha = beta = gamma = 1 gives a sampled KL.

    >>> beta_tc_kl(KLDecomposition(jnp.ones(1), jnp.ones(1), jnp.ones(1))).tolist()
    [8.0]

    Reference: Chen et al., 2018, arXiv 1802.04942, equation 4.
    """
    return alpha * parts.mutual_information + beta * parts.total_correlation + gamma * parts.dimension_wise_kl


def permute_dims(key: Array, z: Float[Array, "n d"], axis_name: str | None = None) -> Float[Array, "n d"]:
    """Every dimension shuffled over the global batch by itself: draws from the product of the marginals of q(z).

    Args:
      key: the same on every replica.
      z: codes.
      axis_name: the mapped axis over which the batch is spread.

    Returns:
      Codes `[n d]`, this replica's of the shuffled global batch; differentiable (FactorVAE stops the gradient).

    Reference: Kim and Mnih, 'Disentangling by factorising', 2018, arXiv 1802.05983, algorithm 1.
    """
    return take_slice(jax.random.permutation(key, gather(z, axis_name), independent=True), axis_name)


def density_ratio_tc(logits: Float[Array, "n 2"]) -> Float[Array, " n"]:
    """log D(z) / (1 - D(z)) of a discriminator D of q(z) against the product of its marginals.

    For the best D its mean over z ~ q is the total correlation. The encoder minimizes it, with D held fixed.

    Args:
      logits: of the classes (q(z), product of marginals), at codes drawn from the posteriors.

    Returns:
      Nats of each example `[n]`.

    Reference: Kim and Mnih, 2018, arXiv 1802.05983, equation 3.
    """
    return logits[:, 0] - logits[:, 1]


def tc_discriminator_loss(logits: Float[Array, "n 2"], permuted_logits: Float[Array, "m 2"]) -> Float[Array, ""]:
    """(E -log D(z) + E -log(1 - D(z'))) / 2: cross-entropy of the two classes, to be minimized by D alone.

    Args:
      logits: at codes from the posteriors; stop their gradient.
      permuted_logits: at codes from `permute_dims`, of another batch in the paper; stop their gradient.

    Returns:
      Nats, the mean over these (a replica's) codes; log 2 where D cannot tell the classes apart.

    >>> round(float(tc_discriminator_loss(jnp.zeros((3, 2)), jnp.zeros((3, 2)))), 4)
    0.6931

    Reference: Kim and Mnih, 2018, arXiv 1802.05983, algorithm 2.
    """
    joint, product = density_ratio_tc(logits), density_ratio_tc(permuted_logits)
    return 0.5 * (softplus(-joint).mean() + softplus(product).mean())


def _log_weights(m, size, estimator, axis_name) -> Float[Array, "n m"]:
    columns = jnp.arange(m)
    rows = take_slice(columns, axis_name)[:, None]
    if estimator == "weighted":
        return jnp.full((rows.shape[0], m), -math.log(size) - math.log(m))
    others = m - 1
    if estimator == "symmetric":
        weights = jnp.full((rows.shape[0], m), (size - 1) / (size * others))
    else:
        last = (size - others) / (size * others)
        weights = jnp.where(columns == (rows + 1) % m, last, 1.0 / others)
    return jnp.log(jnp.where(columns == rows, 1.0 / size, weights))
