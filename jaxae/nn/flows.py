"""Normalizing flows on latent vectors: planar and inverse autoregressive posteriors, and a coupling density.

Each maps z and returns it with log |det dz'/dz|. A posterior flow starts from a Gaussian draw:
log q(z_T | x) = log q(z_0 | x) - log_det.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype
from flax.typing import Dtype
from jaxtyping import Array, Float

from jaxae.nn.mlp import MLP

# sigmoid(2) = .88: an inverse autoregressive flow starts as a mild contraction, so that it can be trained.
_GATE_BIAS = 2.0


class Flow(NamedTuple):
    """Transformed vectors and log |det| of the transformation's Jacobian, both float32."""

    z: Float[Array, "*batch d"]
    log_det: Float[Array, "*batch"]


class PlanarFlow(nn.Module):
    """Planar flow: `layers` times z + u tanh(w . z + b), `[... d] -> [... d]`.

    log det = sum over layers of log (1 + (1 - tanh^2(w . z + b)) w . u). It is invertible if w . u > -1, so
    u is what the network emits, moved along w until w . u = softplus(w . u_emitted) - 1.

    Attributes:
      layers: number of maps; the last dimensions of w, u, b are `[layers d]`, `[layers d]`, `[layers]`.
      dtype: of the layer that reads the context; the flow itself is float32.

    Called with `context [... c]`, the parameters of every map are a linear function of it (amortized, for a
    posterior); without, they are learned numbers. Leading axes of z and context broadcast.

    Reference: Rezende and Mohamed, 'Variational inference with normalizing flows', 2015, arXiv 1505.05770.

    >>> flow = PlanarFlow(4)
    >>> (z, log_det), _ = flow.init_with_output(jax.random.key(0), jnp.ones((5, 2)))
    >>> z.shape, log_det.shape
    ((5, 2), (5,))
    """

    layers: int
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, z: Float[Array, "*batch d"], context: Float[Array, "... c"] | None = None) -> Flow:
        _check_layers(self)
        d, z = z.shape[-1], z.astype(jnp.float32)
        width = self.layers * (2 * d + 1)
        # w of norm about one, for the map is undefined at w = 0; u and b near zero.
        scale = np.concatenate([np.full(d, d**-0.5), np.full(d + 1, 0.01)])

        def start(key, shape, dtype=jnp.float32):
            return jax.random.normal(key, shape, dtype) * np.tile(scale, self.layers).astype(np.float32)

        if context is None:
            emitted = self.param("maps", start, (width,), jnp.float32)
        else:
            small = nn.initializers.variance_scaling(0.01, "fan_in", "normal")
            emitted = nn.Dense(width, dtype=self.dtype, kernel_init=small, bias_init=start, name="maps")(context)
        emitted = emitted.astype(jnp.float32).reshape(*emitted.shape[:-1], self.layers, 2 * d + 1)
        log_det = jnp.zeros(z.shape[:-1])
        for i in range(self.layers):
            w, u, b = emitted[..., i, :d], emitted[..., i, d:-1], emitted[..., i, -1]
            dot = (w * u).sum(-1, keepdims=True)
            slope = nn.softplus(dot)  # 1 + w . u of the moved u
            u = u + (slope - 1.0 - dot) * w / jnp.maximum(jnp.square(w).sum(-1, keepdims=True), 1e-12)
            bend = jnp.tanh((w * z).sum(-1) + b)
            z = z + u * bend[..., None]
            # 1 + (1 - bend^2)(slope - 1), written as a sum of positive terms.
            squared = jnp.square(bend)
            log_det = log_det + jnp.log(squared + (1.0 - squared) * slope[..., 0])
        return Flow(z, log_det)


class MADE(nn.Module):
    """Masked MLP whose output j sees inputs before j only: `[... d] -> [... outputs d]`.

    Unit degrees: input and output j have j = 1..d, hidden units are spread evenly over 0..d-1, and a weight from degree
    a to degree b exists if a <= b into a hidden layer, a < b into the output. Widths of at least d let every output
    see every input before it. The context is seen by every unit.

    Attributes:
      features: widths of the hidden layers.
      outputs: numbers per dimension.
      activation: elementwise, between layers.
      dtype: of the computation; None keeps the input's. Parameters are float32.

    Leading axes of z and context broadcast.

    Reference: Germain, Gregor, Murray, Larochelle, 'MADE: masked autoencoder for distribution estimation', 2015,
    arXiv 1502.03509.

    >>> MADE((8,), outputs=2).init_with_output(jax.random.key(0), jnp.ones((5, 3)))[0].shape
    (5, 2, 3)
    """

    features: Sequence[int]
    outputs: int = 1
    activation: Callable[[Array], Array] = nn.elu
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, z: Float[Array, "*batch d"],
                 context: Float[Array, "... c"] | None = None) -> Float[Array, "... o d"]:
        d = z.shape[-1]
        before = np.arange(1, d + 1)
        x = z
        for i, width in enumerate(self.features):
            degree = (np.arange(1, width + 1) * d - 1) // width
            x = self.activation(self._dense(x, context, before[:, None] <= degree, f"dense{i}"))
            before = degree
        x = self._dense(x, context, before[:, None] < np.tile(np.arange(1, d + 1), self.outputs), "out")
        return x.reshape(*x.shape[:-1], self.outputs, d)

    def _dense(self, x, context, mask, name):
        kernel = self.param(f"{name}_kernel", _masked(mask), mask.shape, jnp.float32)
        bias = self.param(f"{name}_bias", nn.initializers.zeros, mask.shape[1:], jnp.float32)
        x, kernel, bias = promote_dtype(x, kernel * mask, bias, dtype=self.dtype or x.dtype)
        x = x @ kernel + bias
        if context is not None:
            x = x + nn.Dense(mask.shape[1], use_bias=False, dtype=self.dtype, name=f"{name}_context")(context)
        return x


class IAF(nn.Module):
    """Inverse autoregressive flow: `layers` gated autoregressive steps, `[... d] -> [... d]`.

    (m, s) = MADE(z, context); z <- g z + (1 - g) m with g = sigmoid(s), log det = sum_j log g_j. The order of the
    dimensions is reversed between steps. One parallel pass from noise to z; there is no fast inverse, so it suits
    posteriors, whose density is only wanted at their own draws.

    Attributes:
      layers: number of steps.
      features: hidden widths of each step's MADE.
      activation: elementwise, between layers.
      dtype: of the networks; the flow itself is float32.

    Leading axes of z and context broadcast.

    Reference: Kingma, Salimans, Jozefowicz, Chen, Sutskever, Welling, 'Improving variational inference with inverse
    autoregressive flow', 2016, arXiv 1606.04934.

    >>> flow = IAF(2, (16,))
    >>> (z, log_det), _ = flow.init_with_output(jax.random.key(0), jnp.ones((7, 5, 3)), jnp.ones((5, 4)))
    >>> z.shape, log_det.shape
    ((7, 5, 3), (7, 5))
    """

    layers: int
    features: Sequence[int] = (64,)
    activation: Callable[[Array], Array] = nn.elu
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, z: Float[Array, "*batch d"], context: Float[Array, "... c"] | None = None) -> Flow:
        _check_layers(self)
        z = z.astype(jnp.float32)
        log_det = jnp.zeros(z.shape[:-1])
        for i in range(self.layers):
            z = z if i == 0 else z[..., ::-1]
            made = MADE(self.features, 2, self.activation, self.dtype, name=f"step{i}")
            out = made(z, context).astype(jnp.float32)
            mean, gate = out[..., 0, :], out[..., 1, :] + _GATE_BIAS
            g = nn.sigmoid(gate)
            z = g * z + (1.0 - g) * mean
            log_det = log_det + nn.log_sigmoid(gate).sum(-1)
        return Flow(z, log_det)


class CouplingFlow(nn.Module):
    """RealNVP: an invertible flow of affine couplings between data `[n d]` and standard normal noise, a density.

    Each layer keeps every other dimension and maps the rest, z_j <- z_j e^s_j + t_j with (s, t) an MLP of those it
    keeps (and of a context); the next layer keeps the others. First of all the data are shifted and scaled
    elementwise by learned numbers. s is bounded, |s| < 2, softly. It starts as the identity.

        log p(x) = log N(f(x); 0, I) + log |det df/dx|,  samples f^-1(noise)

    Attributes:
      dim: d.
      layers: number of couplings; two map every dimension once.
      features: hidden widths of each coupling's MLP.
      activation: elementwise, between layers.
      dtype: of the networks; the flow itself is float32.

    Raises:
      ValueError: for vectors that are not of `dim` dimensions.

    Reference: Dinh, Sohl-Dickstein, Bengio, 'Density estimation using Real NVP', 2017, arXiv 1605.08803.

    >>> flow = CouplingFlow(dim=3)
    >>> params = flow.init(jax.random.key(0), jnp.ones((5, 3)))
    >>> flow.apply(params, jnp.ones((5, 3)), method="log_prob").shape
    (5,)
    >>> flow.apply(params, jax.random.key(1), 4, method="sample").shape
    (4, 3)
    """

    dim: int
    layers: int = 6
    features: Sequence[int] = (64, 64)
    activation: Callable[[Array], Array] = nn.relu
    dtype: Dtype | None = None

    def setup(self):
        _check_layers(self)
        self.shift = self.param("shift", nn.initializers.zeros, (self.dim,), jnp.float32)
        self.log_scale = self.param("log_scale", nn.initializers.zeros, (self.dim,), jnp.float32)
        self.bodies = [MLP(self.features, self.activation, self.dtype, activate_final=True)
                       for _ in range(self.layers)]
        self.heads = [nn.Dense(2 * self.dim, dtype=self.dtype, kernel_init=nn.initializers.zeros)
                      for _ in range(self.layers)]

    def __call__(self, x: Float[Array, "n d"], context: Float[Array, "n c"] | None = None) -> Flow:
        """From data to noise, with log |det| of that direction."""
        self._check(x)
        z = (x.astype(jnp.float32) - self.shift) * jnp.exp(-self.log_scale)
        log_det = jnp.full(x.shape[:1], -self.log_scale.sum())
        for i in range(self.layers):
            s, t = self._coupling(i, z, context)
            z = z * jnp.exp(s) + t
            log_det = log_det + s.sum(-1)
        return Flow(z, log_det)

    def inverse(self, z: Float[Array, "n d"], context: Float[Array, "n c"] | None = None) -> Flow:
        """From noise to data, with log |det| of that direction."""
        self._check(z)
        x = z.astype(jnp.float32)
        log_det = jnp.full(z.shape[:1], self.log_scale.sum())
        for i in reversed(range(self.layers)):
            s, t = self._coupling(i, x, context)  # of the dimensions that layer i left alone
            x = (x - t) * jnp.exp(-s)
            log_det = log_det - s.sum(-1)
        return Flow(x * jnp.exp(self.log_scale) + self.shift, log_det)

    def log_prob(self, x: Float[Array, "n d"], context: Float[Array, "n c"] | None = None) -> Float[Array, " n"]:
        """log p(x) of each vector, nats."""
        z, log_det = self(x, context)
        return jax.scipy.stats.norm.logpdf(z).sum(-1) + log_det

    def sample(self, key: Array, n: int, context: Float[Array, "n c"] | None = None) -> Float[Array, "n d"]:
        """n draws."""
        return self.inverse(jax.random.normal(key, (n, self.dim)), context).z

    def _coupling(self, i, z, context):
        moved = np.arange(self.dim) % 2 == i % 2
        seen = [jnp.where(moved, 0.0, z)] + ([] if context is None else [context])
        s, t = jnp.split(self.heads[i](self.bodies[i](jnp.concatenate(seen, -1))).astype(jnp.float32), 2, -1)
        return jnp.where(moved, 2.0 * jnp.tanh(0.5 * s), 0.0), jnp.where(moved, t, 0.0)

    def _check(self, x):
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(f"CouplingFlow of dim={self.dim} wants vectors [n {self.dim}]; got {x.shape}: flatten "
                             "maps first, or set dim.")


def _check_layers(module):
    if module.layers < 1:
        raise ValueError(f"{type(module).__name__} wants layers >= 1; got {module.layers}.")


def _masked(mask):
    """Normal weights of variance 1 / (inputs that the mask leaves), so that a unit of few inputs starts no smaller."""
    std = 1.0 / np.sqrt(np.maximum(mask.sum(0), 1))

    def start(key, shape, dtype=jnp.float32):
        return jax.random.normal(key, shape, dtype) * std.astype(np.float32)

    return start
