"""InfoVAE and MMD-VAE."""

from jaxtyping import PyTree
from ml_collections import ConfigDict

from jaxae.losses import elbo, infovae_loss, inverse_multiquadric, mmd, rbf
from jaxae.systems import latent_model
from jaxae.systems.base import System


def defaults() -> ConfigDict:
    """Keys of `config.model`, beside those of the latent-variable core.

    `alpha`, `lam`: of the objective. `kernel`: 'rbf' of width `bandwidth` (0: latent / sqrt 2, as in the paper's
    code) or 'imq'.
    """
    return latent_model.defaults(alpha=0.0, lam=1000.0, kernel="rbf", bandwidth=0.0)


def build(config: ConfigDict, example: PyTree, axis_name: str | None = None) -> System:
    """The system of Zhao, Song and Ermon, InfoVAE, 2017, arXiv 1706.02262.

    Loss per example in nats: -log p(x | z) + (1 - alpha) KL(q(z | x) || p(z)) + (alpha + lam - 1) MMD^2(q(z), p(z)),
    by the V-statistic on the batch's draws. alpha=0, lam=1 is the VAE; alpha=1 the MMD-VAE.

    Raises:
      ValueError: for a kernel that does not exist, or a posterior without density where the KL has a weight.
    """
    model = config.model
    if model.kernel not in ("rbf", "imq"):
        raise ValueError(f"model.kernel={model.kernel!r} must be 'rbf' or 'imq'")
    if model.posterior == "point" and model.alpha != 1.0:
        raise ValueError("a deterministic encoder has no KL: use model.alpha=1.0, or model.posterior='diagonal'")
    kernel = (inverse_multiquadric() if model.kernel == "imq" else
              rbf(model.bandwidth or model.latent / 2**0.5))

    def objective(terms):
        distance = mmd(terms.z, terms.prior_draws(), kernel, unbiased=False, axis_name=axis_name)
        kl = 0.0 * terms.log_px if terms.kl is None else terms.kl
        loss = infovae_loss(terms.log_px, kl, distance, model.alpha, model.lam)
        return loss, {"elbo": elbo(terms.log_px, kl), "mmd": distance}

    return latent_model.latent_system(config, example, axis_name, objective)
