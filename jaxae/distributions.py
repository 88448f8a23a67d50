"""Log-probabilities, divergences and samplers as pure functions, and the likelihoods that decoders use.

Log-probabilities and KLs are in nats and elementwise (last axis: the classes of a categorical, the components
of a mixture); `sum_event` turns elements into nats per example. They compute in float32 at least, whatever
the inputs. Samplers take one key, equal on every replica, and `axis_name` as `jaxae.collectives.draw` does.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int, Real

from jaxae.collectives import draw

# Floors of what decoders emit. PixelCNN++ stops at -7 for data in [-1, 1], which is twice our range.
LOG_SCALE_FLOOR = -7.0 - math.log(2.0)
LOG_STD_FLOOR = -6.0
_LOG_2PI = math.log(2.0 * math.pi)


def _wide(*arrays: ArrayLike) -> tuple[Array, ...]:
    """The arrays in float32, or in float64 where they are that already."""
    arrays = tuple(jnp.asarray(a) for a in arrays)
    return tuple(a.astype(jnp.promote_types(a.dtype, jnp.float32)) for a in arrays)


def sum_event(x: Real[Array, "..."], batch_axes: int = 1) -> Real[Array, "..."]:
    """Sum over all but the first `batch_axes` axes: elements `[n ...]` to examples `[n]`."""
    return x.sum(tuple(range(batch_axes, x.ndim)))


def soft_floor(x: Float[Array, "..."], floor: float) -> Float[Array, "..."]:
    """floor + softplus(x - floor): above `floor`, close to `x` over it, and with a gradient everywhere.

    Reference: Rybkin, Daniilidis, Levine, 'Simple and effective VAE training with calibrated decoders', 2021,
    arXiv 2006.13202.
    """
    return floor + softplus(x - floor)


def bits_per_dim(nats: Float[ArrayLike, "..."], dims: int, levels: int = 1) -> Float[Array, "..."]:
    """Bits per dimension, (nats / dims + log levels) / log 2, of a negative log-likelihood in nats.

    Args:
      nats: negative log-likelihood per example (or its mean), summed over the dimensions.
      dims: number of data dimensions, h*w*c for an image.
      levels: 1 where the likelihood is a probability of discrete data. Where it is a density of data in
        [0, 1], dequantized by uniform noise: the number of levels (256 for 8 bits), since a bin's width is
        1 / levels.

    Returns:
      Bits per dimension, of the shape of `nats`.
    """
    return (_wide(nats)[0] / dims + math.log(levels)) / math.log(2.0)


def normal_log_prob(x: Real[ArrayLike, "..."], mean: Real[ArrayLike, "..."],
                    log_std: Real[ArrayLike, "..."]) -> Float[Array, "..."]:
    """log N(x; mean, std^2), elementwise: -((x - mean) / std)^2 / 2 - log std - log(2 pi) / 2."""
    x, mean, log_std = _wide(x, mean, log_std)
    return -0.5 * jnp.square((x - mean) * jnp.exp(-log_std)) - log_std - 0.5 * _LOG_2PI


def laplace_log_prob(x: Real[ArrayLike, "..."], mean: Real[ArrayLike, "..."],
                     log_scale: Real[ArrayLike, "..."]) -> Float[Array, "..."]:
    """log Laplace(x; mean, scale), elementwise: -|x - mean| / scale - log scale - log 2."""
    x, mean, log_scale = _wide(x, mean, log_scale)
    return -jnp.abs(x - mean) * jnp.exp(-log_scale) - log_scale - math.log(2.0)


def bernoulli_log_prob(x: Real[ArrayLike, "..."], logits: Real[ArrayLike, "..."]) -> Float[Array, "..."]:
    """x log p + (1 - x) log(1 - p) with p = sigmoid(logits), elementwise.

    For x in {0, 1} a log-probability. Between them it is minus the cross-entropy, not normalized in x.
    """
    x, logits = _wide(x, logits)
    return x * logits - softplus(logits)


@jax.custom_jvp
def softplus(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """log(1 + e^x), elementwise, to a few units of the last place of float32 everywhere.

    max(x, 0) + log1p(e) with e = e^-|x| in (0, 1], and log1p(e) = 2 artanh(s), s = e / (2 + e) <= 1/3, by its series:
    XLA on CPU turns this into vector instructions: an MLP VAE trains a tenth faster than with `jax.nn.softplus`, which
    other types than float32 get.
    """
    if x.dtype != jnp.float32:
        return jax.nn.softplus(x)
    e = jnp.exp(-jnp.abs(x))
    s = e / (2.0 + e)
    square, series = s * s, 0.0
    for k in range(15, 0, -2):
        series = series * square + 1.0 / k
    return jnp.maximum(x, 0.0) + 2.0 * s * series


@softplus.defjvp
def _softplus_jvp(primals, tangents):
    return softplus(*primals), jax.nn.sigmoid(*primals) * tangents[0]


def categorical_log_prob(index: Int[ArrayLike, "..."], logits: Real[Array, "... k"]) -> Float[Array, "..."]:
    """log softmax(logits)[index] over the last axis; NaN for an index outside [0, k)."""
    logits, index = _wide(logits)[0], jnp.asarray(index)
    index = jnp.where(index < 0, logits.shape[-1], index)  # -1 must not be the last class
    chosen = jnp.take_along_axis(logits, index[..., None], -1, mode="fill", fill_value=jnp.nan)[..., 0]
    return chosen - jax.nn.logsumexp(logits, -1)


def discretized_logistic_log_prob(x: Real[ArrayLike, "..."], mean: Real[ArrayLike, "..."],
                                  log_scale: Real[ArrayLike, "..."],
                                  levels: int = 256) -> Float[Array, "..."]:
    """Log-probability of x on the grid k / (levels - 1) under a logistic cut into bins, elementwise.

    P(x) = sigmoid(a) - sigmoid(b), with a, b = (x - mean +- h) / scale and h half a grid step; the first bin
    reaches to -infinity and the last to infinity, so the levels sum to one. It is computed as
    sigmoid(a) sigmoid(-b) (1 - e^(b - a)), in which nothing cancels: a - b is 2 h / scale for every x. So the
    value is good and the gradient finite in float32 for scales from e^-60 to e^60, by one formula.

    Args:
      x: data in [0, 1], rounded to the nearest level.
      mean: location of the logistic in data units, of any value.
      log_scale: log of its scale in data units. Decoders' outputs want a floor: `soft_floor`.
      levels: number of grid values, 256 for 8-bit data.

    Reference: Salimans, Karpathy, Chen, Kingma, 'PixelCNN++', 2017, arXiv 1701.05517 (there with a switch of
    formulas for tiny bins, which is off by up to .75% at the floor of the scale).
    """
    x, mean, log_scale = _wide(x, mean, log_scale)
    level, half = jnp.round(x * (levels - 1)), 0.5 / (levels - 1)
    first, last = level <= 0, level >= levels - 1
    offset, inverse = level / (levels - 1) - mean, jnp.exp(-log_scale)
    below_top = jnp.where(last, 0.0, jax.nn.log_sigmoid((offset + half) * inverse))
    above_bottom = jnp.where(first, 0.0, jax.nn.log_sigmoid((half - offset) * inverse))
    width = jnp.log(-jnp.expm1(-2.0 * half * inverse))
    return below_top + above_bottom + jnp.where(first | last, 0.0, width)


def discretized_logistic_mixture_log_prob(x: Real[ArrayLike, "..."], logits: Real[Array, "... k"],
                                          mean: Real[Array, "... k"], log_scale: Real[Array, "... k"],
                                          levels: int = 256) -> Float[Array, "..."]:
    """log sum_k softmax(logits)_k P_k(x) with discretized logistics P_k, for every element of x by itself.

    The components are the last axis of `logits`, `mean` and `log_scale`; see `discretized_logistic_log_prob`.
    """
    log_prob = discretized_logistic_log_prob(jnp.asarray(x)[..., None], mean, log_scale, levels)
    return jax.nn.logsumexp(jax.nn.log_softmax(_wide(logits)[0], -1) + log_prob, -1)


def normal_kl(mean: Real[ArrayLike, "..."], log_std: Real[ArrayLike, "..."],
              mean2: Real[ArrayLike, "..."] = 0.0,
              log_std2: Real[ArrayLike, "..."] = 0.0) -> Float[Array, "..."]:
    """KL(N(mean, std^2) || N(mean2, std2^2)), elementwise; by default to the standard normal.

    With u = log(std / std2): (e^2u - 1 - 2u) / 2 + ((mean - mean2) / std2)^2 / 2.
    """
    mean, log_std, mean2, log_std2 = _wide(mean, log_std, mean2, log_std2)
    twice = 2.0 * (log_std - log_std2)
    return 0.5 * (jnp.expm1(twice) - twice + jnp.square((mean - mean2) * jnp.exp(-log_std2)))


def categorical_kl(logits: Real[Array, "... k"],
                   logits2: Real[ArrayLike, "..."] = 0.0) -> Float[Array, "..."]:
    """KL(softmax(logits) || softmax(logits2)) over the last axis; by default to the uniform distribution."""
    logits, logits2 = _wide(logits, logits2)
    log_p = jax.nn.log_softmax(logits, -1)
    # One number for all classes is the uniform distribution: no softmax of an array as large as the logits.
    log_q = jax.nn.log_softmax(jnp.broadcast_to(logits2, jnp.broadcast_shapes(logits.shape, logits2.shape)), -1) \
        if logits2.ndim else -math.log(logits.shape[-1])
    p = jnp.exp(log_p)
    return jnp.sum(p * jnp.where(p > 0, log_p - log_q, 0.0), -1)  # 0 log 0 = 0


def normal_sample(key: Array, mean: Float[Array, "..."], log_std: Float[ArrayLike, "..."],
                  axis_name: str | None = None) -> Float[Array, "..."]:
    """mean + std * noise: a reparameterized draw, differentiable in both."""
    log_std = jnp.asarray(log_std)
    shape = jnp.broadcast_shapes(mean.shape, log_std.shape)
    return mean + jnp.exp(log_std) * draw(jax.random.normal, key, shape, axis_name)


def bernoulli_sample(key: Array, logits: Float[Array, "..."],
                     axis_name: str | None = None) -> Float[Array, "..."]:
    """0 or 1 (float32) with P(1) = sigmoid(logits)."""
    uniform = draw(jax.random.uniform, key, logits.shape, axis_name)
    return (uniform < jax.nn.sigmoid(logits)).astype(jnp.float32)


def categorical_sample(key: Array, logits: Float[Array, "... k"],
                       axis_name: str | None = None) -> Int[Array, "..."]:
    """An index with probability softmax(logits): the argmax of logits plus Gumbel noise."""
    return jnp.argmax(logits + draw(jax.random.gumbel, key, logits.shape, axis_name), -1)


def discretized_logistic_sample(key: Array, mean: Float[Array, "..."], log_scale: Float[ArrayLike, "..."],
                                levels: int = 256, axis_name: str | None = None) -> Float[Array, "..."]:
    """A logistic draw, clipped to [0, 1] and rounded to the grid: the law of the log-probability above."""
    log_scale = jnp.asarray(log_scale)
    shape = jnp.broadcast_shapes(mean.shape, log_scale.shape)
    x = mean + jnp.exp(log_scale) * draw(jax.random.logistic, key, shape, axis_name)
    return jnp.round(jnp.clip(x, 0.0, 1.0) * (levels - 1)) / (levels - 1)


class Likelihood(NamedTuple):
    """What a decoder's output means. For data `[n ... c]` the decoder emits params `[n ... channels*c]`."""

    channels: int  # parameters per data element, in blocks of c along the last axis
    log_prob: Callable[..., Array]  # (x [n ... c], params) -> [n], nats summed over the data dimensions
    mean: Callable[..., Array]  # (params) -> x_hat [n ... c] in data space
    sample: Callable[..., Array]  # (key, params, axis_name=None) -> x [n ... c]


def likelihood(name: str, scale: float = 1.0, levels: int = 256) -> Likelihood:
    """The likelihood of that name: how decoder outputs become log p(x | z), a reconstruction and samples.

    bernoulli             params: logits. Minus the usual cross-entropy for data in [0, 1].
    gaussian              params: mean. Standard deviation `scale`; the normalizing constant is included.
    gaussian_learned      params: mean, log std of every element (softly floored at `LOG_STD_FLOOR`).
    discretized_logistic  params: mean, log scale (softly floored at `LOG_SCALE_FLOOR`), `levels` values.

    'mse' is not among them: the mean squared error over the elements is a loss without a scale, not a
    log-probability in nats, and systems that want it compute it themselves.

    Args:
      name: one of the above.
      scale: standard deviation of 'gaussian', in data units.
      levels: grid values of 'discretized_logistic'.

    Returns:
      A `Likelihood`. Its `mean` is the expected x, except for the discretized logistic, where it is the
      location clipped to [0, 1] (the median, before rounding). Gaussian samples are not clipped.

    Raises:
      ValueError: for an unknown name, and from `log_prob` for params that do not fit x.

    >>> import jax.numpy as jnp
    >>> gaussian = likelihood('gaussian')
    >>> [f'{nats:.3f}' for nats in gaussian.log_prob(jnp.zeros((2, 3)), jnp.zeros((2, 3)))]  # -3/2 log(2 pi)
    ['-2.757', '-2.757']
    """

    def build(channels, unpack, log_prob, mean, sample):
        def split(params):
            return unpack(*jnp.split(*_wide(params), channels, -1))

        def checked_log_prob(x, params):
            want = (*x.shape[:-1], channels * x.shape[-1])
            if params.shape != want:
                raise ValueError(f"likelihood '{name}' of x {x.shape} wants params {want}, that is "
                                 f"{channels} per channel; got {params.shape}")
            return sum_event(log_prob(x, *split(params)))

        def sample_params(key, params, axis_name=None):
            return sample(key, *split(params), axis_name=axis_name)

        return Likelihood(channels, checked_log_prob, lambda params: mean(*split(params)), sample_params)

    if name == "bernoulli":
        return build(1, lambda logits: (logits,), bernoulli_log_prob, jax.nn.sigmoid, bernoulli_sample)
    if name == "gaussian":
        if scale <= 0:
            raise ValueError(f"likelihood 'gaussian' wants a scale (standard deviation) > 0; got {scale}")
        return build(1, lambda mean: (mean, math.log(scale)),
                     normal_log_prob, lambda mean, _: mean, normal_sample)
    if name == "gaussian_learned":
        return build(2, lambda mean, log_std: (mean, soft_floor(log_std, LOG_STD_FLOOR)),
                     normal_log_prob, lambda mean, _: mean, normal_sample)
    if name == "discretized_logistic":
        return build(2, lambda mean, log_scale: (mean, soft_floor(log_scale, LOG_SCALE_FLOOR)),
                     partial(discretized_logistic_log_prob, levels=levels),
                     lambda mean, _: jnp.clip(mean, 0.0, 1.0),
                     partial(discretized_logistic_sample, levels=levels))
    note = " ('mse' is a loss without a scale, not a likelihood)" if name == "mse" else ""
    raise ValueError(f"no likelihood '{name}'{note}: choose one of bernoulli, gaussian, gaussian_learned, "
                     "discretized_logistic")
