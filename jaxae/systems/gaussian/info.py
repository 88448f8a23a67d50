"""InfoVAE and MMD-VAE."""

import jax
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jaxae.losses import elbo, infovae_loss, inverse_multiquadric, kernel_stein_discrepancy, mmd, rbf
from jaxae.systems import latent_model
from jaxae.systems.adversaries import latent_discriminator
from jaxae.systems.base import System


def defaults() -> ConfigDict:
    """Keys of `config.model`, beside those of the latent-variable core.

    `alpha`, `lam`: of the objective. `divergence`: 'mmd', 'stein' (kernel Stein discrepancy from N(0, I)) or 'gan' (a
    discriminator with `critic` widths and rate). `kernel`: 'rbf' of width `bandwidth` (0: latent / sqrt 2, as in the
    paper's code) or 'imq'. `unbiased`: MMD and Stein discrepancy by U-statistics. The V-statistics of the paper's code
    count each code's kernel with itself, which draws the codes of a batch together by 1/n; a kernel as wide as that of
    the paper's code is too flat to resist this in 10 dimensions or more.
    """
    return latent_model.defaults(alpha=0.0, lam=1000.0, divergence="mmd", kernel="rbf", bandwidth=0.0,
                                 unbiased=False, critic=(256, 256, 256), critic_rate=5e-4)


def build(config: ConfigDict, example: PyTree, axis_name: str | None = None) -> System:
    """The system of Zhao, Song and Ermon, InfoVAE, 2017, arXiv 1706.02262.

    Loss per example in nats: -log p(x | z) + (1 - alpha) KL(q(z | x) || p(z)) + (alpha + lam - 1) D(q(z), p(z)), with D
    a divergence of the batch's draws, such as the squared MMD. alpha=0, lam=1 is the VAE; alpha=1 with MMD the MMD-VAE,
    with a discriminator the adversarial autoencoder.

    Raises:
      ValueError: for a divergence or kernel that does not exist, a posterior without density where the KL has a
        weight, or a Stein discrepancy from another prior than N(0, I).
    """
    model = config.model
    if model.divergence not in ("mmd", "stein", "gan") or model.kernel not in ("rbf", "imq"):
        raise ValueError(f"model.divergence={model.divergence!r} must be 'mmd', 'stein' or 'gan', and model.kernel="
                         f"{model.kernel!r} 'rbf' or 'imq'")
    if model.posterior == "point" and model.alpha != 1.0:
        raise ValueError("a deterministic encoder has no KL: use model.alpha=1.0, or model.posterior='diagonal'")
    if model.divergence == "stein" and model.prior != "normal":
        raise ValueError("the Stein discrepancy is that from N(0, I): use model.prior='normal'")
    kernel = inverse_multiquadric() if model.kernel == "imq" else rbf(model.bandwidth or model.latent / 2**0.5)
    adversary, logits = None, None
    if model.divergence == "gan":
        adversary, logits = latent_discriminator(model.latent, tuple(model.critic), model.critic_rate)

    def divergence(terms):
        if model.divergence == "stein":
            return kernel_stein_discrepancy(terms.z, kernel, unbiased=model.unbiased, axis_name=axis_name)
        if model.divergence == "gan":
            return jax.nn.softplus(-logits(terms, terms.z))
        return mmd(terms.z, terms.prior_draws(), kernel, unbiased=model.unbiased, axis_name=axis_name)

    def objective(terms):
        distance, kl = divergence(terms), 0.0 * terms.log_px if terms.kl is None else terms.kl
        loss = infovae_loss(terms.log_px, kl, distance, model.alpha, model.lam)
        return loss, {"elbo": elbo(terms.log_px, kl), "divergence": distance}

    return latent_model.latent_system(config, example, axis_name, objective, adversary=adversary)
