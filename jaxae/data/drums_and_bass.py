"""Tones and drums: short clips of a drum machine and of a bass line, two kinds of source that can be mixed.

Everything is synthesised here at 4,000 samples a second. A clip of the drums is a rhythm of kick (a sine that sweeps
down), snare (noise over a low tone) and hi-hat (high noise), each the same sample at every hit, as a drum machine plays
it; a clip of the bass is a walk on a scale of ten notes, each a few harmonics that die away. Both keep to one grid of
sixteenth notes and lie in the same octaves, so that no filter tells them apart.
"""

import numpy as np

from jaxae.data.source import ArraySource, DataError

SAMPLE_RATE = 4000  # samples a second
STEP = 512  # samples of a sixteenth note: 117 beats a minute
NAMES = ("drums", "bass")
_BEFORE = 4  # steps that are played before a clip begins, so that what still sounds is in it
_HIT = 1024  # samples of a hit
# Where a bar of 16 steps has kicks and hats; the snare is on the second and fourth beat.
_KICKS = np.array([[0, 8, 10, 16], [0, 3, 8, 11], [0, 6, 8, 14], [0, 4, 8, 12]])  # 16: none
_HATS = np.array([4, 2, 1])  # one hat in so many steps
_SCALE = np.array([0, 3, 5, 7, 10, 12, 15, 17, 19, 22])  # semitones over 55 Hz: minor pentatonic
_LENGTHS = np.array([1, 2, 4])  # steps of a note


def drums_and_bass(length: int = 0, num_train: int = 0, num_test: int = 0, seed: int = 0
                   ) -> tuple[ArraySource, ArraySource]:
    """Clips of drums and clips of a bass as waveforms, as many of each.

    Args:
      length: samples of a clip; 0 is 4,096, eight steps of the grid, a second.
      num_train: training clips; 0 is 2,000.
      num_test: test clips; 0 is 400.
      seed: of everything: the sounds of the drums, rhythms, melodies.

    Returns:
      Train and test; `x` float32 `[n length 1]` in [-1, 1], `label` int32 `[n]`, 0 for drums and 1 for bass; `info` has
      `label_names` and `sample_rate` in Hz.

    Raises:
      DataError: a length that is not positive.

    >>> train, _ = drums_and_bass(num_train=4, num_test=2)
    >>> train.spec["x"].shape, train[:]["label"].tolist()
    ((4096, 1), [0, 1, 0, 1])
    """
    length = length or 8 * STEP
    if length < 1:
        raise DataError(f"length={length} must be positive: samples of a clip")
    hits = _hits(np.random.default_rng([seed, 2]))

    def draw(n: int, split: int) -> ArraySource:
        rng, label = np.random.default_rng([seed, split]), np.arange(n, dtype=np.int32) % 2
        steps = _BEFORE + -(-length // STEP)
        clips = [(_bass(rng, steps) if y else _drums(rng, steps, hits)) for y in label]
        x = np.stack(clips)[:, _BEFORE * STEP:_BEFORE * STEP + length] if n else np.zeros((0, length))
        return ArraySource({"x": np.clip(x, -1, 1).astype(np.float32)[..., None], "label": label},
                           {"label_names": NAMES, "sample_rate": SAMPLE_RATE})

    return draw(num_train or 2000, 0), draw(num_test or 400, 1)


def _hits(rng):
    """Waveforms of kick, snare and hat `[3 _HIT]`; the noise is drawn once."""
    t = np.arange(_HIT) / SAMPLE_RATE
    sweep = 45.0 * t + 75.0 * 0.03 * (1 - np.exp(-t / 0.03))  # cycles of a tone that falls from 120 to 45 Hz
    noise = rng.uniform(-1, 1, (2, _HIT + 1))
    kick = 0.9 * np.sin(2 * np.pi * sweep) * np.exp(-t / 0.07)
    snare = 0.5 * np.exp(-t / 0.04) * (noise[0, 1:] + 0.6 * np.sin(2 * np.pi * 180.0 * t))
    hat = 0.3 * np.exp(-t / 0.012) * np.diff(noise[1])  # differences leave the high half of the noise
    return np.stack([kick, snare, hat])


def _drums(rng, steps, hits):
    """One rhythm, beginning anywhere in the bar, a tenth of its hits left out."""
    place = (rng.integers(16) + np.arange(steps)) % 16
    struck = np.stack([np.isin(place, rng.choice(_KICKS)), np.isin(place, (4, 12)),
                       place % rng.choice(_HATS) == 0])  # [3 steps]
    loud = struck * (rng.random(struck.shape) > 0.1) * np.where(place % 4 == 0, 1.0, 0.7)
    x = np.zeros(steps * STEP + _HIT)
    for i, j in zip(*np.nonzero(loud), strict=True):
        x[j * STEP:j * STEP + _HIT] += loud[i, j] * hits[i]
    return x[:steps * STEP]


def _bass(rng, steps):
    """Notes of one, two or four steps, whose pitches walk along the scale; a sixth of them are rests."""
    x, at, note = np.zeros(steps * STEP), 0, rng.integers(len(_SCALE))
    while at < steps:
        held = min(rng.choice(_LENGTHS), steps - at)
        note = np.clip(note + rng.integers(-2, 3), 0, len(_SCALE) - 1)
        if rng.random() > 1 / 6:
            t = np.arange(held * STEP) / SAMPLE_RATE
            tone = sum(np.sin(2 * np.pi * h * 55.0 * 2.0 ** (_SCALE[note] / 12) * t) * np.exp(-h * t / 0.5) / h
                       for h in (1, 2, 3))
            # Rises in 4 ms and is damped in the last 8.
            x[at * STEP:at * STEP + len(t)] = 0.3 * tone * np.minimum(1, t / 0.004) * np.minimum(1, t[::-1] / 0.008)
        at += held
    return x
