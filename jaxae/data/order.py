"""The order in which training visits a set: a pure function of the seed and the step."""

import functools
import threading

import numpy as np

from jaxae.data.source import DataError

_lock = threading.Lock()   # stream's reading threads meet at an epoch's start: one shuffles, the others wait


@functools.lru_cache(maxsize=4)
def _permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    bits = np.random.Philox(np.random.SeedSequence([seed, epoch]))
    order = np.random.Generator(bits).permutation(np.arange(n, dtype=np.int32))
    order.setflags(write=False)
    return order


def batches_per_epoch(n: int, batch_size: int) -> int:
    """Whole batches in one pass over `n` examples; the remainder is dropped, another one in each epoch.

    Raises:
      DataError: fewer examples than one batch.
    """
    if batch_size < 1:
        raise DataError(f"batch_size must be at least 1, got {batch_size}")
    if n < batch_size:
        raise DataError(f"{n} training examples do not fill one batch of {batch_size}: "
                        f"lower batch_size to {n} or less, or bring more data")
    return n // batch_size


def batch_indices(n: int, batch_size: int, seed: int, start: int, stop: int) -> np.ndarray:
    """Positions of the examples in the batches of steps start, ..., stop - 1.

    Step s belongs to epoch s // (n // batch_size). Each epoch is its own permutation, a function of
    (seed, epoch), so any step can be asked for without those before it.

    Args:
      n: examples in the set.
      batch_size: examples in the global batch.
      seed: seed of the order, at least 0.
      start: first step.
      stop: one past the last step.

    Returns:
      int32 `[stop - start, batch_size]`.

    Raises:
      DataError: fewer examples than one batch, a negative seed, or more examples than int32 counts.

    Example:
      >>> batch_indices(n=6, batch_size=2, seed=0, start=0, stop=3).shape
      (3, 2)
    """
    per_epoch = batches_per_epoch(n, batch_size)
    if seed < 0 or n > np.iinfo(np.int32).max:
        raise DataError(f"the order needs seed >= 0 and n < 2**31, got seed={seed}, n={n}")
    if not 0 <= start <= stop:
        raise DataError(f"steps must satisfy 0 <= start <= stop, got {start} and {stop}")
    out = np.empty((stop - start, batch_size), np.int32)
    step = start
    while step < stop:
        epoch, first = divmod(step, per_epoch)
        count = min(per_epoch - first, stop - step)
        with _lock:
            order = _permutation(n, seed, epoch)
        rows = order[first * batch_size:(first + count) * batch_size]
        out[step - start:step - start + count] = rows.reshape(count, batch_size)
        step += count
    return out
