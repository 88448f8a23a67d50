"""Autoregressive models of images in three families, pixels, tokens and scales, by one registry and one protocol."""

import math
import time
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from claims.training import Trained, config_of, over, trained
from jaxae import data, metrics
from jaxae.metrics.inception_score import inception_score
from jaxae.metrics.precision_recall import precision_recall
from jaxae.priors import Prior, cluster_codebook
from jaxae.quantizers.multi_scale import scale_sizes
from jaxae.systems.discrete import vq_vae
from jaxae.systems.latent import prior as latent_prior
from jaxae.systems.latent import priors_by_name as named

SIDE, LEVELS, CLASSES, PASSES = 14, 8, 10, 8
SCALES = (1, 2, 4, 7)
CLUSTERS = tuple(range(4)) * 2  # of the codes of a prior whose codebook is not there


class Model(NamedTuple):
    """One row of the registry: what a model is, and how large it must be for the common number of parameters."""

    representation: str  # 'pixel', 'token' or 'scale'
    order: str
    head: str  # the distribution of what one step draws
    parallelism: str  # what one step draws at once
    prior: str  # name in `priors_by_name.CODES`
    net: dict[str, Any]  # keys of `config.model`
    steps: Callable[[tuple[int, ...]], int]  # shape of the map of pixels or codes -> passes of networks, one by one
    tokenizer: dict[str, Any] | None = None  # keys of the VQ-VAE's `config.model`; None for pixels

    @property
    def map(self) -> tuple[int, ...]:
        """Shape of the map of pixels or codes of the benchmark's images."""
        return (SIDE, SIDE) if self.tokenizer is None else (SIDE // 2, SIDE // 2)

    @property
    def codes(self) -> int:
        """Values that a pixel or code may have."""
        return LEVELS if self.tokenizer is None else self.tokenizer["codes"]

    def sees(self, shape: tuple[int, ...]) -> list[np.ndarray]:
        """For each network of the prior `[outputs inputs]`: which codes its outputs must depend on, and which not.

        For an order that is drawn anew for each image ('random') there is none.
        """
        if self.prior == "next_scale":
            scale = np.repeat(np.arange(len(SCALES)), [h * w for h, w in scale_sizes(SCALES)])
            return [scale[:, None] > scale]
        before = np.tri(math.prod(shape), k=-1, dtype=bool)
        return {"masked": [], "coarse_to_fine": [np.ones_like(before), before]}.get(self.prior, [before])


TOKENIZER = dict(channels=(32,), blocks=1, hidden=16, width=16, likelihood="discretized_logistic",
                 grey_levels=LEVELS)
# So few codes, for at this size more of them cost more bits than they save the decoder.
_VQ = dict(quantizer="vector", codes=8, revive=0.01)
_SCALES = dict(quantizer="multi_scale", codes=4, revive=0.01, scales=SCALES)
AR_MODELS: dict[str, Model] = {
    "pixelcnn": Model("pixel", "raster", "softmax", "pixel", "autoregressive", dict(hidden=15, layers=11, embed=8),
                      math.prod),
    "transformer": Model("pixel", "raster", "softmax", "pixel", "transformer", dict(hidden=40, layers=3), math.prod),
    "linear": Model("pixel", "raster", "softmax", "pixel", "linear_transformer", dict(hidden=40, layers=3), math.prod),
    "axial": Model("pixel", "raster", "softmax", "pixel", "axial", dict(hidden=40, layers=3), math.prod),
    "vq-transformer": Model("token", "raster", "softmax", "token", "transformer", dict(hidden=40, layers=2),
                            lambda shape: math.prod(shape) + 1, _VQ),
    "vq-masked": Model("token", "random", "softmax", "tokens of an iteration", "masked", dict(hidden=40, layers=2),
                       lambda shape: PASSES + 1, _VQ),
    "vq-coarse": Model("token", "raster of clusters, then codes", "softmax, then softmax in the cluster",
                       "cluster, then all tokens", "coarse_to_fine", dict(hidden=40, layers=1),
                       lambda shape: math.prod(shape) + 2, _VQ),
    "next-scale": Model("scale", "coarse to fine", "softmax", "all tokens of a scale", "next_scale",
                        dict(hidden=32, layers=2, embed=16), lambda shape: len(SCALES) + 1, _SCALES),
}


class Fitted(NamedTuple):
    """A trained model. Images are [n h w 1], multiples of 1 / (LEVELS - 1)."""

    draw: Callable[..., Array]  # (key, label [n]) -> images, compiled
    nats: float  # mean of -log p(x | label) over the test images, or of an upper bound
    rate: float  # nats of the codes in it; 0 for pixels
    parameters: int
    update_seconds: float
    complete: Callable[..., Array] | None  # (key, images, label) -> images with the same upper half


def prior_of(model: Model, shape: tuple[int, ...], codes: int, classes: int = 0, **changes) -> Prior:
    """The prior of a row for maps of another shape, as `systems.latent.prior` builds it."""
    options = latent_prior.defaults()
    options.update(model.net | dict(codes=codes, scales=SCALES, assignment=CLUSTERS, label_dropout=0.0) | changes)
    return named.CODES[model.prior].build(named.Case(options, shape, classes, None, jnp.dtype("float32")))


def influence(log_prob: Callable[[Array], Array], codes: Array, others: Array) -> list[tuple[Array, Array]]:
    """Which codes every output of the networks inside a function depends on, by replacing one code at a time.

    Args:
      log_prob: of codes [1 ...], a function of nothing else: a key inside it is the same for all.
      codes: [1 ...].
      others: [1 ...], what replaces a code.

    Returns:
      For each network `changes [outputs inputs]`, the largest change of an output relative to the largest output, and
      `counts [outputs]`, whether `log_prob` depends on the output at all.
    """
    flat, length = codes.reshape(-1), codes.size
    each = jnp.where(jnp.eye(length, dtype=bool), others.reshape(-1), flat)
    whole = jax.vmap(lambda z: _outputs(log_prob, z.reshape(codes.shape)))(jnp.concatenate([flat[None], each]))
    bumps = [jnp.zeros(out.shape[1:]) for out in whole]
    slopes = jax.grad(lambda bumps: _outputs(log_prob, codes, bumps, value=True).sum())(bumps)
    found = []
    for out, slope in zip(whole, slopes, strict=True):
        out = out.reshape(length + 1, -1, out.shape[-1])
        change = jnp.abs(out[1:] - out[0]).max(-1).T / jnp.abs(out[0]).max()
        found.append((change, jnp.abs(slope).reshape(out.shape[1:]).max(-1) > 0))
    return found


def _outputs(function, codes, bumps=None, value=False):
    """What the networks in a function return, in the order of their calls, with `bumps` added to it."""
    found, depth = [], 0

    def note(call, args, kwargs, context):
        nonlocal depth
        if context.module.path or context.method_name == "setup":
            return call(*args, **kwargs)
        depth += 1
        out = call(*args, **kwargs)
        depth -= 1
        if not depth:
            out = out if bumps is None else out + bumps[len(found)]
            found.append(out)
        return out

    with nn.intercept_methods(note):
        result = function(codes)
    return result if value else found


@cache
def images() -> "data.Dataset":
    """The digits of 14 x 14 pixels, of 8 grey levels."""
    return data.load(dict(source="digits", size=SIDE, levels=LEVELS))


def of_split(source) -> tuple[np.ndarray, np.ndarray]:
    """All images and labels of a split."""
    batch = images().test_transform(source[np.arange(len(source))], jax.random.key(0))
    return np.asarray(batch["x"]), np.asarray(batch["label"])


def _trained(module, steps: int, batch_size: int, dataset, rate: float, **model) -> tuple[Trained, float]:
    """A config trained, and the seconds of one update."""
    config = config_of(module, steps, batch_size=batch_size, rate=rate, **model)
    config.optim.update(dict(schedule="cosine", warmup_steps=min(50, steps // 4), clip=1.0))
    run = trained(config, dataset)
    batch = dataset.transform(dataset.train[np.arange(batch_size)], jax.random.key(0))
    state = jax.jit(run.system.init)(jax.random.key(0), batch)
    step = jax.jit(run.system.step)
    return run, timed(lambda i: step(state, batch, jax.random.key(i)), 4)[0]


def timed(call: Callable[[int], Any], calls: int) -> tuple[float, list]:
    """The least processor seconds of several calls, after one that compiles, and what they returned.

    Other work on the machine lengthens wall time; processor time is that of one idle core.
    """
    jax.block_until_ready(call(0))
    seconds, found = [], []
    for i in range(calls):
        begin = time.process_time()
        found.append(jax.block_until_ready(call(i + 1)))
        seconds.append(time.process_time() - begin)
    return min(seconds), found


def _size(params) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@cache
def _tokenizer(options: tuple, steps: int, batch_size: int) -> tuple[Trained, float]:
    return _trained(vq_vae, steps, batch_size, images(), 6e-3, **TOKENIZER, **dict(options))


class _Coder(NamedTuple):
    """Images as maps of codes."""

    encode: Callable[[Array], Array]
    decode: Callable[[Array], Array]
    codebook: Array | None  # [codes d], where each code has a vector
    nats: float  # mean of -log p(x | codes) over the test images
    parameters: int
    update_seconds: float
    updates: int


def _coder(model: Model, steps: int, batch_size: int) -> _Coder:
    if model.tokenizer is None:
        return _Coder(lambda x: jnp.round(x[..., 0] * (LEVELS - 1)).astype(jnp.int32),
                      lambda z: z[..., None] / (LEVELS - 1), None, 0.0, 0, 0.0, 0)
    run, seconds = _tokenizer(tuple(model.tokenizer.items()), _first(steps), batch_size)
    system, member = run.system, run.members[0]
    codebook = system.codebook(member) if system.codebook else None
    return _Coder(lambda x: system.encode(member, x),
                  lambda z: jnp.round(jnp.clip(system.decode(member, z), 0, 1) * (LEVELS - 1)) / (LEVELS - 1), codebook,
                  float(run.test["reconstruction"][0]) * SIDE**2,
                  _size(member.params) + model.codes * TOKENIZER["width"], seconds, _first(steps))


def _first(steps: int) -> int:
    """Updates of the tokenizer."""
    return 2 * steps // 5


def fitted(model: Model, steps: int, batch_size: int = 50) -> Fitted:
    """A model of the registry, trained by so many updates: of its tokenizer two fifths, where there is one."""
    coder, split = _coder(model, steps, batch_size), {}
    for name, source in (("", images().train), ("test_", images().test)):
        split[f"{name}x"] = over(lambda b: coder.encode(b["x"]), source, images())
        split[f"{name}label"] = of_split(source)[1]
    options = dict(prior=model.prior, codes=model.codes, scales=SCALES, conditional=True, classes=CLASSES,
                   label_dropout=0.0, dropout=0.0, iterations=PASSES)
    if coder.codebook is not None and model.prior == "coarse_to_fine":
        clusters = cluster_codebook(coder.codebook, max(CLUSTERS) + 1, jax.random.key(0))
        options["assignment"] = tuple(clusters.assignment.tolist())
    rest = steps - coder.updates
    run, seconds = _trained(latent_prior, rest, batch_size, data.from_arrays(**split), 3e-3, **options, **model.net)
    member, complete = run.members[0], None
    rate = float(run.test["nll" if "nll" in run.test else "nll_bound"][0])
    draw = jax.jit(lambda key, label: coder.decode(run.system.sample(member, key, label.shape[0], label)))
    if named.CODES[model.prior].begins:
        complete = jax.jit(lambda key, x, label: coder.decode(run.system.sample(
            member, key, len(x), label, coder.encode(x)[:, :model.map[0] // 2])))
    return Fitted(draw, rate + coder.nats, rate if coder.updates else 0.0, _size(member.params) + coder.parameters,
                  (coder.updates * coder.update_seconds + rest * seconds) / steps, complete)


def independent(of_class: bool = True) -> Fitted:
    """Every pixel by itself: a categorical of the grey levels for each pixel, and for each class or for all in one."""
    x, label = of_split(images().train)
    test, test_label = of_split(images().test)
    if not of_class:
        label, test_label = np.zeros_like(label), np.zeros_like(test_label)
    codes, classes = np.round(x * (LEVELS - 1)).astype(int), np.arange(label.max() + 1)
    counts = np.stack([(codes[label == c][..., None] == np.arange(LEVELS)).sum(0) for c in classes]) + 1.0 / LEVELS
    log_p = jnp.asarray(np.log(counts / counts.sum(-1, keepdims=True)), jnp.float32)  # [class h w 1 level]
    at = np.round(test * (LEVELS - 1)).astype(int)[..., None]
    nats = -np.take_along_axis(np.asarray(log_p)[test_label], at, -1).sum((1, 2, 3, 4)).mean()
    draw = jax.jit(lambda key, label: jax.random.categorical(key, log_p[label * of_class]) / (LEVELS - 1))
    return Fitted(draw, float(nats), 0.0, len(classes) * SIDE**2 * (LEVELS - 1), 0.0, None)


def measured(found: Fitted, steps: int, samples: int, batch: int = 50) -> tuple[dict[str, float], np.ndarray]:
    """The numbers of the benchmark, and the samples they are of: `batch` at a time, all classes alike.

    Distances are on the features of the digit classifier, of images enlarged to its 28 x 28 pixels.
    """
    label = jnp.arange(batch) % CLASSES
    seconds, parts = timed(lambda i: found.draw(jax.random.key(i), label), samples // batch)
    drawn = np.concatenate(parts)
    features, logits = (_of_classifier(f()) for f in (metrics.digit_features, metrics.digit_logits))
    real, fake, said = features(of_split(images().test)[0]), features(drawn), logits(drawn)
    share = precision_recall(real, fake)
    bits = 1.0 / (SIDE**2 * math.log(2.0))
    numbers = {"parameters": found.parameters, "steps": steps, "bits": found.nats * bits, "rate": found.rate * bits,
               "frechet": metrics.frechet_distance(fake, real), "precision": share.precision, "recall": share.recall,
               "score": inception_score(said, 1).mean,
               "accuracy": (said.argmax(-1) == np.arange(len(drawn)) % batch % CLASSES).mean(),
               "image_ms": 1e3 * seconds / batch, "update_ms": 1e3 * found.update_seconds}
    return {name: float(value) for name, value in numbers.items()}, drawn


def _of_classifier(function):
    enlarged = jax.jit(lambda x: function(jax.image.resize(x, (len(x), 28, 28, 1), "linear")))
    return lambda x: np.asarray(enlarged(jnp.asarray(x)))


__all__ = ["AR_MODELS", "TOKENIZER", "Fitted", "Model", "fitted", "images", "independent", "influence", "measured",
           "of_split", "prior_of"]
