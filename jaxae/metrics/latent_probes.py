"""What single latents know and do: one-latent probes, best thresholds, effects of ablation, alignment of spaces."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Real


class ProbeLoss(NamedTuple):
    """The best one-latent probe of each task."""

    loss: Float[Array, " t"]    # nats per example
    latent: Int[Array, " t"]


def probe_loss(codes: Float[Array, "n m"], labels: Real[Array, "p t"] | Bool[Array, "p t"],
               steps: int = 25, ridge: float = 1e-6, block: int = 64) -> ProbeLoss:
    """min over latents i of the cross-entropy of a logistic regression of the label on z_i alone, for each task.

        min_i min_{w, b} mean_n [ log(1 + exp(w z_ni + b)) - y_n (w z_ni + b) ]

    By Newton's method on standardized latents, whose steps are shortened where they would not lower the loss. A
    latent that separates a task comes to a loss near 0 (only the small ridge and the number of steps bound it).

    Args:
      codes: z.
      labels: binary, 0 and 1 (or bool), one column a task.
      steps: of Newton's method.
      ridge: penalty ridge / 2 w^2 on the weight of a standardized latent.
      block: latents in memory at once, n t numbers each.

    Returns:
      A `ProbeLoss`; average `loss` over tasks for the published score.

    Raises:
      ValueError: for labels of another number of examples.

    >>> import jax.numpy as jnp
    >>> z, y = jnp.eye(4), jnp.array([[0], [1], [0], [0]])
    >>> int(probe_loss(z, y).latent[0])
    1

    Reference: Gao et al., 'Scaling and evaluating sparse autoencoders', 2024, arXiv 2406.04093.
    """
    if codes.shape[0] != labels.shape[0]:
        raise ValueError(f"probe_loss wants a row of labels for each code; got {codes.shape} and {labels.shape}")
    y = labels.astype(jnp.float32)

    def one(z):
        std = z.std()
        u = jnp.where(std > 0, (z - z.mean()) / jnp.where(std > 0, std, 1.0), 0.0)[:, None]  # [n 1]

        def loss(w, b):
            logit = u * w + b
            return (jax.nn.softplus(logit) - y * logit).mean(0)

        def step(state, _):
            w, b = state
            p = jax.nn.sigmoid(u * w + b)
            weight = p * (1.0 - p)
            gradient = ((p - y) * u).mean(0) + ridge * w, (p - y).mean(0)
            ww, wb, bb = (weight * u * u).mean(0) + ridge, (weight * u).mean(0), weight.mean(0) + 1e-9
            determinant = jnp.maximum(ww * bb - wb * wb, 1e-18)
            dw = (bb * gradient[0] - wb * gradient[1]) / determinant
            db = (ww * gradient[1] - wb * gradient[0]) / determinant
            tried = jnp.array([0.0, 0.1, 0.4, 1.0])[:, None]
            w, b = w - tried * dw, b - tried * db  # [4 t]
            value = jax.vmap(loss)(w, b) + 0.5 * ridge * jnp.square(w)
            best = jnp.where(jnp.isfinite(value), value, jnp.inf).argmin(0)[None]
            return (jnp.take_along_axis(w, best, 0)[0], jnp.take_along_axis(b, best, 0)[0]), None

        rate = jnp.clip(y.mean(0), 1e-6, 1 - 1e-6)
        (w, b), _ = lax.scan(step, (jnp.zeros_like(rate), jnp.log(rate / (1 - rate))), length=steps)
        return loss(w, b)

    each = lax.map(one, codes.astype(jnp.float32).T, batch_size=min(block, codes.shape[1]))  # [m t]
    return ProbeLoss(each.min(0), each.argmin(0))


def soft_identifiability(codes: Float[Array, "n m"], labels: Bool[Array, "n c"], block: int = 64) -> Float[Array, ""]:
    """Mean over classes of the accuracy of the single latent that tells best, by z_i > its best threshold.

    Args:
      codes: z.
      labels: whether each class is there.
      block: latents in memory at once, n c numbers each.

    Returns:
      A scalar in [1/2, 1]; a threshold below or above all codes is allowed.

    Reference: Fel et al., 'Archetypal SAE', 2025, arXiv 2502.12892.
    """
    n, y = codes.shape[0], labels.astype(jnp.float32)

    def one(z):
        order = jnp.argsort(z)
        ranked = z[order]
        below = jnp.concatenate([jnp.zeros((1, y.shape[1])), jnp.cumsum(y[order], 0)])  # positives not chosen
        right = (below[-1] - below) + (jnp.arange(n + 1)[:, None] - below)
        real = jnp.concatenate([jnp.ones(1, bool), ranked[1:] > ranked[:-1], jnp.ones(1, bool)])  # no cut within ties
        return jnp.where(real[:, None], right, 0.0).max(0) / n

    each = lax.map(one, codes.astype(jnp.float32).T, batch_size=min(block, codes.shape[1]))
    return each.max(0).mean()


def ablation_sparsity(effects: Float[Array, "*m p v"]) -> Float[Array, "*m"]:
    """(L1 / L2)^2 / (p v) of the effects of ablating a latent on p positions' logits, less each position's median.

    Args:
      effects: logits without the latent minus logits with it; v, the vocabulary.

    Returns:
      In [1 / (p v), 1] for each latent: small if few logits change, 2 / pi for normal effects; NaN if none changes.

    Reference: Gao et al., 2024, arXiv 2406.04093.
    """
    effects = effects.astype(jnp.float32)
    effects = effects - jnp.median(effects, axis=-1, keepdims=True)
    l1, square = jnp.abs(effects).sum((-2, -1)), jnp.square(effects).sum((-2, -1))
    return jnp.square(l1) / square / (effects.shape[-1] * effects.shape[-2])


def cknna(a: Float[Array, "n d"], b: Float[Array, "p e"], k: int = 10) -> Float[Array, ""]:
    """Centred kernel alignment of two spaces over pairs that are near neighbours in both.

        A(K, L) / sqrt(A(K, K) A(L, L)), A(K, L) = sum_{i, j: j among the k nearest of i in K and in L} K_ij L_ij

    with linear kernels K and L of features centred over the set, and nearest by the kernel. With k = n - 1 it is
    linear CKA without the diagonals.

    Args:
      a: features.
      b: other features of the same examples.
      k: neighbours.

    Returns:
      A scalar, 1 for spaces that are equal up to rotation and scale.

    Raises:
      ValueError: for different examples or k outside [1, n - 1].

    Reference: Huh et al., 'The platonic representation hypothesis', 2024, arXiv 2405.07987.
    """
    n = a.shape[0]
    if b.shape[0] != n or not 1 <= k < n:
        raise ValueError(f"cknna wants features of the same examples and 1 <= k < n; got {a.shape}, {b.shape}, k={k}")

    def kernel(x):
        x = x.astype(jnp.float32)
        x = x - x.mean(0)
        gram = jnp.matmul(x, x.T, precision=lax.Precision.HIGHEST)
        near = lax.top_k(jnp.where(jnp.eye(n, dtype=bool), -jnp.inf, gram), k)[1]
        return gram, jnp.zeros((n, n)).at[jnp.arange(n)[:, None], near].set(1.0)

    (gram_a, near_a), (gram_b, near_b) = kernel(a), kernel(b)
    scale_a, scale_b = ((near * jnp.square(gram)).sum() for gram, near in ((gram_a, near_a), (gram_b, near_b)))
    return (near_a * near_b * gram_a * gram_b).sum() / jnp.sqrt(scale_a * scale_b)
