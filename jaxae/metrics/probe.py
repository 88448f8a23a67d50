"""Accuracy of a linear probe: how well labels can be read off features."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxae.collectives import gather, mean


def linear_probe(train_x: Float[Array, "n d"], train_y: Int[Array, " n"], test_x: Float[Array, "m d"],
                 test_y: Int[Array, " m"], classes: int, ridge: float = 1e-3,
                 axis_name: str | None = None) -> Float[Array, ""]:
    """Test accuracy of one-against-all ridge regression on standardized features, in closed form.

    W = (X^T X / n + ridge I)^-1 X^T Y / n, with the columns of X scaled to mean 0 and variance 1 on the
    training set and Y the one-hot labels, whose means are the bias; the class with the largest score is
    predicted. It is deterministic, has one parameter, and is the classifier of scikit-learn's
    `RidgeClassifier(alpha=ridge * n)` behind a `StandardScaler`.

    Args:
      train_x: features to fit on.
      train_y: their classes, in [0, classes).
      test_x: features to predict from.
      test_y: their classes.
      classes: number of classes.
      ridge: penalty on the weights of standardized features, per example; above 0, so that n < d works.
      axis_name: the mapped axis over which both sets are spread.

    Returns:
      The share of test examples whose class is predicted, a scalar in [0, 1].

    Raises:
      ValueError: for a ridge that is not positive.

    >>> import jax.numpy as jnp
    >>> x, y = jnp.array([[0.0], [0.1], [1.0], [1.1]]), jnp.array([0, 0, 1, 1])
    >>> float(linear_probe(x, y, x, y, classes=2))
    1.0

    Reference: Alain and Bengio, 'Understanding intermediate layers using linear classifier probes', 2016,
    arXiv 1610.01644 (there by gradient descent on the logistic loss).
    """
    if ridge <= 0:
        raise ValueError(f"linear_probe wants ridge > 0; got {ridge}")
    train_x, train_y = gather(train_x, axis_name).astype(jnp.float32), gather(train_y, axis_name)
    n, d = train_x.shape
    shift, scale = train_x.mean(0), train_x.std(0)
    constant = scale <= 1e-6 * jnp.abs(train_x).max(0)  # zero after the shift, up to rounding
    scale = jnp.where(constant, jnp.inf, scale)  # so that it stays zero at test time
    x = (train_x - shift) / scale
    targets = jax.nn.one_hot(train_y, classes)
    bias = targets.mean(0)
    gram = jnp.matmul(x.T, x, precision=lax.Precision.HIGHEST) / n + ridge * jnp.eye(d)
    cross = jnp.matmul(x.T, targets, precision=lax.Precision.HIGHEST) / n
    weights = jax.scipy.linalg.solve(gram, cross, assume_a="pos")
    scores = jnp.matmul((test_x - shift) / scale, weights, precision=lax.Precision.HIGHEST) + bias
    return mean((scores.argmax(-1) == test_y).mean(dtype=jnp.float32), axis_name)
