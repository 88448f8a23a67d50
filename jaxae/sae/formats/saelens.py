"""Folders of SAELens: `cfg.json` and `sae_weights.safetensors`, of versions 6 and before.

`W_enc [d m]`, `W_dec [m o]`, `b_dec [o]`, and by architecture `b_enc [m]`, `threshold [m]` (jumprelu), `b_gate`,
`b_mag` and `r_mag [m]` (gated), `topk_threshold []` (batchtopk in training), `W_skip [o d]` (skip transcoders).
"""

from pathlib import Path
from typing import Any

import numpy as np

from jaxae.sae.formats.dictionary import Dictionary, make, threshold_of, uncentred
from jaxae.sae.formats.scale import fold_scale
from jaxae.sae.formats.tensors import need, read_folder, write_folder

WEIGHTS = "sae_weights.safetensors"
VERSION = "6.0.0"  # of the config that is written: without one it counts as older

_SPARSIFIERS = {"standard": "relu", "topk": "topk", "abstopk": "absolute_topk", "gated": "gated",
                "jumprelu": "jump_relu", "batchtopk": "jump_relu", "matryoshka_batchtopk": "jump_relu",
                "transcoder": "relu", "skip_transcoder": "relu", "jumprelu_transcoder": "jump_relu",
                "jumprelu_skip_transcoder": "jump_relu"}
_ARCHITECTURES = {"relu": "standard", "topk": "topk", "absolute_topk": "abstopk", "gated": "gated",
                  "jump_relu": "jumprelu"}
_INPUTS = {"none": "none", "expected_average_only_in": "none", "layer_norm": "example",
           "constant_norm_rescale": "unit"}


def load_saelens(folder: str | Path, scale: float | None = None) -> Dictionary:
    r"""A dictionary of SAELens.

    Norms of atoms that scale pre-activations (`rescale_acts_by_decoder_norm`) go into the weights; a batch top-k
    becomes JumpReLU, as it is used outside training. Inputs under `layer_norm` and `constant_norm_rescale` are
    normalised as `input='example'` and `'unit'` do, with $\sqrt{d-1}$ and $\sqrt d$ in the encoder: activations are
    those of SAELens (but for the 1e-5 that it adds to the deviation), reconstructions are of normalised inputs.

    Args:
      folder: with `cfg.json` and `sae_weights.safetensors`.
      scale: by what activations were multiplied in training, where the file says `expected_average_only_in` and does
        not hold it. It is folded, for raw activations.

    Returns:
      See `Dictionary`.

    Raises:
      ValueError: for missing files or entries, widths that do not fit, or what has no counterpart.
    """
    config, arrays = read_folder(folder, WEIGHTS)
    architecture, k = _architecture(config, folder)
    file = Path(folder) / WEIGHTS
    encoder, decoder, offset = need(arrays, ("W_enc", "W_dec", "b_dec"), file)
    width = need(config, ("d_in",), Path(folder) / "cfg.json")[0]
    if encoder.shape[0] != width:
        raise ValueError(f"{folder}: W_enc of shape {encoder.shape} is not for d_in={width} of cfg.json")
    if not np.allclose(arrays.get("scaling_factor", 1.0), 1.0):
        raise ValueError(f"{folder}: scaling factors of finetuning have no counterpart here")
    sparsifier, options = _SPARSIFIERS[architecture], {}
    if sparsifier == "gated":
        options["gate"], options["log_scale"], bias = need(arrays, ("b_gate", "r_mag", "b_mag"), file)
    else:
        bias, = need(arrays, ("b_enc",), file)
    if sparsifier == "jump_relu":
        options["threshold"], = need(arrays, ("topk_threshold" if "batchtopk" in architecture else "threshold",), file)
    if "skip" in architecture:
        options["skip"] = need(arrays, ("W_skip",), file)[0].T
    if config.get("rescale_acts_by_decoder_norm"):
        norms = np.linalg.norm(decoder.astype(np.float64), axis=1)
        encoder, bias, decoder = encoder * norms, bias * norms, decoder / norms[:, None]
    centred = config.get("apply_b_dec_to_input", True) and "transcoder" not in architecture
    found = make(encoder, decoder, bias, offset, sparsifier=sparsifier, k=k, center=centred, where=str(folder),
                 **options)
    return _scaled(found, config.get("normalize_activations") or "none", scale, folder)


def save_saelens(folder: str | Path, dictionary: Dictionary) -> Path:
    """Writes a dictionary as a folder of SAELens 6.

    Args:
      folder: made where it is missing.
      dictionary: 'relu' becomes standard, 'jump_relu' jumprelu, 'topk', 'absolute_topk' and 'gated' what they are
        called there; with a skip or outputs of another width 'relu' and 'jump_relu' become transcoders.

    Returns:
      The folder.

    Raises:
      ValueError: for what SAELens cannot hold: transcoders with other sparsifiers.
    """
    model = dictionary.model
    (d, m), o = dictionary.params["encoder"].shape, dictionary.params["decoder"].shape[1]
    architecture = _ARCHITECTURES[model["sparsifier"]]
    if model["skip"] or d != o:
        if model["sparsifier"] not in ("relu", "jump_relu"):
            raise ValueError(f"SAELens has transcoders of 'relu' and 'jump_relu', not of {model['sparsifier']!r}"
                             + (": save_sparsify holds it" if model["sparsifier"] == "topk" and d == o else ""))
        architecture = (("jumprelu_" if model["sparsifier"] == "jump_relu" else "")
                        + ("skip_" if model["skip"] else "") + "transcoder")
        dictionary = uncentred(dictionary)
    normalised = {ours: theirs for theirs, ours in _INPUTS.items() if ours != "none"}.get(model["input"], "none")
    if normalised != "none":
        dictionary = fold_scale(dictionary._replace(model=model | {"input": "none"}), 1.0 / _norm(normalised, d),
                                keep="activations")
    params = dictionary.params
    arrays = {"W_enc": params["encoder"], "W_dec": params["decoder"], "b_dec": params["offset"]}
    if model["sparsifier"] == "gated":
        arrays |= {"b_gate": params["gate"], "r_mag": params["log_scale"], "b_mag": params["bias"]}
    else:
        arrays["b_enc"] = params["bias"]
    if model["sparsifier"] == "jump_relu":
        arrays["threshold"] = threshold_of(dictionary)
    if model["skip"]:
        arrays["W_skip"] = params["skip"].T
    config = dict(architecture=architecture, d_in=d, d_sae=m, dtype="float32", device="cpu",
                  apply_b_dec_to_input=dictionary.model["center"], normalize_activations=normalised,
                  reshape_activations="none", metadata={"sae_lens_version": VERSION})
    if "topk" in model["sparsifier"]:
        config |= dict(k=model["k"], rescale_acts_by_decoder_norm=False)
    return write_folder(folder, WEIGHTS, config | ({"d_out": o} if "transcoder" in architecture else {}), arrays)


def _architecture(config: dict[str, Any], folder) -> tuple[str, int]:
    """(architecture, k) of a config, also of those before version 6, where TopK was a standard one's activation."""
    architecture, k = config.get("architecture", "standard"), config.get("k", 0)
    activation = config.get("activation_fn_str", config.get("activation_fn", "relu"))
    if architecture == "standard" and activation == "topk":
        architecture, (k,) = "topk", need(config.get("activation_fn_kwargs") or {}, ("k",), f"{folder}/cfg.json")
        activation = "relu"
    if architecture not in _SPARSIFIERS or activation not in ("relu", "topk"):
        what = f"activation {activation!r}" if architecture in _SPARSIFIERS else f"architecture {architecture!r}"
        raise ValueError(f"{folder}: {what} has no counterpart here; there are {', '.join(_SPARSIFIERS)}")
    return architecture, int(k)


def _norm(normalised: str, width: int) -> float:
    """Of an input after `layer_norm`, whose deviation divides by d - 1, or `constant_norm_rescale`."""
    return float(np.sqrt(width - 1 if normalised == "layer_norm" else width))


def _scaled(found: Dictionary, normalised: str, scale: float | None, folder) -> Dictionary:
    if normalised not in _INPUTS:
        raise ValueError(f"{folder}: normalize_activations={normalised!r} has no counterpart here; there are "
                         f"{', '.join(_INPUTS)}")
    if (normalised == "expected_average_only_in") != (scale is not None):
        raise ValueError(f"{folder}: normalize_activations={normalised!r} " + (
            "needs scale=, by what activations were multiplied in training: the file does not hold it"
            if scale is None else "takes no scale"))
    if scale is not None:
        return fold_scale(found, scale, keep="activations")
    if _INPUTS[normalised] == "none":
        return found
    width, out = len(found.params["encoder"]), found.params["decoder"].shape[1]
    if width != out or found.model["skip"]:
        raise ValueError(f"{folder}: transcoders on inputs that are normalised one by one have no counterpart here")
    folded = fold_scale(found, _norm(normalised, width), keep="activations")
    return Dictionary(folded.params, folded.model | {"input": _INPUTS[normalised]})
