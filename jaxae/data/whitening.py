"""Whitening: principal components of the training split, each with variance one."""

import numpy as np

from jaxae.data.source import ArraySource, DataError


def whiten(train: ArraySource, test: ArraySource, components: int) -> tuple[ArraySource, ArraySource]:
    r"""Replaces x by its first principal components, divided by their standard deviations on the training split.

    $x' = \Lambda^{-1/2} U^\top (x - \bar x)$ with $\bar x$, $U$ and $\Lambda$ those of the training split, in the
    units of x (uint8 divided by 255). Sparse dictionaries of natural images want it: without it nearly all of the
    variance is that of brightness.

    Args:
      train: in memory; x of any shape is flattened.
      test: the same transform is applied.
      components: how many, at most what the rank allows.

    Returns:
      Train and test; `x` float32 `[n components]`, other arrays as they were. `info` gains `mean` `[...]` and `basis`
      `[components ...]`, the picture of a component: mean + x' @ basis is the projection of x.

    Raises:
      DataError: more components than the data have.

    >>> train = ArraySource({"x": np.random.default_rng(0).uniform(size=(50, 3)) * [1.0, 2.0, 5.0]})
    >>> white, _ = whiten(train, train, 2)
    >>> np.cov(white.arrays()["x"].T).round(2).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    x, other = (_flat(split) for split in (train, test))
    mean, shape = x.mean(0), train.spec["x"].shape
    _, s, v = np.linalg.svd(x - mean, full_matrices=False)
    rank = int((s > s[0] * 1e-6).sum())
    if not 1 <= components <= rank:
        raise DataError(f"whiten={components} components of data of rank {rank}: use 1 to {rank}, or 0 for none")
    scale = s[:components] / np.sqrt(len(x) - 1)
    info = {"mean": np.float32(mean.reshape(shape)),
            "basis": np.float32((v[:components] * scale[:, None]).reshape(components, *shape))}

    def made(split: ArraySource, rows: np.ndarray) -> ArraySource:
        arrays = {name: a for name, a in split.arrays().items() if name != "index"}
        arrays["x"] = np.float32((rows - mean) @ v[:components].T / scale)
        return ArraySource(arrays, {**split.info, **info})

    return made(train, x), made(test, other)


def _flat(split: ArraySource) -> np.ndarray:
    x = split.arrays()["x"]
    return x.reshape(len(x), -1) / (255.0 if x.dtype == np.uint8 else 1.0)
