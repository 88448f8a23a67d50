"""From inputs to pre-activations and from codes to outputs, by config: encoders, biases and atoms of a dictionary."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxae import collectives
from jaxae.quantizers.kmeans import kmeans
from jaxae.sae import archetypal, bias_adaptation, encoders, kron
from jaxae.sae import atoms as care
from jaxae.sae.archetypal import Archetypes
from jaxae.sae.encoders import Encoded

ENCODERS, DECODERS = ("linear", "tied", "kron", "none"), ("linear", "scaled", "archetypal")
BIASES = ("learned", "none", "adapted")
CANDIDATES = ("kmeans", "random")


def defaults() -> dict[str, Any]:
    """Keys of `config.model` that choose how inputs are encoded and codes decoded.

    `encoder`: 'linear'; 'tied' (the atoms, with unit norm); 'kron' (`heads` of `bases` times `extensions` pairs of
    units, whose products are `atoms`, joined by `combine`); 'none' (products with the atoms, for a pursuit).
    `bias` of the encoder: 'learned', 'none', or 'adapted' every `adapt_every` updates by `bias_rate` so that atoms
    fire as often as their targets ask: in `groups` one after another, from `target` down by factors `target_ratio`.
    `decoder`: 'linear'; 'scaled' (with a learned scale for each atom); 'archetypal' (atoms within `delta` of the convex
    hull of `candidates` points, by `candidate_method` 'kmeans' or 'random' from the data).
    """
    return dict(encoder="linear", heads=1, bases=4, extensions=4, combine="mand", bias="learned", groups=1, target=0.1,
                target_ratio=0.5, adapt_every=50, bias_rate=0.01, decoder="linear", candidates=0,
                candidate_method="kmeans", delta=1.0)


def check(model) -> None:
    """Raises ValueError for options that do not exist or do not fit one another."""
    for name, allowed in (("encoder", ENCODERS), ("decoder", DECODERS), ("bias", BIASES),
                          ("combine", kron.COMBINE), ("candidate_method", CANDIDATES)):
        if model[name] not in allowed:
            raise ValueError(f"model.{name}={model[name]!r} must be one of {', '.join(allowed)}")
    if model.encoder == "kron" and math.prod((model.heads, model.bases, model.extensions)) != model.atoms:
        raise ValueError(f"model.heads={model.heads} of {model.bases} bases and {model.extensions} extensions have "
                         f"{model.heads * model.bases * model.extensions} latents: set model.atoms to that")
    if model.bias == "adapted" and model.encoder not in ("linear", "tied"):
        raise ValueError("model.bias='adapted' moves a bias for each atom: use model.encoder='linear' or 'tied'")
    if model.decoder == "archetypal":
        if model.encoder in ("tied", "none") or model.unit_norm:
            raise ValueError("archetypal atoms are not normalised: set model.unit_norm=False and "
                             "model.encoder='linear' or 'kron'")
        if model.candidates < model.atoms:
            raise ValueError(f"model.candidates={model.candidates} points cannot start model.atoms={model.atoms} "
                             f"different atoms: use at least as many")


def init(model, key: Array, d: int, out: int) -> tuple[dict[str, Array], dict[str, Any]]:
    """Parameters, and state that no gradient moves (`bias`, `seen` and `candidates`, where the options have them)."""
    keys = collectives.split_keys(key, ("decoder", "encoder"))
    directions = care.random_atoms(keys["decoder"], model.atoms, out)
    params, memory = {}, {}
    if model.decoder == "archetypal":
        memory["candidates"] = jnp.zeros((model.candidates, out))
        start = archetypal.start_archetypes(keys["decoder"], memory["candidates"], model.atoms)
        params |= {name: value for name, value in start._asdict().items()}
    else:
        params["decoder"] = directions
    if model.decoder == "scaled":
        params["scale"] = jnp.ones((model.atoms,))
    if model.encoder == "kron":
        units = model.heads * (model.bases + model.extensions)
        params["encoder"] = care.random_atoms(keys["encoder"], units, d).T
        params["bias"] = jnp.zeros((units,))
    elif model.encoder == "linear":
        start = directions if model.tied_start and d == out else care.random_atoms(keys["encoder"], model.atoms, d)
        params["encoder"] = start.T.copy()
    if model.bias == "learned" and model.encoder in ("linear", "tied"):
        params["bias"] = jnp.zeros((model.atoms,))
    elif model.bias == "adapted":
        memory |= {"bias": jnp.zeros((model.atoms,)), "seen": bias_adaptation.start_bias_adaptation(model.atoms)}
    return params, memory


def from_data(model, memory: dict, params: dict, y: Array) -> tuple[dict, dict]:
    """Parameters and memory with candidate points of centred targets `y [n o]`, and an encoder that starts there."""
    if model.decoder != "archetypal":
        return params, memory
    if model.candidates > y.shape[0]:
        raise ValueError(f"model.candidates={model.candidates} points cannot be made of the {y.shape[0]} examples at "
                         f"hand: raise config.prepare_examples or use fewer")
    key = jax.random.key(0)  # the points are the data's, not a seed's: seeds choose which of them atoms start at
    if model.candidate_method == "kmeans":
        points = kmeans(y, model.candidates, key)
    else:
        points = y[jax.random.permutation(key, y.shape[0])[:model.candidates]]
    memory = memory | {"candidates": points}
    if model.encoder == "linear" and model.tied_start and params["encoder"].shape[0] == y.shape[1]:
        params = params | {"encoder": care.unit_rows(atoms(model, params, memory)).T}
    return params, memory


def directions(model, params: dict, memory: dict) -> Array:
    """Atoms without their scales: what an encoder may be tied to."""
    if model.decoder == "archetypal":
        return archetypal.archetypal_dictionary(_archetypes(params), memory["candidates"])
    return care.unit_rows(params["decoder"]) if model.encoder == "tied" else params["decoder"]


def atoms(model, params: dict, memory: dict) -> Array:
    """The decoder's atoms `[m o]`."""
    found = directions(model, params, memory)
    return found * params["scale"][:, None] if model.decoder == "scaled" else found


def encoded(model, params: dict, memory: dict, x: Array, offset: Array | None = None, light: bool = False,
            streams: bool = False) -> Encoded:
    """Pre-activations of inputs, from which the offset is subtracted (`encoders.linear` tells of the last two)."""
    if model.encoder == "linear":
        return encoders.linear(x, params["encoder"], bias_of(model, params, memory), light, offset, streams)
    x = x if offset is None else x - offset
    if model.encoder == "kron":
        units = model.heads * model.bases
        halves = (slice(0, units), model.bases), (slice(units, None), model.extensions)
        base, extension = (kron.kron_units(x, params["encoder"][:, part], params["bias"][part], model.heads)
                           for part, _ in halves)
        return encoders.of_pre(kron.kron_pre(base, extension, model.combine))
    return encoders.of_pre(x @ directions(model, params, memory).T + bias_of(model, params, memory))


def bias_of(model, params: dict, memory: dict) -> Array:
    """The encoder's bias `[m]`: learned, adapted (without gradient) or zero."""
    if "bias" in params:
        return params["bias"]
    return jax.lax.stop_gradient(memory["bias"]) if "bias" in memory else jnp.zeros((model.atoms,))


def noted(memory: dict, pre: Array, axis_name: str | None) -> dict:
    """Memory after pre-activations of a batch were seen."""
    return memory | {"seen": bias_adaptation.accumulate(memory["seen"], pre, axis_name)} if "seen" in memory else memory


def constrained(model, params: dict, memory: dict, step: Array) -> tuple[dict, dict]:
    """Parameters within their constraints and biases adapted, after `step` updates."""
    if model.decoder == "archetypal":
        params = params | archetypal.project_archetypal(_archetypes(params), model.delta)._asdict()
    elif model.unit_norm:
        params = params | {"decoder": care.unit_rows(params["decoder"])}
    if model.bias == "adapted":
        targets = bias_adaptation.geometric_targets(model.atoms, model.groups, model.target, model.target_ratio)
        bias, fresh = bias_adaptation.adapt(memory["bias"], memory["seen"], targets, model.groups, model.bias_rate,
                                            model.bias_rate)
        due = (step % model.adapt_every) == 0
        moved = memory | {"bias": bias, "seen": fresh}
        memory = jax.tree.map(lambda new, old: jnp.where(due, new, old), moved, memory)
    return params, memory


def _archetypes(params: dict) -> Archetypes:
    return Archetypes(*(params[name] for name in Archetypes._fields))


__all__ = ["atoms", "bias_of", "check", "constrained", "defaults", "directions", "encoded", "from_data", "init",
           "noted"]
