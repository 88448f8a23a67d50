"""Deep dictionaries, learned jointly by majorisation and minimisation or greedily: X = phi(phi(Z D_N) ... D_2) D_1."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxae.sae.atoms import random_atoms
from jaxae.sae.ista import curvature, ista, proximal_gradient, soft_threshold

_EDGE = 1e-3  # inverses of tanh stay within 1 - this
PHI = {"tanh": (jnp.tanh, lambda y: jnp.arctanh(jnp.clip(y, _EDGE - 1.0, 1.0 - _EDGE))),
       "linear": (lambda y: y, lambda y: y)}


class DeepDictionary(NamedTuple):
    """Dictionaries `[m_l m_{l-1}]` with atoms as rows, that of the data first, and the last layer's codes."""

    dictionaries: tuple[Float[Array, "..."], ...]
    codes: Float[Array, "n m"]
    norms: tuple[Float[Array, ""], ...] = ()  # bound of each dictionary's rows; (): none


def layers(dictionaries: tuple[Array, ...], codes: Float[Array, "n m"], phi: str = "tanh") -> list[Array]:
    r"""$\hat X = Y_1 D_1$, $Y_l = \phi(Y_{l+1} D_{l+1})$, $Y_N = Z$: the reconstruction and the codes of each layer.

    Args:
      dictionaries: D_1 `[m_1 d]`, ..., D_N `[m_N m_{N-1}]`, that of the data first.
      codes: Z `[n m_N]`.
      phi: 'tanh' or 'linear'.

    Returns:
      [X_hat `[n d]`, Y_1 `[n m_1]`, ..., Z].
    """
    values = [codes]
    for i, atoms in reversed(list(enumerate(dictionaries))):
        inner = values[0] @ atoms
        values.insert(0, PHI[phi][0](inner) if i else inner)
    return values


def objective(dictionaries: tuple[Array, ...], codes: Float[Array, "n m"], x: Float[Array, "n d"], mu: float,
              phi: str = "tanh") -> Float[Array, ""]:
    r"""$\|X - \hat X\|_F^2 + \mu |Z|_1$, a scalar, summed over examples and dimensions.

    Args:
      dictionaries, codes, phi: of `layers`.
      x: X.
      mu: weight of the codes' absolute values.

    Reference: Singhal and Majumdar, 'Majorization minimization technique for optimally solving deep dictionary
    learning', arXiv 1912.10801.
    """
    return jnp.square(x - layers(dictionaries, codes, phi)[0]).sum() + mu * jnp.abs(codes).sum()


def mm_step(state: DeepDictionary, x: Float[Array, "n d"], mu: float, phi: str = "tanh", z_step: str = "prox",
            inner: int = 5, guard: bool = True, ridge: float = 1e-6) -> tuple[DeepDictionary, Float[Array, " s"]]:
    r"""One pass over all dictionaries and the codes, from the data inwards, each with the others fixed.

    With $T_0 = X$ and $a_l = \lambda_{\max}(D_l D_l^\top)$ the squares at layer l are majorised, up to a constant, by
    $a_l \|B_l - Y_l\|^2$, $B_l = Y_l + (T_{l-1} - Y_l D_l) D_l^\top / a_l$, so that with $T_l = \phi^{-1}(B_l)$ the
    next layer is a dictionary problem again: $D_l = Y_l^+ T_{l-1}$. Targets are made anew before every change. For a
    linear phi none can raise the objective; the inverse of another phi changes the metric and loses that, which the
    guard restores.

    Args:
      state: before; rows of dictionaries stay within its `norms`.
      x: data.
      mu: weight of the last codes' absolute values.
      phi: 'tanh', or 'linear'.
      z_step: 'prox', proximal-gradient steps on the objective itself, by backtracking, which inner dictionaries and
        bounded ones take too; 'inverse', a thresholded step on the innermost majoriser, whose weight is the product of
        all a.
      inner: number of these proximal-gradient steps.
      guard: halves a change, up to nothing, until the objective is not above what it was.
      ridge: pull of a dictionary towards what it was, as a share of the mean square of its codes; 0: exact least
        squares. Atoms that no example uses stay.

    Returns:
      (state, the objective after each of the N + 1 changes).

    Raises:
      ValueError: for another phi or z_step.

    Reference: Singhal and Majumdar, Majorization minimization technique for optimally solving deep dictionary learning,
    2018, arXiv 1912.10801. Targets made anew, proximal steps and the guard are ours.
    """
    if phi not in PHI or z_step not in ("prox", "inverse"):
        raise ValueError(f"phi is one of {tuple(PHI)} and z_step 'prox' or 'inverse', not {phi!r} and {z_step!r}")
    dictionaries, codes, trace = list(state.dictionaries), state.codes, []

    def value(dictionaries, codes):
        return objective(tuple(dictionaries), codes, x, mu, phi)

    def accepted(new, old, of):
        if not guard:
            return new
        before = of(old)
        share = lax.while_loop(lambda t: (of(old + t * (new - old)) > before) & (t > 1e-6), lambda t: t / 2,
                               jnp.ones((), x.dtype))
        return jnp.where(share > 1e-6, old + share * (new - old), old)

    for i in range(len(dictionaries)):
        target, y, weight = _target(dictionaries, codes, x, phi, i)
        new = _fitted(dictionaries[i], y, target, ridge)
        if state.norms:
            new = _within(new, state.norms[i])

        def of(atoms, i=i):
            return value(dictionaries[:i] + [atoms] + dictionaries[i + 1:], codes)

        dictionaries[i] = accepted(new, dictionaries[i], of)
        if z_step == "prox" and (state.norms or i and phi != "linear"):
            dictionaries[i] = proximal_gradient(
                of, dictionaries[i], 2.0 * weight * curvature(y.T),
                lambda atoms, _, i=i: _within(atoms, state.norms[i]) if state.norms else atoms, inner)
        trace.append(value(dictionaries, codes))
    if z_step == "prox":
        codes = _code_steps(tuple(dictionaries), codes, x, mu, phi, inner)
    else:
        target, _, weight = _target(dictionaries, codes, x, phi, len(dictionaries) - 1)
        new = ista(target, dictionaries[-1], mu / weight, 1, codes)
        codes = accepted(new, codes, lambda z: value(dictionaries, z))
    trace.append(value(dictionaries, codes))
    return DeepDictionary(tuple(dictionaries), codes, state.norms), jnp.stack(trace)


def _target(dictionaries, codes, x, phi, layer):
    """What `layer`'s product is to be like, its present codes, and the weight of their squared distance."""
    values, target, weight = layers(tuple(dictionaries), codes, phi), x, jnp.ones((), x.dtype)
    for atoms, y in zip(dictionaries[:layer], values[1:], strict=False):
        scale = curvature(atoms)
        target, weight = PHI[phi][1](y + (target - y @ atoms) @ atoms.T / scale), weight * scale
    return target, values[layer + 1], weight


def _fitted(atoms, codes, target, ridge):
    left = target - codes @ atoms
    if not ridge:
        return atoms + jnp.linalg.lstsq(codes, left)[0]
    gram = codes.T @ codes
    pull = jnp.maximum(ridge * jnp.trace(gram) / gram.shape[0], 1e-12) * jnp.eye(gram.shape[0], dtype=gram.dtype)
    return atoms + jnp.linalg.solve(gram + pull, codes.T @ left)


def _within(atoms, norm):
    return atoms * jnp.minimum(1.0, norm / jnp.maximum(jnp.linalg.norm(atoms, axis=-1, keepdims=True), 1e-12))


def _code_steps(dictionaries, codes, x, mu, phi, steps):
    rate = 2.0 * math.prod(curvature(atoms) for atoms in dictionaries)
    return proximal_gradient(lambda z: objective(dictionaries, z, x, 0.0, phi), codes, rate,
                             lambda z, rate: soft_threshold(z, mu / rate), steps)


def greedy(key: Array, x: Float[Array, "n d"], sizes: tuple[int, ...], mu: float, steps: int | Int[Array, ""] = 50,
           phi: str = "tanh") -> DeepDictionary:
    r"""One layer after another: $X \approx Z_1 D_1$, $\phi^{-1}(Z_1) \approx Z_2 D_2$, ...; the last with `ista`.

    Codes and dictionaries are fitted in turn by least squares, which determine no more than the span of atoms fewer
    than the width: an orthonormal basis of it keeps codes small. Rows have unit norm, or the larger one that takes
    codes into tanh's range, which is what `norms` keeps.

    Args:
      key: draws the atoms to start from.
      x: data.
      sizes: atoms of each layer.
      mu: weight of the last codes' absolute values.
      steps, phi: of each layer.

    Reference: Tariyal, Majumdar, Singh and Vatsa, Deep dictionary learning, 2016.
    """
    target, dictionaries, norms = x, [], []
    for i, (size, draw) in enumerate(zip(sizes, jax.random.split(key, len(sizes)), strict=True)):
        last = i == len(sizes) - 1
        atoms = random_atoms(draw, size, target.shape[1]).astype(x.dtype)

        def step(_, state, target=target, last=last):
            atoms, codes = state
            codes = ista(target, atoms, mu, 10, codes) if last else target @ jnp.linalg.pinv(atoms)
            atoms = _fitted(atoms, codes, target, 1e-6)
            if not last and atoms.shape[0] <= atoms.shape[1]:
                atoms = jnp.linalg.qr(atoms.T)[0].T
                return atoms, target @ atoms.T
            norm = jnp.maximum(jnp.linalg.norm(atoms, axis=-1), 1e-12)
            return atoms / norm[:, None], codes * norm

        atoms, codes = lax.fori_loop(0, steps, step, (atoms, jnp.zeros((x.shape[0], size), x.dtype)))
        scale = jnp.maximum(jnp.abs(codes).max() / 0.95, 1.0) if phi == "tanh" and not last else jnp.ones((), x.dtype)
        dictionaries, norms = [*dictionaries, scale * atoms], [*norms, scale]
        target = PHI[phi][1](codes / scale)
    return DeepDictionary(tuple(dictionaries), codes, tuple(norms))


def fit(state: DeepDictionary, x: Float[Array, "n d"], mu: float, steps: int, phi: str = "tanh",
        **options) -> tuple[DeepDictionary, Float[Array, "t s"]]:
    """`steps` of `mm_step`, usually from `greedy`; `options` are its. Returns (state, objectives `[steps N + 1]`)."""
    return lax.scan(lambda state, _: mm_step(state, x, mu, phi, **options), state, None, steps)


def encode(dictionaries: tuple[Array, ...], x: Float[Array, "n d"], mu: float, phi: str = "tanh",
           steps: int = 20) -> Float[Array, "n m"]:
    """Codes of new examples: proximal steps on the objective from zero, which come nearer than inverting phi does.

    Args:
      dictionaries: learned.
      x: examples.
      mu, phi, steps: as in training; more steps come nearer.

    Returns:
      `[n m]`; `layers(dictionaries, codes, phi)[0]` reconstructs.
    """
    nothing = jnp.zeros((x.shape[0], dictionaries[-1].shape[0]), x.dtype)
    return _code_steps(dictionaries, nothing, x, mu, phi, steps)
