"""The von Mises-Fisher distribution on the unit sphere: KL to the uniform, normalizer, log-probability, samples.

No Bessel function is called. With v = d/2 - 1, everything follows from G(kappa) = log 0F1(; d/2; kappa^2 / 4), which is
log I_v(kappa) without its power of kappa: G' is the mean resultant length A, and the KL is kappa A - G. Orders of at
least `_ORDER` have an asymptotic series that holds for all kappa, and lower ones follow by the recurrence of Bessel
functions. Both are arranged so that nothing cancels: in float32 the KL is good to some 3e-6 of itself for any d, kappa.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxae.collectives import draw

_ORDER = 16
_PROPOSALS = 100  # a proposal is refused in less than half of the cases

# log I_n(n z) = n (s + log(z / (1 + s))) - log(2 pi n s) / 2 + sum_j k_j(p) / n^j with s = sqrt(1 + z^2), p = 1 / s.
# Coefficients of k_j, lowest power first: the logarithm of the series of DLMF 10.41.3.
_SERIES = [np.polynomial.Polynomial(c) for c in (
    [0, 1 / 8, 0, -5 / 24],
    [0, 0, 1 / 16, 0, -3 / 8, 0, 5 / 16],
    [0, 0, 0, 25 / 384, 0, -531 / 640, 0, 221 / 128, 0, -1105 / 1152],
)]


def vmf_mean_length(kappa: Float[Array, "..."], dim: int) -> Float[Array, "..."]:
    """A_d(kappa) = I_{d/2}(kappa) / I_{d/2-1}(kappa), elementwise: E[x] is A times the mean direction.

    Args:
      kappa: concentration, at least 0.
      dim: d of the sphere S^{d-1} in R^d, at least 2.

    Returns:
      Lengths in [0, 1).

    Raises:
      ValueError: for dim < 2.

    >>> f'{vmf_mean_length(jnp.array(2.0), 3):.5f}'  # coth 2 - 1/2
    '0.53731'

    Reference: Mardia and Jupp, 'Directional statistics', 2000, section 9.3.
    """
    return _statistics(kappa, dim)[2]


def vmf_log_normalizer(kappa: Float[Array, "..."], dim: int) -> Float[Array, "..."]:
    """log C_d(kappa), C = kappa^v / ((2 pi)^{d/2} I_v(kappa)) with v = d/2 - 1, elementwise; density C e^(kappa m.x).

    Args:
      kappa: concentration, at least 0; there it is minus the log of the sphere's area.
      dim: d, at least 2.

    Returns:
      Nats.

    Raises:
      ValueError: for dim < 2.

    Reference: Davidson, Falorsi, De Cao, Kipf, Tomczak, 'Hyperspherical variational auto-encoders', 2018, arXiv
    1804.00891.
    """
    return -_statistics(kappa, dim)[0] - _log_area(dim)


def vmf_kl(kappa: Float[Array, "..."], dim: int) -> Float[Array, "..."]:
    """KL(vMF(m, kappa) || uniform on S^{d-1}) = kappa A_d(kappa) + log C_d(kappa) + log area, whatever m; elementwise.

    kappa^2 / (2 d) for small kappa, and (d - 1)/2 log kappa plus a constant for large. Its derivative, kappa A', comes
    from the same recurrence.

    Args:
      kappa: concentration, at least 0.
      dim: d, at least 2.

    Returns:
      Nats.

    Raises:
      ValueError: for dim < 2.

    >>> f'{vmf_kl(jnp.array(2.0), 3):.5f}'  # 2 coth 2 - 1 + log(2 / sinh 2)
    '0.47941'

    Reference: Davidson et al., 2018, arXiv 1804.00891, appendix B.
    """
    return _statistics(kappa, dim)[1]


def vmf_log_prob(x: Float[Array, "... d"], mean: Float[Array, "... d"],
                 kappa: Float[Array, "..."]) -> Float[Array, "..."]:
    """log C_d(kappa) + kappa m.x, a density on the unit sphere.

    Args:
      x: unit vectors.
      mean: mean directions m, unit vectors.
      kappa: concentrations, without the axis of the vectors.

    Returns:
      Nats of each vector.
    """
    return vmf_log_normalizer(kappa, x.shape[-1]) + kappa * (mean * x).sum(-1)


def vmf_sample(key: Array, mean: Float[Array, "n d"], kappa: Float[Array, " n"],
               axis_name: str | None = None) -> Float[Array, "n d"]:
    """A draw x = w m + sqrt(1 - w^2) t from vMF(m, kappa), differentiable in both.

    w is drawn by Wood's rejection in a bounded loop, t is uniform among the unit vectors orthogonal to m: the
    projection of normal noise. The gradient in kappa is that of a fixed quantile of w, by quadrature: exact, where
    differentiating an accepted proposal leaves out a term. The gradient in m is that of the least rotation that takes m
    along, dx = (x.m) dm - (x.dm) m: of the law's mean values exact, though it is not that of t at fixed noise.

    Args:
      key: the same on every replica.
      mean: mean directions, unit vectors.
      kappa: concentrations, at least 0.
      axis_name: the mapped axis over which the batch is spread.

    Returns:
      Unit vectors `[n d]`, float32.

    Raises:
      ValueError: for d < 2, or concentrations that do not fit.

    Reference: Ulrich, 'Computer generation of distributions on the m-sphere', 1984; Wood, 'Simulation of the von
    Mises Fisher distribution', 1994; in an autoencoder: Davidson et al., 2018, arXiv 1804.00891; the gradient:
    Figurnov, Mohamed, Mnih, 'Implicit reparameterization gradients', 2018, arXiv 1805.08498.
    """
    n, d = mean.shape
    if d < 2 or kappa.shape != (n,):
        raise ValueError(f"vmf_sample wants directions [n d], d >= 2, and concentrations [n]; got {mean.shape} and "
                         f"{kappa.shape}")
    mean, kappa = mean.astype(jnp.float32), kappa.astype(jnp.float32)
    angle_key, tangent_key = jax.random.split(key)
    angle = _with_gradient(lax.stop_gradient(_draw_angle(angle_key, lax.stop_gradient(kappa), d, axis_name)), kappa, d)

    def reject(vectors):
        return vectors - (vectors * mean).sum(1, keepdims=True) * mean

    tangent = draw(jax.random.normal, tangent_key, (n, d), axis_name)
    for _ in range(2):  # once leaves noise that was almost parallel to m with a rest along m
        tangent = reject(tangent)
        tangent = tangent / jnp.linalg.norm(tangent, axis=1, keepdims=True)
    # A rotation of m rotates the sample in their plane: bounded, where the derivative of the projection is not.
    tangent = reject(lax.stop_gradient(tangent))
    return jnp.cos(angle)[:, None] * mean + jnp.sin(angle)[:, None] * tangent


def _log_area(dim):
    return math.log(2.0) + 0.5 * dim * math.log(math.pi) - math.lgamma(0.5 * dim)


def _statistics(kappa, dim):
    """G, KL = kappa G' - G, A = G' and kappa A' / A, elementwise."""
    if dim < 2:
        raise ValueError(f"the sphere of the von Mises-Fisher distribution lies in R^d with d >= 2; got d={dim}")
    kappa = jnp.asarray(kappa).astype(jnp.promote_types(jnp.asarray(kappa).dtype, jnp.float32))
    v = 0.5 * dim - 1.0
    steps = max(0, math.ceil(_ORDER - v))
    n = v + steps
    g, kl, length, slope = _large_order(kappa, n)
    for k in range(steps - 1, -1, -1):
        # From order v + k + 1 to v + k: A_k = 1 / (c + A_{k+1}) with c = 2 (v + k + 1) / kappa, and q = A_{k+1} / c.
        half = 0.5 / (v + k + 1.0)
        q = half * kappa * length
        g, kl = g + jnp.log1p(q), kl + q * (1.0 + slope) / (1.0 + q) - jnp.log1p(q)
        length, slope = half * kappa / (1.0 + q), (1.0 - q * slope) / (1.0 + q)
    return g, kl, length, slope


def _large_order(kappa, n):
    """The statistics of I_n in place of I_v, by its series; every term vanishes with kappa as it should."""
    z = kappa / n
    s = jnp.sqrt(1.0 + jnp.square(z))
    p = 1.0 / s
    w = jnp.square(z) / (1.0 + s)  # s - 1
    drop = jnp.square(z * p)  # 1 - p^2
    lead = jnp.log1p(0.5 * w)
    # D = kappa d/dkappa is -p (1 - p^2) d/dp on functions of p.
    g, dg, ddg_minus_dg = n * (w - lead) - 0.5 * jnp.log1p(w), n * w - 0.5 * drop, n * w * p + drop * (0.5 - p * p)
    kl = n * lead + 0.5 * jnp.log1p(w) - 0.5 * drop
    one_minus_p, unit = np.polynomial.Polynomial([1, -1]), np.polynomial.Polynomial([0, 1])
    for j, series in enumerate(_SERIES, 1):
        descent = -unit * series.deriv()  # D k = (1 - p^2) descent
        second = -unit * (1 - unit**2) * descent.deriv() + (2 * unit**2 - 1) * descent
        offset = _evaluate((series - series(1.0)) // one_minus_p, p) * w * p  # k(p) - k(1)
        moved = _evaluate(descent, p) * drop
        g, dg, kl = g + offset / n**j, dg + moved / n**j, kl + (moved - offset) / n**j
        ddg_minus_dg += _evaluate(second, p) * drop / n**j
    safe = jnp.where(kappa > 0, kappa, 1.0)
    small = kappa * kappa < 1e-12
    length = jnp.where(small, 0.5 * kappa / (n + 1.0), dg / safe)
    slope = jnp.where(small, 1.0, ddg_minus_dg / jnp.where(small, 1.0, dg))
    return g, kl, length, slope


def _evaluate(polynomial, p):
    value = 0.0
    for c in polynomial.coef[::-1]:
        value = value * p + float(c)
    return value


def _draw_angle(key, kappa, dim, axis_name):
    """The angle to the mean direction, density ~ sin^{d-2} e^{kappa cos}, by Wood's rejection."""
    b = (dim - 1.0) / (2.0 * kappa + jnp.sqrt(4.0 * jnp.square(kappa) + (dim - 1.0) ** 2))
    rest = 2.0 * b / (1.0 + b)  # 1 - x0: in terms of such complements nothing cancels for large kappa
    x0 = 1.0 - rest

    def propose(state):
        i, angle, accepted = state
        normal_key, uniform_key = jax.random.split(jax.random.fold_in(key, i))
        noise = draw(jax.random.normal, normal_key, (*kappa.shape, dim), axis_name)
        # The height of a uniform point of the sphere is 2 Beta((d-1)/2, (d-1)/2) - 1: t / (t + u) with t + u = 2.
        length, across = jnp.linalg.norm(noise, axis=1), jnp.square(noise[:, 1:]).sum(1)
        high = (length + jnp.abs(noise[:, 0])) / length
        low = across / (length * (length + jnp.abs(noise[:, 0])))
        up = noise[:, 0] > 0
        t, u = jnp.where(up, high, low), jnp.where(up, low, high)
        scale = u + b * t
        gap = 2.0 * b * t / scale  # 1 - w
        fit = kappa * (rest - gap) + (dim - 1.0) * (jnp.log1p((gap - rest) * x0 / (rest * (1.0 + x0))))
        uniform = draw(partial(jax.random.uniform, minval=jnp.finfo(jnp.float32).tiny), uniform_key, kappa.shape,
                       axis_name)
        proposal = 2.0 * jnp.arctan2(jnp.sqrt(b * t), jnp.sqrt(u))  # tan^2(angle / 2) = (1 - w) / (1 + w)
        return i + 1, jnp.where(accepted, angle, proposal), accepted | (fit >= jnp.log(uniform))

    start = (0, kappa, jnp.isnan(kappa))  # made of kappa, so that they vary over replicas as the loop's values do
    return lax.while_loop(lambda state: (state[0] < _PROPOSALS) & ~state[2].all(), propose, start)[1]


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _with_gradient(angle, kappa, dim):
    """The angle, as a function of kappa at a fixed quantile."""
    return angle


@_with_gradient.defjvp
def _with_gradient_jvp(dim, primals, tangents):
    angle, kappa = primals
    # Minus the kappa-derivative of its distribution over its density: -int_0^angle (cos t - A) h(t) dt / h(angle) with
    # h = sin^{d-2} e^{kappa cos}. Over all angles the integral is 0, so the tail beyond the angle serves where the
    # angle is past the mode. From the mode h falls like a Gaussian of variance 1 / (d - 2 + kappa) or faster.
    nodes, weights = np.polynomial.legendre.leggauss(32)
    tilt = jnp.cos(angle) * (dim - 2.0) - kappa * jnp.square(jnp.sin(angle))  # the sign of h'
    side = jnp.where(tilt > 0, -1.0, 1.0)
    reach = jnp.where(side < 0, angle, math.pi - angle)
    reach = jnp.minimum(reach, 10.0 / jnp.sqrt(dim - 2.0 + kappa + 1e-3))
    steps = side[:, None] * reach[:, None] * jnp.asarray(0.5 * (nodes + 1.0), jnp.float32)
    t = angle[:, None] + steps
    tail = jnp.sin(t) / jnp.maximum(jnp.sin(angle), 1e-30)[:, None]
    log_h = (dim - 2.0) * jnp.log(jnp.maximum(tail, 1e-30))
    log_h += 2.0 * kappa[:, None] * -jnp.sin(angle[:, None] + 0.5 * steps) * jnp.sin(0.5 * steps)
    # cos t - A = (1 - A) - (1 - cos t), each small for large kappa, so 1 - A = A (d - 1 + slope) / (kappa (1 + A)).
    _, _, length, slope = _statistics(kappa, dim)
    large = jnp.maximum(kappa, 1.0)
    short = jnp.where(kappa > 1.0, length * (dim - 1.0 + slope) / (large * (1.0 + length)), 1.0 - length)
    excess = short[:, None] - 2.0 * jnp.square(jnp.sin(0.5 * t))
    integral = (excess * jnp.exp(log_h)) @ jnp.asarray(0.5 * weights, jnp.float32) * reach
    return angle, tangents[0] + side * integral * tangents[1]
