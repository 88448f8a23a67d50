"""Importance-weighted bounds, and the estimators of their gradients as surrogate losses."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Float, PyTree, Real

from jaxae.distributions import categorical_sample

ESTIMATORS = ("iwae", "dreg", "stl", "vae", "sampled", "piwae")


def iwae_bound(log_w: Float[Array, "k n"]) -> Float[Array, " n"]:
    """log (1/k) sum_i w_i, to be maximized: a bound on log p(x) that tightens with k.

    With z_i ~ q(z | x) and w_i = p(x, z_i) / q(z_i | x); k = 1 is the (sampled) ELBO. Its gradient is the
    plain one, of the encoder through reparameterized z_i; `importance_weighted_loss` has the others.

    Args:
      log_w: log importance weights log p(x, z_i) - log q(z_i | x), nats, samples first.

    Returns:
      The bound of each example `[n]`, nats.

    >>> import jax.numpy as jnp
    >>> iwae_bound(jnp.log(jnp.array([[1.0], [3.0]]))).round(4)  # log 2
    Array([0.6931], dtype=float32)

    Reference: Burda, Grosse, Salakhutdinov, 'Importance weighted autoencoders', 2016, arXiv 1509.00519.
    """
    return jax.nn.logsumexp(log_w, axis=0) - math.log(log_w.shape[0])


def vae_k_bound(log_w: Float[Array, "k n"]) -> Float[Array, " n"]:
    """(1/k) sum_i log w_i, to be maximized: the ELBO, of less variance by k samples but no tighter.

    Args:
      log_w: log importance weights, nats, samples first.

    Returns:
      The bound of each example `[n]`, nats.

    >>> vae_k_bound(jnp.array([[1.0], [3.0]])).tolist()
    [2.0]
    """
    return log_w.mean(0)


def miwae_bound(log_w: Float[Array, "m k n"]) -> Float[Array, " n"]:
    """(1/m) sum_j log (1/k) sum_i w_ji, to be maximized: the mean of m importance-weighted bounds.

    As tight as `iwae_bound` of k samples; the encoder's gradient has less noise for more m. m = 1 is
    `iwae_bound`, k = 1 is `vae_k_bound`.

    Args:
      log_w: log importance weights, nats, groups first, then the samples of a group.

    Returns:
      The bound of each example `[n]`, nats.

    >>> miwae_bound(jnp.log(jnp.array([[[1.0], [3.0]], [[2.0], [2.0]]]))).round(4)  # log 2
    Array([0.6931], dtype=float32)

    Reference: Rainforth, Kosiorek, Le, Maddison, Igl, Wood, Teh, 'Tighter variational bounds are not
    necessarily better', 2018, arXiv 1802.04537.
    """
    return (jax.nn.logsumexp(log_w, axis=1) - math.log(log_w.shape[1])).mean(0)


def ciwae_bound(log_w: Float[Array, "k n"], beta: Real[ArrayLike, ""]) -> Float[Array, " n"]:
    """beta vae_k_bound + (1 - beta) iwae_bound, to be maximized: a combination of the two.

    Args:
      log_w: log importance weights, nats, samples first.
      beta: weight of the ELBO, in [0, 1]; a schedule may pass an array.

    Returns:
      The bound of each example `[n]`, nats.

    >>> log_w = jnp.log(jnp.array([[1.0], [3.0]]))
    >>> bool(vae_k_bound(log_w)[0] < ciwae_bound(log_w, 0.5)[0] < iwae_bound(log_w)[0])
    True

    Reference: Rainforth et al., 2018, arXiv 1802.04537.
    """
    return beta * vae_k_bound(log_w) + (1.0 - beta) * iwae_bound(log_w)


class ImportanceWeighted(NamedTuple):
    """A surrogate loss and what it was made of.

    Fields:
      loss: to be minimized; its value is minus the bound, its gradient that of the estimator.
      log_w: log importance weights of all samples, without gradient, for metrics and other bounds.
      aux: what `log_w_fn` returned beside the weights, without gradient; None without `has_aux`.
    """

    loss: Float[Array, " n"]
    log_w: Float[Array, "k n"]
    aux: PyTree = None


def importance_weighted_loss(
    log_w_fn: Callable[[PyTree, PyTree, PyTree], Array | tuple[Array, PyTree]],
    decoder: PyTree,
    z: PyTree[Float[Array, "..."]],
    posterior: PyTree,
    estimator: str = "iwae",
    groups: int = 1,
    key: Array | None = None,
    axis_name: str | None = None,
    has_aux: bool = False,
) -> ImportanceWeighted:
    """Minus an importance-weighted bound, differentiated by one of its gradient estimators.

    With theta the decoder, phi the encoder, u_i = w_i / sum_j w_j, and `|z`, `|phi` for the gradient along that
    path alone (through the samples; through the parameters of q's density), minus the gradient is

        estimator  bound            decoder                      encoder
        iwae       iwae_bound       sum_i u_i grad_theta log w_i  sum_i u_i (grad|z + grad|phi) log w_i
        dreg       iwae_bound       the same                      sum_i u_i^2 grad|z log w_i
        stl        iwae_bound       the same                      sum_i u_i grad|z log w_i
        sampled    iwae_bound       grad_theta log w_s            (grad|z + grad|phi) log w_s,  s ~ u
        vae        vae_k_bound      u_i = 1/k                     u_i = 1/k
        piwae      iwae_bound       the same                      that of the miwae_bound of `groups` groups

    iwae, dreg and sampled have one expectation. The noise of dreg's encoder gradient falls relative to it as k
    grows, where iwae's rises. stl is biased for k > 1; at k = 1 it is dreg. sampled makes one backward
    pass for one sample: the cheapest for large k.

    This function stops the gradients; the caller stops none. It suffices that every trained number that `log_w_fn`
    uses comes in by its arguments, reparameterized samples by `z`:

        mean, log_std = encoder(phi, x)
        z = normal_sample(key, mean, log_std) of shape [k n d]
        log_w_fn = lambda theta, z, q: log p(x | z; theta) + log p(z; theta) - log N(z; q)
        loss = importance_weighted_loss(log_w_fn, theta, z, (mean, log_std), "dreg").loss.mean()

    and jax.grad by theta and phi is the estimator's. dreg costs what iwae costs, one forward and one backward
    pass: the backward pass of sample i is scaled by u_i once more where it arrives at z_i. piwae runs the decoder's
    backward pass twice. Reverse mode only.

    Args:
      log_w_fn: `log_w_fn(decoder, z, posterior) -> [k n]`, log p(x, z_i) - log q(z_i | x) in nats. The weights of
        sample i of example j depend on z[i, j] alone, for any k (sampled calls it with the chosen samples), and
        not on noise of its own. With `has_aux` it returns `(log_w, aux)`.
      decoder: parameters of p(x, z), those of a learned prior with them.
      z: samples from q, differentiable in the encoder; leaves `[k n ...]`, one for each layer of latents.
      posterior: what log q(z | x) is computed from: the encoder's outputs; the encoder's parameters where a
        layer's density depends on the samples of another.
      estimator: a name from the table above, `ESTIMATORS`.
      groups: splits the k samples into groups of k / groups, and iwae, dreg, stl and sampled are those of each
        group, averaged, with the value of `miwae_bound`. piwae needs it; vae is the same for all.
      key: for sampled, the same on every replica.
      axis_name: the mapped axis over which the batch is spread, for the draw of sampled.
      has_aux: whether `log_w_fn` returns something beside the weights.

    Returns:
      An `ImportanceWeighted` with the loss of each example `[n]` in nats.

    Raises:
      ValueError: for an unknown estimator, groups that do not divide k, sampled without a key, or log weights that
        are not `[k n]`.

    >>> log_w_fn = lambda theta, z, q: -jnp.square(z[..., 0] - theta) + jnp.square(z[..., 0] - q[:, 0])
    >>> def loss(theta, mean):
    ...     z = mean + jnp.array([-1.0, 1.0])[:, None, None]
    ...     return importance_weighted_loss(log_w_fn, theta, z, mean, "dreg").loss.mean()
    >>> [g.tolist() for g in jax.grad(loss, (0, 1))(0.0, jnp.zeros((1, 1)))]  # u = 1/2, log w does not move with z
    [0.0, [[0.0]]]

    Reference: Burda et al., 2016, arXiv 1509.00519 (iwae, sampled); Roeder, Wu, Duvenaud, 'Sticking the landing',
    2017, arXiv 1703.09194 (stl); Tucker, Lawson, Gu, Maddison, 'Doubly reparameterized gradient estimators for
    Monte Carlo objectives', 2019, arXiv 1810.04152 (dreg); Rainforth et al., 2018, arXiv 1802.04537 (piwae).
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"no estimator '{estimator}': choose one of {', '.join(ESTIMATORS)}")
    k, n = _leading(z)
    if groups < 1 or k % groups:
        raise ValueError(f"groups={groups} does not divide k={k} samples: change one of them")

    def evaluate(decoder, z, posterior):
        log_w, aux = log_w_fn(decoder, z, posterior) if has_aux else (log_w_fn(decoder, z, posterior), None)
        if log_w.shape != _leading(z):
            raise ValueError(f"log_w_fn must return [k n], here {_leading(z)}: sum over the latent and data "
                             f"dimensions; got {log_w.shape}")
        return log_w.astype(jnp.float32), lax.stop_gradient(aux)

    if estimator == "sampled":
        if key is None:
            raise ValueError("estimator 'sampled' draws a sample by its weight: pass a key")
        log_w, aux = lax.stop_gradient(evaluate(*lax.stop_gradient((decoder, z, posterior))))
        chosen = _choose(key, log_w, z, groups, axis_name)
        terms = [(evaluate(decoder, chosen, posterior)[0], jnp.full((groups, n), 1.0 / groups))]
        return ImportanceWeighted(_surrogate(-_bound(log_w, estimator, groups), terms), log_w, aux)

    if estimator == "dreg":
        gated, total, wanted = _gate(z)
        log_w, aux = evaluate(decoder, gated, lax.stop_gradient(posterior))
        by_decoder, by_encoder = log_w + total, wanted
    elif estimator == "stl":
        by_decoder, aux = evaluate(decoder, z, lax.stop_gradient(posterior))
    elif estimator == "piwae":
        # No gate here: a group whose weights are nothing beside the others' still counts in full for the encoder.
        by_decoder, aux = evaluate(decoder, *lax.stop_gradient((z, posterior)))
        by_encoder, _ = evaluate(lax.stop_gradient(decoder), z, posterior)
    else:
        by_decoder, aux = evaluate(decoder, z, posterior)
    log_w = lax.stop_gradient(by_decoder)
    within = jax.nn.softmax(log_w.reshape(groups, -1, n), axis=1).reshape(k, n)
    if estimator == "dreg":
        terms = [(by_decoder, within / groups), (by_encoder, jnp.square(within) / groups)]
    elif estimator == "piwae":
        terms = [(by_decoder, jax.nn.softmax(log_w, axis=0)), (by_encoder, within / groups)]
    else:
        terms = [(by_decoder, jnp.full((k, n), 1.0 / k) if estimator == "vae" else within / groups)]
    return ImportanceWeighted(_surrogate(-_bound(log_w, estimator, groups), terms), log_w, aux)


def _leading(z):
    shapes = {leaf.shape[:2] for leaf in jax.tree.leaves(z)}
    if len(shapes) != 1 or len(min(shapes)) != 2:
        raise ValueError(f"samples z want leaves [k n ...] of one k and n; got {sorted(shapes)}")
    return shapes.pop()


def _bound(log_w, estimator, groups):
    if estimator == "vae":
        return vae_k_bound(log_w)
    if estimator == "piwae":
        return iwae_bound(log_w)
    return miwae_bound(log_w.reshape(groups, -1, log_w.shape[-1]))


@jax.custom_jvp
def _surrogate(value: Array, terms: list[tuple[Array, Array]]) -> Array:
    """`value`, with the gradient of minus sum_i weights_i log_w_i of every `(log_w, weights)` in `terms`."""
    return value


@_surrogate.defjvp
def _surrogate_jvp(primals, tangents):
    value, terms = primals
    _, moves = tangents
    change = -sum((weights * move).sum(0) for (_, weights), (move, _) in zip(terms, moves, strict=True))
    return value, change


# What arrives at z_i in the backward pass is a_i dlog_w_i/dz_i, where a_i is what the loss sends to log_w_i (its own
# 1/n included). The gate makes it b_i dlog_w_i/dz_i. It learns a_i and b_i as the cotangents of two zeros that it hands
# out, one added to log_w, one given to the loss in its own right: both are known before the backward pass reaches z.
@jax.custom_vjp
def _gate(z):
    # Zeros made from z: inside shard_map constants do not vary over the mesh, and their cotangents would be summed.
    some = jax.tree.leaves(z)[0].reshape(*_leading(z), -1)[..., 0].astype(jnp.float32)
    nothing = jnp.where(some > 0, 0.0, jnp.zeros_like(some))
    return z, nothing, nothing


def _gate_forward(z):
    return _gate(z), None


def _gate_backward(_, cotangents):
    by_z, total, wanted = cotangents
    ratio = jnp.where(total == 0, 0.0, wanted / jnp.where(total == 0, 1.0, total))  # dreg: in [0, 1]
    return (jax.tree.map(lambda c: c * ratio.reshape(ratio.shape + (1,) * (c.ndim - 2)).astype(c.dtype), by_z),)


_gate.defvjp(_gate_forward, _gate_backward)


def _choose(key, log_w, z, groups, axis_name):
    """One sample of each group by its weight: leaves `[groups n ...]` of z's `[k n ...]`."""
    n = log_w.shape[1]
    # Batch axis first, so that replicas cut the draw of one device.
    index = categorical_sample(key, log_w.reshape(groups, -1, n).transpose(2, 0, 1), axis_name).T  # [groups n]

    def take(leaf):
        leaf = leaf.reshape(groups, -1, *leaf.shape[1:])
        where = index.reshape(groups, 1, n, *(1,) * (leaf.ndim - 3))
        return jnp.take_along_axis(leaf, where, axis=1)[:, 0]

    return jax.tree.map(take, z)
