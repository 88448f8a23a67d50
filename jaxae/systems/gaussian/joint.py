"""JointVAE: Gaussian and categorical latents with a capacity each."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jaxae import collectives
from jaxae.losses import joint_capacity_loss, linear_capacity
from jaxae.systems import latent_model
from jaxae.systems.base import System, variables
from jaxae.systems.categorical import divergences, joint_posterior, joint_prior


def defaults() -> ConfigDict:
    """Keys of `config.model`, beside those of the latent-variable core.

    `latent`: dimension of the Gaussian part. `categories`: sizes of the categorical latents. `temperature` of the
    Gumbel-softmax. `capacity` and `categorical_capacity` in nats, reached after `capacity_steps` and
    `categorical_steps` updates (0: as many); `gamma` and `categorical_gamma` weigh the distances from them.
    Capacities of 0 make them plain weights of the KLs: a beta-VAE with categorical latents.
    """
    return latent_model.defaults(latent=10, categories=(10,), temperature=0.67, capacity=5.0, categorical_capacity=5.0,
                                 gamma=30.0, categorical_gamma=30.0, capacity_steps=2000, categorical_steps=0)


def build(config: ConfigDict, example: PyTree, axis_name: str | None = None) -> System:
    """The system of Dupont, Learning disentangled joint continuous and discrete representations, NeurIPS 2018,
    arXiv 1804.00104.

    Loss per batch, in nats: mean of -log p(x | z, c) + gamma |KL_z - C_z(t)| + categorical_gamma |KL_c - C_c(t)|,
    with the batch means of the two KLs and capacities that rise linearly; C_c stops rising at sum_j log n_j. Latents
    are [z, one-hot c_1, ...]: means and most likely categories, or relaxed draws where `encode` is given a key. In
    training `kl_of_latents` [latent + categoricals] is the KL of each. Figures: `traversals` of the Gaussian latents,
    and for each categorical the values (columns) beside the Gaussian codes of eight examples (rows).

    Raises:
      ValueError: without categories of at least two values.
    """
    model, sizes = config.model, tuple(config.model.categories)
    family, highest = joint_posterior(model.latent, sizes, model.temperature), sum(math.log(s) for s in sizes)
    core = latent_model.latent_model(config, example, axis_name, family, joint_prior(model.latent, sizes))

    def objective(terms):
        each = divergences(terms.out, model.latent, sizes)
        continuous, discrete = each[:, :model.latent].sum(-1), each[:, model.latent:].sum(-1)
        kl_z, kl_c = (collectives.mean(kl.mean(), axis_name) for kl in (continuous, discrete))
        c_z = linear_capacity(terms.step, 0.0, model.capacity, model.capacity_steps)
        c_c = linear_capacity(terms.step, 0.0, model.categorical_capacity,
                              model.categorical_steps or model.capacity_steps)
        loss = joint_capacity_loss(-terms.log_px, continuous, discrete, c_z, c_c, model.gamma,
                                   model.categorical_gamma, sizes, axis_name)
        metrics = {"kl": continuous + discrete, "kl_continuous": kl_z, "kl_discrete": kl_c, "capacity": c_z,
                   "categorical_capacity": jnp.minimum(c_c, highest)}
        return loss, metrics | ({"kl_of_latents": each} if terms.train else {})

    system = latent_model.latent_system(config, example, axis_name, objective, model=core)
    return system._replace(figures=_with_categories(system, core, model.latent, sizes))


def _with_categories(system: System, core: latent_model.LatentModel, d: int, sizes: tuple[int, ...]):
    """The core's figures, its lines through one-hot codes replaced by each category in turn."""
    def figures(state, batch, key):
        shown, now = system.figures(state, batch, key), variables(state)
        out = core.encode(now.params, batch["x"])
        shown["kl_of_latents"] = divergences(out, d, sizes).mean(0)
        if shown.pop("traversals", None) is None:
            return shown
        codes = core.posterior.mean(out)

        def images(points):  # [rows columns size] -> [rows columns h w c]
            x_hat = system.decode(now, points.reshape(-1, core.size))
            return jnp.clip(x_hat.reshape(*points.shape[:2], *core.shape), 0.0, 1.0)

        line = jnp.linspace(-3.0, 3.0, 11)
        chosen = jax.lax.top_k(shown["kl_of_latents"][:d], min(8, d))[1]
        along = jnp.broadcast_to(codes[0], (chosen.size, line.size, core.size))
        shown["traversals"] = images(jax.vmap(lambda rows, i: rows.at[:, i].set(line))(along, chosen))
        start = d
        for j, size in enumerate(sizes):
            each = jnp.broadcast_to(codes[:8, None], (codes[:8].shape[0], size, core.size))
            shown[f"categories_{j}"] = images(each.at[:, :, start:start + size].set(jnp.eye(size)))
            start += size
        return shown
    return figures
