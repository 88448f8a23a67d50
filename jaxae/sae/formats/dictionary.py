"""A sparse dictionary as files hold it: arrays, and the keys of `config.model` that say how to use them."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

KINDS = {"relu": (), "topk": (), "absolute_topk": (), "jump_relu": ("log_threshold",), "gated": ("gate", "log_scale")}
SMALLEST = 1e-30  # threshold in the place of 0, whose logarithm is finite


class Dictionary(NamedTuple):
    """Parameters of `jaxae.systems.sparse.dictionary`, and the keys of `config.model` that they are for.

    `params`, float32: `encoder [d m]`, `bias [m]`, `decoder [m o]`, `offset [o]`; by `model["sparsifier"]` also
    `log_threshold [m]` ('jump_relu') or `gate [m]` and `log_scale [m]` ('gated'); with `model["skip"]` `skip [d o]`.
    """

    params: dict[str, np.ndarray]
    model: dict[str, Any]


def make(encoder, decoder, bias, offset, *, sparsifier: str = "relu", k: int = 0, center: bool = False,
         normalise: str = "none", skip=None, threshold=None, gate=None, log_scale=None, where: str = "") -> Dictionary:
    """A `Dictionary` of arrays whose shapes and options fit one another.

    Args:
      encoder: `[d m]`.
      decoder: `[m o]`, atoms as rows.
      bias: `[m]`.
      offset: `[o]`.
      sparsifier: one of 'relu', 'topk', 'absolute_topk', 'jump_relu' and 'gated'.
      k: atoms in use of the two top-k.
      center: the offset is subtracted from the input.
      normalise: key `input` of the model.
      skip: `[d o]`.
      threshold: `[m]` or a number, of 'jump_relu'; 0 or less, which ReLU makes 0, becomes `SMALLEST`.
      gate: `[m]`, of 'gated'.
      log_scale: `[m]`, of 'gated'.
      where: the file, for messages.

    Raises:
      ValueError: for shapes or options that do not fit.
    """
    prefix = f"{where}: " if where else ""
    if sparsifier not in KINDS:
        raise ValueError(f"{prefix}files hold the sparsifiers {', '.join(KINDS)}, not {sparsifier!r}")
    arrays = {"encoder": encoder, "decoder": decoder, "bias": bias, "offset": offset}
    if np.ndim(encoder) != 2 or np.ndim(decoder) != 2:
        raise ValueError(f"{prefix}encoder and decoder must be matrices, not of shapes {np.shape(encoder)} and "
                         f"{np.shape(decoder)}")
    (d, m), o = np.shape(encoder), np.shape(decoder)[1]
    if sparsifier == "jump_relu":
        limit = np.broadcast_to(np.asarray(threshold, np.float32), (m,)) if np.ndim(threshold) == 0 else threshold
        arrays["log_threshold"] = np.log(np.maximum(np.asarray(limit, np.float32), np.float32(SMALLEST)))
    if sparsifier == "gated":
        arrays |= {"gate": gate, "log_scale": log_scale}
    if skip is not None:
        arrays["skip"] = skip
    wanted = {"encoder": (d, m), "decoder": (m, o), "offset": (o,), "skip": (d, o)}
    for name, array in arrays.items():
        if np.shape(array) != wanted.get(name, (m,)):
            raise ValueError(f"{prefix}{name} of shape {np.shape(array)} does not fit an encoder [{d} {m}] and a "
                             f"decoder {list(np.shape(decoder))}: it must be {list(wanted.get(name, (m,)))}")
    if center and d != o:
        raise ValueError(f"{prefix}an offset of width {o} cannot be subtracted from inputs of width {d}")
    if normalise != "none" and (d != o or skip is not None):
        raise ValueError(f"{prefix}inputs that are normalised one by one are for autoencoders without a skip alone")
    model = dict(atoms=m, sparsifier=sparsifier, center=bool(center), input=normalise, skip=skip is not None,
                 encoder="linear", bias="learned", decoder="linear")
    if "topk" in sparsifier:
        if not 1 <= k <= m:
            raise ValueError(f"{prefix}k={k} of {m} atoms cannot be active")
        model["k"] = int(k)
    params = {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}
    norms = np.linalg.norm(params["decoder"], axis=1)
    return Dictionary(params, model | {"unit_norm": bool(np.all(np.abs(norms - 1.0) < 1e-3))})


def threshold_of(dictionary: Dictionary) -> Float[np.ndarray, " m"]:
    """Above what atoms are in use: of 'jump_relu', or zeros of 'relu'.

    Raises:
      ValueError: for other sparsifiers.
    """
    kind = dictionary.model["sparsifier"]
    if kind not in ("relu", "jump_relu"):
        raise ValueError(f"atoms of a {kind!r} dictionary are not chosen by a threshold")
    if kind == "relu":
        return np.zeros_like(dictionary.params["bias"])
    limit = np.exp(dictionary.params["log_threshold"].astype(np.float64))
    return np.where(limit <= 2 * SMALLEST, 0.0, limit).astype(np.float32)


def uncentred(dictionary: Dictionary) -> Dictionary:
    """The same codes and reconstructions where the offset is not subtracted from the input: b - b_d W is the bias."""
    params, model = dict(dictionary.params), dictionary.model
    if not model["center"]:
        return dictionary
    moved = params["offset"].astype(np.float64) @ params["encoder"]
    if model["sparsifier"] == "gated":
        params["gate"] = (params["gate"] - moved).astype(np.float32)
        moved = moved * np.exp(params["log_scale"].astype(np.float64))
    params["bias"] = (params["bias"] - moved).astype(np.float32)
    return Dictionary(params, model | {"center": False})
