"""The compiled functions of a run: the same for one device, a mesh (`jit`) and replicas (`pmap`)."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jaxtyping import PyTree

from jaxae.systems.base import State, System
from jaxae.train import sharding

_TRAIN, _EVALUATE, _INIT, _PREPARE, _FIGURES = range(5)  # streams of randomness from one seed
_REPLICAS = "replicas"  # the mapped axis of pmap


class Totals(NamedTuple):
    """Metrics of the steps of one call."""

    sums: dict[str, jax.Array]  # sums over steps
    first_bad: jax.Array  # [] first step whose loss or gradient was not finite, -1 for none


class Program(NamedTuple):
    """What the loop calls. `placed` is the state in the layout in which it trains, `whole` a state under `jit`."""

    abstract: State  # shapes and shardings of a whole state, for restoring
    init: Callable[[PyTree], State]  # example batch -> whole state
    prepare: Callable[[State, PyTree], State] | None  # (whole, training set) -> whole
    figures: Callable[[State, PyTree], dict] | None  # (whole, batch) -> arrays
    spread: Callable[[State], State]  # whole -> placed
    whole: Callable[[State], State]  # placed -> whole
    place_data: Callable[[PyTree], PyTree]  # a training set that fits
    place_order: Callable[[np.ndarray], Any]  # [steps members batch] indices
    place_rows: Callable[[PyTree], Any]  # this process's rows of a streamed batch
    run: Callable[..., tuple[State, Totals]]  # (placed, data, order, first, stop): many steps in one call
    step: Callable[..., tuple[State, Totals]]  # (placed, totals or None, batch, step): one streamed step
    evaluate: Callable[..., PyTree]  # (placed, sums or None, batch, i): adds a batch to the sums, None for zero
    summary: Callable[[PyTree], PyTree]  # sums over a data set -> what is reported
    fetch: Callable[[PyTree], PyTree]  # results of run, step and evaluate -> host


class Spec(NamedTuple):
    """What a program is made from."""

    build: Callable[[str | None], System]  # axis_name -> the system (of all members)
    transform: Callable  # (batch, key, axis_name) -> batch
    test_transform: Callable
    example: PyTree  # shapes of one global batch before the transform, without members
    root: jax.Array  # the run's key [], or [members]: then state, keys and metrics have that leading axis
    rules: tuple = ()

    @property
    def stacked(self) -> bool:
        return self.root.ndim == 1


def make_program(spec: Spec, mesh: Mesh, parallel: str = "jit") -> Program:
    """Compiled functions for `parallel` 'jit' or 'pmap' on the devices of the mesh.

    Raises:
      ValueError: for `pmap` with model axes.
    """
    program = _jit_program(spec, mesh)
    if parallel == "jit":
        return program
    if mesh.shape["fsdp"] > 1 or mesh.shape["tensor"] > 1:
        raise ValueError("config.parallel='pmap' replicates parameters: set config.mesh.fsdp and .tensor to 1, "
                         "or use config.parallel='jit'")
    if mesh.size != jax.device_count():
        raise ValueError("config.parallel='pmap' takes all devices: set config.mesh.data to -1")
    return _pmap_program(spec, mesh, program)


class _Core(NamedTuple):
    """The functions that both programs compile."""

    system: System
    init: Callable  # () -> state
    prepare: Callable  # (state, training set) -> state
    figures: Callable  # (state, batch) -> arrays
    run: Callable  # (state, data, order, first, stop) -> (state, Totals): gathers its batches from data
    no_totals: Callable  # (state, batch, step) -> Totals of no steps
    step: Callable  # (state, Totals, batch, step) -> (state, Totals)
    no_sums: Callable  # (state, batch, i) -> sums of no examples
    add: Callable  # (state, sums, batch, i) -> sums


def _core(spec: Spec, axis_name: str | None, gather: Callable) -> _Core:
    system = spec.build(axis_name)
    fold = jax.vmap(jax.random.fold_in, (0, None)) if spec.stacked else jax.random.fold_in

    def keys_of(stream: int, i):
        return fold(fold(spec.root, stream), i)

    def shared(keys):
        return keys[0] if spec.stacked else keys

    def metrics_of(state, batch, step):
        keys = keys_of(_TRAIN, step)
        transform = partial(spec.transform, axis_name=axis_name)
        batch = (jax.vmap(transform) if spec.stacked else transform)(batch, fold(keys, 0))
        return system.step(state, batch, fold(keys, 1))

    def zeros(shapes):
        return jax.tree.map(lambda s: jnp.zeros(s.shape, jnp.float32), shapes)

    def no_totals(state, batch):
        metrics = jax.eval_shape(metrics_of, state, batch, jnp.zeros((), jnp.int32))[1]
        return Totals(zeros(metrics), jnp.full((), -1, jnp.int32))

    def update(state, totals, batch, step):
        state, metrics = metrics_of(state, batch, step)
        watched = [value for name, value in metrics.items() if name.endswith(("loss", "gradient_norm"))]
        bad = ~jnp.all(jnp.asarray([jnp.all(jnp.isfinite(value)) for value in watched]))
        first_bad = jnp.where((totals.first_bad < 0) & bad, step, totals.first_bad)
        return state, Totals(jax.tree.map(jnp.add, totals.sums, metrics), first_bad)

    def run(state, data, order, first, stop):
        def body(step, carry):
            return update(*carry, gather(data, order[step - first]), step)

        return lax.fori_loop(first, stop, body, (state, no_totals(state, gather(data, order[0]))))

    def for_members(batch):
        """Members share a streamed batch."""
        if not spec.stacked:
            return batch
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (spec.root.shape[0], *x.shape)), batch)

    def step(state, totals, batch, i):
        return update(state, totals, for_members(batch), i)

    def measure(state, batch, i):
        keys = keys_of(_EVALUATE, i)
        data = {name: value for name, value in batch.items() if name != "valid"}
        data = spec.test_transform(data, shared(fold(keys, 0)), axis_name) | {"valid": batch["valid"]}
        return system.evaluate(state, data, fold(keys, 1))

    def add(state, sums, batch, i):
        return jax.tree.map(jnp.add, sums, measure(state, batch, i))

    def init():
        # Values of the example batch do not matter: what needs data is done by `prepare`.
        batch = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), spec.example)
        keys = keys_of(_INIT, 0)
        return system.init(keys, spec.test_transform(batch, shared(keys), None))

    def prepare(state, data):
        keys = keys_of(_PREPARE, state.step[0] if spec.stacked else state.step)
        return system.prepare(state, spec.test_transform(data, shared(keys), None), keys)

    def figures(state, batch):
        keys = keys_of(_FIGURES, 0)
        return system.figures(state, spec.test_transform(batch, shared(keys), None), keys)

    return _Core(system, init, prepare, figures, run, lambda state, batch, i: no_totals(state, for_members(batch)),
                 step, lambda *args: zeros(jax.eval_shape(measure, *args)), add)


def _rows(a, index):
    """`a[index]`, by rows of one axis: XLA on CPU copies those three times as fast as rows of several."""
    return a.reshape(a.shape[0], -1)[index].reshape(*index.shape, *a.shape[1:])


def _starting(function: Callable, zero: Callable, placed: Callable) -> Callable:
    """`function(state, accumulated, batch, i)` that starts from `zero(state, batch, i)` where given None."""
    def call(state, accumulated, batch, i):
        batch, i = placed(batch, i)
        return function(state, zero(state, batch, i) if accumulated is None else accumulated, batch, i)
    return call


def _seldom() -> dict[str, int]:
    """Compiler options for what runs a few times: on CPU optimising it takes far longer than running it."""
    return {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else {}


def _jit_program(spec: Spec, mesh: Mesh) -> Program:
    everywhere, rows = sharding.replicated(mesh), sharding.batch_sharding(mesh)
    member_rows = sharding.batch_sharding(mesh, int(spec.stacked))

    def gather(data, index):
        index = lax.with_sharding_constraint(index, member_rows)
        return jax.tree.map(lambda a: lax.with_sharding_constraint(_rows(a, index), member_rows), data)

    core = _core(spec, None, gather)
    shapes = jax.eval_shape(core.init)
    where = sharding.state_shardings(shapes, mesh, spec.rules, spec.stacked)
    abstract = jax.tree.map(lambda s, w: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=w), shapes, where)
    run = jax.jit(core.run, donate_argnums=0, out_shardings=(where, everywhere))
    step = jax.jit(core.step, donate_argnums=(0, 1), out_shardings=(where, everywhere))
    add = jax.jit(core.add, donate_argnums=1, out_shardings=everywhere)
    no_totals = jax.jit(core.no_totals, out_shardings=everywhere)
    no_sums = jax.jit(core.no_sums, out_shardings=everywhere)
    prepare = jax.jit(core.prepare, donate_argnums=0, out_shardings=where)
    figures = jax.jit(core.figures, out_shardings=everywhere, compiler_options=_seldom())
    return Program(
        abstract=abstract,
        init=jax.jit(core.init, out_shardings=where, compiler_options=_seldom()),
        prepare=core.system.prepare and (lambda state, data: prepare(state, sharding.place(data, everywhere))),
        figures=core.system.figures and (
            lambda state, batch: sharding.fetch(figures(state, sharding.place(batch, everywhere)))),
        spread=lambda state: state,
        whole=lambda state: state,
        place_data=lambda data: sharding.place(data, everywhere),
        place_order=lambda order: sharding.place(order, everywhere),
        place_rows=lambda batch: sharding.place_rows(batch, rows),
        run=lambda state, data, order, *span: run(state, data, order, *sharding.place(span, everywhere)),
        step=_starting(step, no_totals, lambda batch, i: (batch, sharding.place(i, everywhere))),
        evaluate=_starting(add, no_sums, lambda batch, i: (sharding.place(batch, rows), sharding.place(i, everywhere))),
        summary=core.system.summary,
        fetch=sharding.fetch,
    )


def _pmap_program(spec: Spec, mesh: Mesh, program: Program) -> Program:
    """The program under `jax.pmap`: a replica a device, each with its slice of every batch."""
    core = _core(spec, _REPLICAS, lambda data, index: jax.tree.map(lambda a: _rows(a, index), data))
    everywhere = sharding.replicated(mesh)
    devices, local = jax.device_count(), jax.local_device_count()
    own = slice(jax.process_index() * local, (jax.process_index() + 1) * local)
    run = jax.pmap(core.run, _REPLICAS, donate_argnums=0)
    step = jax.pmap(core.step, _REPLICAS, donate_argnums=(0, 1))
    add = jax.pmap(core.add, _REPLICAS, donate_argnums=1)
    no_totals, no_sums = jax.pmap(core.no_totals, _REPLICAS), jax.pmap(core.no_sums, _REPLICAS)
    put = jax.pmap(lambda tree: tree, _REPLICAS)

    def copies(tree):
        return put(jax.tree.map(lambda x: np.broadcast_to(x, (local, *np.shape(x))), tree))

    def split_rows(tree, ways, axis=0):
        def one(x):
            parts = x.reshape(*x.shape[:axis], ways, x.shape[axis] // ways, *x.shape[axis + 1:])
            return np.moveaxis(parts, axis, 0)
        return jax.tree.map(one, tree)

    def replica(tree):
        """The first local replica's copy on the host."""
        return jax.tree.map(lambda x: np.asarray(x.addressable_shards[0].data)[0], tree)

    def own_rows(tree, axis=0):
        return put(jax.tree.map(lambda x: x[own], split_rows(tree, devices, axis)))

    return program._replace(
        spread=lambda state: copies(sharding.fetch(state)),
        whole=lambda state: sharding.place(replica(state), everywhere),
        place_data=copies,
        place_order=lambda order: own_rows(order, order.ndim - 1),
        place_rows=lambda batch: put(split_rows(batch, local)),
        run=lambda state, data, order, *span: run(state, data, order, *copies(span)),
        step=_starting(step, no_totals, lambda batch, i: (batch, copies(i))),
        evaluate=_starting(add, no_sums, lambda batch, i: (own_rows(batch), copies(i))),
        fetch=replica,
    )
