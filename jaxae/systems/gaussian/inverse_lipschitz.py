"""A VAE whose decoder is inverse Lipschitz."""

import jax
import jax.numpy as jnp
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jaxae.losses import elbo
from jaxae.nn.icnn import InverseLipschitzDecoder
from jaxae.systems import latent_model
from jaxae.systems.base import System


def defaults() -> ConfigDict:
    """Keys of `config.model`, beside those of the latent-variable core.

    `inverse_lipschitz`: L of each of the decoder's two maps. `convex`: widths of the decoder's convex networks.
    `embedding`: 'learned' orthonormal columns, or 'zeros' that pad the latent. `beta`: weight of the KL.
    """
    return latent_model.defaults(inverse_lipschitz=0.0, convex=(256, 256), embedding="learned", beta=1.0,
                                 lstm_latent="output")


def build(config: ConfigDict, example: PyTree, axis_name: str | None = None) -> System:
    """The system of Kinoshita et al., Controlling posterior collapse by an inverse Lipschitz constraint on the decoder
    network, ICML 2023, arXiv 2304.12770.

    The ELBO in nats per example, with natural parameters (Gaussian means, Bernoulli logits) by a decoder whose
    distances are at least L^2 times those of the latents. `fisher` is the relative Fisher divergence between
    posterior and prior, |grad_z log p(x | z)|^2 at draws of q, which grows with L.

    Sentences (`network='lstm'`, IL-LIDSVAE): the logits of each token are f([s_t, z]), where s_t is a projection of the
    state of an LSTM that reads the tokens before it and never sees z. So they move with z at least L^2 as fast at any
    history, which a map of z before the LSTM could not promise: the LSTM may ignore it. It is also where the official
    code of the model that this one extends has its convex networks (Wang, Blei, Cunningham, Posterior collapse and
    latent variable non-identifiability, NeurIPS 2021, arXiv 2301.00537).

    Raises:
      ValueError: for options that do not exist, or more latents than data dimensions.
    """
    model = config.model
    if model.embedding not in ("learned", "zeros"):
        raise ValueError(f"model.embedding={model.embedding!r} must be 'learned' or 'zeros'")
    if model.network == "lstm" and model.lstm_latent != "output":
        raise ValueError("the logits of a sentence are inverse Lipschitz in z only where the LSTM does not see it: use "
                         "model.lstm_latent='output'")
    latent_model.check_density(model)

    def decoder(channels: int):
        return InverseLipschitzDecoder((*example["x"].shape[1:-1], channels), tuple(model.convex),
                                       model.inverse_lipschitz, model.embedding == "learned")

    core = latent_model.latent_model(config, example, axis_name, decoder=decoder)

    def objective(terms):
        metrics = {"elbo": elbo(terms.log_px, terms.kl)}
        if not terms.train:
            gradient = jax.grad(lambda z: core.observed.log_prob(terms.params["decoder"], z, terms.x).sum())(terms.z)
            metrics["fisher"] = jnp.sum(gradient**2, -1)
        return -elbo(terms.log_px, terms.kl, model.beta), metrics

    return latent_model.latent_system(config, example, axis_name, objective, model=core)
