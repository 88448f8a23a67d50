"""Builders that turn losses, solutions and samplers into a `System`.

- `one_loss`: one loss, one optimizer;
- `players`: several losses, each with the parameters it owns and its optimizer (GANs, discriminators, duals);
- `closed_form`: parameters solved from the whole training set;
- `posterior_sampler`: parameters drawn by a Markov chain.

`compose.py` trains several systems side by side or one after the other.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from jaxae import collectives
from jaxae.systems.base import (
    Batch,
    Objective,
    State,
    System,
    valid_rows,
    variables,
    weighted_sums,
)

# (params, extra, batch, key, train) -> Objective
Loss = Callable[[PyTree, PyTree, Batch, Array, bool], Objective]
Init = Callable[[Array, Batch], tuple[PyTree, PyTree]]  # (key, batch) -> (params, extra)


class Player(NamedTuple):
    """A loss, the top-level entries of `params` that it moves, and how."""

    name: str
    loss: Loss
    optimizer: optax.GradientTransformation
    owns: tuple[str, ...] = ()  # empty: all of them
    updates: int = 1  # updates of this player in one step


def one_loss(init: Init, loss: Loss, optimizer: optax.GradientTransformation, **options) -> System:
    """A system that minimises one loss by one optax optimizer; options as in `players`."""
    return players(init, [Player("", loss, optimizer)], **options)


def players(init: Init, team: Sequence[Player], *, average: float = 0.0, accumulate: int = 1,
            axis_name: str | None = None, after: Callable | None = None, **functions) -> System:
    """A system of players that update in turn, each on its own loss.

    In one step each player in order takes the gradient of the mean of its loss over the global batch with
    respect to the parameters it owns, at the others' newest parameters, and applies its optimizer.

    Args:
      init: `(key, batch) -> (params, extra)`; with several players params is a dict.
      team: the players, in order of play.
      average: decay of the exponential moving average of the parameters, 0 for none. The decay of step t is
        min(average, (1+t)/(10+t)), so that the average does not remember the initialisation.
      accumulate: number of microbatches whose gradients are averaged in one step; extra state is threaded
        through them in order.
      axis_name: mapped axis of the batch under `pmap`; None under `jit`.
      after: `(params, extra, key) -> (params, extra)` at the end of each step: projections, constraints,
        revival of dead codes.
      **functions: the other fields of `System`.
    """
    def start(key: Array, batch: Batch) -> State:
        params, extra = init(key, batch)
        opt_state = tuple(player.optimizer.init(_owned(params, player)) for player in team)
        ema = jax.tree.map(jnp.array, params) if average else ()
        return State(params, opt_state, extra, ema, jnp.zeros((), jnp.int32))

    def update(player: Player, batch: Batch, carry, key: Array):
        params, extra, opt_state = carry
        grads, extra, seen = _gradient(player, params, extra, batch, key, accumulate)
        grads = collectives.mean(grads, axis_name)
        owned = _owned(params, player)
        updates, opt_state = player.optimizer.update(grads, opt_state, owned)
        params = _with_owned(params, player, optax.apply_updates(owned, updates))
        return (params, extra, opt_state), seen | {"gradient_norm": optax.tree.norm(grads)}

    def step(state: State, batch: Batch, key: Array):
        params, extra, opt_states, metrics, turns = state.params, state.extra, [], {}, 0
        for player, opt_state in zip(team, state.opt_state, strict=True):
            keys = [jax.random.fold_in(key, turn) if turn else key for turn in range(turns, turns + player.updates)]
            turns += player.updates
            carry, play = (params, extra, opt_state), partial(update, player, batch)
            if player.updates == 1:
                carry, seen = play(carry, keys[0])
            else:  # compiled once for all of them; the last one's metrics are shown
                carry, rows = jax.lax.scan(play, carry, jnp.stack(keys))
                seen = jax.tree.map(lambda row: row[-1], rows)
            params, extra, opt_state = carry
            opt_states.append(opt_state)
            metrics |= _prefixed(seen, player.name)
        if after is not None:
            params, extra = after(params, extra, jax.random.fold_in(key, turns))
        metrics = collectives.mean(metrics, axis_name)
        if "loss" not in metrics:
            metrics["loss"] = sum(metrics[f"{player.name}/loss"] for player in team)
        ema = state.average
        if average:
            decay = jnp.minimum(average, (1.0 + state.step) / (10.0 + state.step))
            ema = optax.incremental_update(params, ema, 1.0 - decay)
        return State(params, tuple(opt_states), extra, ema, state.step + 1), metrics

    def evaluate(state: State, batch: Batch, key: Array):
        model, metrics = variables(state), {}
        for i, player in enumerate(team):
            turn_key = key if i == 0 else jax.random.fold_in(key, i)
            objective = player.loss(model.params, model.extra, batch, turn_key, False)
            metrics |= _prefixed({"loss": objective.loss} | objective.metrics, player.name)
        return collectives.total(weighted_sums(metrics, valid_rows(batch)), axis_name)

    return System(start, step, evaluate, **functions)


def _gradient(player: Player, params, extra, batch, key, accumulate: int):
    """Gradient of the mean loss with respect to what the player owns, the new extra, and mean metrics."""
    def objective(owned, extra, batch, key):
        result = player.loss(_with_owned(params, player, owned), extra, batch, key, True)
        value = jnp.mean(result.loss)
        metrics = {name: jnp.mean(jnp.asarray(m, jnp.float32), axis=0) if jnp.ndim(m) else m
                   for name, m in result.metrics.items()}
        return value, (result.extra, {"loss": value} | metrics)

    gradient = jax.grad(objective, has_aux=True)
    owned = _owned(params, player)
    if accumulate == 1:
        grads, (extra, metrics) = gradient(owned, extra, batch, key)
        return grads, extra, metrics

    n = jax.tree.leaves(batch)[0].shape[0]
    if n % accumulate:
        raise ValueError(f"optim.accumulate={accumulate} does not divide the batch of {n}: "
                         f"choose a batch_size that is a multiple of it on every device")

    def micro(carry, part):
        total, extra = carry
        i, rows = part
        grads, (extra, metrics) = gradient(owned, extra, rows, jax.random.fold_in(key, i))
        return (jax.tree.map(jnp.add, total, grads), extra), metrics

    # Microbatch i takes rows i, i + k, ...: each device keeps its own rows.
    parts = jax.tree.map(lambda x: x.reshape(n // accumulate, accumulate, *x.shape[1:]).swapaxes(0, 1), batch)
    zeros = jax.tree.map(jnp.zeros_like, owned)
    (total, extra), metrics = jax.lax.scan(micro, (zeros, extra), (jnp.arange(accumulate), parts))
    return (jax.tree.map(lambda g: g / accumulate, total), extra,
            jax.tree.map(lambda m: m.mean(0), metrics))


def _owned(params, player: Player):
    return {name: params[name] for name in player.owns} if player.owns else params


def _with_owned(params, player: Player, owned):
    return params | owned if player.owns else owned


def _prefixed(metrics, name: str):
    return {f"{name}/{key}": value for key, value in metrics.items()} if name else metrics


def closed_form(init: Init, solve: Callable[[PyTree, Batch, Array], PyTree], loss: Loss, *,
                axis_name: str | None = None, **functions) -> System:
    """A system whose parameters are solved from the whole training set; its steps only measure.

    Args:
      init: `(key, batch) -> (params, extra)`: shapes of the solution.
      solve: `(params, data, key) -> params` with `data` the training set `[N ...]`; runs before the first step
        and every `prepare_every` steps.
      loss: what is measured.
      axis_name, **functions: as in `players`.
    """
    def prepare(state: State, data: Batch, key: Array) -> State:
        return state._replace(params=solve(state.params, data, key))

    measured = one_loss(init, loss, optax.set_to_zero(), axis_name=axis_name)
    return measured._replace(prepare=prepare, **functions)


class Chain(NamedTuple):
    """State of a Markov chain over parameters."""

    auxiliary: PyTree  # momenta and the like
    draws: PyTree  # the last `keep` draws, each leaf [keep ...]
    count: Array  # [] number of draws stored so far


def posterior_sampler(init: Init, log_likelihood: Callable[[PyTree, Batch, Array], Array],
                      log_prior: Callable[[PyTree], Array], transition: Callable, start_auxiliary: Callable, *,
                      examples: int, keep: int = 64, every: int = 10, burn_in: int = 0,
                      axis_name: str | None = None, **functions) -> System:
    """A system whose steps draw parameters from their posterior with minibatch gradients.

    One step moves the chain along the gradient of log p(theta) + (N/n) sum_i log p(x_i | theta).

    Args:
      init: `(key, batch) -> (params, extra)`; extra is ignored.
      log_likelihood: `(params, batch, key) -> [n]` nats per example.
      log_prior: `params -> []` nats.
      transition: `(params, auxiliary, gradient, key) -> (params, auxiliary)`, such as
        `jaxae.inference.langevin`.
      start_auxiliary: `params -> auxiliary`.
      examples: N, the size of the training set.
      keep, every, burn_in: a draw is stored every `every` steps after `burn_in`; the last `keep` are kept.
      axis_name, **functions: as in `players`.

    Evaluation reports the posterior predictive: log (1/S) sum_s p(x | theta_s), nats per example.
    """
    def start(key, batch):
        params, _ = init(key, batch)
        draws = jax.tree.map(lambda p: jnp.broadcast_to(p, (keep, *p.shape)).copy(), params)
        chain = Chain(start_auxiliary(params), draws, jnp.zeros((), jnp.int32))
        return State(params, (), chain, (), jnp.zeros((), jnp.int32))

    def step(state, batch, key):
        data_key, chain_key = jax.random.split(key)

        def log_density(params):
            likelihood = jnp.mean(log_likelihood(params, batch, data_key))
            return examples * likelihood + log_prior(params), likelihood

        gradient, likelihood = jax.grad(log_density, has_aux=True)(state.params)
        gradient = collectives.mean(gradient, axis_name)
        params, auxiliary = transition(state.params, state.extra.auxiliary, gradient, chain_key)
        stores = (state.step >= burn_in) & ((state.step - burn_in) % every == 0)
        slot = state.extra.count % keep
        draws = jax.tree.map(lambda d, p: jnp.where(stores, d.at[slot].set(p), d), state.extra.draws, params)
        chain = Chain(auxiliary, draws, state.extra.count + stores)
        return (State(params, (), chain, (), state.step + 1),
                collectives.mean({"loss": -likelihood}, axis_name))

    def evaluate(state, batch, key):
        each = jax.lax.map(lambda draw: log_likelihood(draw, batch, key), state.extra.draws)  # [keep n]
        stored = jnp.arange(keep) < jnp.maximum(state.extra.count, 1)
        total = jax.nn.logsumexp(jnp.where(stored[:, None], each, -jnp.inf), axis=0)
        predictive = total - jnp.log(stored.sum())
        sums = weighted_sums({"loss": -predictive, "log_predictive": predictive}, valid_rows(batch))
        return collectives.total(sums, axis_name)

    return System(start, step, evaluate, **functions)
