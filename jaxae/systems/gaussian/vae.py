"""The variational autoencoder."""

import math

from jaxtyping import PyTree
from ml_collections import ConfigDict

from jaxae.distributions import bits_per_dim
from jaxae.losses import elbo
from jaxae.systems import latent_model
from jaxae.systems.base import System


def defaults() -> ConfigDict:
    """Keys of `config.model`: those of the latent-variable core, and `beta`, the weight of the KL."""
    return latent_model.defaults(beta=1.0)


def build(config: ConfigDict, example: PyTree, axis_name: str | None = None) -> System:
    """The system of Kingma and Welling, Auto-Encoding Variational Bayes, 2013, arXiv 1312.6114; `beta` as in
    Higgins et al., beta-VAE, ICLR 2017; `prior='vampprior'` as in Tomczak and Welling, 2018, arXiv 1705.07120.

    Loss per example in nats, summed over data dimensions: -log p(x | z) + beta KL(q(z | x) || p(z)) with one
    draw of z. `elbo` is reported with beta = 1. Latents are vectors [n d]: means, or draws where `encode` is given
    a key.

    Raises:
      ValueError: for options that do not exist or do not fit the data.
    """
    model = config.model
    if model.likelihood == "mse":
        raise ValueError("a VAE needs a likelihood: use model.likelihood='gaussian', with model.scale as its "
                         "standard deviation")
    latent_model.check_density(model)
    dims = math.prod(example["x"].shape[1:])

    def objective(terms):
        bound = elbo(terms.log_px, terms.kl)
        return -elbo(terms.log_px, terms.kl, model.beta), {"elbo": bound, "bits_per_dim": bits_per_dim(-bound, dims)}

    return latent_model.latent_system(config, example, axis_name, objective)
