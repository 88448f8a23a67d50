"""QG-VAE: autoencoders whose codes each describe the whole image, a channel in place of a place."""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree
from ml_collections import ConfigDict

from jaxae import collectives, optim
from jaxae.distributions import bits_per_dim
from jaxae.losses import hinge_discriminator_loss, hinge_generator_loss, pyramid_target
from jaxae.metrics import perplexity, usage
from jaxae.nn import Conv
from jaxae.nn.unet import UNet, halvings
from jaxae.quantizers import (
    Codes,
    global_tokens,
    inverse_global_tokens,
    per_token,
    per_token_ema,
    prefix_dropout_mask,
    principal_projections,
)
from jaxae.resizing import double, halve
from jaxae.systems import figures as draw
from jaxae.systems import image_error
from jaxae.systems.base import Latent, Objective, State, System, Variables, by_chunks, means, variables
from jaxae.systems.builders import Player, players
from jaxae.systems.pixels import pixel_observation


def defaults() -> ConfigDict:
    """Keys of `config.model`, with 'mse' those of `jaxae.systems.image_error` too.

    `tokens` codes of an image, each from a codebook of its own of `codes` vectors of `width`; the channels are cut
    into `heads`, each with its own projections between maps and vectors. Maps have 1/2^`reduced` of the image's side.
    `codebook`: 'gradient', whose loss `codebook_weight` weighs and whose codes that no gradient moved go every
    `reset_every` updates (0: never) beside those it moved most; or 'ema', by averages of `decay`; codes with fewer
    assignments a batch than `revive` are revived. `beta` weighs the commitment loss, in units of the tokens.
    `start`: 'data' is a product quantizer of the images' principal components (in their order where tokens have one) by
    k-means, to which the U-Nets add; 'random' is as published, with codes in +-1/2.

    `prefix_dropout` above 0 orders the tokens: in that share of the examples the decoder sees but a prefix of them,
    whose target with `pyramid` L is the image without the finest of L bands: half the tokens owe the image at half its
    size, a quarter of them at a quarter, ...

    U-Nets: `channels` at the image's size, doubled with every halving up to `most` (of the decoder
    `decoder_channels`, 0 for the same); no side is below `smallest`; `blocks` residual blocks at each level, which also
    see sines of `octaves` of the position.

    `likelihood`: a name of `jaxae.distributions.likelihood`, with `scale` for the fixed Gaussian, or 'mse' for the
    error of pixels and features.
    `adversarial` above 0 adds a discriminator of pixels from step `adversarial_start` on (QGGAN), with its rate; until
    then the error is the mean square of pixels, whatever it is afterwards.
    """
    return ConfigDict(image_error.defaults() | dict(
        tokens=64, codes=512, width=64, heads=8, reduced=0, codebook_weight=0.25, beta=1.0, reset_every=100,
        codebook="gradient", decay=0.99, revive=0.01, start="data", prefix_dropout=0.0, pyramid=0, channels=16,
        decoder_channels=0, most=128, smallest=8, blocks=1, octaves=0, likelihood="mse", scale=1.0, adversarial=0.0,
        adversarial_start=5000, adversarial_rate=2e-4))


class GlobalEncoder(nn.Module):
    """Images to tokens `[b h w c] -> [b tokens width]`: a U-Net, beside it a 1x1 convolution of the image, then
    the projection of every channel's map by its head."""

    unet: UNet
    tokens: int
    heads: int
    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        past = Conv(self.tokens, 1, dtype=self.dtype, name="past")(halve(x, self.unet.end))
        features = (self.unet(x) + past).astype(jnp.float32)
        places = features.shape[1] * features.shape[2]
        return _biased(self, global_tokens(features, _projection(self, self.heads, places, self.width)), self.heads)


class GlobalDecoder(nn.Module):
    """Tokens to images `[b tokens width] -> [b h w out]`: the way back, in the order of `GlobalEncoder` reversed."""

    unet: UNet
    size: tuple[int, int]  # of the maps
    heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        projection = _projection(self, self.heads, tokens.shape[-1], math.prod(self.size))
        maps = inverse_global_tokens(tokens, projection, self.size[0])
        b, h, w, c = maps.shape
        maps = _biased(self, maps.reshape(b, h * w, c).swapaxes(1, 2), self.heads).swapaxes(1, 2).reshape(b, h, w, c)
        past = Conv(self.unet.out, 1, dtype=self.dtype, name="past")(maps)
        return self.unet(maps.astype(self.dtype)) + double(past, self.unet.begin)


def _projection(module, heads, inputs, outputs):
    init = nn.initializers.lecun_normal(in_axis=1, out_axis=2, batch_axis=0)
    return module.param("projection", init, (heads, inputs, outputs), jnp.float32)


def _biased(module, rows, heads):
    """`rows [b c m]` + each head's own `[m]`."""
    bias = module.param("bias", nn.initializers.zeros, (heads, rows.shape[2]), jnp.float32)
    return rows + jnp.repeat(bias, rows.shape[1] // heads, 0)


def _quantizer(model, axis_name):
    for name, choices in (("codebook", ("gradient", "ema")), ("start", ("data", "random"))):
        if model[name] not in choices:
            raise ValueError(f"model.{name}={model[name]!r} must be {' or '.join(map(repr, choices))}")
    sizes, by_data = (model.tokens, model.width, model.codes), model.start == "data"
    if model.codebook == "ema":
        return per_token_ema(*sizes, model.beta, model.decay, model.revive, "kmeans" if by_data else "normal",
                             axis_name)
    return per_token(*sizes, model.codebook_weight, model.beta, model.reset_every, "kmeans" if by_data else "uniform",
                     axis_name)


class Extra(NamedTuple):
    """State that no gradient moves."""

    codes: PyTree  # the quantizer's
    step: Array  # [] updates so far


def build(config: ConfigDict, example: PyTree, axis_name: str | None = None) -> System:
    """The system of Elsner, Usinger, Czech, Kobsik, He, Lim and Kobbelt, Quantised global autoencoder: a holistic
    approach to representing visual data, 2024, arXiv 2407.11913.

    Loss per example: reconstruction + codebook_weight |sg[z] - e|^2 + beta |z - sg[e]|^2, all as means over elements.
    Latents are integers [n tokens]; token c has its own codebook, to whose vectors a learned offset is added.
    `usage` and `perplexity` are of each codebook, averaged over codebooks. `decode(..., kept=t)` decodes the first t
    tokens alone, for models with `prefix_dropout`.

    With `adversarial` (QGGAN), from `adversarial_start` on, + |x - x_hat| - weight D(x_hat), where D is a U-Net with a
    logit for each pixel that minimises the hinge loss, and the weight is `adversarial` times the ratio of the gradients
    of reconstruction and of D in the decoder's last kernel. From then on the published code has a perceptual distance
    of a VGG network in the place of the squared error (`perceptual=1`, `error_weight=0`); it takes the ratio one
    convolution earlier, and lets the two play in turn on batches of their own.

    The order of tokens by `prefix_dropout` is the published code's. The paper also speaks of a regularisation after the
    Laplacian pyramid, of which we know no formula: `pyramid` is our reading (`jaxae.losses.pyramid_target`).

    Raises:
      ValueError: for data that are not images, heads that do not divide the tokens, or sizes that cannot be halved.
    """
    model, shape, dtype = config.model, example["x"].shape[1:], jnp.dtype(config.dtype)
    if len(shape) != 3:
        raise ValueError(f"{config.system} needs images [n h w c], the data are [n {' '.join(map(str, shape))}]")
    if model.tokens % model.heads:
        raise ValueError(f"model.heads={model.heads} must divide model.tokens={model.tokens}")
    if shape[0] % 2**model.reduced or shape[1] % 2**model.reduced:
        raise ValueError(f"images of {shape[0]}x{shape[1]} cannot be halved {model.reduced} times: use a smaller "
                         f"model.reduced, or resize with data.size")
    if model.adversarial and model.likelihood != "mse":
        raise ValueError("the discriminator's weight is relative to the squared error: use model.likelihood='mse'")
    if model.pyramid and not model.prefix_dropout:
        raise ValueError(f"model.pyramid={model.pyramid} is the target of prefixes: set model.prefix_dropout too")
    size = shape[0] >> model.reduced, shape[1] >> model.reduced
    levels = max(model.reduced, halvings(shape[:2], model.smallest))
    tokens, codes, width, dims = model.tokens, model.codes, model.width, math.prod(shape)
    quantizer = _quantizer(model, axis_name)

    def unet(out, **ends):
        channels = model.decoder_channels if "begin" in ends and model.decoder_channels else model.channels
        return UNet(out, levels, channels, model.most, model.blocks, octaves=model.octaves, dtype=dtype, **ends)

    encoder = GlobalEncoder(unet(tokens, end=model.reduced), tokens, model.heads, width, dtype)
    observed = pixel_observation(
        ConfigDict(dict(likelihood=model.likelihood, scale=model.scale, decoder="factorised", dropout=0.0)), shape,
        lambda out: GlobalDecoder(unet(out, begin=model.reduced), size, model.heads, dtype), dtype, axis_name)
    critic, distance = unet(1), image_error.image_error(model, shape)

    def init(key: Array, batch):
        keys = collectives.split_keys(key, ("encoder", "decoder", "codes", "offset", "critic"))
        z, found = jnp.zeros((1, tokens, width)), quantizer.init(keys["codes"])
        params = {"encoder": encoder.init(keys["encoder"], batch["x"])["params"],
                  "decoder": observed.init(keys["decoder"], z), "codes": found.learned,
                  "offset": jax.random.uniform(keys["offset"], (tokens, width), minval=-0.5, maxval=0.5)}
        if model.adversarial:
            params["critic"] = critic.init(keys["critic"], batch["x"])["params"]
        return params, Extra(found.moving, jnp.int32(0))

    def state_of(params, extra):
        return Codes(params["codes"], extra.codes)

    def embed(params, x):
        """[n tokens width]"""
        return encoder.apply({"params": params["encoder"]}, x).astype(jnp.float32)

    def seen(params, z_q, kept=None):
        """What the decoder takes: of `kept [n tokens]`, or the first `kept`, or all tokens."""
        z = z_q + params["offset"]
        if kept is None:
            return z
        mask = kept if jnp.ndim(kept) == 2 else jnp.arange(tokens) < jnp.reshape(jnp.asarray(kept), (-1, 1))
        return z * mask[..., None]

    def prepare(state: State, data, key: Array) -> State:
        """Starts as a product quantizer of principal components: every channel is the grey image, the decoder adds the
        channels up, and the U-Nets, whose last kernels are 0, have yet to find what is better."""
        basis_key, code_key = jax.random.split(key)
        maps = by_chunks(lambda x: halve(x, model.reduced).mean(-1).reshape(x.shape[0], -1), data["x"])
        basis = principal_projections(maps, model.heads, width, basis_key, model.prefix_dropout > 0)

        def linear(params, projection, weight):
            unet = params["unet"] | {"out": jax.tree.map(jnp.zeros_like, params["unet"]["out"])}
            past = params["past"] | {"kernel": jnp.full_like(params["past"]["kernel"], weight)}
            return params | {"projection": projection, "unet": unet, "past": past}

        params = state.params | {"encoder": linear(state.params["encoder"], basis, 1.0 / shape[2]),
                                 "decoder": linear(state.params["decoder"], basis.swapaxes(1, 2), model.heads / tokens),
                                 "offset": jnp.zeros_like(state.params["offset"])}
        found = quantizer.start(by_chunks(lambda x: embed(params, x), data["x"]), state_of(params, state.extra),
                                code_key)
        return state._replace(params=params | {"codes": found.learned},
                              extra=state.extra._replace(codes=found.moving))

    def loss(params, extra, batch, key, train: bool) -> Objective:
        x, (code_key, mask_key) = batch["x"], jax.random.split(key)
        quantized = quantizer.quantize(embed(params, x), state_of(params, extra), code_key, train)
        kept = prefix_dropout_mask(mask_key, x.shape[0], tokens, model.prefix_dropout, axis_name) \
            if train and model.prefix_dropout else None
        z = seen(params, quantized.z_q, kept)
        if model.pyramid and kept is not None:
            x = pyramid_target(x, kept.mean(1), model.pyramid)
        on = extra.step >= model.adversarial_start
        if model.likelihood == "mse":
            x_hat, weight = balanced(params, z, x) if model.adversarial else (
                observed.mean(params["decoder"], z, jax.random.key(0)), 0.0)
            reconstruction, metrics = distance(x, x_hat)
            if model.adversarial:
                reconstruction = jnp.where(on, reconstruction, jnp.square(x - x_hat).mean((1, 2, 3)))
        else:
            log_px = observed.log_prob(params["decoder"], z, x)
            reconstruction, bound = -log_px / dims, -log_px + tokens * math.log(codes)  # nats per dimension, nats
            metrics = {"reconstruction": reconstruction, "nll_bound": bound, "bits_per_dim": bits_per_dim(bound, dims)}
        value, metrics = reconstruction + quantized.loss, metrics | quantized.metrics
        if model.adversarial:
            unreal = hinge_generator_loss(logits(params, x_hat))
            value = value + on * (jnp.abs(x - x_hat).mean((1, 2, 3)) + weight * unreal)
            metrics |= {"unreal": unreal, "adversarial_weight": on * weight}
        used = jax.nn.one_hot(quantized.indices, codes)
        if not train:
            # Per example, so that padded rows are left out of the sum over the data set.
            return Objective(value, metrics | {"code_counts": used}, extra)
        metrics["perplexity"] = perplexity(collectives.total(used.sum(0), axis_name)).mean()
        return Objective(value, metrics, extra._replace(codes=quantized.state.moving))

    def logits(params, x):
        """[n h w 1]"""
        return critic.apply({"params": params["critic"]}, x).astype(jnp.float32)

    def balanced(params, z, x):
        """x_hat, and the discriminator's weight: how much longer the reconstruction's gradient is than its own, in the
        decoder's last kernel."""
        net = params["decoder"]["unet"]

        def by_kernel(kernel):
            changed = params["decoder"] | {"unet": net | {"out": net["out"] | {"kernel": kernel}}}
            return observed.mean(changed, z, jax.random.key(0))

        x_hat, pull = jax.vjp(by_kernel, net["out"]["kernel"])
        slopes = [jax.grad(of)(x_hat) for of in (lambda y: distance(x, y)[0].mean(),
                                                 lambda y: -logits(params, y).mean())]
        error, unreal = (optax.tree.norm(collectives.mean(pull(slope), axis_name)) for slope in slopes)
        return x_hat, jax.lax.stop_gradient(model.adversarial * error / (unreal + 1e-6))

    def adversarial_loss(params, extra, batch, key, train: bool) -> Objective:
        x = batch["x"]
        x_hat = reconstruct(Variables(params, extra), x)
        real, fake = jnp.split(logits(params, jnp.concatenate([x, x_hat])), 2)
        hinge = hinge_discriminator_loss(real, fake)
        accuracy = 0.5 * ((real > 0).mean((1, 2, 3)) + (fake < 0).mean((1, 2, 3)))
        return Objective(hinge * (extra.step >= model.adversarial_start), {"accuracy": accuracy}, extra)

    def after(params, extra, key):
        state = state_of(params, extra)
        state = quantizer.after(state, key) if quantizer.after else state
        return params | {"codes": state.learned}, Extra(state.moving, extra.step + 1)

    def summary(sums):
        averages = means({name: value for name, value in sums.items() if name != "code_counts"})
        return averages | {"perplexity": perplexity(sums["code_counts"]).mean(),
                           "usage": usage(sums["code_counts"]).mean()}

    def encode(now, x):
        return quantizer.quantize(embed(now.params, x), state_of(*now), jax.random.key(0), False).indices

    def decode(now, indices, key=None, kept=None):
        z = seen(now.params, quantizer.lookup(indices, state_of(*now)), kept)
        return observed.mean(now.params["decoder"], z, jax.random.key(0) if key is None else key)

    def reconstruct(now, x, key=None):
        return decode(now, encode(now, x), key)

    def sample(now, key, n: int):
        """Decoded codes of the uniform prior; a fitted prior (configs/prior.py) samples far better."""
        code_key, pixel_key = jax.random.split(key)
        return decode(now, jax.random.randint(code_key, (n, tokens), 0, codes), pixel_key)

    def figures(state: State, batch, key):
        """Also, of six images: what each of up to 16 tokens changes, given the code of the image before, around grey;
        with `prefix_dropout` the reconstruction from 1, 2, 4, ... tokens."""
        now = variables(state)
        indices = encode(now, batch["x"])
        x_hat = decode(now, indices, key)
        used = (jax.nn.one_hot(indices, codes).sum(0) > 0).sum(1)
        few, count = indices[:6], min(tokens, 16)
        swapped = jax.vmap(lambda c: few.at[:, c].set(jnp.roll(few[:, c], 1)), out_axes=1)(
            jnp.linspace(0, tokens - 1, count).astype(jnp.int32))  # [6 count tokens]
        changes = decode(now, swapped.reshape(-1, tokens), key).reshape(few.shape[0], count, *shape) - x_hat[:6, None]
        changes = 0.5 + 0.5 * changes / jnp.maximum(jnp.abs(changes).max(), 1e-6)
        shown = draw.comparison(batch["x"], x_hat) | {
            "used_codes": used.astype(jnp.float32), "codes": indices[None, :16], "token_changes": changes}
        if model.prefix_dropout:
            lengths = sorted({min(2**i, tokens) for i in range(tokens.bit_length() + 1)})
            prefixes = [decode(now, indices[:8], key, kept) for kept in lengths]
            shown["prefixes"] = jnp.clip(jnp.stack([*prefixes, batch["x"][:8]], 1), 0.0, 1.0)
        return shown

    tx = optim.optimizer(config.optim, config.steps)
    team = [Player("", loss, tx)]
    if model.adversarial:
        own = ConfigDict(dict(config.optim) | {"learning_rate": model.adversarial_rate})
        team = [Player("", loss, tx, ("encoder", "decoder", "codes", "offset")),
                Player("critic", adversarial_loss, optim.optimizer(own, config.steps), ("critic",))]
    return players(init, team, average=config.optim.average, accumulate=config.optim.accumulate, axis_name=axis_name,
                   after=after, summary=summary, prepare=prepare if quantizer.start else None, encode=encode,
                   decode=decode, reconstruct=reconstruct, sample=sample, figures=figures,
                   latent=Latent((tokens,), codes, codebook_axis=0))


__all__ = ["build", "defaults"]
