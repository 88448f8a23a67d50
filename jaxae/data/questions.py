"""Clusters of questions that mean the same, from the files of Paralex and QQP, as triples of meaning and form."""

import csv
import gzip
import json
import re
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from pathlib import Path

import numpy as np

from jaxae.data.paraphrases import chunk_template, make_triples
from jaxae.data.source import ArraySource, DataError
from jaxae.data.vocabulary import Vocabulary, count_words, read_vocabulary, split_words

CLOSED_CLASS = frozenset((  # words of form: pronouns, determiners, prepositions, conjunctions, auxiliaries
    "i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his himself she her hers "
    "herself it its itself they them their theirs themselves who whom whose what which when where why how a an the "
    "this that these those some any no every each either neither both all few many much more most other another such "
    "same own and or but nor so yet if because as until while although though since unless whether than then of at by "
    "for with about against between into through during before after above below to from up down in out on off over "
    "under again further once here there not only just too very also ever never am is are was were be been being have "
    "has had having do does did doing done can could may might must shall should will would s t d ll re ve m").split())
_ALIGNMENT = re.compile(r"\d+-\d+( \d+-\d+)*")
_COLUMNS = ("question1", "question2", "is_duplicate")
_CANDIDATES = 1000  # sentences of one template, at most, that may be exemplars


def paralex_clusters(path: str | Path) -> list[list[str]]:
    """Clusters of the questions of WikiAnswers, of two or more each, in the order of the file.

    A line has questions that are paraphrases, with tabs between them: a whole cluster, whose questions begin with 'q:'
    (fields that begin with 'a:' are answers and are left out), or a pair and the alignment of its words, as Paralex has
    them. Lines that share a question are one cluster. In a file .jsonl a line is `{"qs": [questions]}`, the form of
    Separator's split. Files that end in .gz are unpacked.

    Raises:
      DataError: no such file, or one without clusters.

    Reference: Fader, Zettlemoyer, Etzioni, 'Paraphrase-driven learning for open question answering', ACL 2013.
    """
    def fields(number, line):
        if ".jsonl" in Path(path).suffixes:
            try:
                return [text.strip() for text in json.loads(line)["qs"]]
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise DataError(f'{path}, line {number}, is not {{"qs": [questions]}}') from error
        parts = (part.strip() for part in line.split("\t"))
        return [part.removeprefix("q:").strip() for part in parts
                if part and not part.startswith("a:") and not _ALIGNMENT.fullmatch(part)]

    with _opened(path) as lines:
        found = _read(path, lambda: [fields(i, line) for i, line in enumerate(lines, 1) if line.strip()])
    return _components(path, found, "questions with tabs between them in each line, or a .jsonl file")


def qqp_clusters(path: str | Path) -> list[list[str]]:
    """Clusters of Quora's questions, of two or more each: what pairs of duplicates connect.

    Args:
      path: of a file with columns id, qid1, qid2, question1, question2, is_duplicate, with tabs between them; .gz too.

    Raises:
      DataError: no such file, other columns, a row that is not whole, or no duplicates.
    """
    with _opened(path) as lines:
        rows = csv.DictReader(lines, delimiter="\t")
        if missing := [name for name in _COLUMNS if name not in (_read(path, lambda: rows.fieldnames) or ())]:
            raise DataError(f"{path} has no column {missing[0]}: its first line must name id, qid1, qid2, question1, "
                            "question2, is_duplicate, with tabs between them")
        found = []
        for row in _read(path, lambda: list(rows)):
            one, two, duplicate = (row[name] for name in _COLUMNS)
            if duplicate not in ("0", "1"):
                raise DataError(f"{path}: row {row} has no is_duplicate of 0 or 1: repair or remove it")
            if duplicate == "1" and one.strip() and two.strip():
                found.append([one.strip(), two.strip()])
    return _components(path, found, "pairs with is_duplicate of 1")


def closed_class_template(text: str, closed: Collection[str] = CLOSED_CLASS) -> tuple[str, ...]:
    """The template of a text without a parser: runs of content words are 'X', numbers '0', words of form stay.

    >>> closed_class_template('What is the income of a soccer player in 2020?')
    ('what', 'is', 'the', 'X', 'of', 'a', 'X', 'in', '0', '?')
    """
    words = split_words(text)
    kinds = ["O" if word in closed or not word[0].isalnum() else "0" if word.isdigit() else "X" for word in words]
    tags = [kind if kind == "O" else f"{'I' if kind == before else 'B'}-{kind}"
            for kind, before in zip(kinds, ["O", *kinds], strict=False)]
    return chunk_template(words, tags, closed)


def refill(texts: Iterable[str], closed: Collection[str] = CLOSED_CLASS) -> Callable[[str, np.random.Generator], str]:
    """A writer of exemplars for `make_triples`: the target with other content words, from anywhere in the texts.

    Returns:
      `(target, rng) -> exemplar`, with the target's `closed_class_template`.
    """
    runs = {"X": [], "0": []}
    for text in texts:
        for kind, run in _runs(text, closed):
            if kind in runs:
                runs[kind].append(run)

    def fill(target: str, rng: np.random.Generator) -> str:
        return " ".join(runs[kind][int(rng.integers(len(runs[kind])))] if runs.get(kind) else run
                        for kind, run in _runs(target, closed))

    return fill


def question_triples(clusters: Sequence[Sequence[str]], vocabulary: Vocabulary, length: int = 50, *,
                     template_fn: Callable[[str], Hashable] = closed_class_template,
                     fill: Callable[[str, np.random.Generator], str] | None = None, per_cluster: int = 5,
                     template_dropout: float = 0.3, references: int = 4, test_fraction: float = 0.1,
                     seed: int = 0) -> tuple[ArraySource, ArraySource]:
    """Tokens of `make_triples` of clusters; a tenth of the clusters, whole, are the test split.

    Args:
      clusters: of questions, as the readers here return them.
      vocabulary: of the tokens.
      length: of the sequences; longer questions are cut.
      template_fn: a sentence's template, such as `chunk_template` of the tags of a shallow parser.
      fill: writes an exemplar where no other cluster has the template; None is `refill` of the split's questions.
      per_cluster, template_dropout: of the training triples, see `make_triples`; a test cluster gives one triple.
      references: other questions of the paraphrase's cluster, at most so many.
      test_fraction: share of the clusters.
      seed: of the split and the draws.

    Returns:
      Train and test; `x`, `paraphrase`, `exemplar` int32 `[n length]` and `references` `[n r length]`, as
      `jaxae.data.paraphrases.paraphrases` has them; `info` has `vocabulary`.

    Raises:
      DataError: for fewer than two clusters in either split, or clusters that give no triples.
    """
    order = np.random.default_rng(seed).permutation(len(clusters))
    at = round(test_fraction * len(clusters))
    if min(at, len(clusters) - at) < 2:
        raise DataError(f"{len(clusters)} clusters and test_fraction={test_fraction} leave {at} for the test split: "
                        "each split needs two or more")
    most = max(1, min(references, max(len(set(cluster)) for cluster in clusters) - 1))

    def part(rows, number: int, dropout: float) -> ArraySource:
        chosen = [list(dict.fromkeys(clusters[row])) for row in rows]
        writer = fill or refill(text for cluster in chosen for text in cluster)
        triples = make_triples(chosen, template_fn, per_cluster=number, template_dropout=dropout, fill=writer,
                               candidates=_CANDIDATES, seed=seed)
        columns = dict(zip(("x", "paraphrase", "exemplar"), zip(*triples, strict=True), strict=True))
        arrays = {name: vocabulary.encode(texts, length) for name, texts in columns.items()}
        arrays["references"] = np.zeros((len(triples), most, length), np.int32)
        for i, (target, source, _) in enumerate(triples):
            others = [target, *(text for text in chosen[i // number] if text not in (source, target))][:most]
            arrays["references"][i, :len(others)] = vocabulary.encode(others, length)
        return ArraySource(arrays, {"vocabulary": vocabulary.words})

    return part(order[at:], per_cluster, template_dropout), part(order[:at], 1, 0.0)


def paralex(path: str, vocabulary: str = "", words: int = 0, length: int = 0, per_cluster: int = 5,
            template_dropout: float = 0.3, test_fraction: float = 0.1, seed: int = 0
            ) -> tuple[ArraySource, ArraySource]:
    """`question_triples` of `paralex_clusters`.

    Args:
      path: of the clusters.
      vocabulary: a WordPiece file, see `read_vocabulary`; '' counts words.
      words: size of the vocabulary by counting; 0 is 30,000.
      length: of the sequences; 0 is 50.
      per_cluster, template_dropout, test_fraction, seed: see `question_triples`.
    """
    return _questions(paralex_clusters(path), vocabulary, words, length, per_cluster, template_dropout, test_fraction,
                      seed)


def qqp(path: str, vocabulary: str = "", words: int = 0, length: int = 0, per_cluster: int = 5,
        template_dropout: float = 0.3, test_fraction: float = 0.1, seed: int = 0) -> tuple[ArraySource, ArraySource]:
    """`question_triples` of `qqp_clusters`; arguments as in `paralex`."""
    return _questions(qqp_clusters(path), vocabulary, words, length, per_cluster, template_dropout, test_fraction, seed)


def _questions(clusters, vocabulary, words, length, per_cluster, template_dropout, test_fraction, seed):
    known = read_vocabulary(vocabulary) if vocabulary else count_words(
        (text for cluster in clusters for text in cluster), words or 30_000)
    return question_triples(clusters, known, length or 50, per_cluster=per_cluster, template_dropout=template_dropout,
                            test_fraction=test_fraction, seed=seed)


def _opened(path):
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataError(f"no file at {file}: give the path of the questions")
    return gzip.open(file, "rt", encoding="utf-8", newline="") if file.suffix == ".gz" else open(
        file, encoding="utf-8", newline="")


def _read(path, read):
    try:
        return read()
    except (UnicodeDecodeError, OSError, EOFError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as text in UTF-8 ({error})") from error


def _components(path, groups, wanted):
    """Clusters of what the groups connect, in order of appearance, without those of one text."""
    root: dict[str, str] = {}

    def find(text):
        while root.setdefault(text, text) != text:
            root[text] = text = root[root[text]]
        return text

    for group in groups:
        for text in group:
            root[find(text)] = find(group[0])
    clusters: dict[str, list[str]] = {}
    for text in root:
        clusters.setdefault(find(text), []).append(text)
    found = [cluster for cluster in clusters.values() if len(cluster) > 1]
    if not found:
        raise DataError(f"{path} has no two questions that mean the same: it must have {wanted}")
    return found


def _runs(text, closed):
    """(template's part, the words it stands for), in order."""
    runs = []
    for word in split_words(text):
        kind, = closed_class_template(word, closed)
        if runs and runs[-1][0] == kind and kind in ("X", "0"):
            runs[-1] = kind, f"{runs[-1][1]} {word}"
        else:
            runs.append((kind, word))
    return runs


__all__ = ["CLOSED_CLASS", "closed_class_template", "paralex", "paralex_clusters", "qqp", "qqp_clusters",
           "question_triples", "refill"]
