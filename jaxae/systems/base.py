"""The one protocol that the training loop knows, and what every trainable system has in common.

A system is a NamedTuple of pure functions. Most are made by a builder (`builders.py`), so that a system's own
file holds its networks and its loss.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

Batch = dict[str, Any]  # name -> array, batch axis first
Metrics = dict[str, Any]  # name -> array


class State(NamedTuple):
    """Everything that training changes, as one pytree; what a checkpoint holds."""

    params: PyTree  # what optimizers move
    opt_state: PyTree  # theirs
    extra: PyTree  # codebooks, counters, potentials, chains: state that no gradient moves
    average: PyTree  # exponential moving average of params, () when it is off
    step: Array  # [] int32


class Variables(NamedTuple):
    """What a trained model needs to run: parameters (averaged where the config asks) and extra state."""

    params: PyTree
    extra: PyTree


class Latent(NamedTuple):
    """Shape and type of one example's latent, so that a prior knows what it models."""

    shape: tuple[int, ...]
    codes: int = 0  # size of the codebook; 0 says that the latent is a real vector
    prefix: int = 0  # rows at the front of a latent that tell a condition, which a prior may be given
    codebook_axis: int | None = None  # along which codebooks differ; None: the last of three axes, and else none


class Objective(NamedTuple):
    """What a loss function returns."""

    loss: Array  # [n] per example, or [] where the loss couples the batch; its mean is minimised
    metrics: dict[str, Array] = {}  # [n ...] per example, or []
    extra: PyTree = ()  # the new extra state


def means(sums: Metrics) -> Metrics:
    """Averages over a data set from the sums of `evaluate`: every entry divided by `count`."""
    return {name: value / sums["count"] for name, value in sums.items() if name != "count"}


class System(NamedTuple):
    """A trainable system: pure functions of explicit state.

    `x_hat` below is in data space. Functions that a model does not have stay None.
    """

    init: Callable[[Array, Batch], State]  # (key, batch) -> State
    step: Callable[[State, Batch, Array], tuple[State, Metrics]]  # one update; metrics are scalars
    evaluate: Callable[[State, Batch, Array], Metrics]  # sums over the batch's valid rows, and their count
    summary: Callable[[Metrics], Metrics] = means  # sums over a data set -> what is reported
    prepare: Callable[[State, Batch, Array], State] | None = None  # (state, training set [N ...], key) -> State
    encode: Callable[..., Array] | None = None  # (variables, x [n ...]) -> latents [n *latent.shape]
    decode: Callable[..., Array] | None = None  # (variables, latents) -> x_hat
    reconstruct: Callable[..., Array] | None = None  # (variables, x) -> x_hat
    sample: Callable[..., Array] | None = None  # (variables, key, n) -> x_hat [n ...]
    log_weights: Callable[..., Array] | None = None  # (variables, key, x, k) -> log p(x,z)/q(z|x) [k n], nats
    codebook: Callable[..., Array] | None = None  # (variables) -> [K d], of latents that are codes of one codebook
    figures: Callable[[State, Batch, Array], dict[str, Array]] | None = None  # what a person wants to see
    latent: Latent | None = None
    inputs: tuple[str, ...] = ("x",)  # what `encode` and `reconstruct` take of a batch, in this order


def variables(state: State) -> Variables:
    """The model to use for evaluation: averaged parameters where there are any."""
    averaged = bool(jax.tree.leaves(state.average))
    return Variables(state.average if averaged else state.params, state.extra)


def inputs_of(system: System, batch: Batch) -> list[Array]:
    """What `encode` and `reconstruct` of the system take of a batch."""
    return [batch[name] for name in system.inputs]


def valid_rows(batch: Batch) -> Array:
    """`[n]` weights: 1 for a real example, 0 for the padding of a ragged last batch."""
    n = jax.tree.leaves(batch)[0].shape[0]
    return batch["valid"] if "valid" in batch else jnp.ones((n,), jnp.float32)


def weighted_sums(metrics: dict[str, Any], valid: Array) -> Metrics:
    """Sums over valid rows of per-example metrics `[n ...]`; scalars count as many times as there are rows."""
    count = valid.sum()
    sums = {}
    for name, value in metrics.items():
        value = jnp.asarray(value, jnp.float32)
        if value.ndim == 0:
            sums[name] = value * count
        else:
            # A padded row may hold anything, NaN too: select, do not multiply.
            row = valid.reshape((-1,) + (1,) * (value.ndim - 1))
            sums[name] = jnp.where(row > 0, value, 0).sum(0)
    return sums | {"count": count}


def by_chunks(function: Callable[[Array], Array], x: Array, size: int = 100) -> Array:
    """`function` over rows of `x`, `size` at a time in a scan, so that memory is that of one chunk."""
    n = x.shape[0]
    if n <= size:
        return function(x)
    chunks = -(-n // size)
    padded = jnp.pad(x, ((0, chunks * size - n),) + ((0, 0),) * (x.ndim - 1))
    out = jax.lax.map(function, padded.reshape(chunks, size, *x.shape[1:]))
    return jax.tree.map(lambda y: y.reshape(chunks * size, *y.shape[2:])[:n], out)
