"""The protocol of quantizers: what every discrete bottleneck offers to an autoencoder and to a prior on its codes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Int, PyTree


class Codes(NamedTuple):
    """State of a quantizer."""

    learned: PyTree = ()  # what gradients move: codebooks, values, projections; () for none
    moving: PyTree = ()  # what no gradient moves: averages, counts of use; () for none


class Quantized(NamedTuple):
    """What a quantizer returns for `z [n ... d]`."""

    z_q: Array  # [n ... d] what the decoder takes, with the gradient estimator's path to z
    indices: Array  # [n ...] int32 in [0, codes), or [n ... q] for q codes a vector
    loss: Array  # [n] weighted sum of the auxiliary losses, means over positions and channels; zeros for none
    state: Codes  # after this batch; the one that came in where `train` is False
    metrics: dict[str, Any] = {}  # [n] per example: the auxiliary losses one by one, not weighted


class Quantizer(NamedTuple):
    """A bottleneck as pure functions of explicit state.

    Any quantizer fits between any encoder and decoder that agree with it on `width`, and `lookup(indices, state)`
    equals `z_q` of the same indices, so that any prior on integers samples the autoencoder. What couples the batch
    (moving averages, revival, entropies) is global over `axis_name`, which a quantizer is made with.

    Fields:
      width: d of the vectors `[... d]` that come in and go out.
      codes: number of values of an index, K.
      places: codes for one vector, q; indices carry a last axis of q where q > 1, and none where q = 1.
      init: `(key) -> Codes`.
      quantize: `(z [n ... d], state, key, train) -> Quantized`; `key` is the same on every replica.
      lookup: `(indices [...] or [... q], state) -> [... d]`.
      start: `(vectors [m d], state, key) -> state`, from the encoder's outputs on the training set before the first
        update; None where nothing is to be started.
      after: `(state, key) -> state` after each update, for what projects or revives learned codes; None for none.
    """

    width: int
    codes: int
    places: int
    init: Callable[[Array], Codes]
    quantize: Callable[[Array, Codes, Array, bool], Quantized]
    lookup: Callable[[Array, Codes], Array]
    start: Callable[[Array, Codes, Array], Codes] | None = None
    after: Callable[[Codes, Array], Codes] | None = None


def check_indices(indices: Int[Array, "..."], codes: int, least: int = 0) -> None:
    """Raises ValueError for integers outside [least, codes), where they can be looked at: inside `jit` they cannot.

    A gather answers an index past the end with the last code, so that another codebook's codes would pass for this
    one's.
    """
    if isinstance(indices, jax.core.Tracer) or not indices.size:
        return
    low, high = int(indices.min()), int(indices.max())
    if low < least or high >= codes:
        raise ValueError(f"codes are integers from 0 to {codes - 1}, these go from {low} to {high}: look them up in "
                         "the quantizer that they come from, and give their prior its number of codes")
