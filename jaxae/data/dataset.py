"""One door to data: `load(config)` for named sources, `from_arrays` for arrays at hand."""

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxae.data import transforms
from jaxae.data.activations import activations
from jaxae.data.checks import as_label, as_x, check, kind_of
from jaxae.data.collages import collages
from jaxae.data.dictionaries import dictionary, feature_tree
from jaxae.data.digits import digits, sklearn_digits
from jaxae.data.drums_and_bass import drums_and_bass
from jaxae.data.files import folder, npz, split_arrays
from jaxae.data.gaussians import gaussians
from jaxae.data.influence import influence
from jaxae.data.moving_digits import moving_digits
from jaxae.data.pairs import pairs
from jaxae.data.paraphrases import paraphrases
from jaxae.data.photographs import photographs
from jaxae.data.planted_pairs import planted_pairs
from jaxae.data.questions import paralex, qqp
from jaxae.data.scenes import scenes
from jaxae.data.sentences import sentences
from jaxae.data.source import ArraySource, DataError, Source
from jaxae.data.sprites import sprites
from jaxae.data.tfds import tfds
from jaxae.data.wav import wav

# Every option with its default, which leaves the choice to the source. The sources' docstrings say the rest.
DEFAULTS: dict[str, Any] = {
    "source": "digits",          # of SOURCES, or a scheme and a path or name: 'tfds:NAME', 'npz:PATH', 'wav:PATH', ...
    "binarize": "none",          # 'none', 'static' (one draw per example for ever), 'dynamic' (one per step)
    "levels": 0,                 # grey levels, or of each colour, to which images are rounded; 0: as they are
    "augment": (),               # names of transforms.AUGMENT: 'flip', 'shift', 'crop'; training only
    "num_train": 0,              # so many examples, the first ones; 0 is all (drawn at random: 4,000)
    "num_test": 0,               # the same for the test split (drawn at random: 1,000)
    "seed": 0,                   # generators, random splits, static binarisation; not the order of batches
    "resident_bytes": 2 << 30,   # training keeps a smaller set on the device and streams a larger one
    "size": 0,                   # pixels of a side: generators draw so, stored images are resized
    "channels": 0,               # 1 or 3: greyscale or RGB
    "whiten": 0,                 # photographs: so many principal components of variance one, instead of pixels
    "test_fraction": 0.1,        # where a source has no test split of its own
    "train_split": "train", "test_split": "test", "data_dir": "",      # tfds
    "x": "", "label": "", "test_x": "", "test_label": "",             # names of arrays (npz), features (tfds)
    "classes": 0, "ignore": 255,                                       # pairs: images with semantic maps
    "components": 8, "dim": 2, "layout": "circle", "radius": 2.0, "std": 0.1,   # gaussians
    "factor_sizes": (),                                                # sprites
    "length": 0,                                                       # drums_and_bass, wav, paralex, qqp
    "vocabulary": "", "words": 0, "per_cluster": 5, "template_dropout": 0.3,   # paralex, qqp
    "normalise": "none",         # activations: 'mean_norm' (mean |x|^2 = d) or 'example' (mean 0, norm 1)
    "atom_dim": 0, "noise": 0.0,                                       # dictionary, feature_tree
    "atoms": 64, "active": 3, "active_std": 0.0, "coefficients": "uniform", "low": 0.5, "high": 1.5,  # dictionary
    "frequencies": "uniform", "zipf_exponent": 1.0, "group_ratio": 10.0, "correlated": 0.0,
    "rare_atoms": 0, "rare_probability": 0.01, "rare_coefficient": 1.2, "unit_norm": False,
    "sharpness": 15.0,                                                 # influence
    "branching": (8, 4), "root_probability": 0.2, "child_probability": 0.8, "exclusive": True,        # feature_tree
    "sibling_cosine": 0.0, "coefficient_mean": 1.5, "coefficient_std": 0.25,
    "frames": 0,                 # of a video: moving_digits draws so many, of stored videos the first are taken
    "moving": 1, "digit_size": 0, "speed": 0.0,                        # moving_digits
    "heads": 4, "bases": 4, "extensions": 4, "active_heads": 2,        # planted_pairs
    "collage_classes": (0, 1, 2, 3), "fixed_places": False,            # collages
}
SOURCES: dict[str, Callable[..., tuple[Source, Source]]] = {
    "digits": digits, "sklearn_digits": sklearn_digits, "photographs": photographs, "gaussians": gaussians,
    "sprites": sprites, "scenes": scenes, "sentences": sentences, "paraphrases": paraphrases, "dictionary": dictionary,
    "feature_tree": feature_tree, "influence": influence, "planted_pairs": planted_pairs, "collages": collages,
    "moving_digits": moving_digits, "drums_and_bass": drums_and_bass,
}
_SCHEMES: dict[str, Callable[..., tuple[Source, Source]]] = {
    "tfds": tfds, "npz": npz, "folder": folder, "pairs": pairs, "activations": activations,
    "paralex": paralex, "qqp": qqp, "wav": wav,
}
_COMMON = ("source", "binarize", "levels", "augment", "num_train", "num_test", "seed", "resident_bytes")


class Dataset(NamedTuple):
    """Two splits and how a batch of each is made ready on the device.

    The transforms are pure: `transform(batch, key, axis_name=None) -> batch`; uint8 to float32 in [0, 1],
    then augmentation (training only), then binarisation or rounding to levels.
    """

    train: Source
    test: Source
    transform: transforms.Transform
    test_transform: transforms.Transform
    name: str


def load(config: Mapping[str, Any] | Any = None) -> Dataset:
    """Loads and checks the data that a config names.

    Args:
      config: mapping or `ConfigDict` with keys of `DEFAULTS`; what is missing or None takes its default. An
        option that the source does not have must be left at its default.

    Returns:
      A checked `Dataset`.

    Raises:
      DataError: an unknown source or option, or data that cannot be used.

    Example:
      >>> data = load({'source': 'digits', 'binarize': 'dynamic', 'num_train': 500})
      >>> len(data.train), len(data.test), data.train.spec['x'].shape
      (500, 1000, (28, 28, 1))
      >>> batch = jax.jit(data.transform)(data.train[:16], jax.random.key(0))
      >>> batch['x'].dtype, sorted({float(v) for v in batch['x'].ravel()})
      (dtype('float32'), [0.0, 1.0])
    """
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in dict(config or {}).items()
             if v is not None}
    for key in given:
        if key not in DEFAULTS:
            near = difflib.get_close_matches(key, DEFAULTS, 1)
            raise DataError(f"unknown data option {key!r}" + (f", did you mean {near[0]!r}?" if near else
                            f"; the options are {', '.join(DEFAULTS)}"))
    options = {**DEFAULTS, **given}
    build, arguments = _builder(options["source"])
    accepted = tuple(inspect.signature(build).parameters)
    for key, value in given.items():
        if key not in (*accepted, *_COMMON) and value != DEFAULTS[key]:
            own = ", ".join(a for a in accepted if a not in arguments)
            raise DataError(f"data source {options['source']!r} has no option {key!r}: leave it at "
                            f"{DEFAULTS[key]!r}; besides the common ones it has {own}")
    train, test = build(**arguments, **{k: options[k] for k in accepted if k not in arguments})
    return _dataset(train, test, options, options["source"])


def from_arrays(x: Any, label: Any = None, *, test_x: Any = None, test_label: Any = None,
                extra: Mapping[str, Any] | None = None, test_extra: Mapping[str, Any] | None = None,
                test_fraction: float = 0.1, seed: int = 0, binarize: str = "none",
                augment: Sequence[str] | str = (), levels: int = 0, num_train: int = 0, num_test: int = 0,
                name: str = "arrays") -> Dataset:
    """A checked data set from arrays in memory.

    Args:
      x: examples `[n ...]`; `jaxae.data.checks` has the table of shapes and dtypes. `[n h w]` uint8 or float
        images gain a channel axis, float64 becomes float32, bool images uint8, integers int32 tokens.
      label: class indices `[n]`.
      test_x: test examples; None shuffles and splits x.
      test_label: their labels.
      extra: further arrays `[n ...]` by name, such as `factors` or `mask`.
      test_extra: the same for the test examples.
      test_fraction: share of the test split when test_x is None.
      seed: of that split and of static binarisation.
      binarize: as in `DEFAULTS`.
      augment: as in `DEFAULTS`.
      levels: as in `DEFAULTS`.
      num_train: as in `DEFAULTS`.
      num_test: as in `DEFAULTS`.
      name: what the data set is called.

    Returns:
      A checked `Dataset`.

    Raises:
      DataError: arrays that cannot be used; the message says why and what to do.

    Example:
      >>> data = from_arrays(np.random.rand(50, 12), np.arange(50) % 5, test_fraction=0.2)
      >>> data.train
      ArraySource(40 examples: x float32[12], label int64[], index int32[])
    """
    if test_x is None and (test_label is not None or test_extra is not None):
        raise DataError("test_label or test_extra without test_x: give test_x, or leave all three out")
    train = _arrays(x, label, extra, "")
    if test_x is None:
        sources = split_arrays(train, test_fraction, seed)
    else:
        sources = ArraySource(train), ArraySource(_arrays(test_x, test_label, test_extra, "test "))
    options = {"binarize": binarize, "augment": augment, "levels": levels, "seed": seed,
               "num_train": num_train, "num_test": num_test}
    return _dataset(*sources, options, name)


def _arrays(x: Any, label: Any, extra: Mapping[str, Any] | None, prefix: str) -> dict[str, np.ndarray]:
    arrays = {"x": as_x(x, prefix + "x")}
    if label is not None:
        arrays["label"] = as_label(label, len(arrays["x"]), prefix + "label")
    for key, value in (extra or {}).items():
        if key in arrays:
            raise DataError(f"{prefix}extra repeats {key!r}: give it once")
        arrays[key] = np.asarray(value)
        if arrays[key].ndim == 0 or len(arrays[key]) != len(arrays["x"]) or arrays[key].dtype.kind in "OUSc":
            raise DataError(f"{prefix}extra {key!r} is {arrays[key].dtype} {list(arrays[key].shape)}: it "
                            f"needs one row of numbers for each of the {len(arrays['x'])} examples")
    return arrays


def _builder(source: str) -> tuple[Callable[..., tuple[Source, Source]], dict[str, str]]:
    scheme, colon, rest = source.partition(":")
    if colon and scheme in _SCHEMES and rest:
        return _SCHEMES[scheme], {next(iter(inspect.signature(_SCHEMES[scheme]).parameters)): rest}
    if source in SOURCES:
        return SOURCES[source], {}
    near = difflib.get_close_matches(source, SOURCES, 1)
    raise DataError(f"unknown data source {source!r}" + (f", did you mean {near[0]!r}?" if near else
                    f": use one of {', '.join(SOURCES)}, activations:PATH, paralex:PATH, qqp:PATH, pairs:PATH, "
                    "wav:PATH, tfds:NAME, npz:PATH or folder:PATH"))


def _dataset(train: Source, test: Source, options: Mapping[str, Any], name: str) -> Dataset:
    augment = options["augment"]
    augment = tuple(a for a in augment.split(",") if a) if isinstance(augment, str) else tuple(augment)
    train = _limit(train, options["num_train"], "num_train")
    test = _limit(test, options["num_test"], "num_test")
    static = jax.random.split(jax.random.key(options["seed"]))   # example 7 of train and of test: other noise
    made = [transforms.make(a, options["binarize"], k, options["levels"])
            for a, k in zip((augment, ()), static, strict=True)]
    dataset = Dataset(train, test, *made, name)
    check(dataset)
    x = train.spec["x"]
    if augment and len(x.shape) != 3:
        raise DataError(f"augment={augment} needs images [n h w c], x is {['n', *x.shape]}: set augment=()")
    if set(augment) - set(transforms.WITH_MAPS) and "semantic" in train.spec:
        raise DataError(f"augment={augment}: an image would move without its map `semantic`: set augment=() or 'flip'")
    if options["binarize"] != "none" and not _unit(train):
        raise DataError(f"binarize={options['binarize']!r} needs values in [0, 1], which {name!r} has not: "
                        "set binarize='none'")
    if options["levels"] and not _unit(train):
        raise DataError(f"levels={options['levels']} needs values in [0, 1], which {name!r} has not: set levels=0")
    return dataset


def _limit(source: Source, n: int, option: str) -> Source:
    if n < 0 or n > len(source):
        raise DataError(f"{option}={n} but the split has {len(source)} examples: use 0 for all")
    return source.take(n) if n and n < len(source) else source


def _unit(source: Source) -> bool:
    """Whether x, made float, lies in [0, 1]; of a lazily decoded float split the first example speaks."""
    if source.spec["x"].dtype == np.uint8:
        return True
    x = source.arrays()["x"] if isinstance(source, ArraySource) else source[:1]["x"]
    return kind_of(x) == "float" and bool(x.min() >= 0 and x.max() <= 1)
