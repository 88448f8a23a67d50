"""A VAE trained on its own reconstructions too, and the loss of what it generates."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree
from ml_collections import ConfigDict

from jaxae.losses import elbo
from jaxae.systems import latent_model
from jaxae.systems.base import System, Variables


def defaults() -> ConfigDict:
    """Keys of `config.model`, beside those of the latent-variable core.

    `beta`: weight of the KL. `augment`: 'none', 'mean' (reconstructions by means), 'posterior' (by draws) or 'prior'
    (samples), trained on with weight `share` of the loss, after `delay` updates.
    """
    return latent_model.defaults(beta=1.0, augment="mean", share=0.5, delay=0)


def build(config: ConfigDict, example: PyTree, axis_name: str | None = None) -> System:
    """The system of Chou and Hathi, Generated loss and augmented training of MNIST VAE, 2019, arXiv 1904.10937.

    Loss per example in nats: (1 - share) L(x) + share L(x'), L(x) = -log p(x | z) + beta KL(q(z | x) || p(z)), where
    x' is made by the model itself and no gradient flows into it. Evaluation reports the parts of L(x), and the
    `generated_loss`: L of as many decoded draws from the prior, by grey means, at beta = 1.

    Raises:
      ValueError: for an augmentation that does not exist, or a share outside [0, 1].
    """
    model = config.model
    if model.augment not in ("none", "mean", "posterior", "prior") or not 0.0 <= model.share <= 1.0:
        raise ValueError(f"model.augment={model.augment!r} must be none, mean, posterior or prior, and model.share="
                         f"{model.share} lie in [0, 1]")
    latent_model.check_density(model)

    def of(terms, x, key, beta):
        again = latent_model.pass_through(terms.model, terms.params, x, key, terms.step, terms.train, axis_name)
        return -elbo(again.log_px, again.kl, beta), again

    def objective(terms):
        loss, metrics = -elbo(terms.log_px, terms.kl, model.beta), {"elbo": elbo(terms.log_px, terms.kl)}
        draw_key, pass_key = jax.random.split(jax.random.fold_in(terms.key, 1))
        if terms.train and model.augment != "none":
            z = {"mean": lambda: terms.posterior.mean(terms.out), "posterior": lambda: terms.z,
                 "prior": terms.prior_draws}[model.augment]()
            made, _ = of(terms, jax.lax.stop_gradient(terms.x_hat(z)), pass_key, model.beta)
            share = jnp.where(terms.step >= model.delay, model.share, 0.0)
            loss = (1.0 - share) * loss + share * made
        elif not terms.train:
            z = terms.model.sample_prior(terms.params, draw_key, terms.z.shape[0])
            generated, again = of(terms, terms.x_hat(z), pass_key, 1.0)
            metrics |= {"generated_loss": generated, "generated_reconstruction": -again.log_px,
                        "generated_kl": again.kl}
        return loss, metrics

    return latent_model.latent_system(config, example, axis_name, objective)


def iterated(system: System, now: Variables, x: Array, steps: int) -> Array:
    """x, T(x), T(T(x)), ... with T the mean reconstruction: [steps + 1, n ...]."""
    def again(x, _):
        return system.reconstruct(now, x), x

    last, before = jax.lax.scan(again, x, None, length=steps)
    return jnp.concatenate([before, last[None]])
