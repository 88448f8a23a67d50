"""The evidence lower bound of variational autoencoders."""

from jaxtyping import Array, ArrayLike, Float, Real

from jaxae.distributions import bits_per_dim, normal_kl, sum_event

__all__ = ["bits_per_dim", "elbo", "gaussian_kl"]


def elbo(log_px: Float[Array, " n"], kl: Float[Array, " n"],
         beta: Real[ArrayLike, ""] = 1.0) -> Float[Array, " n"]:
    """Evidence lower bound log p(x | z) - beta KL(q(z | x) || p(z)), to be maximized.

    At beta = 1 its expectation over z ~ q bounds log p(x) from below, with equality where q is the posterior.
    Train on `-elbo(...).mean()`.

    Args:
      log_px: log-likelihood of each example under a z drawn from q, nats summed over the data dimensions.
      kl: KL divergence of each example, nats summed over the latent dimensions.
      beta: weight of the KL; a schedule may pass an array.

    Returns:
      The bound of each example `[n]`, nats.

    >>> import jax.numpy as jnp
    >>> elbo(jnp.array([-90.0]), jnp.array([12.0]), beta=0.5).tolist()
    [-96.0]

    Reference: Kingma and Welling, 'Auto-encoding variational Bayes', 2014, arXiv 1312.6114; beta: Higgins et
    al., 'beta-VAE', ICLR 2017.
    """
    return log_px - beta * kl


def gaussian_kl(mean: Float[Array, "n *d"], log_std: Float[Array, "n *d"]) -> Float[Array, " n"]:
    """KL(N(mean, diag std^2) || N(0, I)) = sum_j (std_j^2 + mean_j^2 - 1) / 2 - log std_j, in closed form.

    Args:
      mean: latent means, with any event axes after the batch axis (`[n d]`, or a map `[n h w c]`).
      log_std: log standard deviations (not log variances) of the same shape.

    Returns:
      Nats per example `[n]`, summed over the latent dimensions.

    >>> import jax.numpy as jnp
    >>> gaussian_kl(jnp.ones((1, 4)), jnp.zeros((1, 4))).tolist()
    [2.0]

    Reference: Kingma and Welling, 2014, arXiv 1312.6114, appendix B.
    """
    return sum_event(normal_kl(mean, log_std))
