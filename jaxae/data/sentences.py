"""Sentences of a small grammar whose choices are known: content that a latent should carry, and a parser.

    the SUBJECT [adverb] verb his|her OBJECT [in the place] .

Every combination of the choices is one sentence of 8, 9, 11 or 12 tokens. Nouns have their own adjectives, and the
pronoun agrees with the subject over a distance, so that not every sequence of likely neighbours is grammatical.
"""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Integer

from jaxae.data.source import ArraySource, DataError

PAD, END = 0, 1  # tokens: 0 fills what follows the end of a sentence
_PRONOUN = {"old king": "his", "young prince": "his", "small monk": "his",
            "proud queen": "her", "young princess": "her", "old nun": "her"}
CHOICES: dict[str, tuple[str, ...]] = {  # subject, verb and object are the content; '' leaves a place empty
    "subject": tuple(_PRONOUN),
    "verb": ("sees", "finds", "feeds", "paints", "follows", "visits"),
    "object": ("small dog", "proud horse", "young falcon", "old cat", "proud goose", "small pony"),
    "adverb": ("", "often", "never"),
    "place": ("", "in the garden", "in the forest"),
}
VOCABULARY: tuple[str, ...] = tuple(dict.fromkeys(
    ["<pad>", ".", "the", "his", "her", *" ".join(" ".join(phrases) for phrases in CHOICES.values()).split()]))
LENGTH = 12  # of the longest sentence, its end included
_SIZES = tuple(len(phrases) for phrases in CHOICES.values())
_TOKEN = {word: token for token, word in enumerate(VOCABULARY)}
_GRAMMAR = re.compile(
    r"the (?P<subject>{subject}) (?:(?:{adverb}) )?(?:{verb}) (?P<pronoun>his|her) (?:{object}) (?:(?:{place}) )?"
    r"\.(?: <pad>)*".format(**{name: "|".join(filter(None, phrases)) for name, phrases in CHOICES.items()}))


def sentences(num_train: int = 0, num_test: int = 0, test_fraction: float = 0.1,
              seed: int = 0) -> tuple[ArraySource, ArraySource]:
    """Different sentences of the 1,944 of the grammar, each as likely as any other.

    Args:
      num_train: training sentences; 0 takes what the test split leaves.
      num_test: test sentences; 0 takes `test_fraction` of all.
      test_fraction: share of the test split when num_test is 0.
      seed: seed of the order and the split.

    Returns:
      Train and test, disjoint; `x` int32 `[n 12]`, tokens with `END` after the last word and 0 after that; `factors`
      uint8 `[n 5]`, the numbers of the `CHOICES`; `label` uint8 `[n]`, the verb's; `info` has `vocabulary`,
      `factor_names`, `factor_sizes` and `label_names`.

    Raises:
      DataError: more sentences asked for than there are.
    """
    total = int(np.prod(_SIZES))
    num_test = num_test or round(test_fraction * total)
    num_train = num_train or total - num_test
    if num_train < 0 or num_train + num_test > total:
        raise DataError(f"{num_train} training and {num_test} test sentences exceed the {total} that there are: ask "
                        "for fewer")
    order = np.random.default_rng(seed).permutation(total)
    info = {"vocabulary": VOCABULARY, "factor_names": tuple(CHOICES), "factor_sizes": _SIZES,
            "label_names": CHOICES["verb"]}

    def part(positions: np.ndarray) -> ArraySource:
        factors = np.stack(np.unravel_index(positions, _SIZES), -1).astype(np.uint8)
        return ArraySource({"x": render(factors), "factors": factors, "label": factors[:, 1]}, info)

    return part(order[:num_train]), part(order[total - num_test:])


def render(factors: Integer[np.ndarray, "n 5"]) -> Int[np.ndarray, "n t"]:
    """The sentences of the choices, as tokens.

    Args:
      factors: number of the phrase chosen for each of `CHOICES`, `[n 5]`.

    Returns:
      int32 `[n 12]`.

    >>> to_text(render(np.array([[3, 0, 2, 0, 2]]))[0])
    'the proud queen sees her young falcon in the forest .'
    """
    out = np.zeros((len(factors), LENGTH), np.int32)
    for row, numbers in zip(out, factors, strict=True):
        subject, verb, object_, adverb, place = (
            phrases[i] for phrases, i in zip(CHOICES.values(), numbers, strict=True))
        words = f"the {subject} {adverb} {verb} {_PRONOUN[subject]} {object_} {place} .".split()
        row[:len(words)] = [_TOKEN[word] for word in words]
    return out


def to_text(tokens: Int[np.ndarray, "t"], vocabulary: Sequence[str] = VOCABULARY) -> str:
    """The words of a sentence; padding is left out."""
    return " ".join(vocabulary[token] for token in tokens if token != PAD)


def parse(tokens: Int[np.ndarray, "t"]) -> bool:
    """Whether the tokens are a sentence of the grammar, ended, with nothing but padding after its end.

    >>> parse(render(np.zeros((1, 5), int))[0]), parse(np.arange(2, 14))
    (True, False)
    """
    found = _GRAMMAR.fullmatch(" ".join(VOCABULARY[token] for token in tokens))
    return found is not None and found["pronoun"] == _PRONOUN[found["subject"]]
