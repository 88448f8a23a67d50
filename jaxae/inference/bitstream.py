"""Bytes of integer code maps under a causal prior, and back: what an autoencoder's codes cost when they are stored."""

import functools
import math
import struct
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Int, PyTree

_MAGIC, _HEAD = b"JXC1", "<4sBIIII"  # axes of a map, maps, codes of the codebook, 32-bit words, checksum of the codes
_TOTAL = 1 << 24  # probabilities are multiples of 1 / _TOTAL, the resolution of the coder


def compress(codes: Int[ArrayLike, "n ..."], steps: Callable[..., Any], params: PyTree,
             label: Int[ArrayLike, " n"] | None = None) -> bytes:
    """Entropy-codes maps of codes by a range coder, each code given those before it: all maps in one stream.

    The stream is some 25 bytes longer than -sum_t log2 p(z_t | z_1 .. z_t-1) bits. The prior is evaluated code by code
    for all maps at once, by the very program that `decompress` runs, and its probabilities are rounded to integers:
    another program, such as `log_prob`, has other last bits, after which a decoder reads nonsense. For the same reason
    a stream is to be read by the same kind of device and version of jax that wrote it; a checksum tells where it was
    not.

    Args:
      codes: integers `[n *shape]` in [0, K), in the prior's shape; raster order within a map.
      steps: of a prior on codes (`Prior.steps`): `(params, n, label) -> (cache, step)` with `step(code, cache) ->
        (logits [n K], cache)`.
      params: of the prior.
      label: classes, of a class-conditional prior; they are not stored.

    Returns:
      The stream, with its shape and checksum in front.

    Raises:
      ImportError: without the package `constriction`.
      ValueError: for codes that are no integers of [0, K), or of no map.

    Example, with a prior such as `jaxae.priors.transformer` and its trained parameters:

        stream = compress(codes, prior.steps, params)
        assert (decompress(stream, prior.steps, params) == codes).all()

    Reference: range coding: Martin, 'Range encoding', Video and Data Recording Conference, 1979; an autoencoder's codes
    under an autoregressive prior: Mentzer, Agustsson, Tschannen, Timofte, Van Gool, 2018, arXiv 1801.04260.
    """
    coder, model = _constriction()
    codes = np.asarray(codes)
    if codes.ndim < 2 or not codes.size or codes.dtype.kind not in "iu":
        raise ValueError(f"compress takes integer codes [n, *shape] of one map or more; got {codes.dtype} "
                         f"{codes.shape}")
    rows, encoder = codes.reshape(len(codes), -1).astype(np.int32), coder.RangeEncoder()
    probabilities, advance = _distributions(steps, params, len(rows), label)
    size = probabilities.shape[1]
    if codes.min() < 0 or codes.max() >= size:
        raise ValueError(f"codes must be in [0, {size}), the prior's; got {codes.min()} to {codes.max()}")
    for t, column in enumerate(rows.T):
        encoder.encode(np.ascontiguousarray(column), model, probabilities)
        if t + 1 < rows.shape[1]:
            probabilities = advance(column)
    words = encoder.get_compressed().astype("<u4")
    head = struct.pack(_HEAD, _MAGIC, codes.ndim - 1, len(codes), size, len(words), _checksum(rows))
    return head + struct.pack(f"<{codes.ndim - 1}I", *codes.shape[1:]) + words.tobytes()


def decompress(stream: bytes, steps: Callable[..., Any], params: PyTree,
               label: Int[ArrayLike, " n"] | None = None) -> Int[np.ndarray, "n ..."]:
    """The codes of a stream that `compress` wrote under the same prior.

    Args:
      stream: what `compress` returned.
      steps, params, label: as in `compress`.

    Returns:
      int32 `[n *shape]`.

    Raises:
      ImportError: without the package `constriction`.
      ValueError: for what is no such stream, is cut short or too long, or was written under another prior.
    """
    coder, model = _constriction()
    size = struct.calcsize(_HEAD)
    if len(stream) < size or stream[:4] != _MAGIC:
        raise ValueError("these bytes are not a stream that `compress` wrote, or they end within its first words")
    _, axes, n, k, words, checksum = struct.unpack_from(_HEAD, stream)
    start = size + 4 * axes
    if len(stream) != start + 4 * words:
        raise ValueError(f"the stream has {len(stream)} bytes and says that it has {start + 4 * words}: it was cut "
                         "short, or something was added")
    shape = struct.unpack_from(f"<{axes}I", stream, size)
    decoder = coder.RangeDecoder(np.frombuffer(stream, "<u4", words, start).astype(np.uint32))
    probabilities, advance = _distributions(steps, params, n, label)
    if probabilities.shape[1] != k:
        raise ValueError(f"the stream has codes of {k} values, the prior of {probabilities.shape[1]}: it was written "
                         "under another prior")
    rows, length = np.zeros((n, math.prod(shape)), np.int32), math.prod(shape)
    for t in range(length):
        rows[:, t] = decoder.decode(model, probabilities)
        if t + 1 < length:
            probabilities = advance(rows[:, t])
    if _checksum(rows) != checksum:
        raise ValueError("the decoded codes are not those that were encoded: the stream is damaged, or was written "
                         "under other parameters or labels, another version of jax or another kind of device")
    return rows.reshape(n, *shape)


def _distributions(steps, params, n, label):
    """Of the first code, and `advance(codes [n]) -> those of the next`; float64 [n K], multiples of 1 / _TOTAL."""
    start, step = _program(steps, n)
    cache = start(params, label)

    def advance(codes):
        nonlocal cache
        logits, cache = step(params, label, jnp.asarray(codes, jnp.int32), cache)
        return _rounded(np.asarray(logits, np.float64))

    return advance(np.zeros(n, np.int32)), advance  # what is read first is ignored


@functools.lru_cache(maxsize=16)
def _program(steps, n):
    """The compiled step of n sequences: one for both directions."""
    start = jax.jit(lambda params, label: steps(params, n, label)[0])
    return start, jax.jit(lambda params, label, code, cache: steps(params, n, label)[1](code, cache))


def _rounded(logits):
    """softmax(logits) in multiples of 1 / _TOTAL, none of them 0; the likeliest code takes what rounding leaves."""
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    counts = 1 + np.floor(weights / weights.sum(-1, keepdims=True) * (_TOTAL - logits.shape[-1])).astype(np.int64)
    counts[np.arange(len(counts)), counts.argmax(-1)] += _TOTAL - counts.sum(-1)
    return counts / _TOTAL


def _checksum(rows):
    return zlib.crc32(np.ascontiguousarray(rows, "<i4").tobytes())


def _constriction():
    try:
        import constriction
    except ImportError as e:
        raise ImportError("entropy coding needs the package constriction: pip install 'jaxae[codec]'") from e
    return constriction.stream.queue, constriction.stream.model.Categorical(perfect=False)
