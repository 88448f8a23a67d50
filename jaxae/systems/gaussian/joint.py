"""JointVAE: Gaussian and categorical latents with a capacity each."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree
from ml_collections import ConfigDict

from jaxae import collectives
from jaxae.distributions import categorical_kl, normal_kl, normal_log_prob, normal_sample
from jaxae.losses import joint_capacity_loss, linear_capacity
from jaxae.priors import Prior
from jaxae.systems import latent_model
from jaxae.systems.base import System, variables
from jaxae.systems.posteriors import Posterior


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
    model = config.model
    sizes = tuple(model.categories)
    if not sizes or min(sizes) < 2:
        raise ValueError(f"model.categories={sizes} must name at least one latent of 2 values or more")
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


def divergences(out: Array, d: int, sizes: tuple[int, ...]) -> Array:
    """KL of each Gaussian latent to N(0, 1) and of each categorical one to uniform: [n d + len(sizes)] nats."""
    mean, log_std, *logits = _split(out, d, sizes)
    return jnp.concatenate([normal_kl(mean, log_std), *(categorical_kl(row)[:, None] for row in logits)], -1)


def joint_posterior(d: int, sizes: tuple[int, ...], temperature: float) -> Posterior:
    """A diagonal Gaussian beside relaxed categoricals (Gumbel-softmax: Jang et al. 2017, arXiv 1611.01144)."""
    def sample(out, key, axis_name=None):
        mean, log_std, *logits = _split(out, d, sizes)
        keys = jax.random.split(key, 1 + len(sizes))
        z = normal_sample(keys[0], mean, log_std, axis_name=axis_name)
        relaxed = [jax.nn.softmax((row + collectives.draw(jax.random.gumbel, k, row.shape, axis_name)) / temperature)
                   for k, row in zip(keys[1:], logits, strict=True)]
        return jnp.concatenate([z, *relaxed], -1)

    def mean(out):
        centre, _, *logits = _split(out, d, sizes)
        return jnp.concatenate([centre, *(jax.nn.one_hot(row.argmax(-1), row.shape[-1]) for row in logits)], -1)

    return Posterior(d + sum(sizes), 2 * d + sum(sizes), sample, mean, None)


def joint_prior(d: int, sizes: tuple[int, ...]) -> Prior:
    """N(0, I) beside uniform one-hot categoricals."""
    def sample(params, key, n, label=None):
        keys = jax.random.split(key, 1 + len(sizes))
        drawn = [jax.nn.one_hot(jax.random.randint(k, (n,), 0, s), s) for k, s in zip(keys[1:], sizes, strict=True)]
        return jnp.concatenate([jax.random.normal(keys[0], (n, d)), *drawn], -1)

    def log_prob(params, z, label=None, key=None):
        return normal_log_prob(z[..., :d], 0.0, 0.0).sum(-1) - sum(math.log(s) for s in sizes)

    return Prior(lambda key, latents, label=None: (), log_prob, sample)


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


def _split(out, d, sizes):
    ends = [d, 2 * d]
    for size in sizes[:-1]:
        ends.append(ends[-1] + size)
    return jnp.split(out, ends, axis=-1)
