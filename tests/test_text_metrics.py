"""BLEU against sacrebleu's numbers, and what the paraphrasing scores make of it."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxae.metrics.text import bleu, bleu_counts, bleu_of_counts, ibleu, ibleu_of

GOLDEN = np.load(Path(__file__).parent / "golden" / "bleu.npz")
CORPORA = sorted({name.split("/")[0] for name in GOLDEN if "/" in name})


COUNTS, SCORE = jax.jit(bleu_counts), jax.jit(bleu_of_counts)


def corpus(name):
    """Outputs [40 19] and references [40 3 19], whatever the corpus: with sentences and references of padding alone."""
    outputs, references = GOLDEN[f"{name}/outputs"], GOLDEN[f"{name}/references"]
    n, r, t = references.shape
    return np.pad(outputs, ((0, 40 - n), (0, 19 - t))), np.pad(references, ((0, 40 - n), (0, 3 - r), (0, 19 - t)))


@pytest.mark.parametrize("name", CORPORA)
def test_corpus_bleu_is_that_of_sacrebleu(name):
    counts = COUNTS(*corpus(name)).sum(0)
    np.testing.assert_array_equal(counts, GOLDEN[f"{name}/counts"])
    np.testing.assert_allclose(SCORE(counts), GOLDEN[f"{name}/bleu"], rtol=1e-5)


def test_ends_are_no_words_where_the_caller_says_so():
    def ended(x):  # token 1, which no corpus has, after the last word
        x = x.copy()
        np.put_along_axis(x, (x > 0).sum(-1, keepdims=True), 1, -1)
        return x

    outputs, references = map(ended, corpus("several"))
    without = jax.jit(lambda o, r: bleu_counts(o, r, 1))(outputs, references).sum(0)
    np.testing.assert_array_equal(without, GOLDEN["several/counts"])
    assert (np.asarray(COUNTS(outputs, references).sum(0)) != GOLDEN["several/counts"]).any()


def test_ibleu_is_the_papers_number_and_punishes_copies():
    assert round(ibleu_of(36.36, 35.37), 2) == 14.84
    outputs, references = GOLDEN["usual/outputs"], GOLDEN["usual/references"]
    got = jax.jit(ibleu)(outputs, references, outputs)
    np.testing.assert_allclose(got, 0.7 * GOLDEN["usual/bleu"] - 30.0, rtol=1e-5)
    with pytest.raises(ValueError, match="references must be"):
        bleu(jnp.asarray(outputs), jnp.asarray(references)[:, None])


def test_a_corpus_over_eight_devices_has_the_score_of_one():
    outputs, references = GOLDEN["usual/outputs"], GOLDEN["usual/references"]
    cut = (x.reshape(8, -1, *x.shape[1:]) for x in (outputs, references))
    spread = jax.pmap(lambda o, r: bleu(o, r, axis_name="batch"), "batch")(*cut)
    np.testing.assert_allclose(spread, GOLDEN["usual/bleu"], rtol=1e-5)
