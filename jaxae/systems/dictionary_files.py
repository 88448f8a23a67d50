"""Between `sparse.dictionary` as it trains and dictionaries as files hold them (`jaxae.sae.formats`)."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jaxae import optim, systems
from jaxae.sae.formats import Dictionary, fold_scale, make
from jaxae.systems import sparsity
from jaxae.systems.base import System, Variables, variables
from jaxae.systems.sparse import dictionary, maps

_SAME = {"gradient_topk": "topk", "batch_topk": "jump_relu", "feature_choice": "jump_relu", "prolu": "jump_relu"}


def loaded(found: Dictionary, **changes) -> tuple[System, Variables]:
    """A dictionary from a file, ready to run.

    Args:
      found: by `load_saelens`, `load_sparsify` or `load_gemma_scope`.
      **changes: of `config.model`.

    Returns:
      (system, variables): `system.encode(variables, x)` are its codes `[n m]`, `system.reconstruct(variables, x)` what
      it makes of them.
    """
    config = ConfigDict(dict(system="sparse.dictionary", steps=1, batch_size=1, optim=optim.defaults()))
    config.model = dictionary.defaults()
    config.model.update(found.model | changes)
    (width, _), (_, out) = found.params["encoder"].shape, found.params["decoder"].shape
    batch = {"x": jnp.zeros((1, width))} | ({"y": jnp.zeros((1, out))} if out != width else {})
    system = systems.build(config, batch)
    blank = jax.eval_shape(system.init, jax.random.key(0), batch)
    filled = blank._replace(params=fitted(blank.params, found), extra=jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), blank.extra), average=())
    return system, variables(filled)


def fitted(params: PyTree, found: Dictionary) -> dict[str, jax.Array]:
    """The parameters of a file in the place of a model's.

    Args:
      params: of the model, or their shapes.
      found: from the file.

    Raises:
      ValueError: where names or shapes differ.
    """
    wanted = {name: tuple(leaf.shape) for name, leaf in params.items()}
    there = {name: leaf.shape for name, leaf in found.params.items()}
    if wanted != there:
        name = sorted(dict(wanted.items() ^ there.items()))[0]
        raise ValueError(f"the file holds a dictionary of another model: {name} is {there.get(name, 'not there')} in "
                         f"it and {wanted.get(name, 'not there')} in the model. Use data of its width, and the keys of "
                         f"config.model that it was read with")
    return {name: jnp.asarray(found.params[name]) for name in params}


def plain(model: ConfigDict, now: Variables) -> Dictionary:
    r"""A trained dictionary in the form that files hold: a linear encoder and decoder, and one of their sparsifiers.

    It has the codes and reconstructions that the model has outside training. What chose a batch's largest becomes
    JumpReLU with the moving average of its thresholds, ProLU JumpReLU with $\theta = \max(-b, 0)$ and no bias; tied
    encoders, scaled and archetypal atoms become matrices.

    Args:
      model: `config.model` of `sparse.dictionary`.
      now: its variables.

    Raises:
      ValueError: for options that no file holds.
    """
    if model.encoder not in ("linear", "tied"):
        raise ValueError(f"files hold linear encoders, not model.encoder={model.encoder!r}")
    if not model.rectify or model.cap:
        raise ValueError("files hold rectified codes without a cap: set model.rectify=True and model.cap=0")
    params, memory = {name: np.asarray(leaf) for name, leaf in now.params.items()}, now.extra.memory
    encoder = params["encoder"] if model.encoder == "linear" else maps.directions(model, now.params, memory).T
    decoder, bias = maps.atoms(model, now.params, memory), np.asarray(maps.bias_of(model, now.params, memory))
    threshold = np.exp(params["log_threshold"]) if "log_threshold" in params else None
    if model.sparsifier in ("batch_topk", "feature_choice"):
        threshold = np.asarray(sparsity.threshold_of(now.extra.threshold))
    elif model.sparsifier == "prolu":
        bias, threshold = np.zeros_like(bias), np.maximum(-bias, 0.0)
    return make(encoder, decoder, bias, params["offset"], threshold=threshold,
                sparsifier=_SAME.get(model.sparsifier, model.sparsifier), k=model.k_test or model.k,
                center=model.center, normalise=model.input, skip=params.get("skip"), gate=params.get("gate"),
                log_scale=params.get("log_scale"))


def of_raw(found: Dictionary, normalise: str, scale: Mapping[str, float]) -> Dictionary:
    """The dictionary for activations as they are stored, of one for what a run's data make of them.

    Args:
      found: trained on those data.
      normalise: `config.data.normalise`.
      scale: `info["scale"]` of the source.

    Raises:
      ValueError: for a transcoder whose inputs are normalised one by one.
    """
    if normalise == "example" and found.model["input"] != "example":
        if found.model["skip"] or found.params["encoder"].shape[0] != found.params["decoder"].shape[1]:
            raise ValueError("files hold no transcoder of inputs that are normalised one by one (data.normalise)")
        return Dictionary(found.params, found.model | {"input": "example"})
    s, t = scale.get("x", 1.0), scale.get("y", scale.get("x", 1.0))
    return found if s == t == 1.0 else fold_scale(found, s, t)


def for_data(found: Dictionary, normalise: str, scale: Mapping[str, float]) -> Dictionary:
    """What `of_raw` takes back: the dictionary for a run's data, of one for activations as they are stored.

    Raises:
      ValueError: for data whose examples are normalised and a dictionary of other inputs.
    """
    if normalise == "example" and found.model["input"] != "example":
        raise ValueError("the file is for activations as they are: set config.data.normalise='none'")
    s, t = scale.get("x", 1.0), scale.get("y", scale.get("x", 1.0))
    return found if s == t == 1.0 else fold_scale(found, 1.0 / s, 1.0 / t)


__all__ = ["fitted", "for_data", "loaded", "of_raw", "plain"]
