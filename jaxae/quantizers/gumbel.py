"""Gumbel-softmax quantization: a code drawn from a categorical posterior, with the gradient of its relaxation."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from jaxae.distributions import categorical_kl
from jaxae.quantizers.base import Codes, Quantized, Quantizer
from jaxae.quantizers.codebook import check_codes, row_noise, row_numbers
from jaxae.quantizers.kmeans import kmeans
from jaxae.quantizers.vector import by_chunks, first_best, lookup

_ROWS = 32  # vectors whose numbers are alive at once: noise is many arrays on the way, which should stay in cache


def gumbel(codes: int, width: int, *, logits: str = "projection", temperature: float | Callable[..., float] = 1.0,
           kl_weight: float = 5e-4, start: str = "normal", axis_name: str | None = None) -> Quantizer:
    """Codes as categorical latents: one is drawn in training, and the most probable taken in evaluation.

    q(j | z) = softmax(l) with l = P z + b ('projection') or l_j = -|z - e_j|^2 ('distance'). In training, with Gumbel
    noise g, j = argmax(l + g) is a draw from q; z_q = e_j with the gradient of sum_j softmax((l + g) / T)_j e_j to the
    logits, and of e_j to the codes. So the decoder's gradient moves encoder, codes and P, and no codebook loss is
    needed. loss = kl_weight KL(q || uniform), in nats for each position, mean over positions.

    Logits, noise and softmax are made for 32 to 128 vectors at a time, and again for the gradient, so that no array of
    K numbers a vector is whole in memory. The noise is `row_noise`: 1 device draws what N devices draw. A small T has
    less bias and more variance: take a schedule, which is given the number of training batches so far (in `moving`).

    Args:
      codes: K, at least 2.
      width: d.
      logits: 'projection' or 'distance'.
      temperature: T of the relaxation, or `(steps) -> T`; the distribution of the draw does not depend on it.
      kl_weight: weight of the KL.
      start: 'normal' codes, or 'kmeans' of the encoder's outputs, for 'distance'.
      axis_name: the mapped axis over which the batch is spread, for the noise.

    Returns:
      A `Quantizer` of one place, with the metric `kl`. `learned` is a dict of `codes` and, for 'projection', `kernel`
      and `bias`.

    Raises:
      ValueError: for options that do not exist or do not fit.

    Example:
      >>> quantizer = gumbel(8, 2, temperature=lambda steps: jnp.maximum(0.5, jnp.exp(-1e-4 * steps)))
      >>> state = quantizer.init(jax.random.key(0))
      >>> int(quantizer.quantize(jnp.ones((3, 2)), state, jax.random.key(1), True).state.moving)
      1

    Reference: Jang, Gu, Poole, 'Categorical reparameterization with Gumbel-softmax', 2016, arXiv 1611.01144; Maddison,
    Mnih, Teh, 'The concrete distribution', 2016, arXiv 1611.00712; as an image tokenizer: Ramesh et al., 2021,
    arXiv 2102.12092; by distance: Sonderby, Poole, Mnih, Bayesian deep learning workshop, 2017.
    """
    check_codes(codes, width)
    if logits not in ("projection", "distance"):
        raise ValueError(f"logits={logits!r} must be 'projection' or 'distance'")
    if start not in ("normal", "kmeans") or (start == "kmeans" and logits == "projection"):
        raise ValueError(f"start={start!r} must be 'normal', or 'kmeans' with logits='distance'")
    scheduled = callable(temperature)
    if not scheduled and temperature <= 0:
        raise ValueError(f"temperature={temperature} must be above 0")

    def init(key):
        code_key, kernel_key = jax.random.split(key)
        learned = {"codes": jax.random.normal(code_key, (codes, width))}
        if logits == "projection":
            learned |= {"kernel": jax.random.normal(kernel_key, (width, codes)) * width**-0.5,
                        "bias": jnp.zeros(codes)}
        return Codes(learned, jnp.zeros((), jnp.int32) if scheduled else ())

    def logits_of(z, learned):
        if z.shape[-1] != width:
            raise ValueError(f"the encoder gives vectors of width {z.shape[-1]}, the codebook holds width {width}: "
                             f"make them equal")
        if logits == "projection":
            return jnp.dot(z, learned["kernel"], precision=lax.Precision.HIGHEST) + learned["bias"]
        table = learned["codes"]
        # -|z - e|^2 up to |z|^2, which no softmax sees.
        return 2.0 * jnp.dot(z, table.T, precision=lax.Precision.HIGHEST) - jnp.sum(table**2, axis=-1)

    def quantize(z, state, key, train):
        table = state.learned["codes"]
        fixed, now = lax.stop_gradient(table), temperature(state.moving) if scheduled else temperature

        @partial(jax.checkpoint, prevent_cse=False)  # the loop over chunks prevents it
        def chunk(inputs):
            """The code, sum_j soft_j e_j and the KL of each row; noise and softmax are made again for the gradient."""
            rows, number = inputs
            scores = logits_of(rows, state.learned)
            if not train:
                return first_best(scores), rows, categorical_kl(scores)
            noisy = scores + row_noise(key, number, codes)
            return first_best(noisy), jax.nn.softmax(noisy / now, axis=-1) @ fixed, categorical_kl(scores)

        flat = z.reshape(-1, z.shape[-1]).astype(jnp.float32)
        indices, mean, kl = by_chunks(chunk, (flat, row_numbers(flat.shape[0], axis_name)), codes, _ROWS)
        indices, kl = indices.reshape(z.shape[:-1]), kl.reshape(z.shape[0], -1).mean(-1)
        z_q, moving = lookup(indices, table), state.moving
        if train:
            z_q = z_q + (mean - lax.stop_gradient(mean)).reshape(z.shape)
            moving = moving + 1 if scheduled else moving
        return Quantized(z_q.astype(z.dtype), indices, kl_weight * kl, Codes(state.learned, moving), {"kl": kl})

    def start_at(vectors, state, key):
        return state._replace(learned=state.learned | {"codes": kmeans(vectors, codes, key)})

    return Quantizer(width, codes, 1, init, quantize, lambda indices, state: lookup(indices, state.learned["codes"]),
                     start_at if start == "kmeans" else None)
