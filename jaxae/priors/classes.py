"""Classes of a conditional prior: labels, the null class that stands for any, and guidance away from it.

The null class is the label `num_classes`: training puts it in the place of some labels, and sampling with guidance w
takes `null + w (conditional - null)` of what the network says.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from jaxae import collectives


def check_label(label: Array | None, n: int, num_classes: int) -> Array | None:
    """The label of a class-conditional prior, None for one without classes; ValueError where it does not fit."""
    if not num_classes:
        return None
    if label is None or label.shape != (n,) or not jnp.issubdtype(label.dtype, jnp.integer):
        got = "None" if label is None else f"{label.dtype} of shape {label.shape}"
        raise ValueError(f"a prior with num_classes={num_classes} needs integer label [{n}]; got {got}.")
    # An embedding answers NaN past its end, but counts negative labels from there.
    return jnp.where(label < 0, num_classes + 1, label)


def rows_of(label: Int[Array, " n"] | None, n: int, num_classes: int) -> Int[Array, " n"]:
    """The row of the label embedding for each example; without classes the one row there is, the null class.

    Raises ValueError as `check_label`.
    """
    label = check_label(label, n, num_classes)
    return jnp.zeros(n, jnp.int32) if label is None else label.astype(jnp.int32)


def hide(key: Array, label: Int[Array, " n"], num_classes: int, rate: float, axis_name: str | None = None
         ) -> Int[Array, " n"]:
    """Labels with a random share `rate` of them replaced by the null class."""
    hidden = collectives.draw(lambda key, shape: jax.random.bernoulli(key, rate, shape), key, label.shape, axis_name)
    return jnp.where(hidden, num_classes, label)


def training_noise(label: Array | None, key: Array | None, num_classes: int, label_dropout: float,
                   axis_name: str | None) -> tuple[Array | None, dict[str, Array] | None]:
    """Labels `[n]`, a share of them replaced by the null class, the integer `num_classes`; and the rngs of a network.

    Without a key, the labels and None.
    """
    if key is None:
        return label, None
    keys = collectives.split_keys(key, ("label", "dropout"))
    if label is not None and label_dropout:
        label = hide(keys["label"], label, num_classes, label_dropout, axis_name)
    return label, {"dropout": keys["dropout"]}


def needs_guidance(guidance: float | Array, num_classes: int) -> bool:
    """Whether sampling needs the null class: for any guidance but the number 1.

    Raises:
      ValueError: for guidance without classes.
    """
    guided = not (isinstance(guidance, int | float) and guidance == 1)
    if guided and not num_classes:
        raise ValueError(f"guidance={guidance} needs a class-conditional prior, trained with label_dropout.")
    return guided


def sampling_options(label: Array | None, n: int, num_classes: int, guidance: float | Array,
                     top_k: int | None = None) -> tuple[Array | None, bool]:
    """The checked label, and whether sampling needs the null class."""
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k={top_k} must keep one code or more; None keeps all.")
    return check_label(label, n, num_classes), needs_guidance(guidance, num_classes)


def with_null(label: Array | None, num_classes: int, guided: bool) -> Array | None:
    """Labels `[n]`, then n null classes where sampling is guided."""
    return jnp.concatenate([label, jnp.full_like(label, num_classes)]) if guided else label


def guide(logits: Array, guidance: Array, guided: bool) -> Array:
    """`null + guidance (conditional - null)` of logits `[2n ...]` for labels `with_null`."""
    if not guided:
        return logits
    conditional, null = jnp.split(logits, 2)
    return null + guidance * (conditional - null)


def any_class(steps: Callable, params: PyTree, n: int, classes: tuple[int, ...]) -> tuple[PyTree, Callable]:
    """`Prior.steps` of latents that may be of any of several classes, equally likely before the first code.

        p(z_t | z_<t) = sum_y w_t(y) p(z_t | z_<t, y),   w_t(y) proportional to prod_{s<t} p(z_s | z_<s, y)

    so that the log probabilities of the steps add up to log mean_y p(z | y) exactly.

    Args:
      steps: of a class-conditional prior.
      params: its parameters.
      n: number of sequences.
      classes: labels; every step costs as much as one for each.

    Returns:
      `(cache, step)`: `step(code [n], cache) -> (log p [n K], cache)`.
    """
    c = len(classes)

    def split(cache):  # [n c ...]: a row for each sequence
        return jax.tree.map(lambda x: x.reshape(n, c, *x.shape[1:]) if jnp.ndim(x) else x, cache)

    def merge(cache):
        return jax.tree.map(lambda x: x.reshape(n * c, *x.shape[2:]) if jnp.ndim(x) else x, cache)

    empty, advance = steps(params, n * c, jnp.tile(jnp.array(classes, jnp.int32), n))
    codes = jax.eval_shape(advance, jnp.zeros(n * c, jnp.int32), empty)[0].shape[-1]

    def step(code, state):
        cache, log_weight, log_p = state
        log_weight = jax.nn.log_softmax(log_weight + log_p[jnp.arange(n), :, code])
        logits, cache = advance(jnp.repeat(code, c), merge(cache))
        log_p = jax.nn.log_softmax(logits).reshape(n, c, codes)
        return jax.nn.logsumexp(log_weight[..., None] + log_p, 1), (split(cache), log_weight, log_p)

    # Before the first code every class says the same of it: what is read first changes no weight.
    return (split(empty), jnp.zeros((n, c)), jnp.zeros((n, c, codes))), step
