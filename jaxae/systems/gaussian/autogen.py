"""AutoGen: likelihood and likelihoods of perfect reconstruction."""

from jaxtyping import PyTree
from ml_collections import ConfigDict

from jaxae.losses import autogen_bound, elbo
from jaxae.systems import latent_model
from jaxae.systems.base import System


def defaults() -> ConfigDict:
    """Keys of `config.model`, beside those of the latent-variable core.

    `m`: how many reconstructions are tied to the example; 0 is the VAE.
    """
    return latent_model.defaults(m=1.0)


def build(config: ConfigDict, example: PyTree, axis_name: str | None = None) -> System:
    """The objective of Mansbridge et al., Improving latent variable descriptiveness with AutoGen, 2018,
    arXiv 1806.04480, on any data.

    Loss per example in nats: -(1 + m) log p(x | z) + KL(q(z | x) || p(z)); it bounds no log p(x), so `elbo` is
    reported beside it.
    """
    model = config.model
    latent_model.check_density(model)

    def objective(terms):
        return -autogen_bound(terms.log_px, terms.kl, model.m), {"elbo": elbo(terms.log_px, terms.kl)}

    return latent_model.latent_system(config, example, axis_name, objective)
