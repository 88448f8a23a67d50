"""The unscented autoencoder."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jaxae import losses
from jaxae.systems import latent_model
from jaxae.systems.base import System
from jaxae.systems.posteriors import correlated, diagonal


def defaults() -> ConfigDict:
    """Keys of `config.model`, beside those of the latent-variable core.

    `posterior`: 'diagonal', or 'full' with a Cholesky factor from correlations. `points`: sigma points decoded in
    a step, chosen by `selection` ('random', 'pairs', 'mean_pairs', 'largest', 'smallest'); `kappa` of the unscented
    transform; `variance`: weight of the spread of the decoded points. `sampling` 'sigma' or 'random' (draws in place
    of sigma points). `regularizer`: 'wasserstein' or 'kl', with `weight`; `squared` as in the paper, False as in
    its code. `gradient_penalty`: weight of the decoder's scaled gradient.
    """
    return latent_model.defaults(points=2, selection="pairs", sampling="sigma", kappa=1e-3, variance=0.0,
                                 regularizer="wasserstein", weight=2.5e-4, squared=True, gradient_penalty=1e-6)


def build(config: ConfigDict, example: PyTree, axis_name: str | None = None) -> System:
    """The system of Janjos, Rosenbaum, Dolgov and Zoellner, Unscented autoencoder, ICML 2023, arXiv 2306.05256.

    Loss per example: the squared error, averaged over data dimensions, of the mean of the decoded sigma points,
    + weight * W_2^2(q(z | x), N(0, I)) + gradient_penalty * lambda_max(Sigma) |J|^2.

    Samples decode z ~ N(0, I), which the codes need not follow: fit a mixture to them with `configs/prior.py`.

    Raises:
      ValueError: for options that do not exist.
    """
    model, size, dims = config.model, config.model.latent, math.prod(example["x"].shape[1:])
    for name, allowed in (("posterior", ("diagonal", "full")), ("sampling", ("sigma", "random")),
                          ("regularizer", ("wasserstein", "kl"))):
        if model[name] not in allowed:
            raise ValueError(f"model.{name}={model[name]!r} must be one of {', '.join(allowed)}")
    family = diagonal(size) if model.posterior == "diagonal" else correlated(size)
    core = latent_model.latent_model(config, example, axis_name, family)

    def points_of(terms, scale, std):
        n, mean = terms.z.shape[0], family.mean(terms.out)
        if model.sampling == "random":
            out = jnp.repeat(terms.out, model.points, axis=0)
            return family.sample(out, terms.key, axis_name).reshape(n, model.points, size)
        every = losses.sigma_points(mean, scale, model.kappa).points
        return losses.select_sigma(terms.key, every, std, model.points, model.selection, axis_name)

    def objective(terms):
        n, mean, std = terms.z.shape[0], family.mean(terms.out), jnp.exp(family.log_std(terms.out))
        scale = std if model.posterior == "diagonal" else family.factor(terms.out)
        points = points_of(terms, scale, std)
        decoded = terms.x_hat(points.reshape(-1, size)).reshape(n, model.points, *terms.x.shape[1:])
        error = losses.sigma_reconstruction(terms.x, decoded, model.variance) / dims
        distance = (losses.wasserstein_to_standard(mean, scale, model.squared) if model.regularizer == "wasserstein"
                    else terms.kl)
        loss, metrics = error + model.weight * distance, {"error": error, "distance": distance}
        if model.gradient_penalty and terms.train:
            metrics["gradient_penalty"] = losses.scaled_gradient_penalty(
                terms.x_hat, mean, scale, key=jax.random.fold_in(terms.key, 1), axis_name=axis_name)
            loss = loss + model.gradient_penalty * metrics["gradient_penalty"]
        return loss, metrics

    return latent_model.latent_system(config, example, axis_name, objective, model=core)
