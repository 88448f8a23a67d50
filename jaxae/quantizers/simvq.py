"""SimVQ: a frozen random codebook under one learned linear map, so that all codes move together."""

import jax
from jax import lax

from jaxae.quantizers.base import Codes, Quantized, Quantizer
from jaxae.quantizers.codebook import check_codes
from jaxae.quantizers.estimators import estimator_of
from jaxae.quantizers.vector import assign, lookup, nearest_code


def simvq(codes: int, width: int, *, basis: int = 0, estimator: str = "straight_through", beta: float = 0.25
          ) -> Quantizer:
    """Nearest of the codes C W: C [K m] random and frozen, W [m d] learned.

    loss = beta |z - sg[e]|^2 + |sg[z] - e|^2 with e a row of C W; means over positions and channels. The second term
    moves W and with it every code, chosen or not, so that none dies; there is nothing to revive and nothing to start.

    beta weighs the commitment of the encoder, as in the paper. (The official code's default, 'legacy', weighs the
    other term.) `Codes` are W, learned, and C, moving.

    Args:
      codes: K, at least 2.
      width: d.
      basis: m, width of the frozen codes; 0 is d.
      estimator: a name of `ESTIMATORS`.
      beta: weight of the commitment loss.

    Returns:
      A `Quantizer` of one place, with the metrics `commitment` and `codebook`; nothing couples its batch.

    Example:
      >>> quantizer = simvq(8, 4)
      >>> state = quantizer.init(jax.random.key(0))
      >>> state.learned.shape, state.moving.shape
      ((4, 4), (8, 4))

    Reference: Zhu, Li, Xin, Xia, Xu, 'Addressing representation collapse in vector quantized models with one linear
    layer', 2024, arXiv 2411.02038.
    """
    check_codes(codes, width)
    if basis < 0:
        raise ValueError(f"basis={basis} must not be negative; 0 takes the width of the codes")
    past, basis = estimator_of(estimator), basis or width

    def init(key):
        code_key, map_key = jax.random.split(key)
        # Rows of C have length 1 in the mean square, and W keeps lengths.
        return Codes(jax.random.normal(map_key, (basis, width)) * width**-0.5,
                     jax.random.normal(code_key, (codes, basis)) * basis**-0.5)

    def quantize(z, state, key, train):
        table = lax.stop_gradient(state.moving) @ state.learned
        found = assign(z, table, nearest_code(z, table), past)
        return Quantized(found.z_q, found.indices, beta * found.commitment_loss + found.codebook_loss, state,
                         {"commitment": found.commitment_loss, "codebook": found.codebook_loss})

    return Quantizer(width, codes, 1, init, quantize,
                     lambda indices, state: lookup(indices, state.moving) @ state.learned)
