"""Lookup-free quantization: each channel is one bit, its sign; entropies of soft assignments keep all codes in use."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxae import collectives
from jaxae.quantizers.base import Codes, Quantized, Quantizer, check_indices
from jaxae.quantizers.estimators import straight_through

_INDEX_BITS = 30  # of one int32 index whose number of values is an int32 too
_TABLE_BITS = 20  # of a table of code probabilities: 4 MB
_TINY = 1e-30  # below it a probability's logarithm is held, or the gradient of p log p would be 0 times infinity


class BitEntropies(NamedTuple):
    """Entropies of the soft assignment of vectors to the codes {-s, s}^b, nats."""

    sample: Float[Array, " n"]  # H[p(c | z)], mean over positions: to be made small, so that z stands near a code
    batch: Float[Array, ""]  # H[mean of p(c | z)] over the global batch: to be made large, so that all codes are used


def bits_to_indices(bits: Bool[Array, "*n b"], places: int = 1) -> Int[Array, "..."]:
    """Bits as int32 `[...]`, the first one MOST significant; `[... places]` of b / places bits each for several places.

    The order is that of the public implementations; the sum in the paper of lookup-free quantization has the first
    bit least significant. Raises ValueError for bits that places do not divide, or more than 30 bits an index.

    >>> bits_to_indices(jnp.array([[True, False, False], [False, True, True]])).tolist()
    [4, 3]
    """
    width = _index_width(bits.shape[-1], places)
    digits = bits.reshape(*bits.shape[:-1], places, width).astype(jnp.int32)
    indices = jnp.sum(digits << _shifts(width), -1, dtype=jnp.int32)
    return indices if places > 1 else indices[..., 0]


def indices_to_bits(indices: Int[Array, "..."], bits: int, places: int = 1) -> Bool[Array, "..."]:
    """The inverse of `bits_to_indices`: `[...]`, or `[... places]` for several places, to `[... bits]`.

    Raises ValueError as it does, and for integers out of range, outside `jit`.
    """
    width = _index_width(bits, places)
    check_indices(indices, 2**width)
    indices = indices if places > 1 else indices[..., None]
    digits = (indices.astype(jnp.int32)[..., None] >> _shifts(width)) & 1
    return digits.reshape(*indices.shape[:-1], bits) == 1


def bit_entropies(z: Float[Array, "n *positions b"], scale: float = 1.0, temperature: float = 0.01,
                  group_bits: int = 12, axis_name: str | None = None) -> BitEntropies:
    """Entropy of p(c | z) ~ exp(-|z - c|^2 / temperature) over c in {-s, s}^b, and of its mean over the batch.

    p(c | z) is a product of bits, p(c_i = s) = sigmoid(4 s z_i / temperature), so the entropy of a vector's
    assignment is a sum over bits, exact for any b. The batch's mean is a mixture of products and none itself: it is
    tabulated over the 2^b codes, as P^T Q of the two halves' tables `[vectors 2^(b/2)]`, where b <= group_bits.
    More bits are cut into the fewest groups that small, of one size but for the last, and the groups' entropies are
    added: an upper bound, whose slack is their total correlation. group_bits = 1 takes the bits as independent.

    Args:
      z: `[n ... b]`, batch axis first.
      scale: s.
      temperature: of the assignment; about s^2 or more is soft, much less makes both terms blind to |z| > s.
      group_bits: b of the largest table.
      axis_name: the mapped axis over which the batch is spread.

    Returns:
      `BitEntropies` in nats, each of a whole vector (sum over bits).

    Raises:
      ValueError: for a temperature or group_bits out of range.

    >>> entropies = bit_entropies(jnp.array([[9.0, 9.0], [9.0, -9.0]]))  # sure of each, and one bit in all
    >>> entropies.sample.tolist(), round(float(entropies.batch), 4)
    ([0.0, 0.0], 0.6931)

    Reference: Yu et al., 'Language model beats diffusion: tokenizer is key to visual generation', 2023,
    arXiv 2310.05737, equation 5; Zhao, Xiong, Krahenbuhl, 2024, arXiv 2406.07548, for the sum over bits.
    """
    if not temperature > 0 or not 1 <= group_bits <= _TABLE_BITS:
        raise ValueError(f"temperature {temperature} and group_bits {group_bits}: the temperature is positive, and a "
                         f"group has 1 to {_TABLE_BITS} bits")
    logits = z.astype(jnp.float32) * (4.0 * scale / temperature)
    away = jnp.abs(logits)
    sample = jnp.sum(jax.nn.softplus(-away) + away * jax.nn.sigmoid(-away), -1)
    batch = _entropy(collectives.mean(_mean_of_products(logits.reshape(-1, z.shape[-1]), group_bits), axis_name))
    return BitEntropies(sample.reshape(z.shape[0], -1).mean(1), batch)


def lookup_free(bits: int, entropy_weight: float = 0.1, diversity_gamma: float = 1.0, beta: float = 0.25,
                temperature: float = 0.01, places: int = 1, group_bits: int = 12,
                axis_name: str | None = None) -> Quantizer:
    """LFQ: codes {-1, 1}^bits, the signs of z, with the straight-through gradient; nothing is learned or looked up.

    loss = entropy_weight (H[p(c | z)] - diversity_gamma H[E p(c | z)]) + beta mean (z - sg[z_q])^2: entropies as in
    `bit_entropies`, in nats of a whole vector, the second one of the global batch; it may be negative.

    Args:
      bits: channels of z.
      entropy_weight: of both entropies.
      diversity_gamma: of the batch's one.
      beta: of the commitment loss, a mean over positions and channels.
      temperature: of the soft assignment.
      places: indices that a code is cut into, each of 2^(bits / places) values: what a prior's softmax can bear.
      group_bits: up to how many bits the batch's entropy is exact.
      axis_name: the mapped axis over which the batch is spread.

    Returns:
      A `Quantizer`; its metrics are sample_entropy, batch_entropy and commitment.

    Raises:
      ValueError: for bits that places do not divide, more than 30 bits an index, or what `bit_entropies` refuses.

    Reference: Yu et al., 2023, arXiv 2310.05737.
    """
    return _binary(bits, 1.0, lambda z: z, entropy_weight, diversity_gamma, beta, temperature, places, group_bits,
                   axis_name)


def binary_spherical(bits: int, entropy_weight: float = 0.1, diversity_gamma: float = 1.0, beta: float = 0.0,
                     temperature: float = 1.0, places: int = 1, group_bits: int = 1,
                     axis_name: str | None = None) -> Quantizer:
    """BSQ: `lookup_free` of u = z / |z| on the unit sphere, codes {-1, 1}^bits / sqrt(bits).

    |u - z_q| is bounded, at most sqrt(2 - 2 / sqrt(bits)) (reached where u is an axis), so that the commitment loss,
    here of u, may go. The gradient passes through the normalization. The paper's temperature is tau in exp(tau u.c),
    2 / temperature here; its entropy of the batch takes the bits as independent, group_bits = 1.

    Args, Returns and Raises are those of `lookup_free`.

    Reference: Zhao, Xiong, Krahenbuhl, 'Image and video tokenization with binary spherical quantization', 2024,
    arXiv 2406.07548.
    """
    return _binary(bits, 1.0 / math.sqrt(max(bits, 1)), _normalize, entropy_weight, diversity_gamma, beta, temperature,
                   places, group_bits, axis_name)


def _binary(bits, scale, project, entropy_weight, diversity_gamma, beta, temperature, places, group_bits, axis_name):
    width = _index_width(bits, places)

    def codes_of(positive):
        return jnp.where(positive, jnp.float32(scale), jnp.float32(-scale))

    def quantize(z, state, key, train):
        if z.shape[-1] != bits:
            raise ValueError(f"the encoder gives vectors of width {z.shape[-1]}, the quantizer takes {bits} bits: make "
                             "them equal")
        u = project(z.astype(jnp.float32))
        codes = codes_of(u > 0)
        entropies = bit_entropies(u, scale, temperature, group_bits, axis_name)
        metrics = {"sample_entropy": entropies.sample,
                   "batch_entropy": jnp.broadcast_to(entropies.batch, entropies.sample.shape),
                   "commitment": jnp.mean((u - codes) ** 2, tuple(range(1, z.ndim)))}
        entropy = metrics["sample_entropy"] - diversity_gamma * metrics["batch_entropy"]
        loss = entropy_weight * entropy + beta * metrics["commitment"]
        return Quantized(straight_through(u, codes).astype(z.dtype), bits_to_indices(u > 0, places), loss, state,
                         metrics)

    return Quantizer(width=bits, codes=2**width, places=places, init=lambda key: Codes(), quantize=quantize,
                     lookup=lambda indices, state: codes_of(indices_to_bits(indices, bits, places)))


def _normalize(z):
    return z * lax.rsqrt(jnp.maximum(jnp.sum(z**2, -1, keepdims=True), 1e-12))


def _mean_of_products(logits, group_bits):
    """Mean over vectors `[m b]` of the probabilities of each group's codes, `[groups 2^(g/2) 2^(g/2)]`."""
    groups = -(-logits.shape[1] // group_bits)
    size = -(-logits.shape[1] // groups)
    # Bits that are surely 0 fill the last group: they add codes of probability 0.
    logits = jnp.pad(logits, ((0, 0), (0, groups * size - logits.shape[1])), constant_values=-jnp.inf)
    logits = logits.reshape(-1, groups, size)
    left, right = _products(logits[..., :size // 2]), _products(logits[..., size // 2:])
    return jnp.einsum("mga,mgb->gab", left, right, precision=lax.Precision.HIGHEST) / logits.shape[0]


def _products(logits):
    """Probabilities of all codes of h independent bits, `[m groups h]` to `[m groups 2^h]`."""
    table, zero, one = jnp.ones((*logits.shape[:2], 1)), jax.nn.sigmoid(-logits), jax.nn.sigmoid(logits)
    for i in range(logits.shape[-1]):
        table = jnp.concatenate([table * zero[..., i:i + 1], table * one[..., i:i + 1]], -1)
    return table


def _entropy(p):
    return -jnp.sum(p * jnp.log(jnp.maximum(p, _TINY)))


def _index_width(bits, places):
    if bits < 1 or places < 1 or bits % places or bits // places > _INDEX_BITS:
        raise ValueError(f"{bits} bits in {places} places: places divide the bits, with 1 to {_INDEX_BITS} bits an "
                         "index; more bits want more places")
    return bits // places


def _shifts(width):
    return np.arange(width - 1, -1, -1, dtype=np.int32)
