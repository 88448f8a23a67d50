"""Error of reconstructed and separated waveforms."""

import jax.numpy as jnp
from jaxtyping import Array, Float

_TINY = 1e-12  # of the energy of a sample: silence is no reason for NaN


def si_sdr(target: Float[Array, "*n t"], estimate: Float[Array, "*n t"], zero_mean: bool = True) -> Float[Array, "*n"]:
    """Scale-invariant ratio of signal to distortion in decibels.

        10 log10 |a s|^2 / |a s - s_hat|^2,   a = <s_hat, s> / |s|^2

    a s is the projection of the estimate on the target: no factor on either of them changes the number, and for an
    angle w between them it is 20 log10 cot w.

    Args:
      target: s, waveforms along the last axis, in any unit.
      estimate: s_hat, of the same shape.
      zero_mean: take the mean off both first, as is customary.

    Returns:
      Decibels `[*n]`, float32. About +-120 where one of the two parts vanishes; of a silent target it means nothing.

    Raises:
      ValueError: for shapes that differ.

    >>> import jax.numpy as jnp
    >>> s, noise = jnp.array([1.0, -1.0, 1.0, -1.0]), jnp.array([0.1, 0.1, -0.1, -0.1])  # at right angles
    >>> float(si_sdr(s, 3.0 * (s + noise)).round(3))
    20.0

    Reference: Le Roux, Wisdom, Erdogan, Hershey, 'SDR - half-baked or well done?', 2018, arXiv 1811.02508.
    """
    if target.shape != estimate.shape:
        raise ValueError(f"target and estimate must have one shape; got {target.shape} and {estimate.shape}")
    s, s_hat = target.astype(jnp.float32), estimate.astype(jnp.float32)
    if zero_mean:
        s, s_hat = s - s.mean(-1, keepdims=True), s_hat - s_hat.mean(-1, keepdims=True)
    energy = jnp.square(s).sum(-1, keepdims=True)
    kept = (s_hat * s).sum(-1, keepdims=True) / jnp.maximum(energy, s.shape[-1] * _TINY) * s
    signal, distortion = jnp.square(kept).sum(-1), jnp.square(s_hat - kept).sum(-1)
    # Both grow by a share of the estimate's energy, so that the ratio keeps its invariance.
    tiny = _TINY * jnp.square(s_hat).sum(-1) + jnp.finfo(jnp.float32).tiny
    return 10.0 * jnp.log10((signal + tiny) / (distortion + tiny))
