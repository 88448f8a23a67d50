"""Sparse autoencoders: an encoder, a sparsifier, a decoder and losses of `jaxae.sae` by config, in one system."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree
from ml_collections import ConfigDict

from jaxae import optim
from jaxae.metrics.scaling_laws import zipf_quotas
from jaxae.sae import atoms as care
from jaxae.sae import losses
from jaxae.sae.codes import Codes, decode, dense
from jaxae.sae.sparsifiers import check_k, nested_topk
from jaxae.systems import figures as draw
from jaxae.systems import sparsity
from jaxae.systems.base import Latent, Objective, State, System, Variables, means, variables
from jaxae.systems.builders import one_loss
from jaxae.systems.sparse import maps

PURSUITS = ("pursuit", "orthogonal_pursuit")


def defaults() -> ConfigDict:
    """Keys of `config.model`, beside those of `sparsity.defaults` and `maps.defaults`.

    `atoms` of the dictionary. `center`: the decoder's offset is subtracted from the input. `offset`: 'median'
    (geometric) or 'mean' of the data, or 'zero', to start from, or with `fixed_offset` to stay at. `tied_start`: the
    encoder starts as the decoder's transpose, scaled so that reconstructions have the inputs' norm. `unit_norm`: atoms
    have norm one, and gradients no part along them. `skip`: a linear map from input to output beside the dictionary.
    `input`: 'none', 'example' (mean over coordinates subtracted, norm one) or 'unit' (norm one); a target `y` likewise
    by itself, and reconstructions are of these. `cap`: codes z become cap tanh(z / cap), 0 for none.

    `error`: 'normalised' (by the variance of the data: the share not explained) or 'sum' of squares. `l1`, times the
    atoms' norms with `l1_by_norm` (the sum of the norms of their `layers` equal parts, in a crosscoder) and with
    `saturation` as a tanh; `l0` and `l0_goal` (the mean to reach, 0: a plain penalty) for 'jump_relu'; these grow from
    0 over `sparsity_warmup` steps. `auxk` of `aux_atoms` atoms: with `aux` 'dead' of those that were silent for
    `dead_after` examples, with 'zipf' of those that fire less than half as often as the law of `quotas` has it.
    `revive`: the weight with which atoms silent so long are drawn to what a pursuit leaves; `atom_dropout`: the share
    of atoms that a pursuit cannot choose in a batch. `multi_k`, `multi_weight`: a second reconstruction with that many
    times k. `ks` (nested numbers of active atoms, or with `nest='prefix'` sizes of dictionaries) and `nested_weights`
    ('uniform', 'reverse'). `tilt`: 0 reduces by the mean, else by the tilted mean, of the reconstruction error alone.
    """
    return ConfigDict(sparsity.defaults() | maps.defaults() | dict(
        atoms=256, center=True, offset="median", fixed_offset=False, tied_start=True, unit_norm=True, skip=False,
        input="none", cap=0.0, error="normalised", l1=0.0, l1_by_norm=False, layers=1, l0=0.0, l0_goal=0.0,
        saturation=0.0, sparsity_warmup=0, auxk=0.0, aux="dead", aux_atoms=32, dead_after=20_000, revive=0.0,
        atom_dropout=0.0, multi_k=0, multi_weight=0.125, ks=(), nest="active", nested_weights="uniform", tilt=0.0))


class Extra(NamedTuple):
    """State that no gradient moves."""

    activity: care.Activity
    threshold: Array  # of the sparsifier
    variance: Array  # [] mean of |y - mean y|^2 of the data
    step: Array  # [] updates so far
    memory: dict[str, Any]  # of `maps`: adapted biases, candidate points


def build(config: ConfigDict, example: PyTree, axis_name: str | None = None) -> System:
    r"""Sparse autoencoders of Gao et al., Scaling and evaluating sparse autoencoders, 2024, arXiv 2406.04093, and
    their relatives (`configs/sae.py`).

    $a = (x - b_d) W + b$, $z$ by the sparsifier, $\hat y = z D + b_d$ (+ x S with `skip`). The target y is the batch's
    `y` where it has one (a transcoder), else x. Data of any shape are flattened.

    Loss: |y - y_hat|^2 over the data's variance, or summed over dimensions, + the penalties of `defaults`.
    Reported: `fvu` (share of variance not explained, of the whole split), `l0` (mean active atoms), `dead` (share of
    atoms that never fire on the split; in training, of those silent for `dead_after` examples).
    Latents are vectors [n atoms]. Where the data have a `gradient` and the sparsifier reads it, so do `encode` and
    `reconstruct`; without it they choose by activation alone, which is another model.

    Raises:
      ValueError: for options that do not exist or do not fit one another or the data.
    """
    model = config.model
    shape, target = example["x"].shape[1:], example.get("y", example["x"]).shape[1:]
    d, out, m = math.prod(shape), math.prod(target), model.atoms
    _check(model, d, out)
    examples = config.batch_size // config.optim.accumulate
    chooser = sparsity.sparsifier_of(model, m, examples, axis_name)
    light = chooser.sparse and not (model.nest == "prefix" and model.ks)
    rereads = _given(model.auxk) or model.multi_k or model.ks or model.bias == "adapted"  # all pre-activations
    streams = light and chooser.streams and not rereads
    expected = zipf_quotas(m, examples * model.k, model.zipf_exponent if model.quotas == "zipf" else 0.0,
                           model.zipf_shift, examples) / examples if model.aux == "zipf" else None

    def prepared(x):
        x = x.reshape(x.shape[0], -1).astype(jnp.float32)
        if model.input == "example":
            x = x - x.mean(-1, keepdims=True)
        if model.input != "none":
            x = x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-8)
        return x

    def wanted(batch, x):
        return prepared(batch["y"]) if "y" in batch else x

    def centred(params, x):
        return x - params["offset"] if model.center else x

    def decoded(params, codes, atoms, x):
        y_hat = decode(codes, atoms) + params["offset"]
        return y_hat + x @ params["skip"] if model.skip else y_hat

    def chosen(params, extra, batch, x, train, kept=None):
        """Pre-activations, and what the sparsifier makes of them; `kept [m]` of the atoms can be chosen."""
        near = centred(params, x)
        found = maps.encoded(model, params, extra.memory, x, params["offset"] if model.center else None, light, streams)
        directions = maps.directions(model, params, extra.memory)
        if kept is not None:
            directions = jnp.where(kept[:, None], directions, 0.0)
        bias = maps.bias_of(model, params, extra.memory)
        choice = chooser.choose(sparsity.Given(params | {"bias": bias}, extra.threshold, extra.step, near, found,
                                               directions, batch, train))
        if model.cap:
            values = model.cap * jnp.tanh(choice.codes.values / model.cap)
            choice = choice._replace(codes=choice.codes._replace(values=values))
        return found, choice

    def init(key: Array, batch):
        params, memory = maps.init(model, key, d, out)
        params |= {"offset": jnp.zeros((out,))} | chooser.params(m)
        if model.skip:
            params["skip"] = jnp.zeros((d, out))
        return params, Extra(care.start_activity(m), chooser.threshold(m), jnp.ones(()), jnp.int32(0), memory)

    def prepare(state: State, data, key: Array) -> State:
        """Offset, variance, candidate points and the encoder's scale from the data, before the first step."""
        x = prepared(data["x"])
        y, params = wanted(data, x), dict(state.params)
        variance = jnp.square(y - y.mean(0)).sum(-1).mean()
        centre = {"median": lambda: care.geometric_median(y), "mean": lambda: y.mean(0),
                  "zero": lambda: jnp.zeros((out,))}[model.offset]()
        params["offset"] = centre
        params, memory = maps.from_data(model, state.extra.memory, params, y - centre)
        extra = state.extra._replace(variance=jnp.where(variance > 0, variance, 1.0), memory=memory)
        if model.encoder == "linear" and model.tied_start:
            few = slice(config.batch_size)
            _, first = chosen(params, extra, {}, x[few], True)
            scale = care.matched_scale(y[few] - centre, decode(first.codes, maps.atoms(model, params, memory)))
            params["encoder"] = params["encoder"] * jnp.clip(scale, 0.01, 100.0)
        fresh = state._replace(params=params, extra=extra)
        if jax.tree.leaves(state.average):
            fresh = fresh._replace(average=params)
        return jax.tree.map(lambda new, old: jnp.where(state.step == 0, new, old), fresh, state)

    def loss(params, extra, batch, key, train: bool) -> Objective:
        if model.fixed_offset:
            params = params | {"offset": jax.lax.stop_gradient(params["offset"])}
        x = prepared(batch["x"])
        y, variance = wanted(batch, x), extra.variance if model.error == "normalised" else 1.0
        kept = jax.random.uniform(key, (m,)) >= model.atom_dropout if model.atom_dropout and train else None
        found, choice = chosen(params, extra, batch, x, train, kept)
        codes, dictionary = choice.codes, maps.atoms(model, params, extra.memory)
        y_hat = decoded(params, codes, dictionary, x)
        error = losses.squared_error(y, y_hat, variance)
        fires = jnp.abs(dense(codes, m)) > care.FIRES if not train or codes.indices is None else None
        activity = extra.activity
        if train:
            activity = care.note_activity(activity, fires, axis_name=axis_name) if fires is not None else \
                care.note_sparse_activity(activity, codes, axis_name=axis_name)
        dead = activity.silent > model.dead_after
        unused = dead if expected is None else care.underused(
            care.firing_frequency(activity, extra.step + 1), expected)
        reconstruction = error
        if model.ks:
            levels = [decoded(params, part, dictionary, x) for part in nested(found, codes)]
            reconstruction = losses.matryoshka(y, levels, losses.matryoshka_weights(len(levels), model.nested_weights),
                                               variance)
        if model.multi_k:
            more = nested_topk(found, (min(m, model.k * model.multi_k),))[0]
            y_more = decoded(params, more, dictionary, x)
            reconstruction = reconstruction + model.multi_weight * losses.squared_error(y, y_more, variance)
        value = losses.tilted(reconstruction, model.tilt, axis_name) if _given(model.tilt) and train else reconstruction
        growth = jnp.minimum(1.0, (extra.step + 1) / model.sparsity_warmup) if model.sparsity_warmup and train else 1.0
        value = value + growth * penalties(params, choice, dictionary, y, variance)
        metrics = {"error": error, "l0": sparsity.active(codes)}
        if _given(model.auxk):
            revive = losses.auxk(found, dictionary, y - y_hat, unused, model.aux_atoms, axis_name)
            value, metrics["auxk"] = value + model.auxk * revive, revive
        if _given(model.revive) and train:
            value = value + model.revive * losses.revival(dictionary, y - y_hat, dead)
        if not train:
            near = y - params["offset"]  # whose squares do not drown the variance when data are far from zero
            return Objective(value, metrics | {"squared_error": jnp.square(y - y_hat).sum(-1), "near": near,
                                               "square": jnp.square(near).sum(-1), "fires": fires}, extra)
        metrics["dead"] = dead.mean()
        memory = maps.noted(extra.memory, found.pre, axis_name)
        return Objective(value, metrics, Extra(activity, choice.threshold, extra.variance, extra.step + 1, memory))

    def nested(found, codes):
        if model.nest == "active":
            return nested_topk(found, tuple(model.ks))
        everything = dense(codes, m)
        return [Codes(jnp.where(jnp.arange(m) < size, everything, 0.0)) for size in model.ks]

    def penalties(params, choice, dictionary, y, variance):
        value = 0.0
        weighed = None
        if model.l1_by_norm:
            weighed = jnp.linalg.norm(dictionary.reshape(m, model.layers, -1), axis=-1).sum(-1, keepdims=True)
        if choice.gate is not None:  # the gate learns by the penalty and by reconstructing alone, past fixed atoms
            seen = decode(Codes(choice.gate), jax.lax.stop_gradient(dictionary))
            value = losses.squared_error(y, seen + jax.lax.stop_gradient(params["offset"]), variance)
            value = value + model.l1 * losses.l1(Codes(choice.gate), weighed, model.saturation)
        elif _given(model.l1):
            value = model.l1 * losses.l1(choice.codes, weighed, model.saturation)
        if _given(model.l0_goal):
            value = value + model.l0 * losses.l0_target(choice.l0, model.l0_goal, axis_name)
        elif _given(model.l0):
            value = value + model.l0 * choice.l0
        return value

    def after(params, extra, key):
        params, memory = maps.constrained(model, params, extra.memory, extra.step)
        return params, extra._replace(memory=memory)

    def summary(sums):
        vectors = ("near", "square", "squared_error", "fires")
        total = sums["square"] - jnp.square(sums["near"]).sum() / sums["count"]
        return means({name: value for name, value in sums.items() if name not in vectors}) | {
            "fvu": sums["squared_error"] / jnp.maximum(total, 1e-30), "dead": (sums["fires"] == 0).mean()}

    def codes_of(now: Variables, x, gradient):
        return chosen(now.params, now.extra, {} if gradient is None else {"gradient": gradient}, x, False)[1].codes

    def encode(now: Variables, x, gradient=None):
        return dense(codes_of(now, prepared(x), gradient), m)

    def decode_codes(now: Variables, z, key=None):
        if model.skip:
            raise ValueError("codes of a skip transcoder do not say what the input was: use reconstruct")
        return decoded(now.params, Codes(z), maps.atoms(model, now.params, now.extra.memory), None).reshape(-1, *target)

    def reconstruct(now: Variables, x, gradient=None, key=None):
        x = prepared(x)
        codes = codes_of(now, x, gradient)
        return decoded(now.params, codes, maps.atoms(model, now.params, now.extra.memory), x).reshape(-1, *target)

    def figures(state: State, batch, key):
        """Atoms as images where the data are, in the order of how often they fire of late, and a histogram of that."""
        now, activity = variables(state), state.extra.activity
        started = state.extra.step > 0  # before that there is this batch alone
        seen = [batch[name] for name in inputs]
        first = (jnp.abs(encode(now, *seen)) > care.FIRES).mean(0)
        lately = jnp.where(activity.silent > model.dead_after, 0.0, care.firing_frequency(activity, state.extra.step))
        frequency = jnp.where(started, lately, first)
        shown = {"log10_frequency_histogram": jnp.log10(frequency)}
        if len(target) == 3:
            shown["atoms"] = draw.most_frequent(maps.atoms(model, now.params, now.extra.memory), frequency, target)
        return draw.comparison(batch["x"], reconstruct(now, *seen)) | shown

    inputs = ("x", "gradient") if model.sparsifier == "gradient_topk" and "gradient" in example else ("x",)
    tx = optim.optimizer(config.optim, config.steps)
    if model.unit_norm:
        tx = optax.chain(care.across_atoms(), tx)
    return one_loss(init, loss, tx, average=config.optim.average, accumulate=config.optim.accumulate,
                    axis_name=axis_name, after=after, prepare=prepare, summary=summary, encode=encode,
                    decode=decode_codes, reconstruct=reconstruct, figures=figures, latent=Latent((m,)),
                    inputs=inputs)


def _given(weight) -> bool:
    """Whether a weight takes part: not 0, or one of several that train side by side."""
    return not isinstance(weight, int | float) or weight != 0


def _check(model, d: int, out: int) -> None:
    """Raises ValueError for options that do not exist or do not fit."""
    maps.check(model)
    for name, allowed in (("error", ("normalised", "sum")), ("input", ("none", "example", "unit")),
                          ("offset", ("median", "mean", "zero")), ("nest", ("active", "prefix")),
                          ("nested_weights", ("uniform", "reverse")), ("aux", ("dead", "zipf"))):
        if model[name] not in allowed:
            raise ValueError(f"model.{name}={model[name]!r} must be one of {', '.join(allowed)}")
    if (model.encoder == "none" or model.revive or model.atom_dropout) and model.sparsifier not in PURSUITS:
        raise ValueError(f"model.encoder='none', model.revive and model.atom_dropout are of a pursuit: set "
                         f"model.sparsifier to one of {', '.join(PURSUITS)}")
    if model.sparsifier in PURSUITS and (model.encoder != "none" or model.decoder != "linear" or not model.unit_norm):
        raise ValueError("a pursuit takes atoms of norm one: set model.encoder='none', model.decoder='linear' and "
                         "model.unit_norm=True")
    if out % model.layers:
        raise ValueError(f"model.layers={model.layers} does not divide targets of width {out}")
    if d != out and (model.center or model.encoder in ("tied", "none")):
        raise ValueError(f"inputs of width {d} and targets of width {out}: set model.center=False and "
                         f"model.encoder='linear' or 'kron'")
    if _given(model.auxk):
        check_k(model.aux_atoms, model.atoms)
    if model.ks and max(model.ks) > model.atoms:
        raise ValueError(f"model.ks={tuple(model.ks)} must not exceed model.atoms={model.atoms}")
    if (_given(model.l0) or _given(model.l0_goal)) and model.sparsifier != "jump_relu":
        raise ValueError("model.l0 has a gradient with model.sparsifier='jump_relu' alone: use l1, or set it to 0")


__all__ = ["build", "defaults"]
