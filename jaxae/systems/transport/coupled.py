"""The coupled variational autoencoder: a decoder trained under an entropic transport plan between prior and data."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, PyTree
from ml_collections import ConfigDict

from jaxae import collectives, losses, optim
from jaxae.nn import MLP
from jaxae.systems import figures as draw
from jaxae.systems import latent_model, networks
from jaxae.systems.base import Latent, Objective, State, System, variables
from jaxae.systems.builders import one_loss
from jaxae.systems.transport import wae

FORMS = ("semidual", "primal", "dual", "amortised")
_MATCHES = ("mmd", "sinkhorn", "energy", "sliced")
_ROWS = 50  # examples whose costs to all latents are in memory at once


class Coupling(NamedTuple):
    """The plan between the training set and a set of prior draws."""

    z: Float[Array, "m d"]
    v: Float[Array, " m"]  # potential of the latents, nats
    u: Float[Array, " n"]  # potential of the training examples, nats: the warm start of the next solution
    network: PyTree  # parameters of v(z) in the dual form, else ()
    decoder: PyTree  # the decoder's parameters under which the plan was solved: with newer ones v would not fit


def defaults() -> ConfigDict:
    """Keys of `config.model`, beside those of the latent-variable core.

    `form`: 'primal' (Sinkhorn), 'semidual' (averaged stochastic ascent of one potential), 'dual' (a number u for each
    training example and a network v(z) of `potential` widths, by Adam) or 'amortised' (an encoder in place of the
    plan). `epsilon`: weight of the plan's entropy; 1 is that of the evidence lower bound.

    Of the plan: `draws`, latents in it; `ascent_steps`, of `chunk` latents each, and `ascent_rate` of the semi-dual,
    or `u_rate` and `v_rate` of the dual; `sampled`: train at one latent drawn from the plan's row for each example, or
    at all of them, weighted; `examples`: size of the training set.

    Of the encoder: `divergence` ('mmd', 'sinkhorn' with `blur` as its epsilon, 'energy' or 'sliced') with weight `rho`.
    """
    return latent_model.defaults(latent=2, form="primal", epsilon=1.0, draws=1000, ascent_steps=200,
                                 ascent_rate=1.0, u_rate=0.05, v_rate=1e-3, potential=(128, 256, 256, 128), chunk=50,
                                 sampled=True, examples=4000, divergence="mmd", rho=10.0, blur=0.1)


def build(config: ConfigDict, example: PyTree, axis_name: str | None = None) -> System:
    """The system of Hao and Shafto, Coupled variational autoencoder, ICML 2023, arXiv 2306.02565.

    A decoder p(x | z) is trained at pairs (x, z) of the plan pi that minimises
    E_pi[-log p(x | z)] + epsilon KL(pi || p_data x p_z): the bound of the VAE with the aggregate posterior held at
    the prior. `prepare` solves for the plan with the decoder fixed, before the first update and every
    `config.prepare_every`; it wants the whole training set, `config.prepare_examples=0`. There is no encoder: latents
    are means of the plan's rows, or draws from them where `encode` is given a key.

    The form 'amortised' writes pi = p_data q(z | x) with an encoder and relaxes the marginal to a penalty:
    E_q[-log p(x | z)] + epsilon KL(q(z | x) || p(z)) + rho D(q(z), p(z)).

    Raises:
      ValueError: for options that do not exist, or epsilon <= 0.
    """
    if config.model.form == "amortised":
        return _amortised(config, example, axis_name)
    model, shape, dtype = config.model, example["x"].shape[1:], jnp.dtype(config.dtype)
    if model.form not in FORMS:
        raise ValueError(f"model.form={model.form!r} must be one of {', '.join(FORMS)}")
    if model.prior not in latent_model.PRIORS:
        raise ValueError(f"model.prior={model.prior!r} must be one of {', '.join(latent_model.PRIORS)}")
    if model.draws % model.chunk:
        raise ValueError(f"model.chunk={model.chunk} must divide model.draws={model.draws}")
    losses.positive_epsilon(model.epsilon)
    potential = MLP((*model.potential, 1))
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
        decoder_key, z_key, network_key = jax.random.split(key, 3)
        z = prior.sample((), z_key, model.draws)
        decoder = observed.init(decoder_key, z[:1])
        kept = jax.tree.map(jnp.array, decoder)
        network = potential.init(network_key, z[:1]) if model.form == "dual" else ()
        return {"decoder": decoder}, Coupling(z, jnp.zeros(model.draws), jnp.zeros(model.examples), network, kept)

    def prepare(state: State, data, key) -> State:
        x = data["x"]
        if x.shape[0] != model.examples:
            raise ValueError(f"the plan is over all {model.examples} training examples (model.examples), here are "
                             f"{x.shape[0]}: set config.prepare_examples=0 and model.examples")
        z, kept = prior.sample((), key, model.draws), jax.tree.map(jnp.array, state.params["decoder"])
        cost = lax.stop_gradient(all_costs(state.params["decoder"], x, z))
        if model.form == "primal":
            solution = losses.sinkhorn(cost, model.epsilon)
            return state._replace(extra=Coupling(z, solution.v, solution.u, (), kept))
        # Every step of an ascent sees `chunk` columns; passes over all of them repeat.
        columns = cost.reshape(x.shape[0], -1, model.chunk).swapaxes(0, 1)  # [t n chunk]
        passes = -(-model.ascent_steps // columns.shape[0])
        if model.form == "dual":
            found = dual_ascent(state.extra.u, state.extra.network, potential.apply, z.reshape(-1, model.chunk, size),
                                columns, model.epsilon, model.u_rate, model.v_rate, passes)
            return state._replace(extra=Coupling(z, potential.apply(found.network, z)[:, 0], *found, kept))

        def one_pass(ascent, _):
            return losses.semidual_asgd(ascent, columns, model.epsilon, model.ascent_rate * x.shape[0]), None

        ascent, _ = lax.scan(one_pass, losses.semidual_init(state.extra.u), length=passes)
        v = losses.soft_c_transform(ascent.average, cost, model.epsilon)
        return state._replace(extra=Coupling(z, v, ascent.average, (), kept))

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


class DualPotentials(NamedTuple):
    """What the dual form learns."""

    u: Float[Array, " n"]  # in the convention of `losses.dual_objective`: Sinkhorn's plus epsilon
    network: PyTree  # parameters of v(z)


def dual_ascent(u: Float[Array, " n"], network: PyTree, potential: Callable[[PyTree, Array], Array],
                z: Float[Array, "t k d"], costs: Float[Array, "t n k"], epsilon, u_rate, v_rate, passes: int
                ) -> DualPotentials:
    """Adam's ascent of `losses.dual_objective` in u and in the network of v(z), one step for every chunk of latents.

    Args:
      u: to start from.
      network: parameters to start from.
      potential: `(network, z [k d]) -> [k 1]`.
      z: chunks of draws from the prior.
      costs: of all examples to the latents of each chunk, nats.
      epsilon: weight of the plan's entropy.
      u_rate, v_rate: learning rates.
      passes: over the chunks.

    Returns:
      The potentials at the end.

    Reference: Hao and Shafto, Coupled variational autoencoder, ICML 2023, arXiv 2306.02565.
    """
    ascent = optax.multi_transform({"u": optax.adam(u_rate), "v": optax.adam(v_rate)}, DualPotentials("u", "v"))

    def loss(now, z, cost):
        return -losses.dual_objective(now.u, potential(now.network, z)[:, 0], cost, epsilon)

    def step(carry, chunk):
        now, memory = carry
        updates, memory = ascent.update(jax.grad(loss)(now, *chunk), memory, now)
        return (optax.apply_updates(now, updates), memory), None

    start = DualPotentials(u, network)
    carry, _ = lax.scan(lambda carry, _: (lax.scan(step, carry, (z, costs))[0], None), (start, ascent.init(start)),
                        length=passes)
    return carry[0]


def _amortised(config: ConfigDict, example: PyTree, axis_name: str | None) -> System:
    model = config.model
    latent_model.check_density(model)
    losses.positive_epsilon(model.epsilon)
    if model.divergence not in _MATCHES:
        raise ValueError(f"model.divergence={model.divergence!r} must be one of {', '.join(_MATCHES)}")
    matching = wae.defaults()
    matching.update(dict(divergence=model.divergence, epsilon=model.blur))

    def objective(terms):
        match = wae.compare(matching, terms.z, terms.prior_draws(), terms.key, axis_name)
        value = -terms.log_px + model.epsilon * terms.kl + model.rho * match
        return value, {"elbo": terms.log_px - terms.kl, "penalty": match}

    return latent_model.latent_system(config, example, axis_name, objective)
