"""Systems of systems: several on the same batches, or one after the other on the same parameters."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from jaxae.systems.base import State, System


def together(systems: Mapping[str, System]) -> System:
    """Several systems on the same batches with the same keys: each trains as it would alone.

    State, metrics and figures are keyed `name` and `name/metric`; `loss` is the sum.
    """
    names = list(systems)

    def part(state: State, name: str) -> State:
        return State(*(field[name] for field in state[:-1]), state.step)

    def joined(states: Mapping[str, State]) -> State:
        columns = [{name: states[name][i] for name in names} for i in range(4)]
        return State(*columns, states[names[0]].step)

    def init(key, batch):
        return joined({name: systems[name].init(key, batch) for name in names})

    def step(state, batch, key):
        results = {name: systems[name].step(part(state, name), batch, key) for name in names}
        metrics = {f"{name}/{k}": v for name in names for k, v in results[name][1].items()}
        metrics["loss"] = sum(metrics[f"{name}/loss"] for name in names)
        return joined({name: results[name][0] for name in names}), metrics

    def evaluate(state, batch, key):
        return {f"{name}/{k}": v for name in names
                for k, v in systems[name].evaluate(part(state, name), batch, key).items()}

    def summary(sums):
        rows = {f"{name}/{k}": v for name in names for k, v in systems[name].summary(
            {k.removeprefix(f"{name}/"): v for k, v in sums.items() if k.startswith(f"{name}/")}).items()}
        losses = [rows[f"{name}/loss"] for name in names if f"{name}/loss" in rows]
        return rows | {"loss": sum(losses)}

    def prepare(state, data, key):
        return joined({name: systems[name].prepare(part(state, name), data, key)
                       if systems[name].prepare else part(state, name) for name in names})

    def figures(state, batch, key):
        return {f"{name}/{k}": v for name in names if systems[name].figures
                for k, v in systems[name].figures(part(state, name), batch, key).items()}

    prepares = any(system.prepare for system in systems.values())
    return System(init, step, evaluate, summary, prepare=prepare if prepares else None, figures=figures)


def in_phases(phases: Sequence[tuple[System, int]]) -> System:
    """Systems that train one after the other on the same parameters, each for its number of steps.

    All phases have the same `params` and `extra`, and each has its own optimizer state. The last phase lasts as
    long as the run does; evaluation, encoding and figures are its.
    """
    systems = [system for system, _ in phases]
    ends = jnp.cumsum(jnp.asarray([steps for _, steps in phases]))

    def init(key, batch):
        states = [system.init(key, batch) for system in systems]
        return states[0]._replace(opt_state=tuple(state.opt_state for state in states))

    def seen_by(i, state):
        return state._replace(opt_state=state.opt_state[i])

    def step(state, batch, key):
        shapes = [jax.eval_shape(system.step, seen_by(i, state), batch, key)[1]
                  for i, system in enumerate(systems)]
        names = sorted(set().union(*shapes))

        def run(i, state):
            new, metrics = systems[i].step(seen_by(i, state), batch, key)
            opt_state = tuple(new.opt_state if j == i else o for j, o in enumerate(state.opt_state))
            # A metric that this phase does not have is NaN, which the log leaves out.
            full = {name: jnp.asarray(metrics.get(name, jnp.nan), jnp.float32) for name in names}
            return new._replace(opt_state=opt_state), full

        phase = jnp.minimum(jnp.sum(state.step >= ends), len(systems) - 1)
        return jax.lax.switch(phase, [lambda s, i=i: run(i, s) for i in range(len(systems))], state)

    last = len(systems) - 1
    final = systems[last]
    return final._replace(
        init=init, step=step,
        evaluate=lambda state, batch, key: final.evaluate(seen_by(last, state), batch, key),
        prepare=_first_prepare(systems[0], seen_by),
        figures=final.figures and (lambda state, batch, key: final.figures(seen_by(last, state), batch, key)))


def _first_prepare(first: System, seen_by):
    if first.prepare is None:
        return None

    def prepare(state, data, key):
        return first.prepare(seen_by(0, state), data, key)._replace(opt_state=state.opt_state)

    return prepare
