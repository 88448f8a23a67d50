"""What a network says of one code or pixel: a softmax over its values, or a mixture of logistics over ordered ones."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae.distributions import LOG_SCALE_FLOOR, discretized_logistic_mixture_log_prob, soft_floor
from jaxae.priors.codes import code_log_prob

_HALF = 0.6931472  # log 2: scales are in units of data in [-1, 1], as in the paper, and ours lie in [0, 1]


class Output(NamedTuple):
    """A distribution of integers in `[0, levels)` from a network's output.

    Fields:
      size: channels of the network's output.
      log_prob: `(out [*n size], codes [*n]) -> [*n]`, nats; NaN for a code out of range.
      logits: `(out [*n size]) -> [*n levels]`, of every value, up to a constant.
    """

    size: int
    log_prob: Callable[[Array, Array], Array]
    logits: Callable[[Array], Array]


def softmax(levels: int) -> Output:
    """Any distribution: the outputs are logits of the values."""
    return Output(levels, code_log_prob, lambda out: out)


def logistic_mixture(levels: int, components: int = 10) -> Output:
    """Mixtures of discretized logistics, for values that are ordered, such as grey levels.

        P(v) = sum_k w_k [sigmoid((v + 1/2 - m_k) / s_k) - sigmoid((v - 1/2 - m_k) / s_k)],   v = 0 .. levels - 1

    with v - 1/2 -> -infinity for the first value and v + 1/2 -> infinity for the last. The outputs are logits of w,
    locations and log scales in units of data in [-1, 1]; scales are softly floored at e^-7 of these.

    Args:
      levels: number of values.
      components: of the mixture.

    Returns:
      An `Output` of `3 * components` channels, whose `logits` are log P.

    Raises:
      ValueError: for fewer than two levels or no component.

    Reference: Salimans, Karpathy, Chen, Kingma, 'PixelCNN++', 2017, arXiv 1701.05517.

    >>> import jax
    >>> out = logistic_mixture(8, components=2)
    >>> float(jnp.exp(out.logits(jax.random.normal(jax.random.key(0), (out.size,)))).sum().round(4))
    1.0
    """
    if levels < 2 or components < 1:
        raise ValueError(f"a mixture of logistics needs two levels and a component or more; got {levels} levels and "
                         f"{components} components.")

    def parameters(out: Float[Array, "*n p"]) -> tuple[Array, Array, Array]:
        weight, mean, log_scale = jnp.split(out.astype(jnp.float32), 3, -1)
        return weight, 0.5 + 0.5 * mean, soft_floor(log_scale - _HALF, LOG_SCALE_FLOOR)

    def log_prob(out: Array, codes: Array) -> Array:
        nats = discretized_logistic_mixture_log_prob(codes / (levels - 1), *parameters(out), levels)
        return jnp.where((codes >= 0) & (codes < levels), nats, jnp.nan)

    def logits(out: Array) -> Array:
        each = [part[..., None, :] for part in parameters(out)]
        return discretized_logistic_mixture_log_prob(jnp.arange(levels) / (levels - 1), *each, levels)

    return Output(3 * components, log_prob, logits)


def output_of(name: str, levels: int, components: int = 10) -> Output:
    """The output of that name: 'softmax' or 'logistic_mixture'.

    Raises:
      ValueError: for another name.
    """
    if name not in ("softmax", "logistic_mixture"):
        raise ValueError(f"output={name!r} must be 'softmax' or 'logistic_mixture'.")
    return softmax(levels) if name == "softmax" else logistic_mixture(levels, components)
