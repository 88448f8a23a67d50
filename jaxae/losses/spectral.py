"""Distances of waveforms by the magnitudes of their short-time spectra, which do not see phases."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# (samples of a Fourier transform, of a hop, of a window): Jukebox's, for 44,100 samples a second.
RESOLUTIONS = ((2048, 240, 1200), (1024, 120, 600), (512, 50, 240))
_SMALL = 1e-12  # under the root, so that the gradient at silence is zero


def spectrogram(x: Float[Array, "*n t"], size: int = 512, hop: int = 128, window: int = 0) -> Float[Array, "*n f s"]:
    """Magnitudes of the short-time Fourier transform under a Hann window.

        S[f, s] = |sum_k w[k] x[s hop + k - size / 2] exp(-2 pi i f k / size)|

    Beyond its ends a waveform is mirrored, so that frame s is centred on sample s hop.

    Args:
      x: waveforms along the last axis.
      size: samples of a transform, N.
      hop: samples between frames.
      window: samples of the window, in the middle of the transform; 0 is `size`.

    Returns:
      `[*n N // 2 + 1, 1 + t // hop]`, float32, in the unit of x times samples.

    Raises:
      ValueError: a window longer than the transform, or a waveform of half a transform or less.

    >>> t = jnp.arange(512)
    >>> s = spectrogram(jnp.cos(2 * jnp.pi * t / 16), 64, 32)  # four periods in a transform: f = 4
    >>> s.shape, int(s[:, 8].argmax()), round(float(s[4, 8]))  # half the sum of the window
    ((33, 17), 4, 16)

    Reference: Griffin and Lim, 'Signal estimation from modified short-time Fourier transform', IEEE Transactions on
    Acoustics, Speech and Signal Processing, 1984.
    """
    window = window or size
    if not 0 < window <= size or hop < 1:
        raise ValueError(f"window={window} must be positive and at most size={size}, and hop={hop} positive")
    if x.shape[-1] <= size // 2:
        raise ValueError(f"waveforms of {x.shape[-1]} samples are too short to be mirrored for transforms of {size}: "
                         "take a smaller size")
    taps = np.zeros(size)
    first = (size - window) // 2
    taps[first:first + window] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    padded = jnp.pad(x.astype(jnp.float32), [(0, 0)] * (x.ndim - 1) + [(size // 2, size // 2)], mode="reflect")
    frames = 1 + x.shape[-1] // hop
    rows = padded[..., np.arange(frames)[:, None] * hop + np.arange(size)]  # [*n s N]
    found = jnp.fft.rfft(rows * taps.astype(np.float32))
    return jnp.sqrt(jnp.square(found.real) + jnp.square(found.imag) + _SMALL).swapaxes(-1, -2)


def spectral_distance(x: Float[Array, "*n t"], y: Float[Array, "*n t"],
                      resolutions: Sequence[Sequence[int]] = RESOLUTIONS) -> Float[Array, "*n"]:
    """Distance of the magnitudes of short-time spectra, at several resolutions.

        d(x, y) = mean over resolutions r of | S_r(x) - S_r(y) |_F

    Short windows see when something sounds and long ones how high. Phases are not seen: d(x, -x) = 0.

    Args:
      x: waveforms along the last axis.
      y: of the same shape.
      resolutions: (samples of a transform, of a hop, of a window) of each.

    Returns:
      `[*n]`, in the unit of x times samples; it is not in nats, and grows with the root of the length.

    Raises:
      ValueError: for shapes that differ, no resolution, or one that does not fit (`spectrogram`).

    >>> x = jnp.sin(0.3 * jnp.arange(400.0))
    >>> d = spectral_distance(jnp.stack([x, x]), jnp.stack([-x, 2 * x]), ((128, 32, 96),))
    >>> [round(float(value), 3) for value in d / spectral_distance(x, 0 * x, ((128, 32, 96),))]
    [0.0, 1.0]

    Reference: Dhariwal, Jun, Payne, Kim, Radford, Sutskever, 'Jukebox: a generative model for music', 2020, arXiv
    2005.00341, section 3.
    """
    if x.shape != y.shape or not len(resolutions):
        raise ValueError(f"two batches of one shape and at least one resolution are needed; got {x.shape}, {y.shape} "
                         f"and {resolutions}")
    each = [jnp.square(spectrogram(x, *r) - spectrogram(y, *r)).sum((-2, -1)) for r in resolutions]
    return jnp.mean(jnp.stack([jnp.sqrt(square + _SMALL) for square in each]), 0)
