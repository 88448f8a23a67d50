"""Input-convex networks and the inverse-Lipschitz maps made of their gradients."""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class ICNN(nn.Module):
    """A convex function of its input: `[n d] -> [n]`.

    h_1 = s(A_0 u + b_0), h_{j+1} = s(W_j h_j + A_j u + b_j), phi(u) = w h + a u, with s the softplus and W_j, w >= 0 as
    softplus of free parameters, so that every update keeps phi convex.

    Attributes:
      features: widths of the hidden layers.

    Reference: Amos, Xu, Kolter, 'Input convex neural networks', ICML 2017, arXiv 1609.07152.
    """

    features: Sequence[int] = (512, 512)

    @nn.compact
    def __call__(self, u: Float[Array, "n d"]) -> Float[Array, " n"]:
        h = nn.softplus(nn.Dense(self.features[0], name="input0")(u))
        for j, width in enumerate(self.features[1:], 1):
            # A mean of the layer before, so that depth does not inflate the sums.
            mean = self._positive(f"hidden{j}", h, width) / h.shape[-1]
            h = nn.softplus(mean + nn.Dense(width, name=f"input{j}")(u))
        # Each of the m units has a curvature of some 0.2 along a direction of length 1: times d / m their sum has that
        # order in every direction of u, so that the gradient of phi varies with u whatever d is.
        curved = self._positive("output", h, 1) * (u.shape[-1] / h.shape[-1])
        return (curved + nn.Dense(1, name="linear")(u))[:, 0]

    def _positive(self, name, h, width):
        raw = self.param(name, nn.initializers.normal(0.1), (h.shape[-1], width), jnp.float32)
        return h @ nn.softplus(raw)


class BrenierMap(nn.Module):
    """The gradient of a strongly convex function: `g(u) = grad [phi(u) + L/2 |u|^2]`, `[n d] -> [n d]`.

    <g(a) - g(b), a - b> >= L |a - b|^2, so that |g(a) - g(b)| >= L |a - b|: inverse Lipschitz with constant L. Its
    Jacobian is symmetric with eigenvalues of at least L.

    Attributes:
      features: widths of the convex network phi.
      inverse_lipschitz: L >= 0.

    Reference: Kinoshita, Oono, Fukumizu, Yoshida, Maeda, 'Controlling posterior collapse by an inverse Lipschitz
    constraint on the decoder network', ICML 2023, arXiv 2304.12770.
    """

    features: Sequence[int] = (512, 512)
    inverse_lipschitz: float | Array = 0.0

    @nn.compact
    def __call__(self, u: Float[Array, "n d"]) -> Float[Array, "n d"]:
        phi = ICNN(self.features, name="convex")
        # Each row's value depends on its row alone: the gradient of the sum is that of every row.
        total, backward = nn.vjp(lambda module, u: module(u), phi, u)
        _, gradient = backward(jnp.ones_like(total))
        return gradient + self.inverse_lipschitz * u


class InverseLipschitzDecoder(nn.Module):
    """`z [n k] -> [n *shape]`, f(z) = g_2(B g_1(z)) with Brenier maps g_1, g_2 and B with orthonormal columns.

    f is inverse Lipschitz with constant L^2: `inverse_lipschitz` in each map, B keeps distances. It holds for the
    output itself (a Gaussian's mean, a Bernoulli's logits), not for what a sigmoid makes of it.

    Attributes:
      shape: of the output; its size must be at least k.
      features: widths of the convex networks.
      inverse_lipschitz: L of each map.
      learned: whether B is learned (the orthonormal factor of a free matrix) or pads with zeros.

    Reference: Kinoshita et al., 2023, arXiv 2304.12770; Wang, Blei, Cunningham, 'Posterior collapse and latent
    variable non-identifiability', 2021.
    """

    shape: Sequence[int]
    features: Sequence[int] = (512, 512)
    inverse_lipschitz: float | Array = 0.0
    learned: bool = True

    @nn.compact
    def __call__(self, z: Float[Array, "n k"]) -> Array:
        k, size = z.shape[-1], math.prod(self.shape)
        if size < k:
            raise ValueError(f"an inverse-Lipschitz decoder cannot map {k} latents into {size} dimensions: use a "
                             "smaller latent")
        h = BrenierMap(self.features, self.inverse_lipschitz, name="latent")(z)
        if self.learned:
            free = self.param("embedding", nn.initializers.normal(1.0), (size, k), jnp.float32)
            h = h @ jnp.linalg.qr(free)[0].T
        else:
            h = jnp.pad(h, ((0, 0), (0, size - k)))
        return BrenierMap(self.features, self.inverse_lipschitz, name="data")(h).reshape(-1, *self.shape)


def smallest_singular_value(function, z: Float[Array, "n k"]) -> Float[Array, " n"]:
    """The least singular value of the Jacobian of `function` ([k] -> any shape) at each row of z."""
    def one(row):
        jacobian = jax.jacfwd(lambda u: function(u).ravel())(row)  # [D k]
        return jnp.sqrt(jnp.maximum(jnp.linalg.eigvalsh(jacobian.T @ jacobian)[0], 0.0))

    return jax.vmap(one)(z)
