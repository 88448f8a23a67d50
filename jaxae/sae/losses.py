"""Losses of sparse autoencoders, per example, and how they are reduced."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxae import collectives
from jaxae.sae.codes import Codes, decode, row_sums
from jaxae.sae.encoders import Encoded
from jaxae.sae.ranking import top_k
from jaxae.sae.sparsifiers import check_k


def squared_error(y: Float[Array, "n o"], y_hat: Float[Array, "n o"],
                  variance: Float[Array, ""] | float = 1.0) -> Float[Array, " n"]:
    r"""$\|y - \hat y\|^2 / v$, `[n]`, summed over dimensions.

    Args:
      y, y_hat: what is reconstructed and how.
      variance: v, a constant such as E|y - E y|^2 of the data, which makes it the share of variance not explained.
    """
    return jnp.square(y - y_hat).sum(-1) / variance


def auxk(encoded: Encoded, atoms: Float[Array, "m o"], error: Float[Array, "n o"], dead: Bool[Array, " m"], k: int,
         axis_name: str | None = None) -> Float[Array, " n"]:
    r"""How well atoms that do not fire would explain what is left: $\|e - \hat e\|^2 / \mathrm{Var}(e)$.

    $\hat e$ is decoded, without offset, from the ReLU of the k largest pre-activations among the dead atoms; e carries
    no gradient, and atoms alive none of this loss. Var is the batch's mean of |e - mean e|^2. Where fewer than k are
    dead, those take part.

    Args:
      encoded: pre-activations `[n m]`.
      atoms: the decoder.
      error: e = y - y_hat.
      dead: atoms that have not fired for long.
      k: a power of two near d / 2 in the paper.
      axis_name: the mapped axis: Var is of the global batch.

    Returns:
      `[n]`; zero where no atom is dead.

    Raises:
      ValueError: for k outside [1, m].

    Reference: Gao et al., Scaling and evaluating sparse autoencoders, 2024, arXiv 2406.04093.
    """
    check_k(k, encoded.pre.shape[-1])
    error = jax.lax.stop_gradient(error)
    ranked = jnp.where(dead, jax.lax.stop_gradient(encoded.pre), -jnp.inf)
    indices = top_k(ranked, k)[1]
    values = jnp.where(dead[indices], jax.nn.relu(encoded.at(indices)), 0.0)
    found = decode(Codes(values, indices), atoms)
    mean = collectives.mean(error.mean(0), axis_name)
    variance = collectives.mean(jnp.square(error - mean).sum(-1).mean(), axis_name)
    return jnp.where(dead.any() & (variance > 0), squared_error(error, found, jnp.maximum(variance, 1e-30)), 0.0)


def revival(atoms: Float[Array, "m o"], residual: Float[Array, "n o"], dead: Bool[Array, " m"]) -> Float[Array, " n"]:
    r"""$-\frac{1}{|\mathcal D|} \sum_{j \in \mathcal D} D_j r$: draws dead atoms to what a pursuit leaves unexplained.

    Args:
      atoms: D.
      residual: r = y - y_hat; it carries no gradient.
      dead: atoms that have not been chosen for long.

    Returns:
      `[n]`; zero where no atom is dead.

    Reference: Costa et al., From flat to hierarchical, 2025, arXiv 2506.03093.
    """
    mean = jnp.where(dead[:, None], atoms, 0.0).sum(0) / jnp.maximum(dead.sum(), 1)
    return -jax.lax.stop_gradient(residual) @ mean


def l1(codes: Codes, atoms: Float[Array, "m o"] | None = None, saturation: float = 0.0) -> Float[Array, " n"]:
    r"""$\sum_j |z_j|$, or $\sum_j |z_j| \|D_j\|$, which no change of scale between code and atom can lower.

    Args:
      codes: of n examples.
      atoms: D, for the second form.
      saturation: c > 0 puts $\tanh(c u) / c$ in the place of every term u, which hardly shrinks large codes.

    >>> round(float(l1(Codes(jnp.array([[0.1, 50.0]])), saturation=0.5)[0]), 2)
    2.1
    """
    terms = jnp.abs(codes.values)
    if atoms is not None:
        norms = jnp.linalg.norm(atoms, axis=-1)
        terms = terms * (norms if codes.indices is None else norms[codes.indices])
    return row_sums(codes, jnp.tanh(saturation * terms) / saturation if saturation else terms)


def l0_target(l0: Float[Array, " n"], target: float | Float[Array, ""],
              axis_name: str | None = None) -> Float[Array, ""]:
    r"""$(\bar L_0 / t - 1)^2$ with the mean number of active atoms of the global batch.

    Args:
      l0: active atoms of each example, with a gradient by `heaviside`.
      target: t.
      axis_name: the mapped axis.
    """
    return jnp.square(collectives.mean(l0.mean(), axis_name) / target - 1.0)


def matryoshka(y: Float[Array, "n o"], decoded: list[Float[Array, "n o"]], weights: tuple[float, ...],
               variance: Float[Array, ""] | float = 1.0) -> Float[Array, " n"]:
    r"""$\sum_h \alpha_h \|y - \hat y^{(h)}\|^2 / (v \sum_h \alpha_h)$ over nested codes.

    Args:
      y: what is reconstructed.
      decoded: reconstructions from `nested_topk`'s codes, or from prefixes of the dictionary.
      weights: alpha, one for each.
      variance: v.

    Raises:
      ValueError: for another number of weights.

    Reference: Zaigrajew, Baniecki and Biecek, Interpreting CLIP with hierarchical sparse autoencoders, 2025,
    arXiv 2502.20578; with prefixes Bussmann, Nabeshima, Karvonen and Nanda, 2025, arXiv 2503.17547.
    """
    if len(weights) != len(decoded):
        raise ValueError(f"{len(weights)} weights for {len(decoded)} nested reconstructions: give one for each")
    each = [w * squared_error(y, y_hat, variance) for w, y_hat in zip(weights, decoded, strict=True)]
    return sum(each) / sum(weights)


def matryoshka_weights(levels: int, kind: str = "uniform") -> tuple[float, ...]:
    """1 for each level ('uniform'), or H, H-1, ..., 1: most to the sparsest ('reverse').

    >>> matryoshka_weights(3, "reverse")
    (3.0, 2.0, 1.0)
    """
    if kind not in ("uniform", "reverse"):
        raise ValueError(f"weights are 'uniform' or 'reverse', not {kind!r}")
    return tuple(float(levels - h) if kind == "reverse" else 1.0 for h in range(levels))


def tilted(loss: Float[Array, " n"], tilt: float | Float[Array, ""], axis_name: str | None = None) -> Float[Array, ""]:
    r"""$\frac1t \log \frac1n \sum_i e^{t \ell_i}$: the mean for t to 0, the largest for t to infinity.

    Its gradient weighs examples by softmax(t l). It is a loss of the global batch.

    Args:
      loss: of each example.
      tilt: t, not 0.
      axis_name: the mapped axis.

    Returns:
      A scalar, whose gradient averaged over replicas is that of one device.

    Raises:
      ValueError: for t = 0, which is the mean.

    Reference: Li, Beirami, Sanjabi and Smith, Tilted empirical risk minimization, ICLR 2021, arXiv 2007.01162; of
    sparse autoencoders Muhamed, Diab and Smith, Decoding dark matter, 2024, arXiv 2411.00743.
    """
    if isinstance(tilt, int | float) and tilt == 0:
        raise ValueError("a tilt of 0 is the mean: reduce by the mean instead")
    each = collectives.gather(loss, axis_name)
    return (jax.nn.logsumexp(tilt * each) - jnp.log(each.shape[0])) / tilt
