"""Which latents are active together: correlations of codes, and those of related latents against the others."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

_PRECISE = jax.lax.Precision.HIGHEST


class GroupCorrelation(NamedTuple):
    """Mean correlations of pairs of different latents; those of which one is constant do not count."""

    within: Float[Array, ""]   # both of one group; NaN where no pair is
    between: Float[Array, ""]  # of two groups: what random pairs have
    pairs: Int[Array, ""]      # within groups


def code_correlation(codes: Float[Array, "n m"]) -> Float[Array, "m m"]:
    """Pearson correlations of latents over examples, NaN for a latent that is constant.

    Args:
      codes: z; of `codes > 0` the correlations are those of being active (phi coefficients).

    Returns:
      Symmetric, 1 on the diagonal.
    """
    z = codes.astype(jnp.float32)
    z = z - z.mean(0)
    scale = jnp.sqrt(jnp.square(z).sum(0))
    z = z / jnp.where(scale > 0, scale, jnp.nan)
    return jnp.matmul(z.T, z, precision=_PRECISE)


def group_correlation(codes: Float[Array, "n m"], group: Int[Array, " p"]) -> GroupCorrelation:
    """Mean correlation of latents within groups and between them.

    Of a factorised encoder, latents that share a base unit form a group, and so do those that share an extension
    (`sae.split_index` numbers both); within both, codes are more alike than for random pairs if the factors mean
    something.

    Args:
      codes: z.
      group: of each latent.

    Raises:
      ValueError: for another number of groups' entries than latents.

    >>> import jax.numpy as jnp
    >>> z = jnp.array([[1., 1., 0.], [0., 0., 1.], [1., 1., 1.], [0., 0., 0.]])
    >>> [round(float(v), 3) + 0.0 for v in group_correlation(z, jnp.array([0, 0, 1]))]
    [1.0, 0.0, 1.0]

    Reference: Kurochkin et al., 'Train sparse autoencoders efficiently by utilizing features correlation', 2025, arXiv
    2505.22255.
    """
    if group.shape[0] != codes.shape[1]:
        raise ValueError(f"group_correlation wants a group for each latent; got {group.shape[0]} for {codes.shape[1]}")
    r = code_correlation(codes)
    valid = jnp.isfinite(r) & ~jnp.eye(r.shape[0], dtype=bool)
    same = group[:, None] == group[None]

    def average(chosen):
        return jnp.where(chosen, r, 0.0).sum() / chosen.sum()

    return GroupCorrelation(average(valid & same), average(valid & ~same), (valid & same).sum() // 2)
