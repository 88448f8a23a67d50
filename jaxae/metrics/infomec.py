"""InfoMEC: modularity, explicitness and compactness of latents, from their information about known sources."""

import warnings
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import ArrayLike, Integer, Real

from jaxae.metrics.disentanglement import check_table, mutual_information


class InfoMEC(NamedTuple):
    """What `infomec` returns."""

    infom: float  # modularity: does a latent know of one source only; at most 1
    infoe: float  # explicitness: are the sources a linear function of the latents; at most 1
    infoc: float  # compactness: is a source known to one latent only; at most 1
    nmi: np.ndarray  # [k d] I(source; latent) / H(source), of all latents
    active: np.ndarray  # [d] bool: latents that were not pruned


def nmi_matrix(sources: Integer[ArrayLike, "n k"], latents: Real[ArrayLike, "m d"], discrete: bool,
               neighbors: int = 10, seed: int = 0) -> np.ndarray:
    """I(s_i; z_j) / H(s_i) of every source and latent: the share of a source that a latent tells, at most 1 if exact.

    Discrete latents: the plug-in estimate, biased up by about (A - 1)(B - 1) / 2n nats for A and B values.
    Continuous ones, standardized: scikit-learn's nearest-neighbour estimate for a discrete and a continuous variable,
    at least 0, which adds noise of 1e-10 by `seed` to tell equal values apart.

    Args:
      sources: discrete ground truth, any integers.
      latents: the same rows' codes; discrete ones may be any numbers, of which only equality counts.
      discrete: whether the latents are.
      neighbors: of the estimate for continuous latents.
      seed: of its noise.

    Returns:
      `[k d]`, no unit.

    Raises:
      ValueError: for tables of different lengths, a source with one value only, or latents that are not finite.

    Reference: Hsu, Dorrell, Whittington, Wu, Finn, 'Disentanglement via latent quantization', 2023, arXiv 2305.18378.
    """
    z, s = _tables(sources, latents)
    if discrete:
        information = np.asarray(_informations(_labels(z), s), np.float64)
    else:
        from sklearn.feature_selection import mutual_info_classif

        information = np.stack([mutual_info_classif(_standardized(z), column, discrete_features=False,
                                                    n_neighbors=neighbors, random_state=seed) for column in s.T])
    return information / np.diag(_informations(s, s)).astype(np.float64)[:, None]


def infomec(sources: Integer[ArrayLike, "n k"], latents: Real[ArrayLike, "m d"], discrete: bool,
            neighbors: int = 10, seed: int = 0) -> InfoMEC:
    """InfoM, InfoE and InfoC, each 1 at best and about 0 for latents that mix everything or say nothing.

    With the NMI matrix over active latents only (their number d'),

        InfoM = (mean_j max_i NMI_ij / sum_i NMI_ij - 1/k) / (1 - 1/k),
        InfoC = (mean_i max_j NMI_ij / sum_j NMI_ij - 1/d') / (1 - 1/d'),
        InfoE = mean_i 1 - H(s_i | z) / H(s_i | 0),

    H(s | z) the log-loss, on the rows it is fitted to, of an unregularized multinomial logistic regression with
    balanced classes on one-hot (discrete) or standardized latents, all of them; H(s | 0), of no input, is the
    logarithm of the number of values. A latent is active if its range exceeds 0 (discrete), or a twentieth of the
    largest range (continuous). What is 0 / 0 counts as spread evenly: a latent or source without any information.

    Args:
      sources: discrete ground truth, any integers, at least two columns.
      latents: the same rows' codes.
      discrete: whether the latents are: of a quantizer, its indices or its values.
      neighbors: of the nearest-neighbour estimate for continuous latents.
      seed: of its noise.

    Returns:
      An `InfoMEC`. Without an active latent InfoM and InfoC are 0; with one, InfoC is NaN, nothing being to compare.

    Raises:
      ValueError: as `nmi_matrix`, and for a single source.

    >>> s = np.indices((3, 3)).reshape(2, -1).T
    >>> scores = infomec(s, s[:, ::-1], discrete=True)
    >>> [round(score, 2) for score in scores[:3]]
    [1.0, 1.0, 1.0]

    Reference: Hsu et al., 2023, arXiv 2305.18378, section 5.
    """
    z, s = _tables(sources, latents, least=2)
    ranges = np.ptp(z, 0)
    active = ranges > (0.0 if discrete else ranges.max() / 20.0)
    nmi = nmi_matrix(s, z, discrete, neighbors, seed)
    features = _one_hot(z) if discrete else _standardized(z)
    return InfoMEC(_peakedness(nmi[:, active].T), _explicitness(features, s), _peakedness(nmi[:, active]), nmi, active)


@jax.jit
def _informations(a, b):
    """[k d] mutual information of every column of `b` [n k] with every column of `a` [n d], nats."""
    by_column = jax.vmap(mutual_information, (1, None))
    return jax.lax.map(lambda column: by_column(a, column), b.T)


def _peakedness(rows):
    """How far the largest share of each row exceeds the even one: 1 for one nonzero entry a row, 0 for equal ones."""
    if not rows.size:
        return 0.0
    even = 1.0 / rows.shape[1]
    if even == 1.0:
        return float("nan")
    sums = rows.sum(1)
    shares = np.where(sums > 0, rows.max(1) / np.where(sums > 0, sums, 1.0), even)
    return float((shares.mean() - even) / (1.0 - even))


def _explicitness(features, sources):
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    shares = []
    for column in sources.T:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # classes that can be told apart have no finite optimum
            model = LogisticRegression(C=np.inf, class_weight="balanced", max_iter=100).fit(features, column)
        loss = log_loss(column, model.predict_proba(features), labels=model.classes_)
        shares.append(1.0 - loss / np.log(len(model.classes_)))
    return float(np.mean(shares))


def _tables(sources, latents, least=1):
    check_table(latents, sources, columns=least)
    latents, sources = np.asarray(latents, np.float64), np.asarray(sources, np.int32)
    if not np.isfinite(latents).all():
        raise ValueError("latents are not all finite, so nothing can be said of them")
    return latents, sources


def _labels(z):
    return np.stack([np.unique(column, return_inverse=True)[1] for column in z.T], 1).astype(np.int32)


def _one_hot(z):
    labels = _labels(z)
    return np.concatenate([np.eye(column.max() + 1)[column] for column in labels.T], 1)


def _standardized(z):
    scale = z.std(0)
    return (z - z.mean(0)) / np.where(scale > 0, scale, 1.0)
