"""The npz layout of Gemma Scope: JumpReLU, nothing subtracted from the input (Lieberum et al. 2024, arXiv 2408.05147).

`W_enc [d m]`, `b_enc [m]`, `threshold [m]`, `W_dec [m o]`, `b_dec [o]`; o is another width in transcoders.
"""

from pathlib import Path

import numpy as np

from jaxae.sae.formats.dictionary import Dictionary, make, threshold_of, uncentred
from jaxae.sae.formats.tensors import folder_for, need

FILE = "params.npz"


def load_gemma_scope(path: str | Path) -> Dictionary:
    """A dictionary of Gemma Scope.

    Args:
      path: the npz file, or the folder with `params.npz`.

    Returns:
      See `Dictionary`; `sparsifier` is 'jump_relu'.

    Raises:
      ValueError: for a file that is not there or not of this layout.
    """
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"there is no {path}: name an npz file, or a folder with {FILE}")
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:  # zipfile, numpy and pickle each raise their own
        raise ValueError(f"{path} cannot be read as an npz file: {error}") from error
    w_enc, w_dec, b_enc, b_dec, threshold = need(arrays, ("W_enc", "W_dec", "b_enc", "b_dec", "threshold"), path)
    return make(w_enc, w_dec, b_enc, b_dec, sparsifier="jump_relu", threshold=threshold, where=str(path))


def save_gemma_scope(path: str | Path, dictionary: Dictionary) -> Path:
    """Writes a dictionary of thresholds (JumpReLU or ReLU) in the layout of Gemma Scope.

    An offset that is subtracted from the input goes into the bias; codes and reconstructions stay.

    Args:
      path: the npz file, or a folder, where it becomes `params.npz`.
      dictionary: what to write.

    Returns:
      The file.

    Raises:
      ValueError: for what this layout cannot hold: other sparsifiers, a skip, inputs that are normalised one by one.
    """
    model = dictionary.model
    if model["sparsifier"] not in ("relu", "jump_relu") or model["skip"] or model["input"] != "none":
        raise ValueError(f"the npz of Gemma Scope holds JumpReLU and ReLU without a skip and on raw inputs, not "
                         f"sparsifier={model['sparsifier']!r}, skip={model['skip']}, input={model['input']!r}")
    path = Path(path)
    path = path if path.suffix == ".npz" else path / FILE
    folder_for(path.parent)
    params = uncentred(dictionary).params
    np.savez(path, W_enc=params["encoder"], W_dec=params["decoder"], b_enc=params["bias"], b_dec=params["offset"],
             threshold=threshold_of(dictionary))
    return path
