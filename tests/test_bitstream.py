"""Streams decode to the codes that were encoded, at the length that the prior says; what is wrong is told."""

import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxae.inference import bitstream
from jaxae.priors.transformer import transformer

PRIOR = transformer((3, 4), 5, num_classes=2, width=16, layers=1, heads=2)
LABEL = jnp.arange(64) % 2
STARTED = jax.jit(PRIOR.init)(jax.random.key(0), jnp.zeros((1, 3, 4), jnp.int32), LABEL[:1])
PARAMS = jax.tree_util.tree_map_with_path(  # distributions that are far from uniform
    lambda path, p: 1.5 * p if "logits" in jax.tree_util.keystr(path) else p, STARTED)
CODES = jax.jit(lambda: PRIOR.sample(PARAMS, jax.random.key(1), 64, LABEL))()


def test_probabilities_are_counts_that_add_up_and_keep_every_code():
    logits = np.random.default_rng(0).normal(size=(50, 300)) * np.linspace(0, 40, 50)[:, None]
    rounded = bitstream._rounded(logits)
    counts = rounded * 2**24
    np.testing.assert_array_equal(counts, np.round(counts))
    np.testing.assert_array_equal(counts.sum(-1), 2**24)
    assert counts.min() == 1
    exact = np.exp(logits - logits.max(-1, keepdims=True))
    np.testing.assert_allclose(rounded, exact / exact.sum(-1, keepdims=True), atol=2e-5)


@pytest.fixture(scope="module")
def stream():
    pytest.importorskip("constriction")
    return bitstream.compress(CODES, PRIOR.steps, PARAMS, LABEL)


def test_a_stream_decodes_to_the_same_codes_at_the_length_of_the_estimate(stream):
    """Minus the prior's log-probability, by its parallel form, within 1% beside the header of known length."""
    decoded = bitstream.decompress(stream, PRIOR.steps, PARAMS, LABEL)
    np.testing.assert_array_equal(decoded, CODES)
    assert decoded.dtype == np.int32 and decoded.shape == (64, 3, 4)
    bits = -float(jax.jit(PRIOR.log_prob)(PARAMS, CODES, LABEL).sum()) / np.log(2)
    payload = 8 * (len(stream) - struct.calcsize(bitstream._HEAD) - 8)
    assert 500 < bits < 0.9 * CODES.size * np.log2(5)  # there is something to gain
    assert 0.99 * bits < payload < 1.01 * bits + 64  # and up to two words that end a stream
    # Codes that the prior does not expect cost what it says, too, and come back.
    odd = (CODES + 1) % 5
    longer = bitstream.compress(odd, PRIOR.steps, PARAMS, LABEL)
    estimate = -float(jax.jit(PRIOR.log_prob)(PARAMS, odd, LABEL).sum()) / np.log(2)
    assert len(longer) > len(stream)
    assert abs(8 * (len(longer) - len(stream)) - (estimate - bits)) < 0.01 * estimate + 64
    np.testing.assert_array_equal(bitstream.decompress(longer, PRIOR.steps, PARAMS, LABEL), odd)


def test_what_is_no_whole_stream_of_this_prior_is_refused(stream):
    def decode(stream, params=PARAMS, label=LABEL):
        return bitstream.decompress(stream, PRIOR.steps, params, label)

    for short in (stream[:-1], stream[:-40], stream[:24], stream + b"x"):
        with pytest.raises(ValueError, match="cut short"):
            decode(short)
    for other in (b"", stream[:20], b"GIF8" + stream[4:]):
        with pytest.raises(ValueError, match="not a stream"):
            decode(other)
    with pytest.raises(ValueError, match="damaged"):
        decode(stream[:-8] + bytes(4) + stream[-4:])
    with pytest.raises(ValueError, match="damaged"):
        decode(stream, label=1 - LABEL)
    with pytest.raises(ValueError, match=r"codes must be in \[0, 5\)"):
        bitstream.compress(CODES + 1, PRIOR.steps, PARAMS, LABEL)
    with pytest.raises(ValueError, match="integer codes"):
        bitstream.compress(jnp.zeros((64, 0), jnp.int32), PRIOR.steps, PARAMS, LABEL)


def test_without_the_coder_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "constriction", None)
    with pytest.raises(ImportError, match=r"jaxae\[codec\]"):
        bitstream.compress(CODES, PRIOR.steps, PARAMS, LABEL)
