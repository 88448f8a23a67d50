"""Words or pieces of words as numbers: vocabularies by counting, or from a WordPiece file."""

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from jaxae.data.sentences import END, PAD
from jaxae.data.source import DataError

UNKNOWN = "[UNK]"
_WORD = re.compile(r"[^\W_]+|[^\w\s]|_")


class Vocabulary(NamedTuple):
    """Token i is `words[i]`: 0 is padding, 1 the end of a sentence.

    >>> vocabulary = count_words(['do you like tea ?', 'you like cars'], 6)
    >>> vocabulary.words
    ('[PAD]', '[END]', '[UNK]', 'you', 'like', 'do')
    >>> tokens = vocabulary.encode(['Do you like cars?'], 7)
    >>> tokens.tolist(), vocabulary.decode(tokens[0])
    ([[5, 3, 4, 2, 2, 1, 0]], 'do you like [UNK] [UNK]')
    """

    words: tuple[str, ...]
    pieces: bool = False  # whether words are cut into pieces, of which all but the first begin with '##'

    def encode(self, texts: Sequence[str], length: int) -> Int[np.ndarray, "n t"]:
        """Tokens of texts, cut to the length with `END` after the last, and 0 after that: int32 `[n length]`.

        Raises:
          DataError: for a length below 2, or a text that has no word.
        """
        if length < 2:
            raise DataError(f"length={length} must leave room for a word and the end of the sentence: at least 2")
        out = np.full((len(texts), length), PAD, np.int32)
        for i, text in enumerate(texts):
            tokens = [token for word in split_words(text) for token in self._tokens(word)][:length - 1]
            if not tokens:
                raise DataError(f"text {i} has no word: leave it out")
            out[i, :len(tokens) + 1] = [*tokens, END]
        return out

    def decode(self, tokens: Int[np.ndarray, " t"]) -> str:
        """The text up to its end, in lower case, pieces joined, a space between words."""
        found = []
        for token in tokens:
            if token == END:
                break
            if token != PAD:
                found.append(self.words[token])
        return " ".join(found).replace(" ##", "")

    def _tokens(self, word):
        index = _index(self.words)
        if not self.pieces or word in index:
            return [index.get(word, index[UNKNOWN])]
        found, start = [], 0
        while start < len(word):  # the longest piece that the rest begins with
            pieces = (("##" if start else "") + word[start:end] for end in range(len(word), start, -1))
            piece = next((piece for piece in pieces if piece in index), None)
            if piece is None:
                return [index[UNKNOWN]]
            found.append(index[piece])
            start += len(piece) - (2 if start else 0)
        return found


def split_words(text: str) -> list[str]:
    """Runs of letters and digits, and each other sign by itself; lower case, without accents.

    >>> split_words("What's Zoë's  no. 1 tea?")
    ['what', "'", 's', 'zoe', "'", 's', 'no', '.', '1', 'tea', '?']
    """
    plain = unicodedata.normalize("NFD", text.lower())
    return _WORD.findall("".join(sign for sign in plain if unicodedata.category(sign) != "Mn"))


def count_words(texts: Iterable[str], size: int) -> Vocabulary:
    """The most frequent words of the texts; of equally frequent ones those that come first.

    Args:
      texts: to count.
      size: most tokens, padding, end and unknown included.

    Raises:
      DataError: for a size that leaves no word, or texts without one.
    """
    if size < 4:
        raise DataError(f"a vocabulary of {size} has no word: padding, end and unknown words take three")
    counts = Counter(word for text in texts for word in split_words(text))
    if not counts:
        raise DataError("the texts have no word to count")
    return Vocabulary(("[PAD]", "[END]", UNKNOWN, *(word for word, _ in counts.most_common(size - 3))))


def read_vocabulary(path: str | Path) -> Vocabulary:
    """A WordPiece vocabulary, one piece a line, such as the file that BERT (uncased) comes with.

    Its row 0 must be `[PAD]`. Row 1, `[unused0]` there, is the end of a sentence here: where word vectors are given
    too, one may copy those of `[SEP]` to row 1.

    Raises:
      DataError: no such file, or one that is no such vocabulary.

    Reference: Devlin, Chang, Lee, Toutanova, 'BERT', 2018, arXiv 1810.04805.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataError(f"no vocabulary at {file}: give the path of a file with one piece of a word in each line")
    try:
        words = tuple(file.read_text(encoding="utf-8").rstrip("\n").split("\n"))
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is no text in UTF-8 ({error})") from error
    if len(words) < 4 or words[0] != "[PAD]" or not words[1].startswith("[unused") or UNKNOWN not in words:
        raise DataError(f"{file} begins with {list(words[:2])}: a vocabulary must have '[PAD]', then a row that no "
                        f"word uses, '[unused0]', which becomes the end of a sentence, and {UNKNOWN!r} anywhere")
    if len(set(words)) < len(words):
        twice = Counter(words).most_common(1)[0][0]
        raise DataError(f"{file} has {twice!r} more than once: each piece needs one number")
    return Vocabulary(words, pieces=True)


@functools.lru_cache(8)
def _index(words):
    return {word: token for token, word in enumerate(words)}


__all__ = ["UNKNOWN", "Vocabulary", "count_words", "read_vocabulary", "split_words"]
