"""Scores by intervention, as far as a table allows: rows that share one factor's value, and which code betrays it.

Rows that share a value are drawn with replacement, so that a batch is a fair sample of the table's rows with that
value, and a value comes up as often as it does in the table.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Integer

from jaxae.collectives import gather
from jaxae.metrics.disentanglement import check_table


class InterventionScore(NamedTuple):
    """How well the fixed factor is told from the codes; chance is 1 / k for k factors."""

    accuracy: Float[ArrayLike, ""]  # on fresh batches: the score
    train_accuracy: Float[ArrayLike, ""]  # on the batches that the classifier was fitted on


def factor_vae_score(key: Array, z: Float[ArrayLike, "n d"], factors: Integer[ArrayLike, "m k"], batch: int = 64,
                     num_train: int = 10_000, num_eval: int = 5_000, threshold: float = 0.05, chunk: int = 256,
                     axis_name: str | None = None) -> InterventionScore:
    """Accuracy of a majority vote for the fixed factor from the code that varies least.

    A vote: draw a factor k, a row, and a batch of rows with that row's value of k; the code whose variance in the
    batch, divided by its variance in the table, is least votes for k. The classifier maps each code to the factor
    that it votes for most; the score is its accuracy on further votes. 1 where each factor has a code to itself.

    Args:
      key: draws the batches; the same on every replica.
      z: codes, in practice posterior means.
      factors: the same rows' ground truth, any integers; every value in at least two rows.
      batch: rows of a vote; 64 is disentanglement_lib's, the paper has 200.
      num_train: votes for the classifier.
      num_eval: votes for the score.
      threshold: codes with at most this standard deviation in the table are taken for inactive and never vote, lest
        they win by hardly varying at all; .05 is the study's by Locatello et al. (2019, arXiv 1811.12359). Codes that
        do not live on the scale of a standard normal prior want another one.
      chunk: votes in memory at once; the score is the same for every chunk.
      axis_name: the mapped axis over which the rows are spread.

    Returns:
      An `InterventionScore`, of zeros if no code is active and NaN if a code is not finite.

    Raises:
      ValueError: for tables of different lengths, fewer rows than `batch`, a factor with one value only, or a value
        in one row only (the latter two are not seen under `jit`).

    Reference: Kim and Mnih, 'Disentangling by factorising', 2018, arXiv 1802.05983.
    """
    z, factors = _gathered_table(z, factors, batch, axis_name)
    variance = z.var(0, ddof=1)
    active = jnp.sqrt(variance) > threshold
    groups, (n, k) = _groups(factors), factors.shape
    factor_key, row_key, batch_key = jax.random.split(key, 3)
    factor = jax.random.randint(factor_key, (num_train + num_eval,), 0, k)
    row = jax.random.randint(row_key, factor.shape, 0, n)
    rows = _alike(batch_key, groups, jnp.repeat(row[:, None], batch, 1), factor)

    def vote(rows):
        share = z[rows].var(0, ddof=1) / jnp.where(active, variance, 1.0)
        return jnp.where(active, share, jnp.inf).argmin()

    code = lax.map(vote, rows, batch_size=min(chunk, factor.size))
    train, held = (jnp.zeros((z.shape[1], k)).at[code[part], factor[part]].add(1.0)
                   for part in (slice(num_train), slice(num_train, None)))
    guess = train.argmax(1)[:, None]
    # No active code is a model at its worst, a code that is not a number is no model.
    without = jnp.where(jnp.isfinite(variance).all(), 0.0, jnp.nan)
    valid = active.any() & (without == 0)
    return InterventionScore(*(jnp.where(valid, jnp.take_along_axis(votes, guess, 1).sum() / votes.sum(), without)
                               for votes in (held, train)))


def beta_vae_score(key: Array, z: Float[ArrayLike, "n d"], factors: Integer[ArrayLike, "m k"], batch: int = 64,
                   num_train: int = 10_000, num_eval: int = 5_000, chunk: int = 256) -> InterventionScore:
    """Accuracy of a linear classifier of the fixed factor from mean |z_a - z_b| over pairs that share its value.

    Every pair of a batch has a value of its own. The classifier is scikit-learn's `LogisticRegression`, on features
    as they are, so this is no function to `jit`. A score of 1 does not mean that codes and factors match one to one.

    Args:
      key: draws the pairs.
      z: codes, in practice posterior means.
      factors: the same rows' ground truth, any integers; every value in at least two rows.
      batch: pairs of a feature vector.
      num_train: feature vectors for the classifier.
      num_eval: feature vectors for the score.
      chunk: feature vectors made at once; the score is the same for every chunk.

    Returns:
      An `InterventionScore`.

    Raises:
      ValueError: as `factor_vae_score`, and for codes that are not finite or fewer than two factors.

    Reference: Higgins et al., 'beta-VAE: learning basic visual concepts with a constrained variational framework',
    ICLR 2017.
    """
    from sklearn.linear_model import LogisticRegression

    if np.ndim(factors) == 2 and np.shape(factors)[1] < 2:
        raise ValueError("beta_vae_score tells factors apart: give at least two")
    z, factors = _gathered_table(z, factors, batch, None)
    x, y = map(np.asarray, _pair_features(key, z, factors, batch, num_train + num_eval, chunk))
    if not np.isfinite(x).all():
        raise ValueError("beta_vae_score got codes that are NaN or infinite")
    train, held = (x[:num_train], y[:num_train]), (x[num_train:], y[num_train:])
    model = LogisticRegression(max_iter=1000).fit(*train)
    return InterventionScore(float(model.score(*held)), float(model.score(*train)))


@partial(jax.jit, static_argnums=(3, 4, 5))
def _pair_features(key, z, factors, batch, number, chunk):
    """Mean differences `[number d]` and the factors that their pairs share `[number]`."""
    n, k = factors.shape
    factor_key, row_key, partner_key = jax.random.split(key, 3)
    factor = jax.random.randint(factor_key, (number,), 0, k)
    rows = jax.random.randint(row_key, (number, batch), 0, n)
    pairs = rows, _alike(partner_key, _groups(factors), rows, factor)
    features = lax.map(lambda pair: jnp.abs(z[pair[0]] - z[pair[1]]).mean(0), pairs, batch_size=min(chunk, number))
    return features, factor


def _gathered_table(z, factors, batch, axis_name):
    z, factors = check_table(z, factors)
    if not isinstance(factors, jax.core.Tracer):
        for j, column in enumerate(np.asarray(factors).T):
            values, counts = np.unique(column, return_counts=True)
            if counts.min() < 2:
                raise ValueError(f"factor {j} has the value {values[counts.argmin()]} in one row only, which has no "
                                 "variance: give more rows, or merge rare values")
    z, factors = gather(z, axis_name), gather(factors, axis_name)
    if not 2 <= batch <= z.shape[0]:
        raise ValueError(f"batches of {batch} want at least as many rows, and at least 2; got a table of {z.shape[0]}: "
                         "give more rows or a smaller batch")
    return z, factors


def _groups(factors):
    """Rows in the order of each factor `[n k]`, and where in it each row's value starts and stops `[n k]`."""
    order = jnp.argsort(factors, axis=0)
    ordered = jnp.take_along_axis(factors, order, 0)
    start = jax.vmap(partial(jnp.searchsorted, side="left"), 1, 1)(ordered, factors)
    stop = jax.vmap(partial(jnp.searchsorted, side="right"), 1, 1)(ordered, factors)
    return order, start, stop


def _alike(key, groups, rows, factor):
    """For each of the rows `[m b]` another, drawn from all that share its value of the factor `[m]`."""
    order, start, stop = groups
    factor = factor[:, None]
    place = jax.random.randint(key, rows.shape, start[rows, factor], stop[rows, factor])
    return order[place, factor]
