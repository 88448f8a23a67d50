"""Sparsifiers of a dictionary by config: which atoms are in use, in training and afterwards."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxae import collectives
from jaxae.metrics.scaling_laws import zipf_quotas
from jaxae.sae import encoders, k_sparse, pursuit
from jaxae.sae import sparsifiers as sparse
from jaxae.sae.atoms import ranks
from jaxae.sae.batch_selection import batch_topk_entries
from jaxae.sae.codes import Codes, row_sums, sparse_pays
from jaxae.sae.encoders import Encoded

NAMES = ("topk", "batch_topk", "feature_choice", "gradient_topk", "absolute_topk", "pursuit", "orthogonal_pursuit",
         "relu", "jump_relu", "gated", "prolu")


def defaults() -> dict[str, Any]:
    """Keys of `config.model` that choose the sparsifier.

    `sparsifier`: 'topk' (the `k` largest of each example, `k_test` outside training where it is not 0; negative ones
    become zero with `rectify` and stay without; k falls from `k_start`, where it is not 0, over `k_steps` updates),
    'absolute_topk' (by magnitude, signed), 'pursuit' (k steps of matching pursuit on the atoms, by magnitude if
    `signed`, until the residual's norm is `tolerance`), 'orthogonal_pursuit', 'gradient_topk' (by activation and by how
    much a later loss depends on the atom: data with `gradient`, weighed by `beta`; `score` 'sum' or 'product', without
    the activation alone), 'batch_topk' (k of each example on average over the batch), 'feature_choice' (examples for
    each atom by quotas, `quotas` 'uniform' or 'zipf' with `zipf_exponent` and `zipf_shift`; the largest to the atom
    that 'batch_topk' would use most, a moving average, or with `ranks='index'` to the first; in the first
    `mutual_steps` updates it is 'batch_topk'), 'relu', 'jump_relu' (a threshold for each atom, from `threshold`,
    learned by kernels of `bandwidth`), 'gated', or 'prolu'. `threshold_decay`: of these moving averages and of that of
    the thresholds by which 'batch_topk' and 'feature_choice' choose outside training.
    """
    return dict(sparsifier="topk", k=8, k_test=0, k_start=0, k_steps=0, rectify=True, signed=False, tolerance=0.0,
                beta=1.0, score="sum", quotas="zipf", zipf_exponent=1.0, zipf_shift=7.0, ranks="wanted",
                mutual_steps=0, threshold=0.001, bandwidth=0.05, threshold_decay=0.99)


class Chosen(NamedTuple):
    """What a sparsifier gives."""

    codes: Codes
    l0: Array  # [n] active atoms; with a gradient where the sparsifier has one
    threshold: Array  # the new moving average, or () as it was
    gate: Array | None = None  # [n m] what a loss must teach, as it has no gradient from the codes


class Given(NamedTuple):
    """What a sparsifier may look at."""

    params: dict[str, Array]  # with the encoder's bias
    threshold: Array  # the sparsifier's state
    step: Array  # [] updates so far
    x: Array  # [n d] centred inputs
    encoded: Encoded
    atoms: Array  # [m o]
    batch: dict[str, Array]
    train: bool


class Sparsifier(NamedTuple):
    """A choice of atoms."""

    params: Callable[[int], dict[str, Array]]  # atoms -> what it learns
    threshold: Callable[[int], Array]  # atoms -> its state before the first step
    choose: Callable[[Given], Chosen]
    sparse: bool = False  # whether it reads few entries, so that gradients need not reach the others
    streams: bool = False  # whether it reads the largest entries of each example and no others


def sparsifier_of(model, atoms: int, examples: int, axis_name: str | None = None) -> Sparsifier:
    """The sparsifier of the config.

    Args:
      model: `config.model`.
      atoms: m.
      examples: of a global batch, or of its share where gradients accumulate, for quotas.
      axis_name: the mapped axis.

    Raises:
      ValueError: for a name that is not there, or k outside [1, m].
    """
    if model.sparsifier not in NAMES:
        raise ValueError(f"model.sparsifier={model.sparsifier!r} must be one of {', '.join(NAMES)}")
    if model.score not in ("sum", "product"):
        raise ValueError(f"model.score={model.score!r} must be 'sum' or 'product'")
    if model.sparsifier in NAMES[:7]:
        sparse.check_k(model.k, atoms)
    return _BUILDERS[model.sparsifier](model, atoms, examples, axis_name)


def active(codes: Codes) -> Array:
    """`[n]` numbers of codes that are not zero."""
    return row_sums(codes, codes.values != 0).astype(jnp.float32)


def _nothing(_):
    return {}


def _no_threshold(_):
    return jnp.zeros(())


def _by_row(choose):
    """A sparsifier that takes k of each example."""
    def builder(model, atoms, examples, axis_name):
        def chosen(given):
            codes = choose(model, given, axis_name)
            return Chosen(codes, active(codes), given.threshold)

        falling = model.sparsifier == "topk" and model.k_start  # a traced k is a mask of all codes
        few = bool(not falling and sparse_pays(atoms, model.k))
        return Sparsifier(_nothing, _no_threshold, chosen, few, few and model.sparsifier == "topk" and model.rectify)

    return builder


def _topk(model, given, axis_name):
    k = model.k if given.train or not model.k_test else model.k_test
    if model.k_start and given.train:
        pre = given.encoded.pre
        kept = k_sparse.topk_mask(pre, k_sparse.k_schedule(given.step, model.k_start, k, model.k_steps))
        return Codes(kept * (jax.nn.relu(pre) if model.rectify else pre))
    if model.rectify:
        return sparse.topk(given.encoded, k)
    indices = jax.lax.top_k(jax.lax.stop_gradient(given.encoded.pre), k)[1]
    return Codes(given.encoded.at(indices), indices)


def _absolute(model, given, axis_name):
    return sparse.absolute_topk(given.encoded, model.k)


def _by_gradient(model, given, axis_name):
    if "gradient" not in given.batch:  # without gradients it is a plain choice, and another model
        return sparse.topk(given.encoded, model.k)
    score = sparse.influence_score(given.encoded.pre, given.atoms, given.batch["gradient"], model.beta,
                                   model.score == "product", axis_name)
    return sparse.score_topk(given.encoded, score, model.k)


def _pursuit(model, given, axis_name):
    found = pursuit.matching_pursuit(given.x, given.atoms, model.k if given.train or not model.k_test else model.k_test,
                                     model.signed, model.tolerance or None)
    return pursuit.merged(Codes(found.values, found.indices))


def _orthogonal_pursuit(model, given, axis_name):
    found = pursuit.orthogonal_matching_pursuit(given.x, given.atoms, model.k, model.signed)
    return Codes(found.values, found.indices)


def _by_threshold(choose, shape):
    """A sparsifier of a whole batch, replaced outside training by a moving average of its thresholds."""
    def builder(model, atoms, examples, axis_name):
        select = choose(model, atoms, examples, axis_name)

        def chosen(given):
            threshold = given.threshold
            if not given.train:
                codes = sparse.above(given.encoded.pre, threshold)
                return Chosen(codes, active(codes), threshold)
            codes, smallest = select(given.encoded)
            moved = model.threshold_decay * threshold + (1.0 - model.threshold_decay) * smallest
            return Chosen(codes, active(codes), jnp.where((threshold == 0) & (smallest > 0), smallest, moved))

        return Sparsifier(_nothing, lambda m: jnp.zeros(shape(m)), chosen, sparse_pays(atoms, model.k))

    return builder


def _batch_topk(model, atoms, examples, axis_name):
    if sparse_pays(atoms, model.k):
        return lambda encoded: batch_topk_entries(encoded, model.k, axis_name)
    return lambda encoded: sparse.batch_topk(encoded.pre, model.k, axis_name)


class Quotas(NamedTuple):
    """State of 'feature_choice'."""

    threshold: Array  # [m] above which each atom has its share of the examples
    wanted: Array  # [m] moving average of the share of examples that would have it, were sparsity spent freely


def threshold_of(state: Array | Quotas) -> Array:
    """The threshold in a sparsifier's state, `[]`, or `[m]` of each atom."""
    return state.threshold if isinstance(state, Quotas) else state


def _feature_choice(model, atoms, examples, axis_name):
    for name, allowed in (("quotas", ("uniform", "zipf")), ("ranks", ("wanted", "index"))):
        if model[name] not in allowed:
            raise ValueError(f"model.{name}={model[name]!r} must be one of {', '.join(allowed)}")
    exponent = model.zipf_exponent if model.quotas == "zipf" else 0.0
    table = zipf_quotas(atoms, examples * model.k, exponent, model.zipf_shift, examples)
    by_rank, most, rate = jnp.asarray(table), int(table[0]), 1.0 - model.threshold_decay

    def chosen(given):
        state, pre = given.threshold, given.encoded.pre
        if not given.train:
            codes = sparse.above(pre, state.threshold)
            return Chosen(codes, active(codes), state)
        freely, least = sparse.batch_topk(pre, model.k, axis_name)
        counts = (freely.values > 0).sum(0), (pre > state.threshold).sum(0)
        used, above = collectives.total(counts, axis_name)  # whole numbers: ties are ties on any number of devices
        wanted = state.wanted + rate * (used / examples - state.wanted)
        quotas = by_rank[ranks(wanted)] if model.ranks == "wanted" else by_rank
        codes, smallest = sparse.feature_choice(pre, quotas, most, axis_name)
        # A mean of the smallest values kept would be too high: they jump from the atom's own examples to the others.
        moved = state.threshold * jnp.exp(rate * (above / quotas - 1.0))
        early, first = given.step < model.mutual_steps, (given.step == 0) | (given.step == model.mutual_steps)
        codes = Codes(jnp.where(early, freely.values, codes.values))
        threshold = jnp.where(early, least, jnp.where(first, jnp.maximum(smallest, 1e-6), moved))
        return Chosen(codes, active(codes), Quotas(threshold, wanted))

    return Sparsifier(_nothing, lambda m: Quotas(jnp.zeros(m), jnp.zeros(m)), chosen)


def _relu(model, atoms, examples, axis_name):
    def chosen(given):
        codes = sparse.relu(given.encoded.pre)
        return Chosen(codes, active(codes), given.threshold)

    return Sparsifier(_nothing, _no_threshold, chosen)


def _prolu(model, atoms, examples, axis_name):
    def chosen(given):
        codes = Codes(sparse.prolu(given.encoded.pre - given.params["bias"], given.params["bias"]))
        return Chosen(codes, active(codes), given.threshold)

    return Sparsifier(_nothing, _no_threshold, chosen)


def _jump_relu(model, atoms, examples, axis_name):
    def chosen(given):
        limit = jnp.exp(given.params["log_threshold"])
        codes = Codes(sparse.jump_relu(given.encoded.pre, limit, model.bandwidth))
        return Chosen(codes, sparse.heaviside(given.encoded.pre, limit, model.bandwidth).sum(-1), given.threshold)

    def params(m):
        return {"log_threshold": jnp.full((m,), jnp.log(model.threshold))}

    return Sparsifier(params, _no_threshold, chosen)


def _gated(model, atoms, examples, axis_name):
    def chosen(given):
        params = given.params
        gate, values = encoders.gated(given.x, params["encoder"], params["gate"], params["log_scale"], params["bias"])
        codes = Codes(values)
        return Chosen(codes, active(codes), given.threshold, jax.nn.relu(gate))

    def params(m):
        return {"gate": jnp.zeros((m,)), "log_scale": jnp.zeros((m,))}

    return Sparsifier(params, _no_threshold, chosen)


_BUILDERS = {
    "topk": _by_row(_topk), "absolute_topk": _by_row(_absolute), "gradient_topk": _by_row(_by_gradient),
    "pursuit": _by_row(_pursuit), "orthogonal_pursuit": _by_row(_orthogonal_pursuit),
    "batch_topk": _by_threshold(_batch_topk, lambda m: ()), "feature_choice": _feature_choice,
    "relu": _relu, "prolu": _prolu, "jump_relu": _jump_relu, "gated": _gated,
}
