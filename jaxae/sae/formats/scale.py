"""One scale for all activations of a site, and how it goes into the weights after training."""

import numpy as np
from jaxtyping import Float

from jaxae.sae.formats.dictionary import Dictionary


def normalise_scale(x: Float[np.ndarray, "n d"]) -> float:
    r"""$s = 1 / \sqrt{\overline{|x|^2}}$: the activations $s x$ have squared norm 1 on average.

    Args:
      x: activations of a site.

    Returns:
      s, one number for the site, so that penalties and bandwidths carry over between layers and sites.

    Raises:
      ValueError: for activations that are all zero, or none.

    Reference: Lieberum et al., Gemma Scope, 2024, arXiv 2408.05147.

    >>> normalise_scale(np.array([[3.0, 4.0], [0.0, 5.0]]))
    0.2
    """
    square = np.einsum("nd,nd->n", x, x, dtype=np.float64).mean() if len(x) else 0.0
    if not square > 0:
        raise ValueError("activations that are all zero, or none, have no scale")
    return float(1.0 / np.sqrt(square))


def fold_scale(dictionary: Dictionary, scale: float, output_scale: float | None = None,
               keep: str = "atoms") -> Dictionary:
    r"""A dictionary that was trained on $s x$, for raw activations x: its reconstruction is that of s x divided by s.

    Keeping the atoms, biases, thresholds and offset become b / s, theta / s and b_d / s, and codes are in units of x.
    Keeping the activations, $W' = s W$, $D' = D / s$ and $b_d' = b_d / s$.

    Args:
      dictionary: trained on scaled inputs.
      scale: s of `normalise_scale`.
      output_scale: t of the outputs $t y$ of a transcoder, where it is not s.
      keep: 'atoms' (unit norms stay, as in Gemma Scope) or 'activations' (codes stay what they were).

    Returns:
      Its codes are 1 / t (or 1) times those of s x, its reconstruction 1 / t times.

    Raises:
      ValueError: for scales that are not positive, two of them where the offset is subtracted from the input, or a
        dictionary that normalises each input.

    Reference: Lieberum et al., Gemma Scope, 2024, arXiv 2408.05147.
    """
    s, t = scale, scale if output_scale is None else output_scale
    model, old = dictionary.model, {name: a.astype(np.float64) for name, a in dictionary.params.items()}
    if not (s > 0 and t > 0):
        raise ValueError(f"scales of {s} and {t} must be positive")
    if keep not in ("atoms", "activations"):
        raise ValueError(f"keep={keep!r} must be 'atoms' or 'activations'")
    if model["center"] and s != t:
        raise ValueError("an offset that is subtracted from the input has one scale: leave output_scale out")
    if model["input"] != "none":
        raise ValueError(f"inputs that are normalised one by one (input={model['input']!r}) have no scale to fold")
    new = old | {"offset": old["offset"] / t}
    if keep == "atoms":
        new |= {"encoder": old["encoder"] * (s / t), "bias": old["bias"] / t}
        new |= {"gate": old["gate"] / t} if "gate" in old else {}
        new |= {"log_threshold": old["log_threshold"] - np.log(t)} if "log_threshold" in old else {}
    else:
        new |= {"encoder": old["encoder"] * s, "decoder": old["decoder"] / t}
    new |= {"skip": old["skip"] * (s / t)} if "skip" in old else {}
    params = {name: array.astype(np.float32) for name, array in new.items()}
    return Dictionary(params, model if keep == "atoms" else model | {"unit_norm": False})
