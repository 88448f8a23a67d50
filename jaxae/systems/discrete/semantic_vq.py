"""The semantically coupled VQ-model: codes of an image and of its semantic map, the image decoded with both."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree
from ml_collections import ConfigDict

from jaxae import collectives, optim
from jaxae.metrics import code_counts, perplexity, usage
from jaxae.metrics.segmentation import confusion_matrix, mean_iou
from jaxae.nn import Conv
from jaxae.quantizers import Codes, Quantizer
from jaxae.systems import figures as draw
from jaxae.systems import networks
from jaxae.systems.base import Latent, Objective, State, System, by_chunks, means, variables
from jaxae.systems.builders import Player, players
from jaxae.systems.discrete import bottlenecks
from jaxae.systems.image_error import defaults as error_defaults
from jaxae.systems.image_error import image_error
from jaxae.systems.patch_critic import defaults as critic_defaults
from jaxae.systems.patch_critic import patch_critic

COUPLINGS = ("none", "decoder", "encoder+decoder")
PARTS = ("semantic", "image")  # in the order of the rows of a latent


def defaults() -> ConfigDict:
    """Keys of `config.model`, beside those of `networks.defaults` and `bottlenecks.defaults`, which both models share,
    and those of `image_error.defaults` and `patch_critic.defaults`, for the image.

    `classes` of the semantic map. `coupling`: 'none' for two models apart, 'decoder' gives the image's decoder the
    map's codes, 'encoder+decoder' gives the image's encoder the features of the map's too. `semantic_codes`: size of
    the map's codebook, beside `codes`, that of the image.
    """
    return ConfigDict(networks.defaults() | bottlenecks.defaults() | error_defaults() | critic_defaults() | dict(
        classes=5, coupling="decoder", semantic_codes=64, codes=64))


class CoupledVQ(NamedTuple):
    """The networks and quantizers of both models; z are vectors `[n h w width]`, x images, s maps of class numbers."""

    places: tuple[int, int]  # height and width of a map of codes
    quantizers: dict[str, Quantizer]
    init: Callable[[Array], PyTree]  # key -> params
    encode: Callable[[PyTree, Array, Array], dict[str, Array]]  # (params, x, s) -> z of each part, not quantized
    image: Callable[[PyTree, Array, Array], Array]  # (params, z_x, z_s), both quantized -> x_hat
    semantic: Callable[[PyTree, Array], Array]  # (params, z_s) -> logits [n H W classes]


class _Encoder(nn.Module):
    """The features of a body, changed by those of another where there are some."""

    body: nn.Module
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, context: Array | None = None) -> Array:
        z = self.body(x)
        if context is None:
            return z
        return Conv(z.shape[-1], 3, dtype=self.dtype, name="couple")(jnp.concatenate([z, context.astype(z.dtype)], -1))


def coupled_vq(model: ConfigDict, shape: tuple[int, int, int], dtype=jnp.float32, axis_name: str | None = None
               ) -> CoupledVQ:
    """The two models of `config.model` for images of `shape`.

    Raises:
      ValueError: for options that do not exist or do not fit one another.
    """
    if model.coupling not in COUPLINGS:
        raise ValueError(f"model.coupling={model.coupling!r} must be one of {', '.join(COUPLINGS)}")
    apart = model.copy_and_resolve_references()
    apart.codes = model.semantic_codes
    quantizers = {"semantic": bottlenecks.quantizer_of(apart, axis_name),
                  "image": bottlenecks.quantizer_of(model, axis_name)}
    if any(q.places > 1 for q in quantizers.values()) or model.estimator in bottlenecks.BY_DECODER \
            or model.quantizer == "multi_scale":
        raise ValueError("a coupled model has one code at each place and gradients past the codes: use model.heads=1, "
                         "model.depth=1, and no quantizer 'multi_scale' or estimator by the decoder")
    width, places = quantizers["image"].width, networks.map_shape(model, shape)
    encoders = {part: _Encoder(networks.map_encoder(model, shape, width, dtype), dtype) for part in PARTS}
    decoders = {"semantic": networks.map_decoder(model, model.classes, dtype, shape[0]),
                "image": networks.map_decoder(model, shape[-1], dtype, shape[0])}

    def run(params, name, module, *args):
        return module.apply({"params": params[name]}, *args).astype(jnp.float32)

    def seen(z_x, z_s):
        return z_x if model.coupling == "none" else jnp.concatenate([z_x, z_s], -1)

    def init(key):
        keys = collectives.split_keys(key, [f"{part}_{side}" for part in PARTS for side in ("encoder", "decoder")])
        z = jnp.zeros((1, *places, width))
        context = (z,) if model.coupling == "encoder+decoder" else ()
        arguments = {"semantic_encoder": (jnp.zeros((1, *shape[:2], model.classes)),), "semantic_decoder": (z,),
                     "image_encoder": (jnp.zeros((1, *shape)), *context), "image_decoder": (seen(z, z),)}
        modules = {f"{part}_{side}": table[part] for part in PARTS
                   for side, table in (("encoder", encoders), ("decoder", decoders))}
        return {name: modules[name].init(keys[name], *arguments[name])["params"] for name in modules}

    def encode(params, x, s):
        z_s = run(params, "semantic_encoder", encoders["semantic"], jax.nn.one_hot(s, model.classes))
        context = (z_s,) if model.coupling == "encoder+decoder" else ()
        return {"semantic": z_s, "image": run(params, "image_encoder", encoders["image"], x, *context)}

    return CoupledVQ(places, quantizers, init, encode,
                     lambda params, z_x, z_s: run(params, "image_decoder", decoders["image"], seen(z_x, z_s)),
                     lambda params, z_s: run(params, "semantic_decoder", decoders["semantic"], z_s))


def build(config: ConfigDict, example: PyTree, axis_name: str | None = None) -> System:
    """The system of Alaniz, Hummel and Akata, Semantic image synthesis with semantically coupled VQ-model, 2022,
    arXiv 2209.02536; with coupling='none' its baseline, two VQ-models apart.

    Loss per example: mean (x - x_hat)^2 or |x - x_hat| over pixels and channels + the mean cross-entropy of the map's
    pixels in nats + the losses of both quantizers + with `perceptual` the distance of feature maps (`image_error`) +
    with `gan` the adversarial loss, whose weight follows from the gradients by the decoder's last kernel
    (`patch_critic`). Which features reach which encoder the paper's figure shows and its text does not say; gradients
    of the image reach the map's encoder by its codes.

    Batches have `semantic` [n h w], the class of each pixel beside `x`; numbers outside [0, classes) are void: no
    class to the encoder, and not counted. Latents are integers [n 2 places]: the semantic codes, then the image's,
    in raster order, so that a prior given the first row is one of images given maps (configs/prior.py:semantic).
    `encode` takes images of any size that the strides divide, and `decode` maps of codes [n 2 h w] of any size too,
    such as those of `jaxae.priors.sample_windows` (`jaxae.systems.latent.larger`).

    Raises:
      ValueError: for options that do not exist or do not fit the data.
    """
    model, shape, dtype = config.model, example["x"].shape[1:], jnp.dtype(config.dtype)
    if "semantic" not in example or example["semantic"].shape[1:] != shape[:2]:
        raise ValueError("a semantic model needs data with `semantic` [n h w], the class of each pixel of x: use "
                         "data.source='scenes', or data of your own by jaxae.data.from_arrays(x, extra=...)")
    error, critic = image_error(model, shape), patch_critic(config, shape, dtype, axis_name)
    nets = coupled_vq(model, shape, dtype, axis_name)
    count, last = math.prod(nets.places), networks.last_layer(model)

    def state_of(params, extra):
        return {part: Codes(params.get(f"{part}_codes", ()), extra[part]) for part in PARTS}

    def with_state(params, extra, states):
        """The codes that gradients move are parameters, the rest is extra."""
        learned = {f"{part}_codes": s.learned for part, s in states.items() if jax.tree.leaves(s.learned)}
        return params | learned, extra | {part: s.moving for part, s in states.items()}

    def init(key: Array, batch):
        keys = collectives.split_keys(key, ("networks", "critic", *PARTS))
        params = nets.init(keys["networks"])
        if model.gan:
            params["critic"] = critic.init(keys["critic"])
        return with_state(params, {"step": jnp.zeros((), jnp.int32)},
                          {part: nets.quantizers[part].init(keys[part]) for part in PARTS})

    def prepare(state: State, data, key: Array) -> State:
        def vectors(joined):
            z = nets.encode(state.params, joined[..., :-1], joined[..., -1].astype(jnp.int32))
            return jnp.stack([z[part] for part in PARTS], 1)

        joined = jnp.concatenate([data["x"], data["semantic"][..., None].astype(jnp.float32)], -1)
        z, keys = by_chunks(vectors, joined), collectives.split_keys(key, PARTS)
        states = state_of(state.params, state.extra)
        started = {part: nets.quantizers[part].start(z[:, i].reshape(-1, z.shape[-1]), states[part], keys[part])
                   for i, part in enumerate(PARTS)}
        params, extra = with_state(state.params, state.extra, started)
        return state._replace(params=params, extra=extra)

    def quantized(params, extra, batch, key, train):
        z, keys = nets.encode(params, batch["x"], batch["semantic"]), collectives.split_keys(key, PARTS)
        return {part: nets.quantizers[part].quantize(z[part], state_of(params, extra)[part], keys[part], train)
                for part in PARTS}

    def loss(params, extra, batch, key, train: bool) -> Objective:
        x, s = batch["x"], batch["semantic"].astype(jnp.int32)
        found = quantized(params, extra, batch, key, train)
        z_s, z_x = (found[part].z_q for part in PARTS)
        decoder, logits = params["image_decoder"], nets.semantic(params, z_s)
        x_hat, pull = jax.vjp(lambda kernel: nets.image(
            params | {"image_decoder": decoder | {last: decoder[last] | {"kernel": kernel}}}, z_x, z_s),
            decoder[last]["kernel"])
        known = ((s >= 0) & (s < model.classes)).astype(jnp.float32)
        nats = -(jax.nn.one_hot(s, model.classes) * jax.nn.log_softmax(logits)).sum(-1)  # 0 where void
        pixels = jnp.maximum(known.sum((1, 2)), 1.0)
        value, metrics = error(x, x_hat)
        metrics |= {"cross_entropy": nats.sum((1, 2)) / pixels,
                    "pixel_accuracy": ((logits.argmax(-1) == s) * known).sum((1, 2)) / pixels}
        value = value + metrics["cross_entropy"] + found["image"].loss + found["semantic"].loss
        for part, one in found.items():
            metrics |= {f"{part}_{name}": each for name, each in one.metrics.items()}
        if not train:
            # Per example, so that padded rows are left out of the sum over the data set.
            metrics |= {f"{part}_counts": jax.vmap(lambda i, k=nets.quantizers[part].codes: code_counts(i, k))(
                found[part].indices) for part in PARTS}
            metrics["confusion"] = jax.vmap(lambda a, b: confusion_matrix(a, b, model.classes))(s, logits.argmax(-1))
            return Objective(value, metrics, extra)
        if model.gan:
            deception, told = critic.deceiving(params["critic"], x_hat, pull, lambda y: error(x, y)[0], extra["step"])
            value, metrics = value + deception, metrics | told
        for part in PARTS:
            used = code_counts(found[part].indices, nets.quantizers[part].codes, axis_name)
            metrics[f"{part}_perplexity"] = perplexity(used)
        moved = {part: one.state.moving for part, one in found.items()}
        return Objective(value, metrics, moved | {"step": extra["step"]})

    def discriminating(params, extra, batch, key, train: bool) -> Objective:
        found = quantized(params, extra, batch, key, False)
        x_hat = nets.image(params, found["image"].z_q, found["semantic"].z_q)
        return Objective(*critic.discriminating(params["critic"], batch["x"], x_hat, extra["step"]), extra)

    def after(params, extra, key):
        states, extra = state_of(params, extra), extra | {"step": extra["step"] + 1}
        if not quantizer.after:
            return params, extra
        keys = collectives.split_keys(key, PARTS)
        return with_state(params, extra, {part: nets.quantizers[part].after(states[part], keys[part])
                                          for part in PARTS})

    def summary(sums):
        counted = {f"{part}_counts": part for part in PARTS}
        averages = means({name: value for name, value in sums.items() if name not in (*counted, "confusion")})
        for name, part in counted.items():
            averages |= {f"{part}_perplexity": perplexity(sums[name]), f"{part}_usage": usage(sums[name])}
        return averages | {"mean_iou": mean_iou(sums["confusion"])}

    def encode(now, x, semantic):
        found = quantized(*now, {"x": x, "semantic": semantic}, jax.random.key(0), False)
        return jnp.stack([found[part].indices.reshape(x.shape[0], -1) for part in PARTS], 1)

    def looked_up(now, latents):
        """Vectors of the map's and the image's codes; a prior on both knows one size of codebook, the larger."""
        states = state_of(*now)
        latents = latents if latents.ndim == 4 else latents.reshape(-1, 2, *nets.places)
        return [nets.quantizers[part].lookup(
            jnp.minimum(latents[:, i], nets.quantizers[part].codes - 1), states[part])
            for i, part in enumerate(PARTS)]

    def decode(now, latents, key=None):
        z_s, z_x = looked_up(now, latents)
        return nets.image(now.params, z_x, z_s)

    def reconstruct(now, x, semantic, key=None):
        return decode(now, encode(now, x, semantic))

    def sample(now, key, n: int):
        """Decoded codes of the uniform prior; a fitted prior (configs/prior.py) samples far better."""
        rows = [jax.random.randint(jax.random.fold_in(key, i), (n, count), 0, nets.quantizers[part].codes)
                for i, part in enumerate(PARTS)]
        return decode(now, jnp.stack(rows, 1))

    def figures(state: State, batch, key):
        now = variables(state)
        latents = encode(now, batch["x"], batch["semantic"])
        logits = nets.semantic(now.params, looked_up(now, latents)[0])
        maps = jnp.stack([batch["semantic"][:32].astype(jnp.int32), logits[:32].argmax(-1)])
        codes = latents.reshape(-1, 2, *nets.places)[:16]
        use = {f"{part}_code_use": code_counts(latents[:, i], nets.quantizers[part].codes).astype(jnp.float32)
               for i, part in enumerate(PARTS)}
        return draw.comparison(batch["x"], decode(now, latents)) | use | {
            "maps": draw.coloured(maps, model.classes), "semantic_codes": codes[:, 0], "image_codes": codes[:, 1]}

    quantizer = nets.quantizers["image"]
    tx = optim.optimizer(config.optim, config.steps)
    names = [*jax.eval_shape(lambda key: init(key, None)[0], jax.random.key(0))]
    team = [Player("", loss, tx, tuple(name for name in names if name != "critic"))]
    if model.gan:
        team.append(critic.player(discriminating))
    return players(
        init, team, average=config.optim.average, accumulate=config.optim.accumulate, axis_name=axis_name,
        after=after, summary=summary, prepare=prepare if quantizer.start else None,
        encode=encode, decode=decode, reconstruct=reconstruct, sample=sample, figures=figures,
        latent=Latent((2, count), max(q.codes for q in nets.quantizers.values()), prefix=1,
                      codebook_axis=0), inputs=("x", "semantic"))


__all__ = ["COUPLINGS", "CoupledVQ", "build", "coupled_vq", "defaults"]
