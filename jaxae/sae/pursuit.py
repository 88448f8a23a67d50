"""Greedy codes: atoms are chosen one after another by what the earlier ones left unexplained."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxae.sae.codes import Codes, dense
from jaxae.sae.sparsifiers import check_k


class Pursuit(NamedTuple):
    """What a pursuit gives for n examples in T steps; a step that was not needed has the value 0."""

    codes: Float[Array, "n m"]  # dense; not computed under jit where nothing reads it
    residual: Float[Array, "n d"]  # x - codes @ atoms
    indices: Int[Array, "n t"]  # the atom of each step
    values: Float[Array, "n t"]  # what the step adds to its code


def matching_pursuit(x: Float[Array, "n d"], atoms: Float[Array, "m w"], steps: int, signed: bool = False,
                     tolerance: float | None = None) -> Pursuit:
    r"""$j_t = \arg\max_j D_j r_{t-1}$, $c_t = \mathrm{ReLU}(D_{j_t} r_{t-1})$, $r_t = r_{t-1} - c_t D_{j_t}$ from x.

    With atoms of unit norm $r_t \perp D_{j_t}$ and $\|r_t\|^2 = \|r_{t-1}\|^2 - c_t^2$, so the residual never grows. An
    atom can be chosen again; its code is then the sum, and fewer than `steps` atoms are active. Gradients reach x and
    the atoms through the coefficients c and the residuals; which atoms are chosen is constant.

    Args:
      x: examples, without the decoder's offset.
      atoms: rows of unit norm; longer ones can make the residual grow.
      steps: T, at least 1. The number at inference may be another than in training.
      signed: chooses by |D r| and keeps the sign; otherwise codes are not negative.
      tolerance: examples whose residual has this norm or less take no further steps.

    Returns:
      A `Pursuit`; `Codes(values, indices)` decodes it by gathering.

    Raises:
      ValueError: for other widths, or no steps.

    >>> import jax.numpy as jnp
    >>> matching_pursuit(jnp.array([[1.0, 3.0]]), jnp.eye(2), 2).values.tolist()
    [[3.0, 1.0]]

    Reference: Mallat and Zhang, Matching pursuits with time-frequency dictionaries, 1993; as an encoder Costa et al.,
    From flat to hierarchical: extracting sparse representations with matching pursuit, 2025, arXiv 2506.03093.
    """
    _check(x, atoms)
    if steps < 1:
        raise ValueError(f"a pursuit of {steps} steps chooses nothing: use at least one")
    fixed = lax.stop_gradient(atoms).T

    def step(residual, _):
        found = lax.stop_gradient(residual) @ fixed  # [n m], alive for one step
        index = jnp.argmax(jnp.abs(found) if signed else found, axis=-1)
        rows = atoms[index]
        value = (rows * residual).sum(-1)
        value = value if signed else jax.nn.relu(value)
        if tolerance is not None:
            value = jnp.where(jnp.square(lax.stop_gradient(residual)).sum(-1) > tolerance**2, value, 0.0)
        return residual - value[:, None] * rows, (index, value)

    residual, (indices, values) = lax.scan(step, x, None, steps)
    return Pursuit(dense(Codes(values.T, indices.T), atoms.shape[0]), residual, indices.T, values.T)


def merged(codes: Codes) -> Codes:
    """The codes with an atom that was chosen again in one place: its first, which has the sum; later ones have 0."""
    same = codes.indices[:, :, None] == codes.indices[:, None, :]  # [n k k]
    later = jnp.tril(same, -1).any(-1)
    return codes._replace(values=jnp.where(later, 0.0, (same * codes.values[:, None, :]).sum(-1)))


def orthogonal_matching_pursuit(x: Float[Array, "n d"], atoms: Float[Array, "m w"], steps: int,
                                signed: bool = False, tolerance: float = 1e-6) -> Pursuit:
    r"""Matching pursuit whose codes are fitted anew to all chosen atoms: $r_t = x - D_{S_t}^+ x$.

    No atom is chosen twice. Memory for the chosen rows is `[n T d]`. Gradients flow through the last fit.

    Args:
      x: examples, without the decoder's offset.
      atoms: rows of unit norm.
      steps: T, from 1 to m.
      signed: chooses by |D r|. Otherwise by D r, but a fit can still make the code of an earlier choice negative.
      tolerance: examples stop once their residual is this share of their norm or less.

    Returns:
      A `Pursuit`; `values` are the codes of `indices`.

    Raises:
      ValueError: for other widths, or a number of steps outside [1, m].

    Reference: Pati, Rezaiifar and Krishnaprasad, Orthogonal matching pursuit, 1993.
    """
    _check(x, atoms)
    check_k(steps, atoms.shape[0])
    n, width = x.shape
    fixed, start = lax.stop_gradient(atoms), lax.stop_gradient(x)
    least = tolerance * jnp.linalg.norm(start, axis=-1)

    def step(t, state):
        residual, basis, indices, used = state  # [n d], [n T d] orthonormal, [n T], [n T]
        found = residual @ fixed.T
        taken = jnp.zeros_like(found, bool).at[jnp.arange(n)[:, None], indices].max(used)
        index = jnp.argmax(jnp.where(taken, -jnp.inf, jnp.abs(found) if signed else found),
                           axis=-1).astype(jnp.int32)
        new = fixed[index]
        for _ in range(2):  # once leaves what rounding put back
            new = new - jnp.einsum("nt,ntd->nd", jnp.einsum("ntd,nd->nt", basis, new), basis)
        norm = jnp.linalg.norm(new, axis=-1)
        use = (jnp.linalg.norm(residual, axis=-1) > least) & (norm > 1e-4)  # not within the span of the others
        if not signed:
            use &= jnp.take_along_axis(found, index[:, None], 1)[:, 0] > 0
        new = jnp.where(use[:, None], new / jnp.maximum(norm, 1e-4)[:, None], 0.0)
        residual = residual - (new * residual).sum(-1, keepdims=True) * new
        return residual, basis.at[:, t].set(new), indices.at[:, t].set(index), used.at[:, t].set(use)

    begin = (start, jnp.zeros((n, steps, width), x.dtype), jnp.zeros((n, steps), jnp.int32),
             jnp.zeros((n, steps), bool))
    _, _, indices, used = lax.fori_loop(0, steps, step, begin)
    values = fit_support(x, atoms, indices, used)
    residual = x - jnp.einsum("nt,ntd->nd", values, atoms[indices])
    return Pursuit(dense(Codes(values, indices), atoms.shape[0]), residual, indices, values)


def fit_support(x: Float[Array, "n d"], atoms: Float[Array, "m d"], indices: Int[Array, "n k"],
                used: Bool[Array, "n k"] | None = None) -> Float[Array, "n k"]:
    r"""Least squares on given atoms, $z_S = \arg\min_z \|x - z D_S\|^2 = x D_S^+$.

    Solved by a Cholesky factor of the atoms' products with a small ridge, whose effect two refinements take back; atoms
    that depend on one another are no fault.

    Args:
      x: examples.
      atoms: rows of D.
      indices: S, different ones for an example.
      used: which of them to fit; the others get 0.

    Returns:
      `[n k]`.
    """
    rows = atoms[indices]  # [n k d]
    if used is not None:
        rows = jnp.where(used[..., None], rows, 0.0)
    products = jnp.einsum("nkd,nld->nkl", rows, rows)
    scale = jnp.trace(products, axis1=1, axis2=2) / indices.shape[1]
    ridge = jnp.maximum(lax.stop_gradient(scale), 1e-12)[:, None, None] * 1e-5
    factor = jnp.linalg.cholesky(products + ridge * jnp.eye(indices.shape[1], dtype=x.dtype))
    values = jnp.zeros(indices.shape, x.dtype)
    for _ in range(3):
        left = x - jnp.einsum("nk,nkd->nd", values, rows)
        values = values + jax.scipy.linalg.cho_solve((factor, True), jnp.einsum("nd,nkd->nk", left, rows)[..., None]
                                                     )[..., 0]
    return values


def gradient_pursuit(x: Float[Array, "n d"], atoms: Float[Array, "m w"], l0: Int[Array, " r"]) -> Float[Array, "n m"]:
    r"""Nonnegative codes with at most `l0` active atoms each, to compare with an encoder's at equal sparsity.

    With r = x - w D: $S \leftarrow S \cup \{\arg\max_j D_j r\}$, $g = (D r)_S$, $c = g D$,
    $w \leftarrow \max(0, w + g \, c r / c c)$; example i takes $l0_i$ such steps.

    Args:
      x: examples, without the decoder's offset.
      atoms: rows of unit norm, or the argmax prefers long ones.
      l0: steps of each example, such as the number of atoms that an encoder activates.

    Returns:
      `[n m]`, without gradients: the loop's length depends on the data.

    Raises:
      ValueError: for other widths, or another number of examples in `l0`.

    Reference: Blumensath and Davies, Gradient pursuits, 2008; on sparse autoencoders' dictionaries Engels, Riggs and
    Tegmark, Decomposing the dark matter of sparse autoencoders, 2024, arXiv 2410.14670.
    """
    _check(x, atoms)
    if l0.shape != x.shape[:1]:
        raise ValueError(f"l0 has shape {l0.shape}, the examples are {x.shape[0]}: give one number of atoms for each")
    x, atoms = lax.stop_gradient((x, atoms))

    def step(t, state):
        codes, support, residual = state
        found = residual @ atoms.T
        wider = support.at[jnp.arange(x.shape[0]), jnp.argmax(found, axis=-1)].set(True)
        slope = jnp.where(wider, found, 0.0)
        direction = slope @ atoms
        length = (direction * residual).sum(-1) / jnp.maximum(jnp.square(direction).sum(-1), 1e-30)
        new = jnp.maximum(codes + length[:, None] * slope, 0.0)
        goes = (t < l0)[:, None]
        codes, support = jnp.where(goes, new, codes), jnp.where(goes, wider, support)
        return codes, support, x - codes @ atoms

    nothing = jnp.zeros((x.shape[0], atoms.shape[0]), x.dtype)
    return lax.fori_loop(0, l0.max(), step, (nothing, jnp.zeros_like(nothing, bool), x))[0]


def _check(x, atoms):
    if x.shape[-1] != atoms.shape[-1]:
        raise ValueError(f"examples of width {x.shape[-1]} do not fit atoms of width {atoms.shape[-1]}: use the "
                         f"dictionary that was made for them")
