"""Where a run's batches come from: the device, or a stream."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxae.data import Source
from jaxae.data.order import batch_indices, batches_per_epoch
from jaxae.data.stream import stream
from jaxae.train.program import Program, Totals

# (placed state, first, stop) -> (placed state, Totals): the updates first, ..., stop - 1
Feed = Callable[[Any, int, int], tuple[Any, Totals]]


def resident(program: Program, source: Source, batch_size: int, seeds: tuple[int, ...], stacked: bool,
             longest: int) -> Feed:
    """Batches gathered on the device from a training set that lives there; one call runs many updates.

    Args:
      program: the compiled functions.
      source: the training set.
      batch_size: of the global batch.
      seeds: seed of the order of each member.
      stacked: whether the order has an axis of members.
      longest: most updates in one call.
    """
    batches_per_epoch(len(source), batch_size)  # refuses a set smaller than a batch
    data = program.place_data(source.arrays())

    def advance(state, first: int, stop: int):
        columns = [batch_indices(len(source), batch_size, seed, first, stop) for seed in seeds]
        order = np.stack(columns, axis=1) if stacked else columns[0]
        # One shape for every call, so that no call compiles again.
        order = np.pad(order, ((0, longest - len(order)),) + ((0, 0),) * (order.ndim - 1))
        return program.run(state, data, program.place_order(order), np.int32(first), np.int32(stop))

    return advance


def streamed(program: Program, source: Source, batch_size: int, seed: int, start: int) -> tuple[Feed, Any]:
    """Batches read ahead from a set that does not fit; the iterator's state belongs in the checkpoint.

    Returns:
      The feed and its iterator (`get_state`, `set_state`).
    """
    batches = stream(source, batch_size, seed, jax.process_index(), jax.process_count(), start)

    def advance(state, first: int, stop: int):
        totals = None
        for step in range(first, stop):
            state, totals = program.step(state, totals, program.place_rows(next(batches)), np.int32(step))
        return state, totals

    return advance, batches


def evaluation_batches(source: Source, batch_size: int):
    """Batches over a whole split in order; the last one is padded, and `valid` marks the real rows."""
    for start in range(0, len(source), batch_size):
        rows = np.arange(start, start + batch_size)
        valid = (rows < len(source)).astype(np.float32)
        yield source[np.minimum(rows, len(source) - 1)] | {"valid": valid}
