"""Normalizing-flow prior on continuous latents, trained by gradient."""

from jaxae.nn import CouplingFlow
from jaxae.priors.base import Prior


def flow(d: int, layers: int = 6, features: tuple[int, ...] = (64, 64)) -> Prior:
    """Prior on vectors: a RealNVP of affine couplings between latents and standard normal noise.

    log p(z) = log N(f(z); 0, I) + log |det df/dz|, trained on `-log_prob`; it starts as N(0, I).

    Args:
      d: dimension of the latents, at least 2: couplings move one half given the other.
      layers: number of couplings.
      features: hidden widths of each coupling's network.

    Raises:
      ValueError: for fewer than two dimensions.

    Reference: Dinh, Sohl-Dickstein, Bengio, 'Density estimation using Real NVP', 2017, arXiv 1605.08803.
    """
    if d < 2:
        raise ValueError(f"a coupling flow needs latents of at least 2 dimensions, these have {d}: use a mixture")
    net = CouplingFlow(d, layers, features)
    return Prior(
        init=lambda key, latents, label=None: net.init(key, latents)["params"],
        log_prob=lambda params, z, label=None, key=None: net.apply({"params": params}, z, method="log_prob"),
        sample=lambda params, key, n, label=None: net.apply({"params": params}, key, n, method="sample"))
