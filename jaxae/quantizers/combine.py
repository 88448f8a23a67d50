"""Quantizers made of quantizers: many heads side by side, many stages one after the other."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Real

from jaxae.quantizers.base import Codes, Quantized, Quantizer, check_indices
from jaxae.quantizers.estimators import estimator_of


def product(quantizer: Quantizer, heads: int, shared: bool = False) -> Quantizer:
    """Product quantization: channels are cut into `heads` equal parts, each quantized by itself.

    K^heads values for the price of K codes a head. A vector's indices are those of head 0 first, then head 1, ...;
    losses and metrics are means over heads, as they are over channels. `product(residual(...))` is grouped residual
    quantization.

    Args:
      quantizer: of one head; the product's width is `heads` times its own.
      heads: at least 1.
      shared: one state for all heads, which sees them as positions; else a state for each, on a first axis of every
        leaf.

    Returns:
      A `Quantizer` of `heads` times the places.

    Raises:
      ValueError: for less than one head; from `quantize` for vectors of another width.

    Example:
      >>> from jaxae.quantizers.simvq import simvq
      >>> quantizer = product(simvq(16, 2), heads=3)
      >>> quantizer.width, quantizer.codes, quantizer.places
      (6, 16, 3)

    Reference: Jegou, Douze, Schmid, 'Product quantization for nearest neighbor search', TPAMI 2011.
    """
    if heads < 1:
        raise ValueError(f"heads={heads} must be at least 1")
    places, width = heads * quantizer.places, heads * quantizer.width

    def cut(z):  # [... heads w]
        if z.shape[-1] != width:
            raise ValueError(f"the encoder gives vectors of width {z.shape[-1]}, {heads} heads of width "
                             f"{quantizer.width} want {width}: make them equal")
        return z.reshape(*z.shape[:-1], heads, quantizer.width)

    def join(z_q):
        return z_q.reshape(*z_q.shape[:-2], width)

    def by_head(indices):  # [... places] -> [... heads q], or [... heads] for q = 1
        indices = _with_places(indices, places)
        return indices.reshape(*indices.shape[:-1], heads, quantizer.places) if quantizer.places > 1 else indices

    def together(indices):  # the inverse
        indices = _with_places(indices, quantizer.places)
        return _without_one(indices.reshape(*indices.shape[:-2], places))

    def init(key):
        return quantizer.init(key) if shared else jax.vmap(quantizer.init)(jax.random.split(key, heads))

    def quantize(z, state, key, train):
        if shared:
            found = quantizer.quantize(cut(z), state, key, train)
            return found._replace(z_q=join(found.z_q), indices=together(found.indices))
        found = jax.vmap(lambda z, state, key: quantizer.quantize(z, state, key, train))(
            jnp.moveaxis(cut(z), -2, 0), state, jax.random.split(key, heads))
        return Quantized(join(jnp.moveaxis(found.z_q, 0, -2)),
                         together(jnp.moveaxis(found.indices, 0, -1 if quantizer.places == 1 else -2)),
                         found.loss.mean(0), found.state, jax.tree.map(lambda x: x.mean(0), found.metrics))

    def lookup(indices, state):
        check_indices(indices, quantizer.codes, least=-1 if quantizer.places > 1 else 0)  # of a residual's stages
        indices = by_head(indices)
        if shared:
            return join(quantizer.lookup(indices, state))
        axis = indices.ndim - (1 if quantizer.places == 1 else 2)
        return join(jax.vmap(quantizer.lookup, (axis, 0), -2)(indices, state))

    def start(vectors, state, key):
        vectors = cut(vectors)
        if shared:
            return quantizer.start(vectors.reshape(-1, quantizer.width), state, key)
        return lax.map(lambda of_head: quantizer.start(*of_head),
                       (jnp.moveaxis(vectors, -2, 0), state, jax.random.split(key, heads)))

    return Quantizer(width, quantizer.codes, places, init, quantize, lookup,
                     start if quantizer.start else None, _after(quantizer, heads, shared))


def residual(quantizer: Quantizer, depth: int, shared: bool = False, scales: Sequence[float] | Real[ArrayLike, "..."]
             | None = None, dropout: float = 0.0, estimator: str | None = None) -> Quantizer:
    """Residual quantization: every stage quantizes what the stages before it left over, and z_q is the sum.

        r_0 = z,   q_i = s_i Q_i(r_i / s_i),   r_{i+1} = r_i - q_i,   z_q = sum_i q_i

    Gradients of z_q follow the chain rule through these equations: where the stages are straight-through, z gets ONE
    straight-through gradient (a sum of `depth` estimators of detached residuals would give z `depth` times as much).
    With `estimator` the stages' own paths to z give way to that estimator between z and the sum: `rotation` belongs
    here, since a stage's residual may be far shorter than its code. What z_q says to the stages' `learned` stays.

    The loss is the sum of the stages' losses, each a function of r_i = z - sg[q_0 + ... + q_{i-1}], so that every
    stage's commitment reaches the encoder. Losses are in the units of r_i / s_i. Metrics are sums too.

    Args:
      quantizer: of one stage.
      depth: number of stages, at least 1.
      shared: one state for all stages, else one for each, on a first axis of every leaf. A shared state is updated
        once a batch from the residuals of all stages, which takes a second search (of codes drawn anew, where the
        stage samples them).
      scales: s_i, a number or a vector `[width]` for each stage; None for ones. Residual finite scalar quantization
        with L levels wants (L - 1)^-i, and z bounded before the first stage.
      dropout: probability that a training batch is quantized by its first m stages alone, m uniform in 1 ... depth,
        so that the first codes are good without the others. The stages left out add nothing, learn nothing, and have
        index -1, which `lookup` takes for nothing.
      estimator: a name of `ESTIMATORS`, or None for the chain rule.

    Returns:
      A `Quantizer` of `depth` times the places; a vector's indices are those of stage 0 first.

    Raises:
      ValueError: for options out of range.

    Example:
      >>> from jaxae.quantizers.codebook import vector
      >>> quantizer = residual(vector(16, 2), depth=4)
      >>> state = quantizer.init(jax.random.key(0))
      >>> quantizer.quantize(jnp.ones((5, 2)), state, jax.random.key(1), True).indices.shape
      (5, 4)

    Reference: Zeghidour et al., SoundStream, 2021, arXiv 2107.03312; Lee et al., 'Autoregressive image generation
    using residual quantization', 2022, arXiv 2203.01941 (shared); scales: Mentzer et al., 2023, arXiv 2309.15505.
    """
    if depth < 1 or not 0.0 <= dropout <= 1.0:
        raise ValueError(f"depth={depth} must be at least 1 and dropout={dropout} a probability")
    scale = jnp.ones(depth) if scales is None else jnp.asarray(scales, jnp.float32)
    if scale.shape not in ((depth,), (depth, quantizer.width)):
        raise ValueError(f"scales must be [{depth}] or [{depth} {quantizer.width}], here {scale.shape}: one for each "
                         f"stage")
    past, places, width = estimator and estimator_of(estimator), depth * quantizer.places, quantizer.width

    def by_stage(indices):  # [depth ... ] or [depth ... q]
        indices = _with_places(indices, places)
        split = indices.reshape(*indices.shape[:-1], depth, quantizer.places)
        return jnp.moveaxis(split[..., 0] if quantizer.places == 1 else split, -1 if quantizer.places == 1 else -2, 0)

    def init(key):
        return quantizer.init(key) if shared else jax.vmap(quantizer.init)(jax.random.split(key, depth))

    def quantize(z, state, key, train):
        stage_of = _with_two_paths(quantizer, train)
        cut_key, update_key, key = jax.random.split(key, 3)
        last = _last_stage(cut_key, depth, dropout) if train and dropout else depth
        z32 = z.astype(jnp.float32)

        def stage(carry, inputs):
            left, total = carry
            i, s, key, of_stage = inputs
            of_stage = state if shared else of_stage
            direct = (z32 - lax.stop_gradient(total)) / s
            (z_q, loss), (indices, new, metrics) = stage_of(left / s, direct, of_stage.learned, of_stage.moving, key)
            kept = i < last
            z_q = jnp.where(kept, s * z_q, 0.0)
            new = jax.tree.map(lambda a, b: jnp.where(kept, a, b), new, of_stage)
            loss, metrics = jax.tree.map(lambda x: jnp.where(kept, x, 0.0), (loss, metrics))
            out = (jnp.where(kept, indices, -1), loss, () if shared else new, metrics, direct if shared else ())
            return (left - z_q, total + z_q), out

        left = lax.stop_gradient(z32) if past else z32
        (_, z_q), (indices, loss, new, metrics, residuals) = lax.scan(
            stage, (left, jnp.zeros_like(z32)),
            (jnp.arange(depth), scale, jax.random.split(key, depth), () if shared else state))
        if past:
            z_q = past(z32, lax.stop_gradient(z_q)) + (z_q - lax.stop_gradient(z_q))
        if not train:
            new = state
        elif shared:
            new = _update(quantizer, residuals, last, state, update_key)
        indices = jnp.moveaxis(indices, 0, -1 if quantizer.places == 1 else -2).reshape(*z.shape[:-1], places)
        return Quantized(z_q.astype(z.dtype), _without_one(indices), loss.sum(0), new,
                         jax.tree.map(lambda x: x.sum(0), metrics))

    def lookup(indices, state):
        check_indices(indices, quantizer.codes, least=-1)
        indices = by_stage(indices)

        def add(total, inputs):
            index, s, of_stage = inputs
            here = index >= 0 if quantizer.places == 1 else index[..., 0] >= 0
            found = quantizer.lookup(jnp.maximum(index, 0), state if shared else of_stage)
            return total + jnp.where(here[..., None], s * found, 0.0), None

        shape = indices.shape[1:] if quantizer.places == 1 else indices.shape[1:-1]
        return lax.scan(add, jnp.zeros((*shape, width)), (indices, scale, () if shared else state))[0]

    def start(vectors, state, key):
        first_key, key = jax.random.split(key)

        def fit(left, inputs):
            s, key, old = inputs
            start_key, key = jax.random.split(key)
            new = fixed if shared else quantizer.start(left / s, old, start_key)
            return left - s * quantizer.quantize(left / s, new, key, False).z_q, (() if shared else new, left / s)

        # A shared state starts on the vectors, then again on a sample of what it leaves to every stage.
        fixed = quantizer.start(vectors / scale[0], state, first_key) if shared else None
        _, (new, lefts) = lax.scan(fit, vectors.astype(jnp.float32),
                                   (scale, jax.random.split(key, depth), () if shared else state))
        if not shared:
            return new
        row = jnp.arange(vectors.shape[0])
        return quantizer.start(lefts[row % depth, row], fixed, jax.random.fold_in(first_key, 1))

    return Quantizer(width, quantizer.codes, places, init, quantize, lookup,
                     start if quantizer.start else None, _after(quantizer, depth, shared))


def _with_two_paths(quantizer, train):
    """`quantize` of a vector that comes twice, equal in value: z_q sends its gradient to the first, loss to the second.

    So z_q may obey the chain rule of the residuals while the loss sees them detached, at the cost of one search.
    """
    def run(r, learned, moving, key):
        found = quantizer.quantize(r, Codes(learned, moving), key, train)
        return (found.z_q.astype(jnp.float32), found.loss), (found.indices, found.state, found.metrics)

    @jax.custom_vjp
    def stage(chained, direct, learned, moving, key):
        return run(chained, learned, moving, key)

    def forward(chained, direct, learned, moving, key):
        value, pull, rest = jax.vjp(lambda r, learned: run(r, learned, moving, key), chained, learned, has_aux=True)
        return (value, rest), pull

    def backward(pull, cotangents):
        by_z_q, by_loss = cotangents[0]
        to_chained, learned = pull((by_z_q, jnp.zeros_like(by_loss)))
        to_direct, learned_too = pull((jnp.zeros_like(by_z_q), by_loss))
        return to_chained, to_direct, jax.tree.map(jnp.add, learned, learned_too), None, None

    stage.defvjp(forward, backward)
    return stage


def _last_stage(key, depth, dropout):
    """How many stages quantize this batch."""
    cut_key, key = jax.random.split(key)
    return jnp.where(jax.random.bernoulli(cut_key, dropout), jax.random.randint(key, (), 1, depth + 1), depth)


def _update(quantizer, residuals, last, state, key):
    """A shared state after the residuals `[depth n ... d]` of its stages, the first `last` of them in turn."""
    if not jax.tree.leaves(state.moving):
        return state
    seen = lax.stop_gradient(residuals)[jnp.arange(residuals.shape[0]) % last]
    return Codes(state.learned, quantizer.quantize(jnp.moveaxis(seen, 0, -2), state, key, True).state.moving)


def _after(quantizer, count, shared):
    if quantizer.after is None or shared:
        return quantizer.after
    return lambda state, key: jax.vmap(quantizer.after)(state, jax.random.split(key, count))


def _with_places(indices: Array, places: int) -> Array:
    return indices[..., None] if places == 1 else indices


def _without_one(indices: Array) -> Array:
    return indices[..., 0] if indices.shape[-1] == 1 else indices
