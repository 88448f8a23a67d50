"""Host batches of a set too large for the device, read ahead by grain."""

import sys
from typing import Any

import numpy as np

from jaxae.data.order import batch_indices, batches_per_epoch
from jaxae.data.source import DataError, Source


class _Batches:
    """Random access by step: element s is this process's slice of global batch s."""

    def __init__(self, source: Source, batch_size: int, seed: int, rows: slice):
        self._source, self._batch_size, self._seed, self._rows = source, batch_size, seed, rows

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        ids = batch_indices(len(self._source), self._batch_size, self._seed, int(step), int(step) + 1)[0]
        return self._source[ids[self._rows]]


def stream(source: Source, batch_size: int, seed: int = 0, process_index: int = 0, process_count: int = 1,
           start_step: int = 0, prefetch: int = 4, threads: int = 8) -> Any:
    """An endless iterator over this process's slices of the global batches.

    Batch s holds the examples `batch_indices(len(source), batch_size, seed, s, s + 1)`, the same as for data
    on the device, whatever the number of processes: process p of P takes rows p B/P, ..., (p+1) B/P - 1.

    Args:
      source: the split to read.
      batch_size: B, examples in the global batch.
      seed: seed of the order.
      process_index: p, such as `jax.process_index()`.
      process_count: P, such as `jax.process_count()`; divides B.
      start_step: the first step to yield.
      prefetch: batches read ahead, at least 1.
      threads: threads that read and decode.

    Returns:
      A grain `DatasetIterator` of dicts of numpy arrays `[B/P ...]`. `get_state()` is a small dict that
      counts the batches handed out, not those read ahead; `set_state(state)` continues exactly there.

    Raises:
      DataError: fewer examples than one batch, or a batch that the processes cannot share evenly.
    """
    import grain

    batches_per_epoch(len(source), batch_size)
    if not 0 <= process_index < process_count or batch_size % process_count:
        raise DataError(f"batch_size={batch_size} must divide evenly over process_count={process_count}, and "
                        f"process_index={process_index} lie below it")
    share = batch_size // process_count
    rows = slice(process_index * share, (process_index + 1) * share)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(prefetch, 1))
    batches = grain.MapDataset.source(_Batches(source, batch_size, seed, rows))
    iterator = iter(batches.to_iter_dataset(options))
    if start_step:
        iterator.set_state({**iterator.get_state(), "next_index": start_step})
    return iterator
