"""The reconstruction error of waveforms by config: of samples, of the largest deviations, and of spectra."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxae.losses.spectral import RESOLUTIONS, spectral_distance

Error = Callable[[Array, Array], tuple[Array, dict[str, Array]]]  # (x, x_hat [n t 1]) -> [n], metrics [n]


def defaults() -> dict[str, Any]:
    """Keys of `config.model`.

    `spectral`: weight of the distance of short-time spectra at the `resolutions`, each (samples of a transform, of a
    hop, of a window); 0 leaves it out. `largest`: weight of the mean of the `largest_samples` largest squared errors of
    a waveform. `sample_weight`: of the mean squared error of all. Jukebox divides the first by the mean norm of the
    spectra of its data and the others by their variance: weights say that here.
    """
    return dict(spectral=0.0, resolutions=RESOLUTIONS, largest=0.0, largest_samples=2048, sample_weight=1.0)


def waveform_error(model, shape: tuple[int, ...]) -> Error | None:
    """sample_weight * mean (x - x_hat)^2 + largest * mean of the largest squares + spectral * distance of the spectra.

    The metrics are `reconstruction`, the first of them, and `spectral_distance`, neither of them weighted.

    Args:
      model: `config.model`.
      shape: of one waveform.

    Returns:
      The error, or None where neither `spectral` nor `largest` asks for it.

    Raises:
      ValueError: for data that are no waveforms, a likelihood, or resolutions that do not fit.
    """
    if not (model.spectral or model.largest):
        return None
    if len(shape) != 2 or model.likelihood != "mse":
        raise ValueError(f"model.spectral and model.largest are for waveforms [n t 1] and model.likelihood='mse'; the "
                         f"data are [n {' '.join(map(str, shape))}] and the likelihood {model.likelihood!r}: set both "
                         "to 0")
    if model.spectral and shape[0] <= max(r[0] for r in model.resolutions) // 2:
        raise ValueError(f"waveforms of {shape[0]} samples are too short for model.resolutions={model.resolutions}")

    def error(x, x_hat):
        squares = jnp.square(x - x_hat)[..., 0]  # [n t]
        mean = squares.mean(1)
        value, metrics = model.sample_weight * mean, {"reconstruction": mean}
        if model.largest:
            value += model.largest * jax.lax.top_k(squares, min(model.largest_samples, shape[0]))[0].mean(1)
        if model.spectral:
            metrics["spectral_distance"] = spectral_distance(x[..., 0], x_hat[..., 0], model.resolutions)
            value += model.spectral * metrics["spectral_distance"]
        return value, metrics

    return error


__all__ = ["Error", "defaults", "waveform_error"]
