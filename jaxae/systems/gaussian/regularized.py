"""Regularized autoencoders: deterministic, with a smooth decoder in the place of noise."""

import jax
import jax.numpy as jnp
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jaxae.losses import scaled_gradient_penalty
from jaxae.systems import latent_model
from jaxae.systems.base import System


def defaults() -> ConfigDict:
    """Keys of `config.model`, beside those of the latent-variable core.

    `regularizer` of the decoder: 'l2' (squared parameters), 'gradient' (squared Frobenius norm of its Jacobian) or
    'none'; `weight` its weight, `code_weight` that of |z|^2 / 2.
    """
    return latent_model.defaults(posterior="point", regularizer="gradient", weight=1e-2, code_weight=1e-2)


def build(config: ConfigDict, example: PyTree, axis_name: str | None = None) -> System:
    """The system of Ghosh, Sajjadi, Vergari, Black and Schoelkopf, From variational to deterministic autoencoders,
    ICLR 2020, arXiv 1903.12436.

    Loss per example: |x - x_hat|^2 + code_weight |z|^2 / 2 + weight * R(decoder), the squared error summed over data
    dimensions. Its codes follow no prior: fit a mixture to them with `configs/prior.py` to sample.

    Raises:
      ValueError: for a regularizer that does not exist, or a posterior other than a point.
    """
    model = config.model
    if model.regularizer not in ("l2", "gradient", "none") or model.posterior != "point":
        raise ValueError(f"model.regularizer={model.regularizer!r} must be 'l2', 'gradient' or 'none', and "
                         "model.posterior='point'")

    def smoothness(terms):
        if model.regularizer == "l2":
            return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(terms.params["decoder"]))
        return scaled_gradient_penalty(terms.x_hat, terms.z, jnp.ones_like(terms.z), key=terms.key,
                                       axis_name=axis_name)

    def objective(terms):
        error = jnp.sum((terms.x - terms.x_hat(terms.z)) ** 2, axis=tuple(range(1, terms.x.ndim)))
        size = 0.5 * jnp.sum(terms.z**2, -1)
        loss, metrics = error + model.code_weight * size, {"squared_error": error, "code": size}
        if model.regularizer != "none" and model.weight:
            metrics["smoothness"] = smoothness(terms)
            loss = loss + model.weight * metrics["smoothness"]
        return loss, metrics

    return latent_model.latent_system(config, example, axis_name, objective)
