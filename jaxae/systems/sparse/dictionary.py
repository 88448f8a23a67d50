"""Sparse autoencoders: an encoder, a sparsifier, a decoder and losses of `jaxae.sae` by config, in one system."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree
from ml_collections import ConfigDict

from jaxae import collectives, optim
from jaxae.sae import atoms as care
from jaxae.sae import encoders, losses
from jaxae.sae.codes import Codes, decode, dense
from jaxae.sae.sparsifiers import check_k, nested_topk
from jaxae.systems import figures as draw
from jaxae.systems import sparsity
from jaxae.systems.base import Latent, Objective, State, System, Variables, means, variables
from jaxae.systems.builders import one_loss

ENCODERS, DECODERS = ("linear", "tied"), ("linear", "scaled")


def defaults() -> ConfigDict:
    """Keys of `config.model`, beside those of `sparsity.defaults`.

    `atoms` of the dictionary. `encoder`: 'linear', or 'tied' (the decoder's atoms with unit norm). `center`: the
    decoder's offset is subtracted from the input. `offset`: 'median' (geometric) or 'mean' of the data, or 'zero', to
    start from. `tied_start`: the encoder starts as the decoder's transpose, scaled so that reconstructions have the
    inputs' norm. `decoder`: 'linear', or 'scaled' with a learned scale for each atom. `unit_norm`: atoms have norm
    one, and gradients no part along them. `skip`: a linear map from input to output beside the dictionary.
    `input`: 'none', or 'example' (mean over coordinates subtracted, norm one).

    `error`: 'normalised' (by the variance of the data: the share not explained) or 'sum' of squares. `l1`, times the
    atoms' norms with `l1_by_norm`; `l0` and `l0_goal` (the mean to reach, 0: a plain penalty) for 'jump_relu'; these
    grow from 0 over `sparsity_warmup` steps. `auxk` of `aux_atoms` atoms that were silent for `dead_after` examples.
    `multi_k`, `multi_weight`: a second reconstruction with that many times k. `ks` (nested numbers of active atoms, or
    with `nest='prefix'` sizes of dictionaries) and `nested_weights` ('uniform', 'reverse'). `tilt`: 0 reduces by the
    mean, else by the tilted mean, of the reconstruction error alone.
    """
    return ConfigDict(sparsity.defaults() | dict(
        atoms=256, encoder="linear", center=True, offset="median", tied_start=True, decoder="linear", unit_norm=True,
        skip=False, input="none", error="normalised", l1=0.0, l1_by_norm=False, l0=0.0, l0_goal=0.0, sparsity_warmup=0,
        auxk=0.0, aux_atoms=32, dead_after=20_000, multi_k=0, multi_weight=0.125, ks=(), nest="active",
        nested_weights="uniform", tilt=0.0))


class Extra(NamedTuple):
    """State that no gradient moves."""

    activity: care.Activity
    threshold: Array  # of the sparsifier
    variance: Array  # [] mean of |y - mean y|^2 of the data
    step: Array  # [] updates so far


def build(config: ConfigDict, example: PyTree, axis_name: str | None = None) -> System:
    r"""Sparse autoencoders of Gao et al., Scaling and evaluating sparse autoencoders, 2024, arXiv 2406.04093, and
    their relatives (`configs/sae.py`).

    $a = (x - b_d) W + b$, $z$ by the sparsifier, $\hat y = z D + b_d$ (+ x S with `skip`). The target y is the batch's
    `y` where it has one (a transcoder), else x. Data of any shape are flattened.

    Loss: |y - y_hat|^2 over the data's variance, or summed over dimensions, + the penalties of `defaults`.
    Reported: `fvu` (share of variance not explained, of the whole split), `l0` (mean active atoms), `dead` (share of
    atoms that never fire on the split; in training, of those silent for `dead_after` examples).
    Latents are vectors [n atoms].

    Raises:
      ValueError: for options that do not exist or do not fit one another or the data.
    """
    model = config.model
    shape, target = example["x"].shape[1:], example.get("y", example["x"]).shape[1:]
    d, out, m = math.prod(shape), math.prod(target), model.atoms
    _check(model, d, out)
    chooser = sparsity.sparsifier_of(model, m, config.batch_size // config.optim.accumulate, axis_name)
    needs_all = model.nest == "prefix" and model.ks or model.encoder == "tied"
    light = chooser.sparse and not needs_all

    def prepared(x):
        x = x.reshape(x.shape[0], -1).astype(jnp.float32)
        if model.input == "example":
            x = x - x.mean(-1, keepdims=True)
            x = x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-8)
        return x

    def wanted(batch, x):
        return prepared(batch["y"]) if "y" in batch else x

    def atoms_of(params):
        return care.unit_rows(params["decoder"]) if model.encoder == "tied" else params["decoder"]

    def centred(params, x):
        return x - params["offset"] if model.center else x

    def encoded(params, x):
        if model.encoder == "tied":
            return encoders.of_pre(centred(params, x) @ atoms_of(params).T + params["bias"])
        return encoders.linear(centred(params, x), params["encoder"], params["bias"], light)

    def scaled(params, codes):
        if model.decoder == "linear":
            return codes
        scale = params["scale"] if codes.indices is None else params["scale"][codes.indices]
        return codes._replace(values=codes.values * scale)

    def decoded(params, codes, x):
        y_hat = decode(scaled(params, codes), atoms_of(params)) + params["offset"]
        return y_hat + x @ params["skip"] if model.skip else y_hat

    def chosen(params, extra, batch, x, train):
        found = encoded(params, x)
        return found, chooser.choose(params, extra.threshold, centred(params, x), found, atoms_of(params), batch, train)

    def init(key: Array, batch):
        keys = collectives.split_keys(key, ("decoder", "encoder"))
        directions = care.random_atoms(keys["decoder"], m, out)
        params = {"decoder": directions, "bias": jnp.zeros((m,)), "offset": jnp.zeros((out,))} | chooser.params(m)
        if model.encoder == "linear":
            start = directions if model.tied_start and d == out else care.random_atoms(keys["encoder"], m, d)
            params["encoder"] = start.T.copy()
        if model.decoder == "scaled":
            params["scale"] = jnp.ones((m,))
        if model.skip:
            params["skip"] = jnp.zeros((d, out))
        return params, Extra(care.start_activity(m), chooser.threshold(m), jnp.ones(()), jnp.int32(0))

    def prepare(state: State, data, key: Array) -> State:
        """Offset, variance and the encoder's scale from the data, before the first step."""
        x = prepared(data["x"])
        y, params = wanted(data, x), dict(state.params)
        variance = jnp.square(y - y.mean(0)).sum(-1).mean()
        centre = {"median": lambda: care.geometric_median(y), "mean": lambda: y.mean(0),
                  "zero": lambda: jnp.zeros((out,))}[model.offset]()
        params["offset"] = centre
        extra = state.extra._replace(variance=jnp.where(variance > 0, variance, 1.0))
        if model.encoder == "linear" and model.tied_start:
            few = slice(config.batch_size)
            _, first = chosen(params, extra, {}, x[few], True)
            scale = care.matched_scale(y[few] - centre, decode(first.codes, atoms_of(params)))
            params["encoder"] = params["encoder"] * jnp.clip(scale, 0.01, 100.0)
        fresh = state._replace(params=params, extra=extra)
        if jax.tree.leaves(state.average):
            fresh = fresh._replace(average=params)
        return jax.tree.map(lambda new, old: jnp.where(state.step == 0, new, old), fresh, state)

    def loss(params, extra, batch, key, train: bool) -> Objective:
        x = prepared(batch["x"])
        y, variance = wanted(batch, x), extra.variance if model.error == "normalised" else 1.0
        found, choice = chosen(params, extra, batch, x, train)
        codes, dictionary = choice.codes, atoms_of(params)
        y_hat = decoded(params, codes, x)
        error = losses.squared_error(y, y_hat, variance)
        fires = dense(codes, m) > care.FIRES if not train or codes.indices is None else None
        activity = extra.activity
        if train:
            activity = care.note_activity(activity, fires, axis_name=axis_name) if fires is not None else \
                care.note_sparse_activity(activity, codes, axis_name=axis_name)
        dead = activity.silent > model.dead_after
        reconstruction = error
        if model.ks:
            levels = [decoded(params, part, x) for part in nested(found, codes)]
            reconstruction = losses.matryoshka(y, levels, losses.matryoshka_weights(len(levels), model.nested_weights),
                                               variance)
        if model.multi_k:
            more = nested_topk(found, (min(m, model.k * model.multi_k),))[0]
            reconstruction = reconstruction + model.multi_weight * losses.squared_error(y, decoded(params, more, x),
                                                                                        variance)
        value = losses.tilted(reconstruction, model.tilt, axis_name) if _given(model.tilt) and train else reconstruction
        growth = jnp.minimum(1.0, (extra.step + 1) / model.sparsity_warmup) if model.sparsity_warmup and train else 1.0
        value = value + growth * penalties(params, choice, dictionary, y, variance)
        metrics = {"error": error, "l0": sparsity.active(codes)}
        if _given(model.auxk):
            revive = losses.auxk(found, dictionary, y - y_hat, dead, model.aux_atoms, axis_name)
            value, metrics["auxk"] = value + model.auxk * revive, revive
        if not train:
            near = y - params["offset"]  # whose squares do not drown the variance when data are far from zero
            return Objective(value, metrics | {"squared_error": jnp.square(y - y_hat).sum(-1), "near": near,
                                               "square": jnp.square(near).sum(-1), "fires": fires}, extra)
        metrics["dead"] = dead.mean()
        return Objective(value, metrics, Extra(activity, choice.threshold, extra.variance, extra.step + 1))

    def nested(found, codes):
        if model.nest == "active":
            return nested_topk(found, tuple(model.ks))
        everything = dense(codes, m)
        return [Codes(jnp.where(jnp.arange(m) < size, everything, 0.0)) for size in model.ks]

    def penalties(params, choice, dictionary, y, variance):
        value = 0.0
        weighed = dictionary if model.l1_by_norm else None
        if choice.gate is not None:  # the gate learns by the penalty and by reconstructing alone, past fixed atoms
            seen = decode(Codes(choice.gate), jax.lax.stop_gradient(dictionary))
            value = losses.squared_error(y, seen + jax.lax.stop_gradient(params["offset"]), variance)
            value = value + model.l1 * losses.l1(Codes(choice.gate), weighed)
        elif _given(model.l1):
            value = model.l1 * losses.l1(choice.codes, weighed)
        if _given(model.l0_goal):
            value = value + model.l0 * losses.l0_target(choice.l0, model.l0_goal, axis_name)
        elif _given(model.l0):
            value = value + model.l0 * choice.l0
        return value

    def after(params, extra, key):
        if model.unit_norm:
            params = params | {"decoder": care.unit_rows(params["decoder"])}
        return params, extra

    def summary(sums):
        vectors = ("near", "square", "squared_error", "fires")
        total = sums["square"] - jnp.square(sums["near"]).sum() / sums["count"]
        return means({name: value for name, value in sums.items() if name not in vectors}) | {
            "fvu": sums["squared_error"] / jnp.maximum(total, 1e-30), "dead": (sums["fires"] == 0).mean()}

    def encode(now: Variables, x):
        x = prepared(x)
        return dense(chosen(now.params, now.extra, {}, x, False)[1].codes, m)

    def decode_codes(now: Variables, z, key=None):
        if model.skip:
            raise ValueError("codes of a skip transcoder do not say what the input was: use reconstruct")
        return decoded(now.params, Codes(z), None).reshape(-1, *target)

    def reconstruct(now: Variables, x, key=None):
        x = prepared(x)
        codes = chosen(now.params, now.extra, {}, x, False)[1].codes
        return decoded(now.params, codes, x).reshape(-1, *target)

    def figures(state: State, batch, key):
        """Atoms as images where the data are, in the order of their frequency, and how often they fire."""
        now = variables(state)
        z = encode(now, batch["x"])
        shown = {"frequencies": jnp.sort((z > care.FIRES).mean(0))[::-1]}
        if len(target) == 3:
            often = jnp.argsort(-(z > care.FIRES).mean(0))[:64]
            pictures = atoms_of(now.params)[often].reshape(-1, *target)
            largest = jnp.abs(pictures).max((1, 2, 3), keepdims=True)
            shown["atoms"] = 0.5 + 0.5 * pictures / jnp.maximum(largest, 1e-8)
        return draw.comparison(batch["x"], reconstruct(now, batch["x"])) | shown

    tx = optim.optimizer(config.optim, config.steps)
    if model.unit_norm:
        tx = optax.chain(care.across_atoms(), tx)
    return one_loss(init, loss, tx, average=config.optim.average, accumulate=config.optim.accumulate,
                    axis_name=axis_name, after=after, prepare=prepare, summary=summary, encode=encode,
                    decode=decode_codes, reconstruct=reconstruct, figures=figures, latent=Latent((m,)))


def _given(weight) -> bool:
    """Whether a weight takes part: not 0, or one of several that train side by side."""
    return not isinstance(weight, int | float) or weight != 0


def _check(model, d: int, out: int) -> None:
    """Raises ValueError for options that do not exist or do not fit."""
    for name, allowed in (("encoder", ENCODERS), ("decoder", DECODERS), ("error", ("normalised", "sum")),
                          ("input", ("none", "example")), ("offset", ("median", "mean", "zero")),
                          ("nest", ("active", "prefix")), ("nested_weights", ("uniform", "reverse"))):
        if model[name] not in allowed:
            raise ValueError(f"model.{name}={model[name]!r} must be one of {', '.join(allowed)}")
    if d != out and (model.center or model.encoder == "tied"):
        raise ValueError(f"inputs of width {d} and targets of width {out}: set model.center=False and "
                         f"model.encoder='linear'")
    if _given(model.auxk):
        check_k(model.aux_atoms, model.atoms)
    if model.ks and max(model.ks) > model.atoms:
        raise ValueError(f"model.ks={tuple(model.ks)} must not exceed model.atoms={model.atoms}")
    if (_given(model.l0) or _given(model.l0_goal)) and model.sparsifier != "jump_relu":
        raise ValueError("model.l0 has a gradient with model.sparsifier='jump_relu' alone: use l1, or set it to 0")


__all__ = ["build", "defaults"]
