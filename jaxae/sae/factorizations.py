"""Classical factorisations of data into codes and atoms, X = Z D: what sparse autoencoders are compared with."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from optax.projections import projection_simplex

METHODS = ("nmf", "semi_nmf", "convex_nmf", "archetypal", "sparse_pca", "dictionary")
_TINY = 1e-9
_matmul = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class Factorization(NamedTuple):
    """X is about Z D."""

    codes: Float[Array, "n m"]  # Z
    atoms: Float[Array, "m d"]  # D
    mixture: Float[Array, "m n2"] | None  # W, where D = W X
    losses: Float[Array, " steps"] | None  # |X - Z D|^2 after each step, where it was followed


def factorize(x: Float[Array, "n d"], atoms: int, method: str, key: Array, steps: int = 200) -> Factorization:
    """A factorisation by name; on the host, where scikit-learn has it ('nmf', 'sparse_pca', 'dictionary').

    Args:
      x: data. 'nmf' needs them not negative; 'sparse_pca' subtracts their mean, and its codes and atoms are of what
        is left; the others take them as they are.
      atoms: m.
      method: 'nmf' (both factors not negative), `semi_nmf` (the codes), `convex_nmf`, 'archetypal'
        (`archetypal_analysis`), 'sparse_pca' (codes free, atoms sparse), or 'dictionary' (codes sparse, of either
        sign, by lasso).
      key: starts the iterations.
      steps: of the method, at most.

    Raises:
      ValueError: for another method, or what the method cannot factorise.

    Reference: the baselines of Fel et al., Archetypal SAE, 2025, arXiv 2502.12892.
    """
    if method not in METHODS:
        raise ValueError(f"data are factorised by one of {METHODS}, not {method!r}")
    if method in ("semi_nmf", "convex_nmf", "archetypal"):
        run = {"semi_nmf": semi_nmf, "convex_nmf": convex_nmf, "archetypal": archetypal_analysis}[method]
        return run(key, jnp.asarray(x, jnp.float32), atoms, steps)
    from sklearn import decomposition  # slow to import

    x, seed = np.asarray(x, np.float64), int(jax.random.randint(key, (), 0, 2**31 - 1))
    if method == "nmf" and x.min() < 0:
        raise ValueError("'nmf' factorises data that are not negative: use 'semi_nmf', or do not centre them")
    found = {"nmf": lambda: decomposition.NMF(atoms, init="nndsvda", random_state=seed, max_iter=steps),
             "sparse_pca": lambda: decomposition.MiniBatchSparsePCA(atoms, random_state=seed, max_iter=steps),
             "dictionary": lambda: decomposition.MiniBatchDictionaryLearning(
                 atoms, random_state=seed, max_iter=steps, transform_algorithm="lasso_cd")}[method]()
    codes = found.fit_transform(x)
    return Factorization(jnp.asarray(codes, jnp.float32), jnp.asarray(found.components_, jnp.float32), None, None)


def semi_nmf(key: Array, x: Float[Array, "n d"], atoms: int, steps: int = 200) -> Factorization:
    r"""Codes that are not negative and free atoms, by multiplicative updates.

    $D = (Z^\top Z)^{-1} Z^\top X$, then $Z \leftarrow Z \sqrt{(A^+ + Z B^-) / (A^- + Z B^+)}$ with $A = X D^\top$,
    $B = D D^\top$, and positive and negative parts; $|X - Z D|^2$ never grows.

    Args:
      key: starts at different examples as atoms.
      x: data.
      atoms: m.
      steps: updates of both.

    Reference: Ding, Li and Jordan, Convex and semi-nonnegative matrix factorizations, 2010.
    """
    rows = _chosen(key, x, atoms)
    start = _near(x, x[rows])

    def step(z, _):
        d = _least_squares(z, x)
        (up, down), (grow, shrink) = _parts(_matmul(x, d.T)), _parts(_matmul(d, d.T))
        z = z * jnp.sqrt((up + _matmul(z, shrink)) / (down + _matmul(z, grow) + _TINY))
        return z, _loss(x, z, d)

    z, losses = jax.lax.scan(step, start, length=steps)
    d = _least_squares(z, x)
    return Factorization(z, d, None, losses.at[-1].set(_loss(x, z, d)))


def convex_nmf(key: Array, x: Float[Array, "n d"], atoms: int, steps: int = 200) -> Factorization:
    r"""Codes that are not negative and atoms that are convex combinations of data, D = W X.

    Multiplicative updates of both with $K = X X^\top$, which is held as an array `[n n]`.

    Args:
      key: starts at different examples as atoms.
      x: data.
      atoms: m.
      steps: updates of both.

    Returns:
      Rows of `mixture` sum to one.

    Reference: as `semi_nmf`.
    """
    n, rows = x.shape[0], _chosen(key, x, atoms)
    plus, minus = _parts(_matmul(x, x.T))

    def step(state, _):
        z, w = state
        pw, mw = _matmul(plus, w.T), _matmul(minus, w.T)  # [n m]
        z = z * jnp.sqrt((pw + _matmul(z, _matmul(w, mw))) / (mw + _matmul(z, _matmul(w, pw)) + _TINY))
        pz, mz, zz = _matmul(plus, z), _matmul(minus, z), _matmul(z.T, z)
        w = w * jnp.sqrt((pz + _matmul(_matmul(minus, w.T), zz)) / (mz + _matmul(_matmul(plus, w.T), zz) + _TINY)).T
        return (z, w), _loss(x, z, _matmul(w, x))

    (z, w), losses = jax.lax.scan(step, (_near(x, x[rows]), jax.nn.one_hot(rows, n) + 0.2 / n), length=steps)
    total = w.sum(1)
    w = w / total[:, None]
    return Factorization(z * total, _matmul(w, x), w, losses)


def archetypal_analysis(key: Array, x: Float[Array, "n d"], atoms: int, steps: int = 100,
                        inner: int = 20) -> Factorization:
    r"""Examples are convex combinations of atoms, which are convex combinations of examples: X = Z W X.

    Projected gradients on the simplex for Z and W in turn, accelerated, with steps 1/L of each quadratic;
    $|X - Z W X|^2$ never grows.

    Args:
      key: starts at examples far from one another, which the key's examples are exchanged for.
      x: data.
      atoms: m.
      steps: turns.
      inner: gradient steps of each turn and factor.

    Returns:
      Rows of `codes` and of `mixture` are not negative and sum to one.

    Reference: Cutler and Breiman, Archetypal analysis, 1994.
    """
    n, rows = x.shape[0], _far(key, x, atoms)
    norm = jnp.linalg.norm(_matmul(x.T, x), ord=2)

    def turn(state, _):
        z, w = state
        d = _matmul(w, x)
        gram, product = _matmul(d, d.T), _matmul(x, d.T)
        z = _descend(z, lambda z: _matmul(z, gram) - product, lambda z: _loss(x, z, d), jnp.linalg.norm(gram, ord=2),
                     inner)
        square, goal = _matmul(z.T, z), _matmul(z.T, x)
        w = _descend(w, lambda w: _matmul(_matmul(square, _matmul(w, x)) - goal, x.T),
                     lambda w: _loss(x, z, _matmul(w, x)), jnp.linalg.norm(square, ord=2) * norm, inner)
        return (z, w), _loss(x, z, _matmul(w, x))

    start = jnp.full((n, atoms), 1.0 / atoms), jax.nn.one_hot(rows, n)
    (z, w), losses = jax.lax.scan(turn, start, length=steps)
    return Factorization(z, _matmul(w, x), w, losses)


def _descend(start, gradient, loss, curvature, steps):
    """Accelerated projected gradients on rows of simplices; a plain step where they end higher than they began."""
    project, rate = jax.vmap(projection_simplex), 1.0 / jnp.maximum(curvature, _TINY)

    def step(i, state):
        now, ahead = state
        new = project(ahead - rate * gradient(ahead))
        return new, new + i / (i + 3.0) * (new - now)

    plain = project(start - rate * gradient(start))
    found = jax.lax.fori_loop(0, steps, step, (start, start))[0]
    return jnp.where(loss(found) <= loss(plain), found, plain)


def _loss(x, z, d):
    return jnp.square(x - _matmul(z, d)).sum()


def _parts(a):
    """Positive and negative parts, both not negative."""
    return jnp.maximum(a, 0.0), jnp.maximum(-a, 0.0)


def _least_squares(z, x):
    gram = _matmul(z.T, z)
    ridge = 1e-6 * jnp.trace(gram) / len(gram) * jnp.eye(len(gram))
    return jax.scipy.linalg.solve(gram + ridge, _matmul(z.T, x), assume_a="pos")


def _near(x, start):
    """Codes to start from: each example at the most similar of the first atoms, and a little everywhere."""
    return jax.nn.one_hot(_matmul(x, start.T).argmax(1), len(start)) + 0.2


def _chosen(key, x, atoms):
    _check(x, atoms)
    return jax.random.permutation(key, x.shape[0])[:atoms]


def _far(key, x, atoms):
    """Rows of examples with a large sum of distances to one another, which makes them vertices of the hull."""
    _check(x, atoms)

    def exchange(rows, i):
        rows = rows.at[i].set(rows[i - 1])
        away = jnp.linalg.norm(x[:, None] - x[rows], axis=-1).sum(1)
        return rows.at[i].set(away.at[rows].set(-1.0).argmax()), None

    return jax.lax.scan(exchange, _chosen(key, x, atoms), jnp.tile(jnp.arange(atoms), 3))[0]


def _check(x, atoms):
    if not 1 <= atoms <= x.shape[0]:
        raise ValueError(f"{atoms} atoms cannot start at {x.shape[0]} different examples: use from 1 to {x.shape[0]}")
