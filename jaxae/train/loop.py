"""The training loop: `train` for runs in a workdir, `fit` in memory."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jaxae import data
from jaxae.systems.base import State, System
from jaxae.train import config as configs
from jaxae.train import evaluators, feed, sharding
from jaxae.train.checkpoint import Checkpoints
from jaxae.train.initial import first_preparation, initial
from jaxae.train.interrupt import Interrupt
from jaxae.train.program import Program, Spec, Totals, make_program
from jaxae.train.record import Record
from jaxae.train.setup import example_of, open_data, program_of

_LONGEST = 200  # most updates in one call: a signal waits no longer than that


class NonFiniteLoss(ArithmeticError):
    """Training was stopped because the loss or its gradient was not finite."""


def train(config: ConfigDict, workdir: str | Path) -> dict[str, Any]:
    """Trains `config` in `workdir`, or continues the run that is there.

    Everything lands in the workdir: `config.json`, `metrics.jsonl`, TensorBoard events, `figures/`,
    `checkpoints/` and `results.json`. The same command continues a run that was stopped; a run that is killed and
    continued ends in the same bits as one that was not.

    Args:
      config: see `jaxae.train.config.base`.
      workdir: made where it is missing.

    Returns:
      What `results.json` holds.

    Raises:
      ConfigError, DataError, CheckpointError: what to change is in the message.
      NonFiniteLoss: with the steps and the last good checkpoint.
    """
    started = time.perf_counter()
    configs.check(config)
    config, dataset, decode = open_data(config)
    record = Record(config, workdir)
    mesh = sharding.make_mesh(config.mesh)
    program, spec = program_of(config, dataset, mesh)
    evaluators.check_evaluators(config.evaluators, spec.build(None), config.system, dataset)
    record.start(mesh, dataset, program.abstract.params)

    with Interrupt() as interrupt:
        return _train(config, program, spec, dataset, decode, record, interrupt, started)


def _train(config: ConfigDict, program: Program, spec: Spec, dataset: "data.Dataset", decode: Callable | None,
           record: Record, interrupt: Interrupt, started: float) -> dict[str, Any]:
    """From the newest checkpoint, or a fresh state, to the results."""
    checkpoints = Checkpoints(record.workdir / "checkpoints", config.keep)
    step, state, meta = checkpoints.restore(program.abstract) or initial(config, program)
    if step == 0:
        state = first_preparation(config, state, lambda fresh: _prepared(config, program, dataset, fresh))
    record.open(step)
    results: dict[str, Any] = {}
    placed = program.spread(state)
    advance, iterator = _feed(config, program, dataset, spec, step, meta)
    examples = dataset.test[np.arange(min(64, len(dataset.test)))]

    def show(step: int, placed) -> None:
        if program.figures:
            record.figures(step, program.figures(program.whole(placed), examples), decode)

    def metrics(first: int, stop: int, totals: list[Totals]) -> None:
        rows = [program.fetch(t) for t in totals]
        bad = [int(t.first_bad) for t in rows if t.first_bad >= 0]
        if bad:
            raise NonFiniteLoss(_non_finite(f"the loss or its gradient was not finite at step {bad[0]} "
                                            f"(between steps {first} and {stop})", checkpoints))
        count = stop - first
        record.metrics(stop, {name: sum(t.sums[name] for t in rows) / count for name in rows[0].sums}, count)

    def boundary(step: int, placed, stopping: bool):
        # At the last step too: a run that goes on with more steps is then the longer run.
        if _due(config.prepare_every, step) and program.prepare:
            placed = program.spread(_prepared(config, program, dataset, program.whole(placed)))
        if _due(config.eval_every, step) or step == config.steps:
            results.update(evaluate(program, dataset.test, config.batch_size, placed))
            record.evaluation(step, results)
        if _due(config.figures_every, step) or (config.figures_every and step == config.steps):
            show(step, placed)
        if _due(config.checkpoint_every, step) or stopping or step == config.steps:
            whole = program.whole(placed)
            # An update may overflow where its loss and gradient did not.
            if not sharding.fetch(_all_finite(whole.params)):
                raise NonFiniteLoss(_non_finite(f"the parameters were not finite after step {step}", checkpoints))
            record.flush()
            checkpoints.save(step, whole, {"step": step} | ({"iterator": iterator.get_state()} if iterator else {}))
        return placed

    periods = (config.log_every, config.eval_every, config.figures_every, config.checkpoint_every,
               config.prepare_every)
    if step == 0 and config.figures_every:
        show(0, placed)
    if step < config.steps:
        record.say("compiling ...")
    try:
        step, placed = _loop(advance, placed, step, config.steps, periods, metrics, boundary, interrupt)
    finally:
        checkpoints.wait()
        record.flush()
    if step < config.steps:
        return record.interrupted(step)
    results = results or evaluate(program, dataset.test, config.batch_size, placed)
    results |= evaluators.run_evaluators(config, spec.build(None), program.whole(placed), dataset)
    checkpoints.close()
    return record.finish(step, results, time.perf_counter() - started)


def fit(system: System, dataset: "data.Dataset | dict[str, Any]", steps: int, key: jax.Array, *,
        batch_size: int = 100, record_every: int = 50, prepare_every: int = 0, prepare_examples: int = 2000
        ) -> tuple[State, list[dict[str, Any]]]:
    """Trains a system in memory, on as many devices as divide the batch: for claims, searches and notebooks.

    Args:
      system: what to train; for an ensemble its functions have a leading axis of members.
      dataset: a `Dataset`, or a dict of arrays `[n ...]` with at least `x`.
      steps: number of updates.
      key: the run's key `[]`, or one key for each member `[members]`.
      batch_size: of the global batch.
      record_every: steps between rows of the history.
      prepare_every: steps between calls of `system.prepare`; 0 is once, before the first update.
      prepare_examples: how much of the training set `system.prepare` sees, 0 for all of it.

    Returns:
      The final state, and rows `{"step": ..., name: mean over the steps since the row before}`; the last row
      also has `test/` metrics of the test split. With members, values are `[members]`.

    Raises:
      NonFiniteLoss: where the loss or its gradient stops being finite.
    """
    if isinstance(dataset, dict):
        dataset = data.from_arrays(**dataset)
    mesh = sharding.make_mesh({"data": math.gcd(jax.device_count(), batch_size)})
    example = example_of(dataset, batch_size)
    spec = Spec(lambda axis_name: system, dataset.transform, dataset.test_transform, example, key)
    program = make_program(spec, mesh)

    def prepared(state):
        return program.prepare(state, _training_set(dataset, prepare_examples)) if program.prepare else state

    state = prepared(program.init())
    advance = feed.resident(program, dataset.train, batch_size, _order_seeds(key), spec.stacked,
                            min(record_every, _LONGEST))
    history = []

    def metrics(first, stop, totals):
        rows = [program.fetch(t) for t in totals]
        bad = [int(t.first_bad) for t in rows if t.first_bad >= 0]
        if bad:
            raise NonFiniteLoss(f"the loss or its gradient was not finite at step {bad[0]}")
        history.append({"step": stop} | {name: sum(t.sums[name] for t in rows) / (stop - first)
                                         for name in rows[0].sums})

    def boundary(step, placed, stopping):
        return program.spread(prepared(program.whole(placed))) if _due(prepare_every, step) else placed

    _, state = _loop(advance, program.spread(state), 0, steps, (record_every, prepare_every), metrics, boundary, None)
    tested = evaluate(program, dataset.test, batch_size, state)
    history[-1] |= {f"test/{name}": value for name, value in tested.items()}
    return program.whole(state), history


def evaluate(program: Program, source: "data.Source", batch_size: int, placed: Any) -> dict[str, np.ndarray]:
    """What the system reports over a whole split: exact means over its examples, ragged end included."""
    sums = None
    for i, batch in enumerate(feed.evaluation_batches(source, batch_size)):
        sums = program.evaluate(placed, sums, batch, np.int32(i))
    return jax.tree.map(np.asarray, program.summary(jax.tree.map(jnp.asarray, program.fetch(sums))))


def _loop(advance: feed.Feed, placed: Any, step: int, steps: int, periods: Sequence[int], metrics: Callable,
          boundary: Callable, interrupt: Interrupt | None) -> tuple[int, Any]:
    """The loop itself: calls that run many updates each, with the metrics of one call fetched during the next."""
    waiting: list[tuple[int, int, Totals]] = []  # calls since the last row of metrics
    full: list[tuple[int, int, Totals]] = []  # a row's calls, until the next call is under way

    def report(calls):
        if calls:
            metrics(calls[0][0], calls[-1][1], [totals for *_, totals in calls])

    for first, stop in _spans(step, steps, periods):
        placed, totals = advance(placed, first, stop)
        waiting.append((first, stop, totals))
        report(full)
        full = []
        stopping = interrupt is not None and interrupt.agreed()
        if stopping or stop == steps or any(_due(period, stop) for period in periods[1:]):
            report(waiting)
            waiting = []
            placed = boundary(stop, placed, stopping)
        elif _due(periods[0], stop):
            full, waiting = waiting, []
        step = stop
        if stopping:
            break
    report(full)
    report(waiting)
    return step, placed


def _spans(start: int, steps: int, periods: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Spans of updates that end at every multiple of every period."""
    while start < steps:
        ends = [(start // period + 1) * period for period in periods if period]
        stop = min([*ends, steps, start + _LONGEST])
        yield start, stop
        start = stop


def _due(period: int, step: int) -> bool:
    return bool(period) and step % period == 0


def _order_seeds(root: jax.Array) -> tuple[int, ...]:
    words = np.asarray(jax.random.key_data(root))
    return tuple(int(word) for word in words.reshape(-1, words.shape[-1])[:, -1])


def _feed(config, program: Program, dataset, spec: Spec, step: int, meta):
    seeds = _order_seeds(spec.root)
    if dataset.train.nbytes <= config.data.resident_bytes:
        longest = min(_LONGEST, *(p for p in (config.log_every, config.steps) if p))
        return feed.resident(program, dataset.train, config.batch_size, seeds, spec.stacked, longest), None
    advance, iterator = feed.streamed(program, dataset.train, config.batch_size, seeds[0], step)
    if meta.get("iterator"):
        iterator.set_state(meta["iterator"])
    return advance, iterator


def _training_set(dataset, limit: int):
    count = len(dataset.train) if not limit else min(limit, len(dataset.train))
    return dataset.train[np.arange(count)]


def _prepared(config, program: Program, dataset, state: State) -> State:
    return program.prepare(state, _training_set(dataset, config.prepare_examples)) if program.prepare else state


@jax.jit
def _all_finite(params) -> jax.Array:
    return jnp.all(jnp.asarray([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(params)]))


def _non_finite(what: str, checkpoints: Checkpoints) -> str:
    checkpoints.wait()
    saved = checkpoints.steps()
    where = (f"the last good checkpoint is {checkpoints.directory}/{saved[-1]}" if saved
             else "there is no checkpoint yet")
    start = f", from there by config.init_from={checkpoints.directory.parent}" if saved else ""
    return (f"{what}; {where}. Start again in another --workdir{start}, "
            f"with a lower config.optim.learning_rate or with config.optim.clip")


__all__ = ["NonFiniteLoss", "evaluate", "fit", "train"]
