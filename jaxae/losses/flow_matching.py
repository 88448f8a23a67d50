"""Flow matching: the loss of a velocity, and the solution and the likelihood of the flow that it makes.

Times are real, from 0 (noise) to 1 (data). A velocity is `velocity(x_t [n ...], t [n]) -> [n ...]`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxae.distributions import normal_log_prob, sum_event


def flow_matching_loss(velocity: Callable, x: Float[Array, "n *d"], noise: Float[Array, "n *d"],
                       t: Float[Array, " n"]) -> Float[Array, " n"]:
    """|velocity(x_t, t) - (x - noise)|^2 at x_t = (1 - t) noise + t x, summed over the data dimensions.

    Times are real, from 0 (noise) to 1 (data). These are the straight paths of the paper with sigma_min = 0.

    Reference: Lipman et al., 'Flow matching for generative modeling', 2022, arXiv 2210.02747, section 4.1.
    """
    at = t.reshape(-1, *(1,) * (x.ndim - 1))
    return sum_event(jnp.square(velocity((1.0 - at) * noise + at * x, t) - (x - noise)))


def flow_sample(velocity: Callable, noise: Float[Array, "n *d"], steps: int = 50, method: str = "heun"
                ) -> Float[Array, "n *d"]:
    """The solution at time 1 of dx/dt = velocity(x, t) from noise at time 0, in equal steps.

    Args:
      velocity: `(x [n ...], t [n]) -> [n ...]`.
      noise: standard normal.
      method: 'euler' (error of order 1 / steps) or 'heun' (1 / steps^2, two calls of the velocity a step).
    """
    return _solve(lambda x, t: velocity(x, jnp.full(x.shape[:1], t)), noise, 0.0, 1.0, steps, method)


def flow_log_prob(velocity: Callable, x: Float[Array, "n d"], steps: int = 50, method: str = "heun"
                  ) -> Float[Array, " n"]:
    """log p(x) = log N(x_0; 0, I) - int_0^1 div velocity(x_t, t) dt along the path of `flow_sample` that ends in x.

    The divergence is exact: d forward derivatives for each call, so that this is for low dimensions.

    Args:
      velocity: `(x [n d], t [n]) -> [n d]`, each row a function of its own x and t.
      x: vectors; the result is in nats of each. steps, method: of the integration.

    Reference: Chen et al., 'Neural ordinary differential equations', 2018, arXiv 1806.07366.
    """
    basis = jnp.broadcast_to(jnp.eye(x.shape[-1])[:, None], (x.shape[-1], *x.shape))

    def field(state, t):
        points, _ = state
        out, push = jax.linearize(lambda x: velocity(x, jnp.full(x.shape[:1], t)), points)
        return out, jnp.einsum("ini->n", jax.vmap(push)(basis))

    start, change = _solve(field, (x, jnp.zeros(x.shape[0])), 1.0, 0.0, steps, method)
    return normal_log_prob(start, 0.0, 0.0).sum(-1) + change


def _solve(field, state, start, stop, steps, method):
    """State at `stop` of d state / dt = field(state, t), for any pytree."""
    if method not in ("euler", "heun") or steps < 1:
        raise ValueError(f"method={method!r} must be 'euler' or 'heun', and steps={steps} at least 1")
    size = (stop - start) / steps

    def step(i, state):
        t = start + size * i
        slope = field(state, t)
        ahead = jax.tree.map(lambda a, b: a + size * b, state, slope)
        if method == "euler":
            return ahead
        return jax.tree.map(lambda a, b, c: a + 0.5 * size * (b + c), state, slope, field(ahead, t + size))

    return lax.fori_loop(0, steps, step, state)
