"""Which tokens have a latent of their own, common and rare; and how a classifier does on the group it serves worst."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Real

from jaxae.collectives import total


def token_f1(codes: Float[Array, "n m"], tokens: Int[Array, " n"], vocabulary: int, threshold: float = 0.0,
             axis_name: str | None = None) -> Float[Array, "m {vocabulary}"]:
    """F1 of 'latent i is active' as a sign of 'the token is v': 2 hits / (times active + times there).

    Args:
      codes: of n places.
      tokens: at these places, in [0, vocabulary).
      vocabulary: number of tokens.
      threshold: codes above it are active.
      axis_name: the mapped axis over which the places are spread.

    Returns:
      In [0, 1]; 0 for a latent that is never active or a token that is not there.
    """
    active = (codes > threshold).astype(jnp.float32)
    there = (tokens[:, None] == jnp.arange(vocabulary)).astype(jnp.float32)
    hits, fired, count = total((active.T @ there, active.sum(0), there.sum(0)), axis_name)
    return 2.0 * hits / jnp.maximum(fired[:, None] + count, 1.0)


def token_coverage(codes: Float[Array, "n m"], tokens: Int[Array, " n"], vocabulary: int, least: float = 0.5,
                   threshold: float = 0.0, axis_name: str | None = None) -> Bool[Array, " {vocabulary}"]:
    """Whether each token has a latent that tells it, by `token_f1` above `least`.

    Args:
      codes, tokens, vocabulary, threshold, axis_name: as for `token_f1`.
      least: F1.

    >>> token_coverage(jnp.eye(3)[:, :2], jnp.array([0, 1, 2]), 3).tolist()
    [True, True, False]

    Reference: Muhamed, Diab and Smith, 'Decoding dark matter', 2024, arXiv 2411.00743.
    """
    return token_f1(codes, tokens, vocabulary, threshold, axis_name).max(0) > least


def cumulative_coverage(covered: Bool[Array, " v"], count: Real[Array, " v"]) -> Float[Array, " v"]:
    """Share of all covered tokens among the 1, 2, ..., v most frequent ones; 1 at the end.

    A curve that rises late says that rare tokens have their share of the latents.

    Args:
      covered: of each token, such as `token_coverage`.
      count: how often each occurs.

    Reference: Muhamed et al., 2024, arXiv 2411.00743.
    """
    found = jnp.cumsum(covered[jnp.argsort(-count)].astype(jnp.float32))
    return found / jnp.maximum(found[-1], 1.0)


def token_entropy(codes: Float[Array, "n m"], tokens: Int[Array, " n"], vocabulary: int,
                  axis_name: str | None = None) -> Float[Array, " m"]:
    """Entropy, in nats, of the tokens on which a latent's activity falls: 0 for a latent of one token.

    Args:
      codes: of n places, not negative.
      tokens: at these places, in [0, vocabulary).
      vocabulary: number of tokens.
      axis_name: the mapped axis over which the places are spread.

    Returns:
      `[m]`; 0 for a latent that is never active.
    """
    there = (tokens[:, None] == jnp.arange(vocabulary)).astype(jnp.float32)
    mass = total(codes.astype(jnp.float32).T @ there, axis_name)
    share = mass / jnp.maximum(mass.sum(1, keepdims=True), 1e-30)
    return -jnp.where(share > 0, share * jnp.log(jnp.where(share > 0, share, 1.0)), 0.0).sum(1)


def worst_group_accuracy(predicted: Int[Array, " n"], label: Int[Array, " n"], group: Int[Array, " n"], groups: int,
                         axis_name: str | None = None) -> Float[Array, ""]:
    """The least accuracy over groups of examples, such as the pairs of a label and a spurious attribute.

    Args:
      predicted: classes.
      label: true classes.
      group: of each example, in [0, groups).
      groups: number of groups; those without examples do not count.
      axis_name: the mapped axis over which the examples are spread.

    Returns:
      A scalar in [0, 1].

    >>> float(worst_group_accuracy(jnp.array([0, 0, 1]), jnp.array([0, 1, 1]), jnp.array([0, 1, 1]), 2))
    0.5
    """
    there = group[:, None] == jnp.arange(groups)
    right, count = total(((there & (predicted == label)[:, None]).sum(0), there.sum(0)), axis_name)
    return jnp.where(count > 0, right / jnp.maximum(count, 1), 1.0).min()
