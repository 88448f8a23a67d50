"""Readers of questions, their templates and vocabularies, and retrieval."""

import gzip
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxae import data
from jaxae.data.paraphrases import make_triples
from jaxae.data.questions import (
    closed_class_template,
    paralex_clusters,
    qqp_clusters,
    question_triples,
    refill,
)
from jaxae.data.source import DataError
from jaxae.data.vocabulary import Vocabulary, count_words, read_vocabulary
from jaxae.metrics.retrieval import retrieval_accuracy

HEADER = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
CLUSTERS = [[form.format(a, b) for form in ("what is the {} of {}?", "how much {} does {} have?", "tell me {}'s {}")]
            for a, b in zip("income age size price speed".split(), "players cats ships tea light".split(), strict=True)]


def write(path, text):
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def test_paralex_has_clusters_in_each_form_of_its_files(tmp_path):
    whole = write(tmp_path / "a.txt", "q:what is a ?\tq:tell me a\ta:an answer\n\nq:alone\ta:no\n"
                                      "q:b ?\tq:what be b ?\tq:b ?\n")
    assert paralex_clusters(whole) == [["what is a ?", "tell me a"], ["b ?", "what be b ?"]]
    # Pairs with alignments: a and b, c and d, b and e are clusters {a, b, e} and {c, d}.
    pairs = write(tmp_path / "word_alignments.txt.gz", "a 1\tb\t0-0 1-0\nc\td\t0-0\nb\te\t0-0\na 1\ta 1\t0-0 1-1\n")
    assert paralex_clusters(pairs) == [["a 1", "b", "e"], ["c", "d"]]
    lines = write(tmp_path / "train.jsonl", "\n".join(json.dumps({"qs": cluster}) for cluster in CLUSTERS))
    assert paralex_clusters(lines) == CLUSTERS


def test_duplicates_of_qqp_connect_questions(tmp_path):
    rows = ["0\t1\t2\tA?\tB?\t1", "1\t3\t4\tC?\tD?\t0", '2\t5\t2\t"E with ""quotes"" and\ta tab"\tB?\t1',
            "3\t6\t7\tF?\tG?\t1", "4\t3\t6\tC?\tF?\t0", "5\t8\t8\tH?\tH?\t1"]
    path = write(tmp_path / "q.tsv", HEADER + "\n".join(rows) + "\n")
    assert [set(c) for c in qqp_clusters(path)] == [{"A?", "B?", 'E with "quotes" and\ta tab'}, {"F?", "G?"}]


@pytest.mark.parametrize("reader, name, text, message", [
    (paralex_clusters, "a.txt", None, "no file at"), (paralex_clusters, "a.txt", "one question\nanother\n", "tabs"),
    (paralex_clusters, "a.jsonl", '{"questions": []}\n', "line 1, is not"),
    (paralex_clusters, "a.jsonl", '{"qs": ["a", "b"]}\n{"qs": [1, 2]}\n', "line 2, is not"),
    (paralex_clusters, "a.jsonl", "[\n", "line 1, is not"), (qqp_clusters, "a.tsv", None, "no file at"),
    (qqp_clusters, "a.tsv", "id\tquestion1\tquestion2\n0\ta\tb\n", "no column is_duplicate"),
    (qqp_clusters, "a.tsv", "", "no column question1"), (qqp_clusters, "a.tsv", HEADER + "0\t1\t2\ta\tb\n", "of 0 or"),
    (qqp_clusters, "a.tsv", HEADER + "0\t1\t2\ta\tb\t0\n", "is_duplicate of 1")])
def test_a_file_that_cannot_be_read_says_why(tmp_path, reader, name, text, message):
    if text is not None:
        write(tmp_path / name, text)
    with pytest.raises(DataError, match=message):
        reader(tmp_path / name)


def test_binary_files_are_no_questions(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00q\t\xff\n")
    (tmp_path / "a.tsv.gz").write_bytes(b"no archive")
    for reader, name in ((paralex_clusters, "a.txt"), (qqp_clusters, "a.tsv.gz")):
        with pytest.raises(DataError, match="cannot be read as text"):
            reader(tmp_path / name)


def test_templates_keep_the_words_of_form_and_exemplars_keep_the_template():
    template = closed_class_template("What does the 3 new red cars' price in 1999 tell you?")
    assert template == ("what", "does", "the", "0", "X", "'", "X", "in", "0", "X", "you", "?")
    assert closed_class_template("red car", {"red"}) == ("red", "X")
    texts, rng = [text for cluster in CLUSTERS for text in cluster], np.random.default_rng(0)
    fill = refill(texts)
    filled = [fill(texts[0], rng) for _ in range(30)]
    assert {closed_class_template(text) for text in filled} == {closed_class_template(texts[0])}
    assert len(set(filled)) > 5 and all(text.startswith("what is the ") for text in filled)


def test_candidates_are_some_of_the_sentences_of_a_template():
    clusters = [[f"a{i}", f"b{i}"] for i in range(30)]
    every = make_triples(clusters, lambda text: text[0], per_cluster=20)
    few = make_triples(clusters, lambda text: text[0], per_cluster=20, candidates=3)
    assert len({t.exemplar for t in every}) > 40
    assert {len({t.exemplar for t in few if t.target[0] == form}) for form in "ab"} == {3}
    assert all(t.exemplar[1:] != t.target[1:] and t.exemplar[0] == t.target[0] for t in few)


def test_words_are_numbered_by_counts_and_pieces_by_the_file(tmp_path):
    counted = count_words(["b a a", "c b a"], 5)
    assert counted.words == ("[PAD]", "[END]", "[UNK]", "a", "b")
    np.testing.assert_array_equal(counted.encode(["A b, c"], 6), [[3, 4, 2, 2, 1, 0]])
    np.testing.assert_array_equal(counted.encode(["a a a a"], 3), [[3, 3, 1]])  # cut, but ended
    words = ["[PAD]", "[unused0]", "[UNK]", "un", "##aff", "##able", "##a", "##f", "play", "##er", "?"]
    pieces = read_vocabulary(write(tmp_path / "vocab.txt", "\n".join(words) + "\n"))
    assert pieces == Vocabulary(tuple(words), True)
    tokens = pieces.encode(["Unaffable player?", "unaffx"], 9)
    np.testing.assert_array_equal(tokens, [[3, 4, 5, 8, 9, 10, 1, 0, 0], [2, 1, 0, 0, 0, 0, 0, 0, 0]])
    assert pieces.decode(tokens[0]) == "unaffable player ?"


@pytest.mark.parametrize("text, message", [
    (None, "no vocabulary at"), ("[PAD]\n[SEP]\n[UNK]\na\n", "no word uses"), ("a\nb\nc\nd\n", "must have"),
    ("[PAD]\n[unused0]\na\nb\n", "must have"), ("[PAD]\n[unused0]\n[UNK]\na\na\n", "'a' more than once")])
def test_a_vocabulary_that_does_not_fit_says_why(tmp_path, text, message):
    if text is not None:
        write(tmp_path / "vocab.txt", text)
    with pytest.raises(DataError, match=message):
        read_vocabulary(tmp_path / "vocab.txt")


def test_texts_without_words_say_so():
    for run, message in ((lambda: count_words(["  "], 9), "no word to count"), (lambda: count_words(["a"], 3), "of 3"),
                         (lambda: count_words(["a"], 9).encode(["a", " "], 4), "text 1 has no word"),
                         (lambda: count_words(["a"], 9).encode(["a"], 1), "at least 2")):
        with pytest.raises(DataError, match=message):
            run()


@pytest.mark.parametrize("name", ["paralex", "qqp"])
def test_files_become_triples_whose_clusters_are_of_one_split(tmp_path, name):
    if name == "paralex":
        text = "".join("\t".join(f"q:{text}" for text in cluster) + "\n" for cluster in CLUSTERS)
    else:
        text = HEADER + "".join(f"0\t1\t2\t{a}\t{b}\t1\n" for c in CLUSTERS for a, b in zip(c, c[1:], strict=False))
    dataset = data.load(dict(source=f"{name}:{write(tmp_path / 'q.tsv', text)}", test_fraction=0.4, length=10,
                             template_dropout=0.0))
    assert (len(dataset.train), len(dataset.test)) == (15, 2)
    words = dataset.train.info["vocabulary"]
    encoded = {tuple(row): i for i, cluster in enumerate(CLUSTERS) for row in Vocabulary(words).encode(cluster, 10)}
    seen = []
    for source in (dataset.train, dataset.test):
        arrays = source.arrays()
        clusters = {part: [encoded.get(tuple(row)) for row in arrays[part]] for part in ("x", "paraphrase", "exemplar")}
        assert clusters["x"] == clusters["paraphrase"]
        assert all(a != b for a, b in zip(clusters["x"], clusters["exemplar"], strict=True))
        assert (arrays["x"] != arrays["paraphrase"]).any(1).all() and arrays["references"].shape[1:] == (2, 10)
        np.testing.assert_array_equal(arrays["references"][:, 0], arrays["x"])
        for row, others in zip(arrays["paraphrase"], arrays["references"], strict=True):
            assert {encoded[tuple(o)] for o in others} == {encoded[tuple(row)]} and not (others == row).all(1).any()
        seen.append(set(clusters["x"]))
    assert not seen[0] & seen[1] and seen[0] | seen[1] == set(range(5))


def test_a_chunker_of_the_user_makes_the_templates_and_too_few_clusters_say_so():
    vocabulary, asked = count_words((text for c in CLUSTERS for text in c), 60), set()

    def template(text):
        asked.add(text)
        return text.split()[0]

    train, _ = question_triples(CLUSTERS, vocabulary, 12, template_fn=template, template_dropout=0.0, test_fraction=0.4)
    assert asked == {text for c in CLUSTERS for text in c}
    arrays = train.arrays()
    np.testing.assert_array_equal(arrays["x"][:, 0], arrays["exemplar"][:, 0])
    with pytest.raises(DataError, match="each split needs two"):
        question_triples(CLUSTERS, vocabulary, 12)


def test_retrieval_counts_nearest_neighbours_and_shares_ties():
    rng = np.random.default_rng(0)
    z, label = rng.normal(size=(40, 3)).astype(np.float32), rng.integers(6, size=40)
    z[20:30], label[39] = z[20], 77  # ten at one place; one label alone
    distance = np.square(z[:, None] - z).sum(-1)
    np.fill_diagonal(distance, np.inf)
    want = []
    for i in range(39):
        near = np.flatnonzero(distance[i] == distance[i].min())
        want.append((label[near] == label[i]).mean())
    got = jax.jit(retrieval_accuracy)(z, label)
    np.testing.assert_allclose(got, np.mean(want), rtol=1e-6)
    spread = jax.pmap(lambda z, label: retrieval_accuracy(z, label, axis_name="r"), "r")(
        z.reshape(8, 5, 3), label.reshape(8, 5))
    np.testing.assert_allclose(spread, np.full(8, got), rtol=1e-6)
    with pytest.raises(ValueError, match="a label for each"):
        retrieval_accuracy(jnp.asarray(z[:1]), jnp.asarray(label[:1]))
