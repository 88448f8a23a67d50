"""Deep dictionaries as a system: passes of majorisation and minimisation over the whole training set."""

import math
from typing import NamedTuple

import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, PyTree
from ml_collections import ConfigDict

from jaxae.sae import deep_dictionary as deep
from jaxae.sae.atoms import FIRES
from jaxae.systems import figures as draw
from jaxae.systems.base import Latent, Objective, State, System, Variables, means, variables
from jaxae.systems.builders import one_loss


def defaults() -> ConfigDict:
    """Keys of `config.model`.

    `sizes`: atoms of each layer, that of the data first. `mu`: weight of the last codes' absolute values. `phi`
    ('tanh', 'linear') between the layers.

    `greedy_steps`: of each layer of the greedy fit that comes before the first update. `passes` of
    `jaxae.sae.deep_dictionary.mm_step` over all data every `config.prepare_every` updates, with its options `z_step`
    ('prox', 'inverse'), `inner`, `guard` and `ridge`. `encode_steps`: to the codes of examples that are given.
    `examples`: size of the training set.
    """
    return ConfigDict(dict(sizes=(98, 49), mu=0.1, phi="tanh", greedy_steps=50, passes=1, z_step="prox", inner=5,
                           guard=True, ridge=1e-6, encode_steps=50, examples=4000))


class Fitted(NamedTuple):
    """What the fit of the training set leaves beside the dictionaries."""

    codes: Float[Array, "n m"]  # of the last layer, in the order of the data
    norms: tuple[Float[Array, ""], ...]  # bound of each dictionary's rows
    objective: Float[Array, ""]  # mean over the training set, at the last pass


def build(config: ConfigDict, example: PyTree, axis_name: str | None = None) -> System:
    r"""Deep dictionary learning (Singhal and Majumdar, Majorization minimization technique for optimally solving deep
    dictionary learning, 2018, arXiv 1912.10801).

    Minimises $\|X - \phi(\phi(Z D_N) \dots D_2) D_1\|^2 + \mu |Z|_1$ over all dictionaries and the codes together. No
    minibatch can do that, so `prepare` does: the greedy fit before the first update, then `passes` over all data every
    `config.prepare_every` updates (0: the greedy fit alone). It wants the whole training set,
    `config.prepare_examples=0`. Updates measure: the codes of a batch from zero with the dictionaries fixed, and the
    gradient that is left.

    Reported: `objective` (mean over the training set as fitted), `loss` (the same for examples coded anew), `error`
    (|x - x_hat|^2), `l0`, and of a split `relative_error` (||X - X_hat|| / ||X||). Latents are the last codes, vectors.

    Raises:
      ValueError: for no layers, or another phi or z_step.
    """
    model, shape = config.model, example["x"].shape[1:]
    sizes, widths = tuple(model.sizes), (math.prod(shape), *model.sizes)
    if not sizes or min(sizes) < 1:
        raise ValueError(f"model.sizes={sizes} are the atoms of each layer: give at least one layer, of at least one")
    if model.phi not in deep.PHI or model.z_step not in ("prox", "inverse"):
        raise ValueError(f"model.phi={model.phi!r} must be one of {', '.join(deep.PHI)}, and model.z_step="
                         f"{model.z_step!r} one of prox, inverse")

    def flat(x):
        return jnp.asarray(x, jnp.float32).reshape(x.shape[0], -1)

    def dictionaries(params):
        return tuple(params[f"layer{i}"] for i in range(len(sizes)))

    def named(atoms):
        return {f"layer{i}": rows for i, rows in enumerate(atoms)}

    def codes_of(params, x):
        return lax.stop_gradient(deep.encode(lax.stop_gradient(dictionaries(params)), x, model.mu, model.phi,
                                             model.encode_steps))

    def decoded(params, codes):
        return deep.layers(dictionaries(params), codes, model.phi)[0]

    def init(key: Array, batch):
        atoms = [jnp.zeros(s) for s in zip(sizes, widths, strict=False)]
        return named(atoms), Fitted(jnp.zeros((model.examples, sizes[-1])), (jnp.ones(()),) * len(sizes),
                                    jnp.zeros(()))

    def prepare(state: State, data, key: Array) -> State:
        x = flat(data["x"])
        if x.shape[0] != model.examples:
            raise ValueError(f"codes are of all {model.examples} training examples (model.examples), here are "
                             f"{x.shape[0]}: set config.prepare_examples=0 and model.examples")
        first = state.step == 0

        def start(_):
            # Members side by side take both branches: none of these steps are left for those that go on.
            return deep.greedy(key, x, sizes, model.mu, jnp.where(first, model.greedy_steps, 0), model.phi)

        def go_on(now):
            return deep.fit(now, x, model.mu, model.passes, model.phi, z_step=model.z_step, inner=model.inner,
                            guard=model.guard, ridge=model.ridge)[0]

        found = lax.cond(first, start, go_on,
                         deep.DeepDictionary(dictionaries(state.params), state.extra.codes, state.extra.norms))
        value = deep.objective(found.dictionaries, found.codes, x, model.mu, model.phi) / x.shape[0]
        return state._replace(params=named(found.dictionaries), extra=Fitted(found.codes, found.norms, value))

    def loss(params, extra, batch, key, train: bool) -> Objective:
        x = flat(batch["x"])
        codes = codes_of(params, x)
        error = jnp.square(x - decoded(params, codes)).sum(-1)
        seen = {"objective": extra.objective} if train else {"square": jnp.square(x).sum(-1)}
        l0 = (jnp.abs(codes) > FIRES).sum(-1).astype(jnp.float32)
        return Objective(error + model.mu * jnp.abs(codes).sum(-1), {"error": error, "l0": l0} | seen, extra)

    def summary(sums):
        share = jnp.sqrt(sums["error"] / jnp.maximum(sums["square"], 1e-30))
        return means({name: value for name, value in sums.items() if name != "square"}) | {"relative_error": share}

    def encode(now: Variables, x):
        return codes_of(now.params, flat(x))

    def decode(now: Variables, z, key=None):
        return decoded(now.params, z).reshape(-1, *shape)

    def reconstruct(now: Variables, x, key=None):
        return decode(now, encode(now, x))

    def figures(state: State, batch, key):
        """Atoms of the data, what one code of each deeper layer makes, and how often the last codes are in use."""
        now = variables(state)
        z = encode(now, batch["x"])
        shown = {"frequencies": jnp.sort((jnp.abs(z) > FIRES).mean(0))[::-1]}
        if len(shape) == 3:
            values = deep.layers(dictionaries(now.params), z, model.phi)[1:]
            for i, layer in enumerate(values):
                size = 2.0 * jnp.sqrt(jnp.square(layer).mean(0))  # as large as codes are
                one = deep.layers(dictionaries(now.params)[:i + 1], jnp.diag(size), model.phi)[0]
                shown[f"atoms_{i + 1}"] = draw.most_frequent(one, size, shape)
        return draw.comparison(batch["x"], reconstruct(now, batch["x"])) | shown

    return one_loss(init, loss, optax.set_to_zero(), axis_name=axis_name, prepare=prepare, summary=summary,
                    encode=encode, decode=decode, reconstruct=reconstruct, figures=figures, latent=Latent((sizes[-1],)))


__all__ = ["build", "defaults"]
