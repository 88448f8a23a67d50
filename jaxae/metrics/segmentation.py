"""How well one semantic map agrees with another."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Real


def confusion_matrix(y: Int[Array, "..."], y_hat: Int[Array, "..."], classes: int) -> Int[Array, "k k"]:
    """How many pixels of each true class (rows) are given each class (columns); sums over batches add up.

    Args:
      y: true classes; pixels outside [0, classes) are void and not counted.
      y_hat: classes in [0, classes), of the same shape.
      classes: k.

    Returns:
      int32 `[k k]`.
    """
    void = (y < 0) | (y >= classes)
    cell = jnp.where(void, classes**2, y.astype(jnp.int32) * classes + y_hat.astype(jnp.int32)).ravel()
    return jnp.zeros(classes**2 + 1, jnp.int32).at[cell].add(1)[:-1].reshape(classes, classes)


def mean_iou(confusion: Real[Array, "*b k k"]) -> Float[Array, "*b"]:
    """Intersection over union of each class, averaged over the classes that occur in either map.

    Args:
      confusion: counts as of `confusion_matrix`.

    Returns:
      In [0, 1]; NaN where nothing was counted.

    >>> y = jnp.array([0, 0, 1, 1])
    >>> round(float(mean_iou(confusion_matrix(y, jnp.array([0, 1, 1, 1]), 3))), 4)  # (1/2 + 2/3) / 2
    0.5833
    """
    counts = confusion.astype(jnp.float32)
    both = jnp.diagonal(counts, axis1=-2, axis2=-1)
    either = counts.sum(-1) + counts.sum(-2) - both
    return jnp.where(either > 0, both / jnp.maximum(either, 1.0), 0.0).sum(-1) / (either > 0).sum(-1)


def pixel_accuracy(confusion: Real[Array, "*b k k"]) -> Float[Array, "*b"]:
    """Share of the counted pixels whose classes agree.

    Args:
      confusion: counts as of `confusion_matrix`.

    Returns:
      In [0, 1]; NaN where nothing was counted.

    >>> float(pixel_accuracy(jnp.array([[3, 1], [0, 4]])))
    0.875
    """
    counts = confusion.astype(jnp.float32)
    return jnp.trace(counts, axis1=-2, axis2=-1) / counts.sum((-2, -1))
