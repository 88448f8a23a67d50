"""BLEU of token sequences, against references and against the inputs of a paraphraser."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxae.collectives import total

_ORDERS = 4


def bleu_counts(outputs: Int[Array, "n t"], references: Int[Array, "n r s"], end: int = 0) -> Float[Array, "n 10"]:
    """What BLEU needs of each sentence; the sum over sentences is what it needs of a corpus.

    Args:
      outputs: tokens `[n t]`; 0 is padding.
      references: of each output, `[n r s]`; a row of padding alone is no reference.
      end: a token that is no word either, such as the end of a sentence; 0 for none.

    Returns:
      `[n 10]`: for n-grams of 1 to 4 words how many of the output's stand in a reference, each counted at most as often
      as in the reference that has most of it; how many there are; the output's length in words; that of the reference
      nearest in length, the shorter of two.
    """
    def one(output, references):
        output, length = _words(output, end)
        others, lengths = jax.vmap(lambda reference: _words(reference, end))(references)
        found, there = [], []
        for order in range(1, _ORDERS + 1):
            own, valid = _ngrams(output, length, order)
            same = jnp.all(own[:, None] == own, -1) & valid
            rank = jnp.tril(same, -1).sum(-1)  # how often this n-gram has come before

            def count(reference, size, own=own, order=order):
                theirs, real = _ngrams(reference, size, order)
                return (jnp.all(own[:, None] == theirs, -1) & real).sum(-1)

            most = jax.vmap(count)(others, lengths).max(0)
            found.append((valid & (rank < most)).sum())
            there.append(valid.sum())
        # By difference in length, then by length; what is no reference comes last.
        far = jnp.where(lengths > 0, jnp.abs(lengths - length) * 2**15 + lengths, 2**30)
        return jnp.stack([*found, *there, length, lengths[far.argmin()]]).astype(jnp.float32)

    return jax.vmap(one)(outputs, references)


def bleu_of_counts(counts: Float[Array, "*n 10"]) -> Float[Array, "*n"]:
    """BLEU, 0 to 100, of the sum of `bleu_counts` over a corpus.

        BLEU = 100 min(1, exp(1 - r/c)) exp(1/4 sum_k log p_k)

    with c words in the outputs, r in the references and p_k the share of n-grams of k words that are found. If none of
    length k is found, p_k is 1 / (2^j times their number), j = 1 for the first such k, 2 for the next (smoothing
    'exp'); BLEU is 0 if none is found at all, or if no output has four words.

    Args:
      counts: `[... 10]`, sums over sentences.

    Returns:
      `[...]`.

    >>> f'{bleu_of_counts(jnp.array([4.0, 3, 2, 1, 4, 3, 2, 1, 4, 5])):.2f}'
    '77.88'

    Reference: Papineni, Roukos, Ward, Zhu, 'BLEU: a method for automatic evaluation of machine translation', ACL 2002;
    smoothing and the nearest length as in Post, 'A call for clarity in reporting BLEU scores', 2018, arXiv 1804.08771.
    """
    found, there = counts[..., :_ORDERS], counts[..., _ORDERS:2 * _ORDERS]
    words, reference = counts[..., -2], counts[..., -1]
    missing = found == 0
    share = jnp.where(missing, 0.5 ** jnp.cumsum(missing, -1), found) / jnp.maximum(there, 1.0)
    brevity = jnp.minimum(0.0, 1.0 - reference / jnp.maximum(words, 1.0))
    score = 100.0 * jnp.exp(brevity + jnp.log(share).mean(-1))
    return jnp.where((there[..., -1] > 0) & ~missing.all(-1), score, 0.0)


def bleu(outputs: Int[Array, "n t"], references: Int[Array, "n *r s"], end: int = 0,
         axis_name: str | None = None) -> Float[Array, ""]:
    """Corpus BLEU of up to 4 words, 0 to 100: see `bleu_of_counts`.

    Against the inputs in the place of references it is the paraphrasing literature's self-BLEU: 100 for copies.

    Args:
      outputs: tokens `[n t]`; 0 is padding.
      references: `[n s]`, or `[n r s]` for several of each output.
      end: a token that is no word either.
      axis_name: the mapped axis over which the corpus is spread.

    >>> x = jnp.array([[3, 4, 5, 6, 7, 0]])
    >>> round(float(bleu(x, x)), 3)
    100.0

    Raises:
      ValueError: for references of another rank.
    """
    if references.ndim not in (2, 3):
        raise ValueError(f"references must be [n s] or [n r s], not {list(references.shape)}")
    several = references if references.ndim == 3 else references[:, None]
    return bleu_of_counts(total(bleu_counts(outputs, several, end).sum(0), axis_name))


def ibleu(outputs: Int[Array, "n t"], references: Int[Array, "n *r s"], inputs: Int[Array, "n u"], alpha: float = 0.7,
          end: int = 0, axis_name: str | None = None) -> Float[Array, ""]:
    """alpha BLEU(outputs, references) - (1 - alpha) BLEU(outputs, inputs): right, and not a copy of what came in.

    Args:
      outputs: tokens `[n t]` that a paraphraser made of `inputs`; 0 is padding.
      references: `[n s]` or `[n r s]`.
      inputs: `[n u]`.
      alpha: in [0, 1].
      end: a token that is no word either.
      axis_name: the mapped axis over which the corpus is spread.

    Returns:
      At most 100 alpha, and negative for copies that no reference resembles.

    Reference: Sun and Zhou, 'Joint learning of a dual SMT system for paraphrase generation', ACL 2012; alpha = 0.7 in
    Hosking and Lapata, 2021, arXiv 2105.15053.
    """
    return ibleu_of(bleu(outputs, references, end, axis_name), bleu(outputs, inputs, end, axis_name), alpha)


def ibleu_of(bleu: Float[Array, "*n"] | float, self_bleu: Float[Array, "*n"] | float, alpha: float = 0.7
             ) -> Float[Array, "*n"] | float:
    """alpha BLEU - (1 - alpha) self-BLEU.

    Args:
      bleu: of the outputs against the references, 0 to 100, any shape.
      self_bleu: of the outputs against the inputs, of the same shape.
      alpha: weight of the former.

    Returns:
      The score, of their shape. See `ibleu` for its source.

    >>> round(ibleu_of(36.36, 35.37), 2)
    14.84
    """
    return alpha * bleu - (1.0 - alpha) * self_bleu


def _words(tokens, end):
    """The words moved to the front, in order, and how many there are: [t], []."""
    word = (tokens != 0) & (tokens != end)
    return jnp.where(jnp.sort(~word), 0, tokens[jnp.argsort(~word, stable=True)]), word.sum()


def _ngrams(words, length, order):
    """All n-grams `[t order]` of words `[t]` of this length, and which of them are no padding `[t]`."""
    t = words.shape[0]
    padded = jnp.pad(words, (0, order))
    return jnp.stack([padded[i:i + t] for i in range(order)], -1), jnp.arange(t) + order <= length
