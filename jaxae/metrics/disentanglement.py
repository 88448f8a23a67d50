"""How far single codes hold single factors: MIG, modularity, SAP and DCI of a table of codes and factors.

They follow disentanglement_lib (Locatello et al., 2019, arXiv 1811.12359), whose numbers the literature reports,
except where a docstring says otherwise. `sap` and `dci` run scikit-learn on host arrays; the rest is JAX.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import entr
from jaxtyping import Array, ArrayLike, Float, Int, Integer

from jaxae.collectives import gather

_PREDICTORS = ("gradient_boosting", "random_forest", "logistic")


class DCI(NamedTuple):
    """Disentanglement, completeness and informativeness of a representation."""

    disentanglement: float  # in [0, 1]: does a code serve one factor only
    completeness: float  # in [0, 1]: is a factor served by one code only
    informativeness: float  # accuracy of the factors' predictors on the test set, mean over factors
    train_informativeness: float  # the same on the training set
    importance: np.ndarray  # [d k] of code j for factor k, at least 0


def mutual_information(a: Integer[ArrayLike, " n"], b: Integer[ArrayLike, " m"]) -> Float[Array, ""]:
    """Mutual information of two columns of labels under their empirical joint distribution, in nats.

    sum_ab p(a, b) log(p(a, b) / (p(a) p(b))), computed as the mean over rows of log(n c(a, b) / (c(a) c(b))), with c
    the number of rows that share the labels: so the labels are any integers, and exactly independent columns give
    exactly 0. Of a column with itself it is the entropy. For independent random columns with A and B values expect
    (A - 1)(B - 1) / 2n, not 0. Raises ValueError for columns of different lengths.

    >>> import jax.numpy as jnp
    >>> f'{mutual_information(jnp.array([3, 3, 8, 8]), jnp.array([0, 0, 1, 1])):.4f}'  # log 2
    '0.6931'
    """
    a, b = jnp.asarray(a), jnp.asarray(b)
    if a.shape != b.shape:
        raise ValueError(f"mutual_information wants two columns of one length; got {a.shape} and {b.shape}")
    n = a.shape[0]
    return jnp.log(_shared(a, b) * n / (_shared(a) * _shared(b))).mean()


def discretize(z: Float[ArrayLike, "n d"], bins: int = 20) -> Int[Array, "n d"]:
    """Each column's values as one of `bins` bins of equal width between its least and greatest value."""
    z = jnp.asarray(z, jnp.float32)
    low, width = z.min(0), z.max(0) - z.min(0)
    return jnp.clip(jnp.floor((z - low) * bins / jnp.where(width > 0, width, 1.0)).astype(jnp.int32), 0, bins - 1)


def mutual_information_matrix(z: Float[ArrayLike, "n d"], factors: Integer[ArrayLike, "m k"], bins: int = 20,
                              axis_name: str | None = None) -> Float[Array, "d k"]:
    """Mutual information of every code, cut into bins, with every factor, in nats.

    Args:
      z: codes, in practice posterior means.
      factors: the same rows' ground truth, any integers.
      bins: of the histogram of each code.
      axis_name: the mapped axis over which the rows are spread.

    Returns:
      `[d k]`; NaN in the row of a code that is not finite.
    """
    z, factors = check_table(z, factors)
    z, factors = gather(z, axis_name), gather(factors, axis_name)
    codes = discretize(z, bins)
    by_code = jax.vmap(mutual_information, (1, None))
    matrix = lax.map(lambda factor: by_code(codes, factor), factors.T).T
    return jnp.where(jnp.isfinite(z).all(0)[:, None], matrix, jnp.nan)


def mig(z: Float[ArrayLike, "n d"], factors: Integer[ArrayLike, "m k"], bins: int = 20,
        axis_name: str | None = None) -> Float[Array, ""]:
    """Mutual information gap: mean_k (I(z_(1); v_k) - I(z_(2); v_k)) / H(v_k), in [0, 1].

    z_(1) and z_(2) are the two codes that say most about factor k. 1 means that one code alone determines each
    factor; two codes that share a factor, or that say nothing, give 0.

    Args:
      z: codes, at least two.
      factors: the same rows' ground truth, any integers.
      bins: of the histogram of each code. As many as a factor has values, at least, or it cannot reach 1.
      axis_name: the mapped axis over which the rows are spread.

    Returns:
      The score, a scalar. Under `jit` a factor with one value only, an error elsewhere, gives NaN.

    Raises:
      ValueError: for tables that `check_table` refuses.

    Reference: Chen, Li, Grosse, Duvenaud, 'Isolating sources of disentanglement in VAEs', 2018, arXiv 1802.04942 (there
    with the joint of a sampled code in place of a histogram of means).
    """
    z, factors = check_table(z, factors, codes=2)
    matrix = mutual_information_matrix(z, factors, bins, axis_name)
    factors = gather(factors, axis_name)
    entropy = jax.vmap(mutual_information, (1, 1))(factors, factors)
    best = lax.top_k(matrix.T, 2)[0]
    return ((best[:, 0] - best[:, 1]) / entropy).mean()


def modularity(z: Float[ArrayLike, "n d"], factors: Integer[ArrayLike, "m k"], bins: int = 20,
               axis_name: str | None = None) -> Float[Array, ""]:
    """Mean over codes of 1 - sum_{k != best} I(z_j; v_k)^2 / (max_k I(z_j; v_k)^2 (K - 1)), in [0, 1].

    1 where each code knows of one factor at most; two codes may share a factor. A code with no information at all
    counts as 0, as in disentanglement_lib; one of noise is judged by the bias of its informations.

    Args and errors are those of `mig`, except that a single code will do and two factors are needed.

    Reference: Ridgeway and Mozer, 'Learning deep disentangled embeddings with the F-statistic loss', 2018,
    arXiv 1802.05312.
    """
    z, factors = check_table(z, factors, columns=2)
    squared = jnp.square(mutual_information_matrix(z, factors, bins, axis_name))
    best = squared.max(1)
    others = (squared.sum(1) - best) / (squared.shape[1] - 1)
    return jnp.where(best == 0, 0.0, 1.0 - others / jnp.where(best == 0, 1.0, best)).mean()


def sap(train_z: Float[ArrayLike, "n d"], train_factors: Integer[ArrayLike, "m k"], test_z: Float[ArrayLike, "t e"],
        test_factors: Integer[ArrayLike, "u l"], c: float = 0.01) -> float:
    """Separated attribute predictability: mean_k of the gap between the two codes that predict factor k best.

    A code predicts by a linear support vector machine on it alone, one class against the others, classes balanced;
    its score is the accuracy on the test set. At best that is 1 less chance: .5 for binary factors. Factors with many
    ordered values are better served by `sap_continuous`.

    Args:
      train_z: codes to fit on, at least two.
      train_factors: the same rows' ground truth, any integers.
      test_z: codes to predict from.
      test_factors: their ground truth.
      c: of the machine; .01 is disentanglement_lib's.

    Raises:
      ValueError: for tables that `check_table` refuses.

    Reference: Kumar, Sattigeri, Balakrishnan, 'Variational inference of disentangled latent concepts from unlabeled
    observations', 2018, arXiv 1711.00848.
    """
    from sklearn.svm import LinearSVC

    x, y, test_x, test_y = _host_tables(train_z, train_factors, test_z, test_factors, codes=2)
    scores = np.zeros((x.shape[1], y.shape[1]))
    for i, j in np.ndindex(*scores.shape):
        machine = LinearSVC(C=c, class_weight="balanced", dual="auto").fit(x[:, i:i + 1], y[:, j])
        scores[i, j] = machine.score(test_x[:, i:i + 1], test_y[:, j])
    second, best = np.sort(scores, 0)[-2:]
    return float((best - second).mean())


def sap_continuous(z: Float[ArrayLike, "n d"], factors: Integer[ArrayLike, "m k"],
                   axis_name: str | None = None) -> Float[Array, ""]:
    """`sap` of ordered factors, in [0, 1]: a code's score is the R^2 of the linear regression of the factor on it.

    Args and errors are those of `mig`; factors count as numbers, and a code of variance up to 1e-12 scores 0.
    """
    z, factors = check_table(z, factors, codes=2)
    z, factors = gather(z, axis_name), gather(factors, axis_name).astype(jnp.float32)
    x, y = z - z.mean(0), factors - factors.mean(0)
    var_x, var_y = x.var(0)[:, None], y.var(0)
    covariance = jnp.matmul(x.T, y, precision=lax.Precision.HIGHEST) / x.shape[0]
    fits = jnp.where(var_x <= 1e-12, 0.0, covariance**2 / (jnp.where(var_x <= 1e-12, 1.0, var_x) * var_y))
    best = lax.top_k(fits.T, 2)[0]
    return (best[:, 0] - best[:, 1]).mean()


def dci_scores(importance: Float[ArrayLike, "d k"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Disentanglement and completeness of a matrix of importances R >= 0 of codes for factors.

    With P the rows of R made distributions over factors: sum_j rho_j (1 - H_K(P_j)), rho_j the share of row j in R
    and H_K the entropy to base K. Completeness is the same of the transpose. No importance at all gives 0.
    """
    def along_rows(r):
        sums, whole = r.sum(1), r.sum()
        entropy = entr(r / jnp.where(sums > 0, sums, 1.0)[:, None]).sum(1) / np.log(r.shape[1])
        return (sums * (1.0 - entropy)).sum() / jnp.where(whole > 0, whole, 1.0)

    importance = jnp.asarray(importance, jnp.float32)
    return along_rows(importance), along_rows(importance.T)


def dci(train_z: Float[ArrayLike, "n d"], train_factors: Integer[ArrayLike, "m k"], test_z: Float[ArrayLike, "t e"],
        test_factors: Integer[ArrayLike, "u l"], predictor: str = "gradient_boosting", seed: int = 0,
        penalty: float = 0.01) -> DCI:
    """Disentanglement, completeness and informativeness, from how predictors of the factors use the codes.

    gradient_boosting, random_forest    scikit-learn's classifiers and their importances; disentanglement_lib takes
                                        the first. How much falls to which of two equal codes depends on `seed`.
    logistic                            softmax regression on standardized codes with `penalty` |W|_1, importance
                                        sum_classes |W|: quick, deterministic, linear.

    Args:
      train_z: codes to fit on, at least two.
      train_factors: the same rows' ground truth, at least two factors of any integers.
      test_z: codes to predict from.
      test_factors: their ground truth.
      predictor: one of the above.
      seed: of the trees.
      penalty: of the logistic predictor, on the mean cross-entropy in nats.

    Returns:
      A `DCI`. Informativeness is an accuracy, as in disentanglement_lib; the paper's is an error.

    Raises:
      ValueError: for another predictor, or tables that `check_table` refuses.

    Reference: Eastwood and Williams, 'A framework for the quantitative evaluation of disentangled representations',
    ICLR 2018.
    """
    if predictor not in _PREDICTORS:
        raise ValueError(f"dci has no predictor {predictor!r}: choose one of {', '.join(_PREDICTORS)}")
    x, y, test_x, test_y = _host_tables(train_z, train_factors, test_z, test_factors, codes=2, columns=2)
    if predictor == "logistic":
        fits = [_logistic(x, column, test_x, penalty) for column in y.T]
    else:
        fits = [_trees(x, column, test_x, predictor, seed) for column in y.T]
    importance, found, test_found = (np.stack(parts, 1) for parts in zip(*fits, strict=True))
    disentanglement, completeness = dci_scores(importance)
    return DCI(float(disentanglement), float(completeness), float((test_found == test_y).mean()),
               float((found == y).mean()), importance)


def check_table(z: ArrayLike, factors: ArrayLike, codes: int = 1, columns: int = 1) -> tuple[Array, Array]:
    """The codes in float32 and the factors in int32; ValueError for different lengths, too few columns, or (except
    under `jit`, where values are not known) a factor with one value only."""
    shapes = f"got {np.shape(z)} and {np.shape(factors)}"
    if np.ndim(z) != 2 or np.ndim(factors) != 2 or np.shape(z)[0] != np.shape(factors)[0]:
        raise ValueError(f"codes [n d] and factors [n k] of the same rows, please; {shapes}")
    if np.shape(z)[1] < codes or np.shape(factors)[1] < columns:
        raise ValueError(f"this score wants at least {codes} codes and {columns} factors; {shapes}")
    if not isinstance(factors, jax.core.Tracer):
        values = np.asarray(factors)
        constant = np.flatnonzero((values == values[:1]).all(0))
        if constant.size:
            raise ValueError(f"factors {constant.tolist()} have one value only in these rows, so nothing can be said "
                             "of them: drop their columns")
    return jnp.asarray(z, jnp.float32), jnp.asarray(factors, jnp.int32)


def _host_tables(train_z, train_factors, test_z, test_factors, **least):
    train, test = check_table(train_z, train_factors, **least), check_table(test_z, test_factors, **least)
    if train[0].shape[1] != test[0].shape[1] or train[1].shape[1] != test[1].shape[1]:
        raise ValueError("training and test tables differ in their columns: "
                         f"{[part.shape for part in train]} and {[part.shape for part in test]}")
    return tuple(np.asarray(array) for array in (*train, *test))


def _shared(*labels):
    """For each row the number of rows `[n]` with the same labels, float32."""
    order = jnp.lexsort(labels)
    differs = jnp.stack([jnp.diff(label[order], prepend=label[order[:1]]) != 0 for label in labels]).any(0)
    group = jnp.cumsum(differs, dtype=jnp.int32)
    counts = jnp.zeros(order.shape).at[group].add(1.0)
    return jnp.zeros(order.shape).at[order].set(counts[group])


def _trees(x, y, test_x, name, seed):
    """Importances [d] and the predictions of both sets."""
    from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier

    trees = GradientBoostingClassifier if name == "gradient_boosting" else RandomForestClassifier
    model = trees(random_state=seed).fit(x, y)
    return model.feature_importances_, model.predict(x), model.predict(test_x)


def _logistic(x, y, test_x, penalty):
    values, classes = np.unique(y, return_inverse=True)
    shift, scale = x.mean(0), x.std(0)
    scale = np.where(scale > 1e-6 * np.abs(x).max(0), scale, np.inf)
    x, test_x = (np.pad((v - shift) / scale, ((0, 0), (0, 1)), constant_values=1.0) for v in (x, test_x))
    weights = np.asarray(_sparse_softmax(x, np.eye(len(values), dtype=np.float32)[classes], penalty))
    return np.abs(weights[:-1]).sum(1), values[(x @ weights).argmax(1)], values[(test_x @ weights).argmax(1)]


@jax.jit
def _sparse_softmax(x, targets, penalty):
    """argmin_W of mean cross-entropy + penalty |W|_1, last row (the bias) free, by accelerated proximal gradient."""
    n, width = x.shape
    step = 2.0 / jnp.linalg.eigvalsh(jnp.matmul(x.T, x, precision=lax.Precision.HIGHEST) / n)[-1]
    shrink = step * penalty * (jnp.arange(width) < width - 1)[:, None]

    def update(i, carry):
        weights, ahead = carry
        error = jax.nn.softmax(jnp.matmul(x, ahead, precision=lax.Precision.HIGHEST)) - targets
        moved = ahead - step * jnp.matmul(x.T, error, precision=lax.Precision.HIGHEST) / n
        new = jnp.sign(moved) * jnp.maximum(jnp.abs(moved) - shrink, 0.0)
        return new, new + (i / (i + 3.0)) * (new - weights)

    start = jnp.zeros((width, targets.shape[1]))
    return lax.fori_loop(0, 500, update, (start, start))[0]
