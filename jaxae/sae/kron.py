"""Encoders that factorise: a latent for each pair of a base and an extension unit of a head, at the cost of the units.

Latents are numbered head first, then base, then extension: i = (head * a + base) * b + extension.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxae.sae.codes import Codes
from jaxae.sae.sparsifiers import check_k

COMBINE = ("mand", "product", "sum", "min")
_FLOOR = 1e-5  # of u v in the derivative


@jax.custom_jvp
def mand(u: Float[Array, "..."], v: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""$\sqrt{u v}$ where both are positive, else 0: an AND that scales as its inputs do.

    The derivative by u is $v / (2 \sqrt{\max(u v, 10^{-5})})$ where both are positive, else 0: finite everywhere.

    Args:
      u: any shape that broadcasts with v.
      v: likewise.

    >>> import jax.numpy as jnp
    >>> mand(jnp.array([4.0, 4.0, -1.0]), jnp.array([9.0, 0.0, -1.0])).tolist()
    [6.0, 0.0, 0.0]

    Reference: Kurochkin, Aksenov, Laptev, Gavrilov and Balagansky, Train sparse autoencoders efficiently by utilizing
    features correlation, 2025, arXiv 2505.22255.
    """
    both = (u > 0) & (v > 0)
    return jnp.where(both, jnp.sqrt(jnp.where(both, u, 1.0)) * jnp.sqrt(jnp.where(both, v, 1.0)), 0.0)


@mand.defjvp
def _mand_jvp(inputs, tangents):
    u, v = inputs
    scale = jnp.where((u > 0) & (v > 0), 0.5 / jnp.sqrt(jnp.maximum(u * v, _FLOOR)), 0.0)
    return mand(u, v), scale * (v * tangents[0] + u * tangents[1])


def combined(u: Float[Array, "..."], v: Float[Array, "..."], combine: str = "mand") -> Float[Array, "..."]:
    """What a pair of units gives: 'mand', or for comparison 'product', 'sum' or 'min', where both are positive; else 0.

    Raises:
      ValueError: for another name.
    """
    if combine not in COMBINE:
        raise ValueError(f"combine is one of {COMBINE}, not {combine!r}")
    if combine == "mand":
        return mand(u, v)
    both = (u > 0) & (v > 0)
    return jnp.where(both, {"product": u * v, "sum": u + v, "min": jnp.minimum(u, v)}[combine], 0.0)


def kron_units(x: Float[Array, "n d"], encoder: Float[Array, "w r"], bias: Float[Array, " r"],
               heads: int) -> Float[Array, "n h u"]:
    r"""$\mathrm{ReLU}(x W + b)$ in heads.

    Args:
      x: inputs, from which what is to be subtracted is subtracted already.
      encoder: W, the units of head 0 first.
      bias: b.
      heads: h.

    Raises:
      ValueError: for inputs of another width, or units that the heads cannot share equally.
    """
    if x.shape[-1] != encoder.shape[0]:
        raise ValueError(f"inputs of width {x.shape[-1]} do not fit an encoder for width {encoder.shape[0]}: use the "
                         f"activations that it was made for")
    if encoder.shape[1] % heads:
        raise ValueError(f"{encoder.shape[1]} units cannot be shared by {heads} heads: use a multiple of it")
    return jax.nn.relu(x @ encoder + bias).reshape(x.shape[0], heads, -1)


def kron_pre(base: Float[Array, "n h a"], extension: Float[Array, "n h b"],
             combine: str = "mand") -> Float[Array, "n f"]:
    r"""All f = h a b latents, $\mathrm{vec}(\sqrt{p}\sqrt{q}^\top)$ of every head with 'mand'.

    They are pre-activations of any sparsifier; none is negative.

    Args:
      base: p, from `kron_units`.
      extension: q, likewise.
      combine: of `combined`.

    Reference: as `mand`.
    """
    return combined(base[..., :, None], extension[..., None, :], combine).reshape(base.shape[0], -1)


def kron_topk(base: Float[Array, "n h a"], extension: Float[Array, "n h b"], k: int,
              combine: str = "mand") -> Codes:
    r"""The k largest of all latents of all heads, exactly, without an array of all.

    An entry that is i-th in its head's bases and j-th in its extensions is not larger than i j - 1 others of the head;
    in the head with the r-th largest maximum also not than r - 1 maxima of others. So the k largest are among those
    with i j + r - 1 <= k: at most k heads, and of few of them more than their best.

    Args:
      base: p `[n h a]`, not negative.
      extension: q `[n h b]`, not negative.
      k: of h a b.
      combine: of `combined`; all of them grow with both.

    Returns:
      Codes in falling order, as of `sparsifiers.topk` of `kron_pre`; where several have one value, such as 0, which of
      them are chosen can differ. Gradients reach the units of the chosen ones.

    Raises:
      ValueError: for k outside [1, h a b].

    Reference: as `mand`; the bound is ours.
    """
    n, heads, bases = base.shape
    extensions = extension.shape[2]
    check_k(k, heads * bases * extensions)
    fixed, fixed_extension = jax.lax.stop_gradient((base, extension))
    most = min(heads, k)
    best = combined(fixed.max(-1), fixed_extension.max(-1), combine)
    chosen = jax.lax.top_k(best, most)[1][..., None]  # [n R 1] heads by their maxima
    p, p_place = jax.lax.top_k(jnp.take_along_axis(fixed, chosen, 1), min(bases, k))
    q, q_place = jax.lax.top_k(jnp.take_along_axis(fixed_extension, chosen, 1), min(extensions, k))
    r, i, j = _candidates(most, bases, extensions, k)
    places = jax.lax.top_k(combined(p[:, r, i], q[:, r, j], combine), k)[1]  # [n k] of the candidates
    r, i, j = (jnp.asarray(a)[places] for a in (r, i, j))
    rows = jnp.arange(n)[:, None]
    head, first, second = chosen[rows, r, 0], p_place[rows, r, i], q_place[rows, r, j]
    values = combined(base[rows, head, first], extension[rows, head, second], combine)
    return Codes(values, (head * bases + first) * extensions + second)


def _candidates(heads, bases, extensions, k):
    """Ranks (head, base, extension), from 0, of all entries that can be among the k largest."""
    r, i, j = np.indices((heads, min(bases, k), min(extensions, k)))
    return [a[(i + 1) * (j + 1) + r <= k] for a in (r, i, j)]


def split_index(index: Int[Array, "..."], bases: int, extensions: int
                ) -> tuple[Int[Array, "..."], Int[Array, "..."], Int[Array, "..."]]:
    """(head, base, extension) of a latent.

    >>> import jax.numpy as jnp
    >>> [int(a) for a in split_index(jnp.array(4 * 6 + 2 * 3 + 1), bases=2, extensions=3)]
    [5, 0, 1]
    """
    pair = index % (bases * extensions)
    return index // (bases * extensions), pair // extensions, pair % extensions


def encoder_flops(width: int, heads: int, bases: int, extensions: int) -> int:
    """Operations of one example's encoding: 2 d h (a + b) of the products, and one for each of the h a b pairs.

    A full encoder of as many latents needs 2 d h a b.

    Args:
      width: d.
      heads: h.
      bases: a.
      extensions: b.

    >>> encoder_flops(32, heads=4, bases=4, extensions=4), 2 * 32 * 64
    (2112, 4096)
    """
    return 2 * width * heads * (bases + extensions) + math.prod((heads, bases, extensions))


def encoder_parameters(width: int, heads: int, bases: int, extensions: int) -> int:
    """Weights and biases of the units, (d + 1) h (a + b); a full encoder of as many latents has (d + 1) h a b.

    >>> encoder_parameters(1536, heads=4096, bases=2, extensions=4) / (1537 * 4096 * 8)
    0.75
    """
    return (width + 1) * heads * (bases + extensions)
