"""What activations do to a host model's loss: gradients at a site, what each atom contributes, and edits spliced in."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae.nn.capture import capture


class Activations(NamedTuple):
    """Activations of a host model at one site, a row for each place in the batch."""

    x: Float[Array, "n d"]
    gradient: Float[Array, "n d"]  # of the sum of the host's losses, by x


def activation_gradients(loss: Callable[..., Array], *args: Any, site: str) -> Activations:
    r"""Activations x at a site of a host model and $g = \partial \sum \ell / \partial x$.

    The sum, not the mean, of the losses is differentiated, so that g does not depend on the size of the batch; where
    the losses of later tokens depend on an earlier one, its g is that of all of them. Labels reach g: with a loss on
    the true next token it knows what the model should say. Take the model's own most likely token as the label to
    measure without that.

    Args:
      loss: of the host, `(*args) -> [...]`; it applies Flax linen modules.
      args: of the loss, such as parameters and tokens.
      site: the module whose output it is, by `jaxae.nn.capture`, such as 'Transformer/block0'.

    Returns:
      `Activations` of n rows, all leading axes flattened.

    Raises:
      ValueError: for a site that is not there.

    >>> from flax import linen as nn
    >>> net = nn.Dense(2, use_bias=False)
    >>> got = activation_gradients(lambda w, x: jnp.square(net.apply(w, x)).sum(-1), {"params": {"kernel": jnp.eye(2)}},
    ...                            jnp.ones((1, 2)), site="Dense")
    >>> got.x.tolist(), got.gradient.tolist()
    ([[1.0, 1.0]], [[2.0, 2.0]])

    Reference: Olmo, Wilson, Forsey, Hepner, Howe and Wingate, Features that make a difference, 2024,
    arXiv 2411.10397.
    """
    def moved(change):
        losses, found = capture(loss, *args, names=[site], added={site: change})
        return jnp.sum(losses), found[site]

    at = jax.eval_shape(lambda: capture(loss, *args, names=[site])[1][site])
    gradient, x = jax.grad(moved, has_aux=True)(jnp.zeros(at.shape, at.dtype))
    return Activations(x.reshape(-1, x.shape[-1]), gradient.reshape(-1, x.shape[-1]))


def spliced(function: Callable[..., Any], *args: Any, site: str,
            replace: Callable[[Float[Array, "n d"]], Float[Array, "n d"]]) -> Any:
    """`function(*args)` with what `replace` makes of the activations at a site in their place.

    Args:
      function: of the host: its losses, or its logits.
      args: of the function.
      site: as for `activation_gradients`.
      replace: rows `[n d]` -> rows, such as a sparse autoencoder's reconstruction, or with a direction added.

    Returns:
      What the function returns. It runs twice: what is added at the site is the difference.

    >>> from flax import linen as nn
    >>> net, w = nn.Dense(2, use_bias=False), {"params": {"kernel": jnp.eye(2)}}
    >>> spliced(lambda x: 3.0 * net.apply(w, x), jnp.ones((1, 2)), site="Dense", replace=lambda x: x + 1.0).tolist()
    [[6.0, 6.0]]
    """
    x = capture(function, *args, names=[site])[1][site]
    new = replace(x.reshape(-1, x.shape[-1])).reshape(x.shape)
    return capture(function, *args, added={site: new - x})[0]


def attribution(codes: Float[Array, "n m"], atoms: Float[Array, "m o"],
                gradient: Float[Array, "n o"]) -> Float[Array, "n m"]:
    r"""$z_j \, D_j \cdot g$: how much, to first order, the loss would fall were atom j left out.

    Args:
      codes: z.
      atoms: D.
      gradient: g, of the loss by what is reconstructed.

    Returns:
      `[n m]`, signed: above 0 the atom raises the loss.

    Reference: Olmo et al., 2024, arXiv 2411.10397, who choose atoms by its magnitude.
    """
    return codes * (gradient @ atoms.T)


def influence_error(y: Float[Array, "n o"], y_hat: Float[Array, "n o"],
                    gradient: Float[Array, "n o"]) -> Float[Array, " n"]:
    r"""$(g \cdot (y - \hat y))^2$: the square of what the error does to the loss, to first order."""
    return jnp.square((gradient * (y - y_hat)).sum(-1))


class SteeringEffect(NamedTuple):
    """What adding a direction does to the logits of each context."""

    promoted: Float[Array, " n"]  # mean change of the logits of the tokens that the direction promotes most
    kl: Float[Array, " n"]        # KL(before || after) of the output distributions, nats


def steering_effect(logits: Callable[[Float[Array, "n d"]], Float[Array, "n v"]], x: Float[Array, "n d"],
                    atom: Float[Array, " d"], amount: float | Float[Array, ""], top: int = 10) -> SteeringEffect:
    """How far `x + amount * atom` moves what a host model says.

    The tokens promoted most are those whose logit rises most, on average over the contexts.

    Args:
      logits: the rest of the host, from activations at the site.
      x: activations in n contexts.
      atom: a row of the decoder.
      amount: in units of the activation, where atoms have norm one.
      top: how many tokens count as promoted.

    Returns:
      A `SteeringEffect`.

    Raises:
      ValueError: for `top` outside [1, v].

    Reference: Olmo et al., 2024, arXiv 2411.10397.
    """
    before, after = (logits(v).astype(jnp.float32) for v in (x, x + amount * atom))
    if not 1 <= top <= before.shape[-1]:
        raise ValueError(f"top={top} of {before.shape[-1]} tokens: choose 1 to that")
    change = after - before
    promoted = jax.lax.top_k(change.mean(0), top)[1]
    log_p, log_q = jax.nn.log_softmax(before), jax.nn.log_softmax(after)
    return SteeringEffect(change[:, promoted].mean(-1), (jnp.exp(log_p) * (log_p - log_q)).sum(-1))
