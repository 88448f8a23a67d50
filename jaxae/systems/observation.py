"""The protocol of p(x | z)."""

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Array, PyTree

from jaxae.metrics import mse


class Observation(NamedTuple):
    """p(x | z): a decoder with its likelihood. `params` below are the decoder's."""

    init: Callable[[Array, Array], PyTree]  # (key, z) -> params
    log_prob: Callable[[PyTree, Array, Array], Array]  # (params, z, x) -> [n] nats, summed over data dimensions
    mean: Callable[[PyTree, Array, Array], Array]  # (params, z, key) -> x_hat; the key serves 'pixelcnn'
    sample: Callable[[PyTree, Array, Array], Array] | None = None  # (params, z, key) -> x, where a mean says too little
    noisy_log_prob: Callable[..., Array] | None = None  # (params, z, x, key) -> [n]: what training sees instead
    errors: Callable[[Array, Array], dict[str, Array]] = lambda x, x_hat: {"mse": mse(x, x_hat)}  # [n] by name
    noisy_mean: Callable[..., Array] | None = None  # (params, z, key) -> x_hat: the same
