"""Objectives that weigh the terms of the evidence lower bound anew: InfoVAE and AutoGen."""

from jaxtyping import Array, ArrayLike, Float, Real


def infovae_loss(log_px: Float[Array, " n"], kl: Float[Array, " n"], divergence: Real[ArrayLike, "..."],
                 alpha: Real[ArrayLike, ""] = 0.0, lam: Real[ArrayLike, ""] = 1000.0) -> Float[Array, " n"]:
    """-log p(x | z) + (1 - alpha) KL(q(z | x) || p(z)) + (alpha + lam - 1) D(q(z), p(z)), to be minimized.

    Its mean is, where D is KL(q(z) || p(z)) and up to the entropy of the data,
    lam KL(q(z) || p(z)) + E_q(z) KL(q(x | z) || p(x | z)) - alpha I_q(x; z). Any strict divergence in place of that KL
    has the same optimum where alpha < 1 and lam > 0.

    alpha = 0, lam = 1 is the ELBO; alpha + lam = 1 beta-VAE with beta = lam; alpha = 1 with D = MMD is MMD-VAE, whose
    encoder is free to become deterministic; alpha = 1, lam = 1 with an adversarial D the adversarial autoencoder.

    Args:
      log_px: log-likelihood of each example under a z drawn from q, nats summed over the data dimensions.
      kl: KL divergence of each example, nats summed over the latent dimensions.
      divergence: D of the batch's codes (drawn from q, not their means) and the prior, such as `mmd`; a scalar, or one
        discriminator's term of each example `[n]`.
      alpha: weight of the mutual information.
      lam: lambda, of the match of q(z) with the prior; D is multiplied by alpha + lam - 1, not by lam. 1000 with MMD.

    Returns:
      Loss of each example `[n]`, in nats.

    >>> import jax.numpy as jnp
    >>> infovae_loss(jnp.array([-90.0]), jnp.array([12.0]), 0.5, alpha=0.5, lam=10.0).tolist()  # 90 + 6 + 9.5 / 2
    [100.75]

    Reference: Zhao, Song, Ermon, 'InfoVAE: Information maximizing variational autoencoders', 2017, arXiv 1706.02262.
    """
    return -log_px + (1.0 - alpha) * kl + (alpha + lam - 1.0) * divergence


def autogen_bound(log_px: Float[Array, " n"], kl: Float[Array, " n"],
                  m: Real[ArrayLike, ""] = 1.0) -> Float[Array, " n"]:
    """(1 + m) log p(x | z) - KL(q(z | x) || p(z)), to be maximized: AutoGen's bound.

    Over z ~ q it bounds log of the integral of p(z) p(x | z)^(1 + m), the likelihood of x together with m perfect
    reconstructions of it, with equality at q proportional to p(z) p(x | z)^(1 + m). It is no bound on log p(x): report
    `elbo`, which is m = 0, beside it. Divided by 1 + m it is the `elbo` with beta = 1 / (1 + m).

    Args:
      log_px: log-likelihood of each example under a z drawn from q, nats summed over the data dimensions or tokens
        (without padding).
      kl: KL divergence of each example, nats summed over the latent dimensions.
      m: number of reconstructions, at least 0; any real number.

    Returns:
      The bound of each example `[n]`, nats.

    >>> import jax.numpy as jnp
    >>> autogen_bound(jnp.array([-90.0]), jnp.array([12.0])).tolist()
    [-192.0]

    Reference: Mansbridge, Fierimonte, Feige, Barber, 'Improving latent variable descriptiveness with AutoGen', 2018,
    arXiv 1806.04480.
    """
    return (1.0 + m) * log_px - kl
