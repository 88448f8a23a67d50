"""The hyperspherical VAE."""

import jax
import jax.numpy as jnp
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jaxae.losses import elbo, vmf_kl, vmf_log_prob, vmf_sample
from jaxae.priors import hypersphere
from jaxae.systems import latent_model
from jaxae.systems.base import System
from jaxae.systems.posteriors import Posterior


def defaults() -> ConfigDict:
    """Keys of `config.model`, beside those of the latent-variable core: `beta`, the weight of the KL."""
    return latent_model.defaults(latent=6, beta=1.0)


def build(config: ConfigDict, example: PyTree, axis_name: str | None = None) -> System:
    """The system of Davidson et al., Hyperspherical variational auto-encoders, UAI 2018, arXiv 1804.00891.

    The ELBO in nats per example, with a von Mises-Fisher posterior on the unit sphere in R^latent and the uniform
    prior there; the KL is the closed form. Latents are unit vectors [n d].

    Raises:
      ValueError: for fewer than two dimensions.
    """
    model = config.model
    if model.latent < 2:
        raise ValueError(f"model.latent={model.latent}: a sphere needs at least 2 dimensions")
    family = von_mises_fisher(model.latent)
    core = latent_model.latent_model(config, example, axis_name, family, hypersphere(model.latent))

    def objective(terms):
        _, kappa = _parts(terms.out)
        kl = vmf_kl(kappa, model.latent)
        return -elbo(terms.log_px, kl, model.beta), {"elbo": elbo(terms.log_px, kl), "kl": kl, "kappa": kappa}

    return latent_model.latent_system(config, example, axis_name, objective, model=core)


def von_mises_fisher(d: int) -> Posterior:
    """vMF(m, kappa) with m the normalised first d outputs and kappa = 1 + softplus of the last."""
    return Posterior(d, d + 1, lambda out, key, axis_name=None: vmf_sample(key, *_parts(out), axis_name),
                     lambda out: _parts(out)[0], lambda out, z: vmf_log_prob(z, *_parts(out)))


def _parts(out):
    direction, raw = out[..., :-1], out[..., -1]
    length = jnp.linalg.norm(direction, axis=-1, keepdims=True)
    return direction / jnp.maximum(length, 1e-6), 1.0 + jax.nn.softplus(raw)
