"""The hinge losses of a discriminator and of whom it judges, and the weight of the latter beside another loss."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree


def hinge_discriminator_loss(real: Float[Array, "n ..."], fake: Float[Array, "n ..."]) -> Float[Array, " n"]:
    """1/2 [max(0, 1 - D(x)) + max(0, 1 + D(x_hat))], the mean over patches.

    Args:
      real: logits D of true examples, `[n ...]`.
      fake: logits of generated ones.

    Returns:
      `[n]`.

    Reference: Lim, Ye, 'Geometric GAN', 2017, arXiv 1705.02894.

    >>> hinge_discriminator_loss(jnp.array([2.0, 0.0]), jnp.array([-2.0, 0.0])).tolist()
    [0.0, 1.0]
    """
    axes = tuple(range(1, real.ndim))
    return 0.5 * (jax.nn.relu(1.0 - real).mean(axes) + jax.nn.relu(1.0 + fake).mean(axes))


def hinge_generator_loss(fake: Float[Array, "n ..."]) -> Float[Array, " n"]:
    """-D(x_hat), the mean over patches: what goes with `hinge_discriminator_loss`.

    Args:
      fake: logits of generated examples, `[n ...]`.

    Returns:
      `[n]`.
    """
    return -fake.mean(tuple(range(1, fake.ndim)))


def adaptive_gan_weight(rec_grad: PyTree, gan_grad: PyTree, scale: float = 0.8, floor: float = 1e-4,
                        ceiling: float = 1e4) -> Float[Array, ""]:
    """The weight at which an adversarial loss moves the last layer `scale` times as far as the reconstruction does.

        weight = scale * min(|grad_rec| / (|grad_gan| + floor), ceiling)

    Args:
      rec_grad: gradient of the reconstruction loss with respect to the decoder's last layer, any tree; of the global
        batch where that is spread.
      gan_grad: gradient of the adversarial loss with respect to the same.
      scale: share of the reconstruction's pull.
      floor: keeps the ratio finite where the discriminator is flat.
      ceiling: largest ratio.

    Returns:
      The weight, a scalar without gradient.

    Reference: Esser, Rombach, Ommer, 'Taming transformers for high-resolution image synthesis', 2021, arXiv 2012.09841.

    >>> round(float(adaptive_gan_weight(jnp.array([3.0, 4.0]), jnp.array([0.0, 10.0]), floor=0.0)), 4)
    0.4
    """
    ratio = _norm(rec_grad) / (_norm(gan_grad) + floor)
    return jax.lax.stop_gradient(scale * jnp.minimum(ratio, ceiling))


def _norm(tree):
    return jnp.sqrt(sum(jnp.sum(leaf.astype(jnp.float32) ** 2) for leaf in jax.tree.leaves(tree)))
