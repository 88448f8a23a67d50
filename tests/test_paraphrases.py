"""Triples of meaning and form, and the planted language of questions."""

from collections import Counter

import numpy as np
import pytest

from jaxae import data
from jaxae.data.paraphrases import TEMPLATES, VOCABULARY, chunk_template, held_out_template, make_triples, render
from jaxae.data.sentences import to_text
from jaxae.data.source import DataError

CLUSTERS = [[f"{form}{meaning}" for form in forms] for meaning, forms in enumerate(("abc", "abc", "abd", "bc"))]


def form(sentence):
    return sentence[0]


def test_triples_pair_a_meaning_of_the_cluster_with_a_form_from_elsewhere():
    triples = make_triples(CLUSTERS, form, per_cluster=50)
    assert len(triples) == 200 and triples == make_triples(CLUSTERS, form, per_cluster=50)
    for i, (target, paraphrase, exemplar) in enumerate(triples):
        assert target in CLUSTERS[i // 50] and paraphrase in CLUSTERS[i // 50] and paraphrase != target
        assert exemplar[1] != target[1]  # never of its own cluster
        assert form(exemplar) == form(target) or form(target) == "d"  # which no other cluster has
    seen = Counter(triples)
    assert len(seen) > 40 and {exemplar for t, _, exemplar in seen if t == "a0"} == {"a1", "a2"}


def test_a_repeated_sentence_is_drawn_more_often_and_is_no_paraphrase_of_itself():
    clusters = [["a0", "a0", "a0", "b0"], ["a1", "b1"]]
    triples = make_triples(clusters, form, per_cluster=2000)[:2000]
    assert 0.7 < np.mean([t.target == "a0" for t in triples]) < 0.8
    assert all(t.target != t.paraphrase for t in triples)


def test_a_template_without_exemplar_is_filled_or_gives_way_to_the_most_similar():
    clusters = [["x y z", "x x"], ["x y w", "q"], ["u v w", "q u"]]

    def template(sentence):
        return tuple(sentence.split())

    triples = make_triples(clusters, template, per_cluster=40)
    assert {t.exemplar for t in triples if t.target == "x y z"} == {"x y w"}
    filled = make_triples(clusters, template, per_cluster=40, fill=lambda target, rng: target + str(rng.integers(2)))
    assert {t.exemplar for t in filled if t.target == "x y z"} == {"x y z0", "x y z1"}


def test_template_dropout_takes_the_form_of_another_sentence_of_the_cluster():
    wrong = [np.mean([form(t.exemplar) != form(t.target) for t in
                      make_triples(CLUSTERS[:2], form, per_cluster=1500, template_dropout=p)]) for p in (0.0, 0.3, 1.0)]
    np.testing.assert_allclose(wrong, [0.0, 0.2, 2 / 3], atol=0.03)


@pytest.mark.parametrize("clusters, options, message", [
    ([["a", "b"]], {}, "at least two"), ([["a", "b"], ["c", "c"]], {}, "cluster 1 has 1 different"),
    ([["a", "b"], "cd"], {}, "list of sentences"), (CLUSTERS, dict(per_cluster=0), "per_cluster=0"),
    (CLUSTERS, dict(template_dropout=1.5), "probability"), ([["a", "b"], ["a", "b"]], {}, "add clusters")])
def test_clusters_that_give_no_triples_say_why(clusters, options, message):
    with pytest.raises(DataError, match=message):
        make_triples(clusters, form, **options)


def test_chunks_become_tags_and_words_of_form_stay():
    words = "Which band sang the new song of 1995 ?".split()
    chunks = "B-NP I-NP B-VP B-NP I-NP I-NP B-PP B-NP O".split()
    assert chunk_template(words, chunks) == ("NP", "VP", "NP", "PP", "NP", "?")
    assert chunk_template(words, chunks, {"which", "of"}) == ("Which", "NP", "VP", "NP", "of", "NP", "?")
    with pytest.raises(DataError, match="9 words and 8 tags"):
        chunk_template(words, chunks[1:])


def test_the_planted_triples_hold_a_template_of_each_meaning_out():
    dataset = data.load(dict(source="paraphrases", num_train=800, num_test=80))
    train, test = dataset.train.arrays(), dataset.test.arrays()
    every = np.stack(np.meshgrid(*map(np.arange, (8, 5, 8)), indexing="ij"), -1).reshape(-1, 3)
    sentences = render(every)
    assert len(np.unique(sentences, axis=0)) == 320 and sentences.max() == len(VOCABULARY) - 1
    factors = {row.tobytes(): tuple(f) for row, f in zip(sentences, every, strict=True)}

    def read(name, arrays):
        return np.array([factors[row.tobytes()] for row in arrays[name]])

    for arrays, of_target in ((train, False), (test, True)):
        x, source, exemplar = (read(name, arrays) for name in ("x", "paraphrase", "exemplar"))
        np.testing.assert_array_equal(x, arrays["factors"])
        np.testing.assert_array_equal(arrays["label"], x[:, 2])
        assert (x[:, :2] == source[:, :2]).all() and (x[:, 2] != source[:, 2]).all()
        assert (x[:, 2] == exemplar[:, 2]).all() and (x[:, :2] != exemplar[:, :2]).any(1).all()
        for rows, held_out in ((x, of_target), (source, False), (exemplar, False)):
            assert ((held_out_template(rows[:, 0], rows[:, 1]) == rows[:, 2]) == held_out).all()
        for row, others in zip(source, arrays["references"], strict=True):
            found = np.array([factors[o.tobytes()] for o in others])
            assert (found[:, :2] == row[:2]).all() and sorted({*found[:, 2], row[2]}) == list(range(8))
    assert len(np.unique(train["factors"][:, :2], axis=0)) == 40
    assert np.bincount(held_out_template(*every[::8, :2].T)).tolist() == [5] * len(TEMPLATES)
    assert dataset.train.info["vocabulary"][train["x"][0, 0]] in to_text(train["x"][0], VOCABULARY)
