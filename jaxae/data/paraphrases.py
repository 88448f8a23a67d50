"""Triples for learning meaning and form apart, of any clusters of paraphrases, and a planted language of questions."""

import difflib
import functools
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Integer

from jaxae.data.sentences import END, PAD
from jaxae.data.source import ArraySource, DataError

VERBS = ("like", "want", "paint", "carry", "feed", "clean", "hide", "sell")
OBJECTS = ("horse", "basket", "lantern", "piano", "carpet")
TEMPLATES = (  # each with its share of a cluster: some ways to ask are more usual than others
    ("do you {verb} the {object} ?", 8),
    ("the {object} , you {verb} it ?", 4),
    ("is it the {object} that you {verb} ?", 2),
    ("would you say that you {verb} the {object} ?", 1),
    ("you {verb} the {object} , right ?", 1),
    ("is the {object} something you {verb} ?", 1),
    ("tell me , do you ever {verb} that {object} ?", 1),
    ("when it comes to the {object} , do you {verb} it ?", 1),
)
VOCABULARY: tuple[str, ...] = tuple(dict.fromkeys(
    ["<pad>", "?", *" ".join(t.format(verb="", object="") for t, _ in TEMPLATES).split(), *VERBS, *OBJECTS]))
LENGTH = max(len(template.split()) for template, _ in TEMPLATES)
_SIZES = (len(VERBS), len(OBJECTS), len(TEMPLATES))
_TOKEN = {word: token for token, word in enumerate(VOCABULARY)}


class Triple(NamedTuple):
    """What Separator learns from: `target` says what `paraphrase` says in the form of `exemplar`."""

    target: Any
    paraphrase: Any
    exemplar: Any


def make_triples(clusters: Sequence[Sequence[Any]], template_fn: Callable[[Any], Hashable], *, per_cluster: int = 5,
                 template_dropout: float = 0.0, fill: Callable[[Any, np.random.Generator], Any] | None = None,
                 candidates: int = 0, seed: int = 0) -> list[Triple]:
    """Draws triples from clusters of paraphrases: same meaning, same form, for each target.

    The target is any sentence of its cluster. The paraphrase is another of the same cluster, of another template where
    there is one. The exemplar has the target's template and comes from ANOTHER cluster: if it shared the target's
    words, the form would learn the meaning. Where no other cluster has the template, `fill` writes an exemplar (the
    target with its content words replaced, say), or the most similar template (by `difflib`) takes its place.

    Args:
      clusters: of sentences, which may be anything hashable; at least two clusters, of at least two sentences each. A
        sentence that occurs more than once in a cluster is drawn so much more often.
      template_fn: the surface template of a sentence, such as `chunk_template`'s.
      per_cluster: triples drawn from every cluster.
      template_dropout: probability that the exemplar has the template of another sentence of the target's cluster
        instead, so that codes of form are seen with meanings that they did not have; 0.3 in the reference's code.
      fill: `(target, rng) -> exemplar`.
      candidates: so many sentences of a template, drawn once, may be exemplars, for quick work on large sets; 0: all.
      seed: of the draw.

    Returns:
      `per_cluster` triples for each cluster, in the clusters' order.

    Raises:
      DataError: clusters that give no triples; it says which and why.

    >>> clusters = [["do you like tea", "tea , like it"], ["do you sell cars", "cars , sell it"]]
    >>> make_triples(clusters, lambda sentence: sentence.startswith("do"), per_cluster=1)[0]
    Triple(target='tea , like it', paraphrase='do you like tea', exemplar='cars , sell it')

    Reference: Hosking and Lapata, 'Factorising meaning and form for intent-preserving paraphrasing', 2021, arXiv
    2105.15053, and its published code.
    """
    _check(clusters, per_cluster, template_dropout)
    templates = [[template_fn(sentence) for sentence in cluster] for cluster in clusters]
    where = defaultdict(list)  # template -> (cluster, sentence)
    for i, row in enumerate(templates):
        for j, template in enumerate(row):
            where[template].append((i, j))
    rng, triples = np.random.default_rng(seed), []
    if candidates:
        draw = np.random.default_rng((seed, 1))
        where.update({template: [found[i] for i in draw.choice(len(found), candidates, replace=False)]
                      for template, found in where.items() if len(found) > candidates})

    def one_of(found):
        return found[int(rng.integers(len(found)))]

    for i, cluster in enumerate(clusters):
        @functools.cache
        def paraphrases_of(t, i=i, cluster=cluster):
            others = [j for j in range(len(cluster)) if cluster[j] != cluster[t]]
            return [cluster[j] for j in others if templates[i][j] != templates[i][t]] or [cluster[j] for j in others]

        @functools.cache
        def exemplars_of(form, i=i, cluster=cluster):
            found = _from_elsewhere(form, i, cluster, clusters, where)
            return found or (_most_similar(form, i, cluster, clusters, where) if fill is None else [])

        for _ in range(per_cluster):
            t = int(rng.integers(len(cluster)))
            form = one_of(templates[i]) if rng.random() < template_dropout else templates[i][t]
            found = exemplars_of(form)
            exemplar = one_of(found) if found else fill(cluster[t], rng)
            triples.append(Triple(cluster[t], one_of(paraphrases_of(t)), exemplar))
    return triples


def chunk_template(words: Sequence[str], chunks: Sequence[str], keep: Collection[str] = ()) -> tuple[str, ...]:
    """A sentence's template: each chunk of content words becomes its tag, the words of form stay.

    Args:
      words: of the sentence.
      chunks: of each word the tag of its chunk in IOB form, 'B-NP', 'I-NP', or 'O' for none, as shallow parsers write.
      keep: words that are form and stay whatever their chunk, in lower case: question words, stop words.

    Raises:
      DataError: not one tag for each word.

    >>> chunk_template("what do football players earn ?".split(), ["B-NP", "O", "B-NP", "I-NP", "B-VP", "O"], {"what"})
    ('what', 'do', 'NP', 'VP', '?')
    """
    if len(words) != len(chunks):
        raise DataError(f"{len(words)} words and {len(chunks)} tags: give one tag for each word")
    template, last = [], None
    for word, chunk in zip(words, chunks, strict=True):
        tag = None if chunk == "O" or word.lower() in keep else chunk.split("-", 1)[-1]
        if tag is None or tag != last or chunk.startswith("B-"):
            template.append(tag or word)
        last = tag
    return tuple(template)


def paraphrases(num_train: int = 0, num_test: int = 0, seed: int = 0) -> tuple[ArraySource, ArraySource]:
    """Questions of 40 meanings (8 verbs, 5 objects) in 8 templates, as triples.

    Of every meaning one template is held out: no training triple has that sentence in any place, every test triple has
    it as its target. A paraphraser that has the target right has put a meaning into a form it never saw it in.

    Args:
      num_train: training triples; 0 is 6,000.
      num_test: test triples; 0 is 600.
      seed: of the draw.

    Returns:
      Train and test; `x` int32 `[n 12]`, the targets, `END` after the last word and 0 after that; `paraphrase` and
      `exemplar` `[n 12]`; `references` `[n 7 12]`, the other sentences of the paraphrase's cluster; `factors` uint8
      `[n 3]`, the target's verb, object and template; `label`, its template. `info` has `vocabulary`, `factor_names`,
      `factor_sizes` and `label_names`.
    """
    counts = {"train": num_train or 6000, "test": num_test or 600}
    if min(counts.values()) < 1:
        raise DataError(f"num_train={num_train} and num_test={num_test} must not be negative")
    meanings = [(verb, object_) for verb in range(len(VERBS)) for object_ in range(len(OBJECTS))]
    # Some ways to ask are asked more often.
    clusters = [[(*meaning, form) for form, (_, share) in enumerate(TEMPLATES) for _ in range(share)]
                for meaning in meanings]
    parts, each = {"train": (), "test": ()}, max(2 * counts["train"], 16 * counts["test"]) // len(clusters) + 1
    while any(len(parts[name]) < counts[name] for name in parts):
        triples = np.array(make_triples(clusters, lambda sentence: sentence[2], per_cluster=each, seed=seed), np.uint8)
        triples = np.random.default_rng(seed).permutation(triples)  # [n 3 3]: target, paraphrase, exemplar; factors
        held_out = held_out_template(triples[..., 0], triples[..., 1]) == triples[..., 2]
        parts = {"train": triples[~held_out.any(1)], "test": triples[held_out[:, 0] & ~held_out[:, 1:].any(1)]}
        each *= 2
    info = {"vocabulary": VOCABULARY, "factor_names": ("verb", "object", "template"), "factor_sizes": _SIZES,
            "label_names": tuple(template for template, _ in TEMPLATES)}

    def part(name: str) -> ArraySource:
        target, source, exemplar = parts[name][:counts[name]].swapaxes(0, 1)
        forms = np.stack([np.delete(np.arange(_SIZES[2]), form) for form in source[:, 2]]).astype(np.uint8)
        others = np.concatenate([np.repeat(source[:, None, :2], forms.shape[1], 1), forms[..., None]], -1)
        return ArraySource({"x": render(target), "paraphrase": render(source), "exemplar": render(exemplar),
                            "references": render(others.reshape(-1, 3)).reshape(*forms.shape, LENGTH),
                            "factors": target, "label": target[:, 2]}, info)

    return part("train"), part("test")


def held_out_template(verb: Integer[np.ndarray, "*n"], object_: Integer[np.ndarray, "*n"]
                      ) -> Integer[np.ndarray, "*n"]:
    """The template in which training never sees the meaning: each is that of five of the 40."""
    return (verb.astype(int) + 3 * object_.astype(int)) % len(TEMPLATES)


def render(factors: Integer[np.ndarray, "n 3"]) -> Int[np.ndarray, "n t"]:
    """The questions of numbered verbs, objects and templates, as tokens: int32 `[n 12]`.

    >>> from jaxae.data.sentences import to_text
    >>> to_text(render(np.array([[0, 2, 1]]))[0], VOCABULARY)
    'the lantern , you like it ?'
    """
    out = np.full((len(factors), LENGTH), PAD, np.int32)
    for row, (verb, object_, template) in zip(out, factors, strict=True):
        words = TEMPLATES[template][0].format(verb=VERBS[verb], object=OBJECTS[object_]).split()
        row[:len(words)] = [_TOKEN[word] for word in words]
    return out


def _check(clusters, per_cluster, template_dropout):
    if len(clusters) < 2:
        raise DataError(f"{len(clusters)} clusters: the exemplar comes from another cluster than the target, so that "
                        "there must be at least two")
    for i, cluster in enumerate(clusters):
        if isinstance(cluster, str):
            raise DataError(f"cluster {i} is the string {cluster[:40]!r}: give a list of sentences")
        if len(set(cluster)) < 2:
            raise DataError(f"cluster {i} has {len(set(cluster))} different sentence(s): a triple needs a target and a "
                            "paraphrase of it, leave such clusters out")
    if per_cluster < 1 or not 0.0 <= template_dropout <= 1.0:
        raise DataError(f"per_cluster={per_cluster} must be at least 1 and template_dropout={template_dropout} a "
                        "probability")


def _from_elsewhere(template, i, cluster, clusters, where):
    """Sentences of other clusters with the template, which this cluster does not have."""
    return [clusters[a][b] for a, b in where[template] if a != i and clusters[a][b] not in cluster]


def _most_similar(template, i, cluster, clusters, where):
    def likeness(other):
        return difflib.SequenceMatcher(None, *(t if isinstance(t, str | tuple) else (t,) for t in (template, other)),
                                       autojunk=False).ratio()

    for other in sorted((t for t in where if t != template), key=likeness, reverse=True):
        found = _from_elsewhere(other, i, cluster, clusters, where)
        if found:
            return found
    raise DataError(f"cluster {i}: no other cluster has a sentence that could be an exemplar: add clusters")


__all__ = ["END", "LENGTH", "OBJECTS", "TEMPLATES", "VERBS", "VOCABULARY", "Triple", "chunk_template",
           "held_out_template", "make_triples", "paraphrases", "render"]
