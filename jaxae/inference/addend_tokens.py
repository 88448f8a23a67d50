"""How likely a mixture's token is given the tokens of its two addends: frequencies, as a table or as lists of pairs."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Real

from jaxae import collectives


class PairCounts(NamedTuple):
    """Counted triples of tokens as sorted coordinates, on the host: of K^3 possible ones only those that occurred."""

    coords: Int[np.ndarray, "3 nnz"]  # rows mixture, first, second; columns unique and in lexicographic order
    counts: Int[np.ndarray, " nnz"]
    num_codes: int


class PairLikelihood(NamedTuple):
    """log p(mixture token | pair of addends) as a list of pairs for each mixture token."""

    pairs: Int[Array, "2 nnz"]  # sorted by mixture token
    log_prob: Float[Array, " nnz"]  # nats
    starts: Int[Array, " k+1"]  # the list of token m is starts[m] .. starts[m + 1] - 1
    window: Int[Array, " longest"]  # 0 .. length of the longest list - 1
    background: Float[Array, "k k"] | None  # nats of pairs that are in no list; None where they are impossible


Likelihood = Float[Array, "m k k"] | PairLikelihood


Codes = Int[Array | np.ndarray, "..."]


def count_addend_tokens(first: Codes, second: Codes, mixture: Codes, num_codes: int,
                        counts: Int[Array, "k k m"] | None = None,
                        axis_name: str | None = None) -> Int[Array, "k k m"]:
    """How often each pair of addend tokens meets each token of the mixture at the same position.

        counts[i, j, m] = #{s : first_s = i, second_s = j, mixture_s = m}

    Positions and examples are pooled: the encoder must see sources and mixture without a shift between them. Every
    occurrence counts, also within one batch.

    Args:
      first: codes of the first addend in [0, num_codes), of any shape. Triples with others are not counted.
      second: codes of the second addend, of the same shape.
      mixture: codes of the mixture, of the same shape.
      num_codes: size K of the codebook; the table has K^3 entries. For large K see `count_addend_pairs`.
      counts: of earlier batches, to add to.
      axis_name: mapped axis over which the batch is spread; the counts are then of the global batch.

    Returns:
      Counts `[K K K]`, int32, by first, second and mixture.

    Raises:
      ValueError: for codes of different shapes.

    >>> z = jnp.array([0, 0, 1])
    >>> count_addend_tokens(z, 1 - z, jnp.array([1, 1, 1]), 2)[:, :, 1].tolist()
    [[0, 2], [1, 0]]

    Reference: Postolache, Mariani, Mancusi, Santilli, Cosmo, Rodola, 'Latent autoregressive source separation', AAAI
    2023, arXiv 2301.08562.
    """
    codes = _triples(first, second, mixture)
    valid = jnp.all((codes >= 0) & (codes < num_codes), 0)
    i, j, m = jnp.where(valid, codes, num_codes)  # out of range: dropped
    zeros = jnp.zeros((num_codes,) * 3, jnp.int32)
    if axis_name is not None:
        new = collectives.total(zeros.at[i, j, m].add(1, mode="drop"), axis_name)
        return new if counts is None else counts + new
    return (zeros if counts is None else counts).at[i, j, m].add(1, mode="drop")  # no second table


def count_addend_pairs(first: Codes, second: Codes, mixture: Codes, num_codes: int,
                       counts: PairCounts | None = None) -> PairCounts:
    """`count_addend_tokens` for large codebooks: coordinates that occurred and their counts, accumulated on the host.

    Args:
      first, second, mixture: as in `count_addend_tokens`.
      num_codes: size of the codebook, up to 2^21.
      counts: of earlier batches, to add to.

    Returns:
      `PairCounts`; memory grows with the number of different triples.

    Raises:
      ValueError: for codes of different shapes, or counts of another codebook.

    >>> found = count_addend_pairs(np.array([5, 5, 2]), np.array([0, 0, 1]), np.array([3, 3, 0]), 2048)
    >>> found.coords.tolist(), found.counts.tolist()
    ([[0, 3], [2, 5], [1, 0]], [1, 2])

    Reference: Postolache et al., 2023, arXiv 2301.08562.
    """
    codes = np.asarray(_triples(np.asarray(first), np.asarray(second), np.asarray(mixture), np), np.int64)
    i, j, m = codes[:, np.all((codes >= 0) & (codes < num_codes), 0)]
    keys, weights = (m * num_codes + i) * num_codes + j, np.ones(i.size, np.int64)
    if counts is not None:
        if counts.num_codes != num_codes:
            raise ValueError(f"counts of {counts.num_codes} codes cannot go on with num_codes={num_codes}")
        old_m, old_i, old_j = counts.coords.astype(np.int64)
        keys = np.concatenate([(old_m * num_codes + old_i) * num_codes + old_j, keys])
        weights = np.concatenate([counts.counts, weights])
    keys, place = np.unique(keys, return_inverse=True)
    totals = np.zeros(keys.size, np.int64)
    np.add.at(totals, place.reshape(-1), weights)
    rest, j = np.divmod(keys, num_codes)
    m, i = np.divmod(rest, num_codes)
    return PairCounts(np.stack([m, i, j]).astype(np.int32), totals, num_codes)


def token_log_likelihood(counts: Real[Array | np.ndarray, "k k m"] | PairCounts, eps: float = 0.0,
                         weight: float | Array = 1.0) -> Likelihood:
    """log p(mixture token | tokens of the addends), smoothed frequencies, normalised over the mixture's token.

        log p(m | i, j) = weight * log [(counts[i, j, m] + eps) / (sum_m' counts[i, j, m'] + eps K)]

    Pairs that were never counted with m are impossible, -inf, unless eps > 0. A mixture token that was never counted
    at all has then no explanation: what separates it scores -inf. With eps > 0 it gets one by the priors alone.

    Args:
      counts: a table by first, second and mixture, or `PairCounts`.
      eps: what every count is raised by, static. With `PairCounts` and eps > 0 a step costs K^2, as with a table.
      weight: of the likelihood against the priors; the paper's lambda.

    Returns:
      For a table float32 `[K K K]` by mixture, first, second, nats; for lists a `PairLikelihood`. Both work in
      `separate_beam` and `separate_sample`.

    Raises:
      ValueError: for negative eps, or an empty list of counts without it.

    Reference: Postolache et al., 2023, arXiv 2301.08562.
    """
    if eps < 0:
        raise ValueError(f"eps={eps} must be 0 or more")
    if not isinstance(counts, PairCounts):
        smooth = counts.astype(jnp.float32) + eps
        total = smooth.sum(-1, keepdims=True)
        # A pair that was never seen says nothing: -inf - (-inf) would be NaN.
        log_prob = jnp.where(smooth > 0, jnp.log(smooth) - jnp.log(total), -jnp.inf)
        return jnp.moveaxis(jnp.where(smooth > 0, weight * log_prob, -jnp.inf), -1, 0)
    k, (m, i, j) = counts.num_codes, counts.coords
    if not m.size and not eps:
        raise ValueError("nothing was counted: count addend tokens first, or give eps > 0")
    totals = np.bincount(i.astype(np.int64) * k + j, counts.counts, k * k) + eps * k
    log_prob = weight * (np.log(counts.counts + eps) - np.log(totals[i.astype(np.int64) * k + j]))
    starts = np.searchsorted(m, np.arange(k + 1))
    background = weight * (np.log(eps) - np.log(totals)).reshape(k, k) if eps else None
    return PairLikelihood(
        jnp.asarray(np.stack([i, j]), jnp.int32), jnp.asarray(log_prob, jnp.float32), jnp.asarray(starts, jnp.int32),
        jnp.arange(max(1, np.diff(starts).max()), dtype=jnp.int32),
        None if background is None else jnp.asarray(background, jnp.float32))


def pairs_of(likelihood: Likelihood, token: Int[Array, ""]) -> tuple[Int[Array, "2 p"] | None, Float[Array, "..."]]:
    """The pairs that may explain a mixture token, and log p(token | pair).

    Args:
      likelihood: of `token_log_likelihood`.
      token: of the mixture.

    Returns:
      `(pairs [2 p], log_prob [p])`, -inf beyond the end of the token's list; or, where all pairs stand in a table,
      `(None, log_prob [K K])`.
    """
    if not isinstance(likelihood, PairLikelihood):
        return None, likelihood[token]
    start, end = likelihood.starts[token], likelihood.starts[token + 1]
    place = start + likelihood.window
    pairs, log_prob = likelihood.pairs[:, place], likelihood.log_prob[place]
    if likelihood.background is None:
        return pairs, jnp.where(place < end, log_prob, -jnp.inf)
    i, j = jnp.where(place < end, pairs, len(likelihood.background))  # out of range: dropped
    return None, likelihood.background.at[i, j].set(log_prob, mode="drop")


def _triples(first, second, mixture, np_or_jnp=jnp):
    if not first.shape == second.shape == mixture.shape:
        raise ValueError("addends and mixture must be encoded at the same positions; their codes have shapes "
                         f"{first.shape}, {second.shape} and {mixture.shape}")
    return np_or_jnp.stack([codes.reshape(-1) for codes in (first, second, mixture)])
