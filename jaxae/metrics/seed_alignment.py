"""Which latents autoencoders of several seeds share, by their decoder and their encoder directions.

Latents that are dead keep their random start and are shared with none: leave them out (`decoder[alive]`,
`encoder[:, alive]`), lest the share be too low. Above some 8,000 latents the exact matching takes minutes to hours.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import ArrayLike, Bool, Float, Int

from jaxae.metrics.dictionaries import match_atoms


class Alignment(NamedTuple):
    """Counterparts of each latent of one autoencoder in another, by decoder and by encoder."""

    decoder_match: Int[np.ndarray, " m"]     # -1 for none, where the other has fewer latents
    encoder_match: Int[np.ndarray, " m"]
    decoder_cosine: Float[np.ndarray, " m"]  # 0 for none
    encoder_cosine: Float[np.ndarray, " m"]
    agree: Bool[np.ndarray, " m"]            # both matchings give one partner
    shared: Bool[np.ndarray, " m"]           # and it is similar


def align(decoder_a: Float[ArrayLike, "m o"], encoder_a: Float[ArrayLike, "d m4"],
          decoder_b: Float[ArrayLike, "m2 o2"], encoder_b: Float[ArrayLike, "d2 m3"], threshold: float = 0.7,
          rule: str = "mean", method: str = "hungarian") -> Alignment:
    """Which latents two autoencoders share: their decoder AND their encoder directions find the same partner.

    Decoders and encoders are matched by themselves, by signed cosine, since latents are one-sided.

    Args:
      decoder_a: atoms as rows.
      encoder_a: directions as columns.
      decoder_b: of the other autoencoder, which may have another number of latents.
      encoder_b: of the other autoencoder.
      threshold: on the cosines of a shared latent.
      rule: 'mean': the mean of the two cosines is above it; 'both': each is.
      method: of `match_atoms`.

    Returns:
      An `Alignment`, for each latent of the first.

    Raises:
      ValueError: for autoencoders of different widths, whose encoder and decoder differ in their latents, or an
        unknown rule.

    Reference: Paulo and Belrose, 'Sparse autoencoders trained on the same data learn different features', 2025, arXiv
    2501.16615.
    """
    shapes = [np.shape(v) for v in (decoder_a, decoder_b, encoder_a, encoder_b)]
    (m, o), (m_b, o_b), (d, m_e), (d_b, m_be) = shapes
    if (o, d) != (o_b, d_b) or (m, m_b) != (m_e, m_be):
        raise ValueError(f"align wants decoders [m o] and encoders [d m] of the same widths; got {shapes}")
    if rule not in ("mean", "both"):
        raise ValueError(f"align has the rules 'mean' and 'both', not {rule!r}")
    match, cosine = np.full((2, m), -1), np.zeros((2, m))
    for i, pair in enumerate(((decoder_a, decoder_b), (np.asarray(encoder_a).T, np.asarray(encoder_b).T))):
        found = match_atoms(*pair, method=method)
        match[i, found.rows], cosine[i, found.rows] = found.columns, found.cosine
    agree = (match[0] == match[1]) & (match[0] >= 0)
    shared = agree & ((cosine.mean(0) if rule == "mean" else cosine.min(0)) > threshold)
    return Alignment(*match, *cosine, agree, shared)


def counterparts(autoencoders: Sequence[tuple[ArrayLike, ArrayLike]], threshold: float = 0.7,
                 rule: str = "mean", method: str = "hungarian") -> Int[np.ndarray, " m"]:
    """In how many of the others each latent of the first autoencoder is shared.

    Args:
      autoencoders: (decoder `[m o]`, encoder `[d m]`) of each.
      threshold: of `align`.
      rule: of `align`.
      method: of `match_atoms`.

    Returns:
      Counts `[m]`, at most the number of autoencoders - 1.
    """
    first, *others = autoencoders
    count = np.zeros(np.shape(first[0])[0], np.int64)
    return sum((align(*first, *other, threshold, rule, method).shared.astype(np.int64) for other in others), count)


def union_growth(autoencoders: Sequence[tuple[ArrayLike, ArrayLike]], threshold: float = 0.7,
                 rule: str = "mean", method: str = "hungarian") -> Int[np.ndarray, " seeds"]:
    """How many different latents the first s autoencoders have, for each s: those shared with a former are not new.

    Args:
      autoencoders: (decoder `[m o]`, encoder `[d m]`) of each.
      threshold: of `align`.
      rule: of `align`.
      method: of `match_atoms`.

    Returns:
      Counts, from m for one autoencoder up to s m where none is shared.

    Reference: Paulo and Belrose, 2025, arXiv 2501.16615.
    """
    new = []
    for s, own in enumerate(autoencoders):
        known = np.zeros(np.shape(own[0])[0], bool)
        for former in autoencoders[:s]:
            known |= align(*own, *former, threshold, rule, method).shared
        new.append((~known).sum())
    return np.cumsum(new)
