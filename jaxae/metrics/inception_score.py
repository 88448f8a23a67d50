"""Inception score of samples, from what a classifier says of them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae.collectives import gather


class InceptionScore(NamedTuple):
    """The score over several parts of the samples, between 1 and the number of classes."""

    mean: Float[Array, ""]
    std: Float[Array, ""]  # over the parts, divided by their number (numpy's default)


def inception_score(logits: Float[Array, "n k"], splits: int = 10, axis_name: str | None = None) -> InceptionScore:
    """How certain a classifier is of each sample, and how evenly its classes are met.

        exp( 1/n sum_i KL(p(y | x_i) || p(y)) ),   p(y) = 1/n sum_i p(y | x_i)

    1 where all samples have the same p(y | x), and K where each is of one of the K classes for certain and the classes
    are equally frequent. It never sees the data: samples that repeat one image of each class score K. With another
    classifier than the Inception network it is comparable with itself alone.

    Args:
      logits: of the classifier; log-probabilities do as well.
      splits: equal parts of consecutive samples whose scores are averaged, the last n mod splits samples left out. 10
        is the published number; a part of few samples scores too low.
      axis_name: the mapped axis over which the samples are spread.

    Returns:
      An `InceptionScore`.

    Raises:
      ValueError: for fewer samples than parts, or no part.

    >>> certain = 1e3 * jnp.eye(4)
    >>> f'{inception_score(certain, splits=1).mean:.3f}'
    '4.000'

    Reference: Salimans, Goodfellow, Zaremba, Cheung, Radford, Chen, 'Improved techniques for training GANs', 2016,
    arXiv 1606.03498.
    """
    logits = gather(logits, axis_name)
    n, classes = logits.shape
    if not 1 <= splits <= n:
        raise ValueError(f"inception_score: splits={splits} must be at least 1 and no more than the {n} samples")
    size = n // splits
    log_p = jax.nn.log_softmax(logits[:size * splits].astype(jnp.float32), -1).reshape(splits, size, classes)
    log_mean = jax.nn.logsumexp(log_p, 1, keepdims=True) - jnp.log(float(size))
    p = jnp.exp(log_p)
    # 0 log 0 = 0, also where a class is met in no sample.
    divergence = jnp.where(p > 0, p * (log_p - log_mean), 0.0).sum(-1).mean(-1)
    scores = jnp.exp(divergence)
    return InceptionScore(scores.mean(), scores.std())
