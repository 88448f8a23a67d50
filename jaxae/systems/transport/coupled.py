"""The coupled variational autoencoder: a decoder trained under an entropic transport plan between prior and data."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree
from ml_collections import ConfigDict

from jaxae import collectives, losses, optim
from jaxae.systems import figures as draw
from jaxae.systems import latent_model, networks
from jaxae.systems.base import Latent, Objective, State, System, variables
from jaxae.systems.builders import one_loss

FORMS = ("semidual", "primal")
_ROWS = 50  # examples whose costs to all latents are in memory at once


class Coupling(NamedTuple):
    """The plan between the training set and a set of prior draws."""

    z: Float[Array, "m d"]
    v: Float[Array, " m"]  # potential of the latents, nats
    u: Float[Array, " n"]  # potential of the training examples, nats: the warm start of the next solution
    decoder: PyTree  # the decoder's parameters under which the plan was solved: with newer ones v would not fit


def defaults() -> ConfigDict:
    """Keys of `config.model`, beside those of the latent-variable core.

    `form`: 'primal' (Sinkhorn) or 'semidual' (averaged stochastic ascent of one potential). `epsilon`: weight of the
    plan's entropy; 1 is that of the evidence lower bound. `draws`: latents in the plan. `ascent_steps`,
    `ascent_rate`, `chunk`: of the semi-dual, with `chunk` latents a step. `sampled`: train at one latent drawn from
    the plan's row for each example, or at all of them, weighted. `examples`: size of the training set.
    """
    return latent_model.defaults(latent=2, form="primal", epsilon=1.0, draws=1000, ascent_steps=200,
                                 ascent_rate=1.0, chunk=50, sampled=True, examples=4000)


def build(config: ConfigDict, example: PyTree, axis_name: str | None = None) -> System:
    """The system of Hao and Shafto, Coupled variational autoencoder, ICML 2023, arXiv 2306.02565.

    A decoder p(x | z) is trained at pairs (x, z) of the plan pi that minimises
    E_pi[-log p(x | z)] + epsilon KL(pi || p_data x p_z): the bound of the VAE with the aggregate posterior held at
    the prior. `prepare` solves for the plan with the decoder fixed, before the first update and every
    `config.prepare_every`; it wants the whole training set, `config.prepare_examples=0`. There is no encoder: latents
    are means of the plan's rows, or draws from them where `encode` is given a key.

    Raises:
      ValueError: for options that do not exist, or epsilon <= 0.
    """
    model, shape, dtype = config.model, example["x"].shape[1:], jnp.dtype(config.dtype)
    if model.form not in FORMS:
        raise ValueError(f"model.form={model.form!r} must be one of {', '.join(FORMS)}")
    if model.prior not in latent_model.PRIORS:
        raise ValueError(f"model.prior={model.prior!r} must be one of {', '.join(latent_model.PRIORS)}")
    if model.draws % model.chunk:
        raise ValueError(f"model.chunk={model.chunk} must divide model.draws={model.draws}")
    losses.positive_epsilon(model.epsilon)
    prior, size = latent_model.PRIORS[model.prior](model.latent), model.latent
    observed = networks.observation(model, shape, lambda c: networks.vector_decoder(model, shape, c, dtype), dtype,
                                    axis_name)

    def costs(params, x, z):
        """-log p(x_i | z_j), [n m] nats."""
        def row(one):
            return -observed.log_prob(params, z, jnp.broadcast_to(one, (z.shape[0], *shape)))

        return jax.vmap(row)(x)

    def all_costs(params, x, z):
        n = x.shape[0]
        chunks = -(-n // _ROWS)
        padded = jnp.pad(x, ((0, chunks * _ROWS - n),) + ((0, 0),) * (x.ndim - 1)).reshape(chunks, _ROWS, *shape)
        return lax.map(lambda part: costs(params, part, z), padded).reshape(chunks * _ROWS, -1)[:n]

    def init(key: Array, batch):
        decoder_key, z_key = jax.random.split(key)
        z = prior.sample((), z_key, model.draws)
        decoder = observed.init(decoder_key, z[:1])
        kept = jax.tree.map(jnp.array, decoder)
        return {"decoder": decoder}, Coupling(z, jnp.zeros(model.draws), jnp.zeros(model.examples), kept)

    def prepare(state: State, data, key) -> State:
        x = data["x"]
        if x.shape[0] != model.examples:
            raise ValueError(f"the plan is over all {model.examples} training examples (model.examples), here are "
                             f"{x.shape[0]}: set config.prepare_examples=0 and model.examples")
        z, kept = prior.sample((), key, model.draws), jax.tree.map(jnp.array, state.params["decoder"])
        cost = lax.stop_gradient(all_costs(state.params["decoder"], x, z))
        if model.form == "primal":
            solution = losses.sinkhorn(cost, model.epsilon)
            return state._replace(extra=Coupling(z, solution.v, solution.u, kept))
        # Every step of the ascent sees `chunk` columns; passes over all of them repeat.
        columns = cost.reshape(x.shape[0], -1, model.chunk).swapaxes(0, 1)  # [passes n chunk]

        def one_pass(ascent, _):
            return losses.semidual_asgd(ascent, columns, model.epsilon, model.ascent_rate * x.shape[0]), None

        passes = -(-model.ascent_steps // columns.shape[0])
        ascent, _ = lax.scan(one_pass, losses.semidual_init(state.extra.u), length=passes)
        v = losses.soft_c_transform(ascent.average, cost, model.epsilon)
        return state._replace(extra=Coupling(z, v, ascent.average, kept))

    def rows(coupling, x):
        """Conditional probabilities of the plan's latents, [n m]."""
        return losses.coupling_rows(coupling.v, costs(coupling.decoder, x, coupling.z), model.epsilon)

    def loss(params, coupling, batch, key, train: bool) -> Objective:
        x, decoder = batch["x"], params["decoder"]
        weights = lax.stop_gradient(rows(coupling, x))
        if model.sampled:
            noise = collectives.draw(jax.random.gumbel, key, weights.shape, axis_name)
            z = coupling.z[jnp.argmax(jnp.log(weights) + noise, -1)]
            nats = -observed.log_prob(decoder, z, x)
        else:
            nats = jnp.sum(weights * costs(decoder, x, coupling.z), -1)
        information = jnp.sum(jax.scipy.special.xlogy(weights, weights * model.draws), -1)
        return Objective(nats, {"reconstruction": nats, "kl": information, "elbo": -nats - information}, coupling)

    def encode(now, x, key=None):
        weights = rows(now.extra, x)
        if key is None:
            return weights @ now.extra.z
        return now.extra.z[jax.random.categorical(key, jnp.log(weights))]

    def decode(now, z, key=None):
        return observed.mean(now.params["decoder"], z, jax.random.key(0) if key is None else key)

    def sample(now, key, n: int):
        return decode(now, prior.sample((), key, n))

    def figures(state: State, batch, key):
        now = variables(state)
        z = encode(now, batch["x"], key)
        count = 64 if len(shape) == 3 else 500
        shown = draw.comparison(batch["x"], decode(now, z)) | draw.samples(sample(now, key, count))
        return shown | ({"latents": z} if size == 2 else {})

    return one_loss(init, loss, optim.optimizer(config.optim, config.steps), average=config.optim.average,
                    accumulate=config.optim.accumulate, axis_name=axis_name, prepare=prepare, encode=encode,
                    decode=decode, reconstruct=lambda now, x, key=None: decode(now, encode(now, x)), sample=sample,
                    figures=figures, latent=Latent((size,)))
