"""DIP-VAE: a disentangled inferred prior."""

from jaxtyping import PyTree
from ml_collections import ConfigDict

from jaxae.losses import dip_penalty, elbo
from jaxae.systems import latent_model
from jaxae.systems.base import System


def defaults() -> ConfigDict:
    """Keys of `config.model`, beside those of the latent-variable core.

    `version`: 1 takes the covariance of the posterior means, 2 that of the aggregate posterior. `off_diagonal`,
    `diagonal`: weights of the squared distances of its entries from those of the identity.
    """
    return latent_model.defaults(version=2, off_diagonal=10.0, diagonal=10.0)


def build(config: ConfigDict, example: PyTree, axis_name: str | None = None) -> System:
    """The system of Kumar, Sattigeri and Balakrishnan, Variational inference of disentangled latent concepts from
    unlabeled observations, ICLR 2018, arXiv 1711.00848.

    Loss per example in nats: minus the ELBO, plus the penalty of the batch's covariance.

    Raises:
      ValueError: for another version, or a posterior that is not diagonal.
    """
    model = config.model
    if model.version not in (1, 2) or model.posterior != "diagonal":
        raise ValueError("DIP-VAE wants model.version=1 or 2 and model.posterior='diagonal'")

    def objective(terms):
        family = terms.model.posterior
        log_std = family.log_std(terms.out) if model.version == 2 else None
        penalty = dip_penalty(family.mean(terms.out), log_std, model.off_diagonal, model.diagonal, axis_name)
        bound = elbo(terms.log_px, terms.kl)
        return -bound + penalty, {"elbo": bound, "penalty": penalty}

    return latent_model.latent_system(config, example, axis_name, objective)
