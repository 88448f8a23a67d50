"""From pre-activations to codes: which atoms are in use."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxae import collectives
from jaxae.sae.codes import Codes
from jaxae.sae.encoders import Encoded
from jaxae.sae.ranking import kth_largest, top_k


def relu(pre: Float[Array, "n m"]) -> Codes:
    """max(0, pre) by element, as codes of all atoms: the encoder of a sparse autoencoder with an L1 penalty.

    Args:
      pre: pre-activations of n examples and m atoms.

    Returns:
      `Codes` with `values [n m]` and no `indices`.

    Reference: Cunningham et al., 2023, arXiv 2309.08600.
    """
    return Codes(jax.nn.relu(pre))


def check_k(k: int, atoms: int) -> None:
    """Refuses a number of active atoms that a dictionary cannot have.

    Args:
      k: active atoms of an example.
      atoms: of the dictionary, m.

    Raises:
      ValueError: for k outside [1, m].
    """
    if not 1 <= k <= atoms:
        raise ValueError(f"k={k} of {atoms} atoms cannot be active: choose k from 1 to {atoms}")


def topk(encoded: Encoded, k: int) -> Codes:
    """ReLU of the k largest pre-activations of each example.

    Largest by value, with sign: what is chosen and negative becomes zero. Ties go to the lower index, so that k are
    chosen, never more.

    Args:
      encoded: pre-activations `[n m]`.
      k: of m.

    Raises:
      ValueError: for k outside [1, m].

    Reference: Makhzani and Frey, k-sparse autoencoders, ICLR 2014, arXiv 1312.5663; Gao et al. 2024, arXiv 2406.04093.
    """
    check_k(k, encoded.pre.shape[-1])
    if encoded.largest is None:
        return score_topk(encoded, encoded.pre, k)
    found = encoded.largest(k)
    return found._replace(values=jax.nn.relu(found.values))


def score_topk(encoded: Encoded, score: Float[Array, "n m"], k: int) -> Codes:
    r"""ReLU of the pre-activations whose scores are the k largest of each example.

    With $s = \mathrm{ReLU}(a) (1 + \beta |D g|)$ and g the gradient of a later loss, atoms which matter to that loss
    are chosen though they are small.

    Args:
      encoded: pre-activations.
      score: ranks the atoms; it carries no gradient.
      k: of m.

    Raises:
      ValueError: for k outside [1, m].

    Reference: Olmo, Wilson, Forsey, Hepner, Howe and Wingate, Features that make a difference, 2024,
    arXiv 2411.10397.
    """
    check_k(k, score.shape[-1])
    indices = top_k(jax.lax.stop_gradient(score), k)[1]
    return Codes(jax.nn.relu(encoded.at(indices)), indices)


def influence_score(pre: Float[Array, "n m"], atoms: Float[Array, "m o"], gradient: Float[Array, "n o"],
                    beta: float | Float[Array, ""], product: bool = False,
                    axis_name: str | None = None) -> Float[Array, "n m"]:
    r"""$p + \beta p \, |D g| / \overline{|D g|}$ with $p = \mathrm{ReLU}(a)$; without the first p as a `product`.

    Args:
      pre: a.
      atoms: D.
      gradient: g, of a later loss by what is reconstructed, one for each example.
      beta: how much gradients count; 1 is as much as the activation itself, since |D g| is divided by its mean.
      product: leaves the plain activation out.
      axis_name: the mapped axis of the batch.

    Returns:
      Scores for `score_topk`; a gradient that is zero everywhere leaves p.

    Reference: as `score_topk`; the division by the mean is ours, so that beta has a scale.
    """
    effect = jnp.abs(gradient @ atoms.T)
    average = collectives.mean(effect.mean(), axis_name)
    effect = effect / jnp.where(average > 0, average, 1.0)
    active = jax.nn.relu(pre)
    return jnp.where(average > 0, active * (beta * effect + (0.0 if product else 1.0)), active)


def absolute_topk(encoded: Encoded, k: int) -> Codes:
    """The k pre-activations of largest magnitude of each example, with their signs.

    Raises:
      ValueError: for k outside [1, m].

    Reference: Zhu et al., AbsTopK: rethinking sparse autoencoders for bidirectional features, 2025, arXiv 2510.00404.
    """
    check_k(k, encoded.pre.shape[-1])
    indices = top_k(jax.lax.stop_gradient(jnp.abs(encoded.pre)), k)[1]
    return Codes(encoded.at(indices), indices)


def batch_topk(pre: Float[Array, "n m"], k: int, axis_name: str | None = None) -> tuple[Codes, Float[Array, ""]]:
    """The n k largest pre-activations of the whole batch, wherever they are: busy examples get more.

    Ties at the smallest one kept are kept all. Negative ones never fill the budget.

    Args:
      pre: `[n m]`.
      k: active atoms of an example on average.
      axis_name: the mapped axis: the budget is that of the global batch.

    Returns:
      (codes, the smallest pre-activation that was kept). For inference keep what exceeds a moving average of the
      latter: a batch must not change what its examples are.

    Raises:
      ValueError: for k outside [1, m].

    Reference: Bussmann, Leask and Nanda, BatchTopK sparse autoencoders, 2024, arXiv 2412.06410; 'mutual choice' of
    Ayonrinde, 2024, arXiv 2411.02124.
    """
    check_k(k, pre.shape[-1])
    active = jax.nn.relu(pre)
    rows = collectives.total(pre.shape[0], axis_name)
    smallest = kth_largest(jax.lax.stop_gradient(active), rows * k, axis_name)
    kept = (active >= smallest) & (active > 0)
    return Codes(jnp.where(kept, active, 0.0)), smallest


def feature_choice(pre: Float[Array, "n m"], quotas: Int[Array, " m"], most: int,
                   axis_name: str | None = None) -> tuple[Codes, Float[Array, " m"]]:
    """Every atom takes the examples of the global batch in which it is most active, as many as its quota.

    Args:
      pre: `[n m]`.
      quotas: examples for each atom, at least 1.
      most: the largest quota, static.
      axis_name: the mapped axis: quotas are of the global batch.

    Returns:
      (codes, the smallest pre-activation kept for each atom), the latter for inference by thresholds.

    Raises:
      ValueError: for a largest quota above the global batch.

    Reference: Ayonrinde, Adaptive sparse allocation with mutual choice and feature choice sparse autoencoders, 2024,
    arXiv 2411.02124.
    """
    active = jax.nn.relu(pre)
    columns = collectives.gather(jax.lax.stop_gradient(active), axis_name).T  # [m N]
    if not 1 <= most <= columns.shape[1]:
        raise ValueError(f"a quota of {most} of a batch of {columns.shape[1]} examples: use a larger batch_size, or "
                         f"quotas from 1 to that")
    best = jax.lax.top_k(columns, most)[0]  # [m most]
    smallest = jnp.take_along_axis(best, jnp.clip(quotas, 1, most)[:, None] - 1, axis=1)[:, 0]
    return Codes(jnp.where((active >= smallest) & (active > 0), active, 0.0)), smallest


def above(pre: Float[Array, "n m"], threshold: Float[Array, "..."]) -> Codes:
    """Pre-activations that are positive and exceed a threshold, of all atoms `[]` or of each `[m]`; others are zero."""
    return Codes(jnp.where((pre > threshold) & (pre > 0), pre, 0.0))


@jax.custom_vjp
def _step(pre, threshold, bandwidth):
    return (pre > threshold).astype(pre.dtype)


def _step_forward(pre, threshold, bandwidth):
    return _step(pre, threshold, bandwidth), (pre, threshold, bandwidth)


def _inside(pre, threshold, bandwidth):
    return (jnp.abs(pre - threshold) < 0.5 * bandwidth) / bandwidth


def _step_backward(kept, slope):
    pre, threshold, bandwidth = kept
    moved = -(slope * _inside(pre, threshold, bandwidth))
    return jnp.zeros_like(pre), moved.sum(tuple(range(pre.ndim - 1))), jnp.zeros_like(bandwidth)


_step.defvjp(_step_forward, _step_backward)


def heaviside(pre: Float[Array, "... m"], threshold: Float[Array, " m"],
              bandwidth: float | Float[Array, ""]) -> Float[Array, "... m"]:
    r"""$H(a - \theta)$, with $-\frac1\epsilon K((a-\theta)/\epsilon)$ in the place of its derivative by $\theta$ and 0
    in that of the derivative by a, where K is 1 on (-1/2, 1/2).

    The sum over its row is the number of active atoms; the mean over many examples has the gradient of the expected
    number, up to the kernel's width.

    Args:
      pre: a.
      threshold: theta, positive.
      bandwidth: epsilon, in units of a.

    Reference: Rajamanoharan et al., Jumping ahead: improving reconstruction fidelity with JumpReLU sparse autoencoders,
    2024, arXiv 2407.14435; Lieberum et al., Gemma Scope, 2024, arXiv 2408.05147.
    """
    return _step(pre, jnp.broadcast_to(threshold, pre.shape[-1:]), jnp.asarray(bandwidth, pre.dtype))


@jax.custom_vjp
def _jump(pre, threshold, bandwidth):
    return pre * (pre > threshold)


def _jump_forward(pre, threshold, bandwidth):
    return _jump(pre, threshold, bandwidth), (pre, threshold, bandwidth)


def _jump_backward(kept, slope):
    pre, threshold, bandwidth = kept
    moved = -(slope * threshold * _inside(pre, threshold, bandwidth))
    return slope * (pre > threshold), moved.sum(tuple(range(pre.ndim - 1))), jnp.zeros_like(bandwidth)


_jump.defvjp(_jump_forward, _jump_backward)


def jump_relu(pre: Float[Array, "... m"], threshold: Float[Array, " m"],
              bandwidth: float | Float[Array, ""]) -> Float[Array, "... m"]:
    r"""$a H(a - \theta)$, with $-\frac\theta\epsilon K((a-\theta)/\epsilon)$ as its derivative by $\theta$.

    Args and reference: as `heaviside`.
    """
    return _jump(pre, jnp.broadcast_to(threshold, pre.shape[-1:]), jnp.asarray(bandwidth, pre.dtype))


@jax.custom_vjp
def prolu(pre: Float[Array, "n m"], bias: Float[Array, " m"]) -> Float[Array, "n m"]:
    r"""$a \, 1[a + b > 0, a > 0]$: a bias that chooses and does not shrink, with the gradients of ReLU(a + b) by b.

    Args:
      pre: a, without bias.
      bias: b.

    Reference: Taggart, ProLU: a nonlinearity for sparse autoencoders, 2024; the estimator whose derivative by b is that
    by a.
    """
    return pre * ((pre + bias > 0) & (pre > 0))


def _prolu_forward(pre, bias):
    return prolu(pre, bias), (pre + bias > 0) & (pre > 0)


def _prolu_backward(open_, slope):
    return slope * open_, (slope * open_).sum(0)


prolu.defvjp(_prolu_forward, _prolu_backward)


def nested_topk(encoded: Encoded, ks: tuple[int, ...]) -> list[Codes]:
    """`topk` for several k, by one ranking.

    Args:
      encoded: pre-activations `[n m]`.
      ks: increasing.

    Raises:
      ValueError: for sizes that do not increase from 1 to m.

    Reference: Zaigrajew, Baniecki and Biecek, Interpreting CLIP with hierarchical sparse autoencoders, 2025,
    arXiv 2502.20578.
    """
    if not ks or list(ks) != sorted(set(ks)):
        raise ValueError(f"ks={tuple(ks)} must increase")
    most = topk(encoded, ks[-1])
    return [Codes(most.values[:, :k], most.indices[:, :k]) for k in ks]
