"""Folders of EleutherAI's sparsify: TopK autoencoders and transcoders, `sae.safetensors` and `cfg.json`.

`encoder.weight [m d]`, `encoder.bias [m]`, `W_dec [m d]`, `b_dec [d]`, and with a skip `W_skip [d d]` (output, input).
"""

from pathlib import Path

from jaxae.sae.formats.dictionary import Dictionary, make
from jaxae.sae.formats.tensors import need, read_folder, write_folder

WEIGHTS = "sae.safetensors"


def load_sparsify(folder: str | Path) -> Dictionary:
    """A sparse coder of sparsify.

    Args:
      folder: of one hookpoint, with `cfg.json` and `sae.safetensors`.

    Returns:
      See `Dictionary`; the offset is subtracted from the input unless it is a transcoder.

    Raises:
      ValueError: for missing files or entries, widths that do not fit, or another activation than 'topk'.
    """
    config, arrays = read_folder(folder, WEIGHTS)
    activation = config.get("activation", "topk")
    if activation != "topk" or config.get("signed"):
        raise ValueError(f"{folder}: activation {activation!r}{' by magnitude' if config.get('signed') else ''} has no "
                         f"counterpart here: 'topk' can be read")
    width, k = need(config, ("d_in", "k"), Path(folder) / "cfg.json")
    encoder, bias, decoder, offset = need(arrays, ("encoder.weight", "encoder.bias", "W_dec", "b_dec"),
                                          Path(folder) / WEIGHTS)
    if encoder.shape[-1] != width:
        raise ValueError(f"{folder}: encoder.weight of shape {encoder.shape} is not for d_in={width} of cfg.json")
    skip = need(arrays, ("W_skip",), Path(folder) / WEIGHTS)[0].T if config.get("skip_connection") else None
    return make(encoder.T, decoder, bias, offset, sparsifier="topk", k=k, center=not config.get("transcode", False),
                skip=skip, where=str(folder))


def save_sparsify(folder: str | Path, dictionary: Dictionary) -> Path:
    """Writes a TopK dictionary as a folder of sparsify.

    One that subtracts nothing from its input is written as a transcoder, which is what subtracts nothing there.

    Args:
      folder: made where it is missing. Libraries that read several expect it to be named for the hookpoint, such as
        `layers.5`.
      dictionary: what to write.

    Returns:
      The folder.

    Raises:
      ValueError: for what sparsify cannot hold: other sparsifiers, outputs of another width, inputs that are normalised
        one by one.
    """
    params, model = dictionary.params, dictionary.model
    (d, m), o = params["encoder"].shape, params["decoder"].shape[1]
    if model["sparsifier"] != "topk" or d != o or model["input"] != "none":
        raise ValueError(f"sparsify holds 'topk' of one width and on raw inputs, not "
                         f"sparsifier={model['sparsifier']!r}, widths {d} and {o}, input={model['input']!r}")
    arrays = {"encoder.weight": params["encoder"].T, "encoder.bias": params["bias"], "W_dec": params["decoder"],
              "b_dec": params["offset"]} | ({"W_skip": params["skip"].T} if model["skip"] else {})
    config = dict(activation="topk", expansion_factor=max(1, m // d), normalize_decoder=model["unit_norm"],
                  num_latents=m, k=model["k"], multi_topk=False, skip_connection=model["skip"],
                  transcode=not model["center"], d_in=d)
    return write_folder(folder, WEIGHTS, config, arrays)
