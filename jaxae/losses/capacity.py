"""Capacity-controlled objectives, which hold the KL at a growing target, and the rate-distortion bound they trace."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Real

from jaxae.collectives import mean


class CapacityLoss(NamedTuple):
    """A loss over the batch and the KL that it measured."""

    loss: Float[Array, ""]  # nats
    kl: Float[Array, " d"]  # mean over the global batch of each latent dimension, nats


class WaterFilling(NamedTuple):
    """A point of the rate-distortion curve of a Gaussian source under squared error."""

    distortion: Float[Array, ""]  # squared error summed over the components
    rates: Float[Array, " d"]  # nats of each component
    level: Float[Array, ""]  # the distortion of every component that gets a rate


def linear_capacity(step: Real[ArrayLike, ""], c_min: float, c_max: float, num_steps: int) -> Float[Array, ""]:
    """C(t) = c_min + (c_max - c_min) min(t / num_steps, 1), a target for the KL in nats.

    Args:
      step: t, may be traced.
      c_min: C at step 0, nats; 0 or .5 in the papers. The ramp from there is part of the method.
      c_max: C from `num_steps` on, nats. Where it exceeds what the data need, latents carry noise.
      num_steps: length of the ramp.

    Returns:
      Nats, a scalar.

    Raises:
      ValueError: for a ramp of no steps.

    >>> [float(linear_capacity(t, 0.0, 25.0, 100)) for t in (0, 50, 1000)]
    [0.0, 12.5, 25.0]

    Reference: Burgess, Higgins, Pal, Matthey, Watters, Desjardins, Lerchner, 'Understanding disentangling in
    beta-VAE', 2018, arXiv 1804.03599.
    """
    if num_steps < 1:
        raise ValueError(f"a capacity grows over at least one step; got num_steps={num_steps}")
    return c_min + (c_max - c_min) * jnp.clip(jnp.asarray(step, jnp.float32) / num_steps, 0.0, 1.0)


def capacity_loss(rec: Float[Array, " n"], kl: Float[Array, "n d"], capacity: Real[ArrayLike, ""],
                  gamma: Real[ArrayLike, ""] = 1000.0, reduce: Literal["batch", "example"] = "batch",
                  axis_name: str | None = None) -> CapacityLoss:
    """mean(rec) + gamma |mean(KL) - C|, with the KL summed over the latent dimensions before the absolute value.

    Args:
      rec: -log p(x | z) (or a squared error) of each example, SUMMED over the data dimensions: beside gamma a mean
        would be nothing.
      kl: of each example and latent dimension, nats.
      capacity: C in nats, from `linear_capacity`.
      gamma: 1000 in the paper. Once above the slope of the rate-distortion curve it makes the penalty exact; far above
        and with a fixed C it swamps the reconstruction.
      reduce: 'batch' takes |mean KL - C|, as the paper; 'example' the mean of |KL_i - C|, which asks the same
        number of nats of every example.
      axis_name: the mapped axis over which the batch is spread.

    Returns:
      A `CapacityLoss`, equal on every replica.

    Raises:
      ValueError: for an unknown `reduce`.

    >>> float(capacity_loss(jnp.array([2.0]), jnp.array([[1.0, 2.0]]), 5.0, gamma=10.0).loss)
    22.0

    Reference: Burgess et al., 2018, arXiv 1804.03599, equation 8.
    """
    if reduce not in ("batch", "example"):
        raise ValueError(f"reduce must be 'batch' or 'example'; got {reduce!r}")
    rec, per_dim = mean((rec.mean(), kl.mean(0)), axis_name)
    if reduce == "batch":
        excess = jnp.abs(per_dim.sum() - capacity)
    else:
        excess = mean(jnp.abs(kl.sum(1) - capacity).mean(), axis_name)
    return CapacityLoss(rec + gamma * excess, per_dim)


def joint_capacity_loss(rec: Float[Array, " n"], kl_continuous: Float[Array, " n"], kl_discrete: Float[Array, " n"],
                        capacity_continuous: Real[ArrayLike, ""], capacity_discrete: Real[ArrayLike, ""],
                        gamma_continuous: Real[ArrayLike, ""], gamma_discrete: Real[ArrayLike, ""],
                        classes: Sequence[int], axis_name: str | None = None) -> Float[Array, ""]:
    """mean(rec) + gamma_z |mean(KL_z) - C_z| + gamma_c |mean(KL_c) - min(C_c, sum_j log n_j)|.

    With one capacity for both, a model leaves the categorical latents unused.

    Args:
      rec: -log p(x | z, c) of each example, nats summed over the data dimensions.
      kl_continuous: KL of the Gaussian latents, summed over them.
      kl_discrete: KL of the categorical latents to the uniform, summed over them: of their probabilities
        (`distributions.categorical_kl` of the logits), not of a relaxed sample.
      capacity_continuous: C_z, nats.
      capacity_discrete: C_c, nats; what exceeds sum_j log n_j, the most they can hold, is cut off.
      gamma_continuous: 30 to 300 in the paper.
      gamma_discrete: 30 to 300 in the paper.
      classes: n_j of each categorical latent.
      axis_name: the mapped axis over which the batch is spread.

    Returns:
      Nats, a scalar equal on every replica. (The published code divides it by the number of pixels.)

    Raises:
      ValueError: for no categorical latent, or one of fewer than two classes.

    Reference: Dupont, 'Learning disentangled joint continuous and discrete representations', 2018, arXiv 1804.00104.
    """
    if not classes or min(classes) < 2:
        raise ValueError(f"classes lists the number of classes, at least 2, of each categorical latent; got {classes}")
    rec, continuous, discrete = mean((rec.mean(), kl_continuous.mean(), kl_discrete.mean()), axis_name)
    held = jnp.minimum(capacity_discrete, sum(math.log(n) for n in classes))
    return (rec + gamma_continuous * jnp.abs(continuous - capacity_continuous)
            + gamma_discrete * jnp.abs(discrete - held))


def reverse_water_filling(variances: Float[ArrayLike, " d"], rate: Real[ArrayLike, ""]) -> WaterFilling:
    """The least squared error at which `rate` nats describe independent Gaussian components of these variances.

    distortion = sum_i min(level, variance_i) and rate_i = max(0, log(variance_i / level) / 2), with the level at which
    the rates sum to `rate`. It is what a linear autoencoder of that KL can reach.

    Args:
      variances: positive, in any order: eigenvalues of the data's covariance.
      rate: nats, at least 0.

    Returns:
      A `WaterFilling`.

    >>> fill = reverse_water_filling(jnp.array([1.0, 4.0]), 0.5 * jnp.log(16.0))
    >>> [f'{v:.2f}' for v in (fill.distortion, fill.level, *fill.rates)]
    ['1.00', '0.50', '0.35', '1.04']

    Reference: Cover and Thomas, 'Elements of information theory', theorem 10.3.3; as a model of capacities: Burgess et
    al., 2018, arXiv 1804.03599.
    """
    variances = jnp.asarray(variances)
    # With the k largest, sum_i log(variance_i / level) / 2 is the rate at one level; others would add a negative part
    # or leave out a positive one, so the level is the greatest of them.
    logs = jnp.cumsum(jnp.sort(jnp.log(variances))[::-1])
    level = jnp.exp(jnp.max((logs - 2.0 * rate) / jnp.arange(1, variances.size + 1)))
    rates = 0.5 * jnp.log(jnp.maximum(variances / level, 1.0))
    return WaterFilling(jnp.minimum(variances, level).sum(), rates, level)
