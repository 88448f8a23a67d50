"""Writes bleu.npz: corpus BLEU of sacrebleu on seeded corpora of integers.

pip install -e ".[parity]" && python tests/golden/bleu.py
"""

import pathlib

import numpy as np
import sacrebleu

# name: sentences, references of each, words in the vocabulary, longest sentence, share of words that are copied
CORPORA = {"usual": (40, 1, 30, 12, 0.7), "several": (40, 3, 30, 12, 0.7), "rare": (12, 2, 60, 9, 0.25),
           "long": (30, 1, 8, 16, 0.5), "none": (5, 1, 200, 8, 0.0), "short": (6, 2, 5, 3, 0.6)}


def sentence(rng, vocabulary, longest):
    out = np.zeros(longest, np.int32)
    length = rng.integers(1, longest + 1)
    out[:length] = rng.integers(2, vocabulary, length)
    return out


def text(tokens):
    return " ".join(f"w{token}" for token in tokens if token)


def main():
    rng, out = np.random.default_rng(0), {"versions": f"sacrebleu {sacrebleu.__version__}"}
    for name, (n, count, vocabulary, longest, copied) in CORPORA.items():
        references = np.stack([[sentence(rng, vocabulary, longest) for _ in range(count)] for _ in range(n)])
        outputs = np.stack([sentence(rng, vocabulary, longest) for _ in range(n)])
        kept = (rng.random(outputs.shape) < copied) & (outputs > 0) & (references[:, 0] > 0)
        outputs = np.where(kept, references[:, 0], outputs)
        if name == "none":
            outputs = np.where(outputs > 0, outputs + vocabulary, 0)
        streams = [[text(row[i]) for row in references] for i in range(count)]
        score = sacrebleu.corpus_bleu([text(row) for row in outputs], streams, tokenize="none")
        out |= {f"{name}/outputs": outputs, f"{name}/references": references, f"{name}/bleu": score.score,
                f"{name}/counts": [*score.counts, *score.totals, score.sys_len, score.ref_len]}
    np.savez_compressed(pathlib.Path(__file__).with_suffix(".npz"), **out)


if __name__ == "__main__":
    main()
