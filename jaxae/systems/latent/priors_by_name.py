"""Priors by config: which there are for codes and which for vectors, and how each is sampled."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxae import priors
from jaxae.priors import Prior
from jaxae.systems.latent import token_priors


def defaults() -> dict[str, Any]:
    """Keys of `config.model`.

    `prior`: 'auto' takes 'autoregressive' for codes and 'gaussian_mixture' for vectors.

    For codes: 'autoregressive' (a gated PixelCNN), 'transformer', 'linear_transformer', 'axial' (of maps, and of videos
    [t h w c]), 'row' ('axial' without what joins its rows), 'frame' (without what joins its frames), 'masked' (filled
    in by `iterations`), 'coarse_to_fine' (labels of `clusters` of the codebook, then codes) and 'next_scale' (for those
    of a multi-scale quantizer). For vectors: 'gaussian_mixture' and 'autoregressive' (mixtures of `components`),
    'flow', 'diffusion' and 'flow_matching' (of vectors or maps, integrated in `steps`), 'masked_continuous' and
    'causal_continuous' (of maps or rows of vectors, each token by `steps` of its head; `token_priors` has their keys).

    `conditional` gives them classes, of which a share `label_dropout` is hidden in training; with that a `guidance`
    above 1 exaggerates what a class has of its own. `temperature` and `top_k` (0: all codes) are of sampling. Networks
    have `layers` of `hidden` units and, transformers, `heads` and MLPs of `mlp_ratio` times as many units; 'axial' has
    half as many pairs of blocks over what came before and `inner` blocks in the row (0: half as many), and trains on
    `one_channel` of each map where it is asked to. What is ordered, such as grey levels, may have `output`
    'logistic_mixture' of `components`, and in transformers `inputs` 'values', linear in them. The `style` of
    'transformer' and 'coarse_to_fine' may be 'llama' (rotary positions, gated MLPs). What the autoencoder and
    its data say is filled in: `codes`, `classes`, `scales`, the `prefix` of rows that tell a condition, the
    `codebook_axis` along which codebooks differ (-1: the last of three, and else none; for transformers and 'masked'),
    and the `assignment` of codes to clusters.

    `given` leaves the density of the prefix out and asks for it in sampling, for the transformers and 'axial': images
    given the codes of their semantic maps, videos given their first frames.
    """
    return token_priors.defaults() | dict(
        prior="auto", conditional=False, hidden=64, layers=5, heads=4, dropout=0.0, embed=32, components=10,
        covariance="full", clusters=16, label_dropout=0.1, guidance=1.0, temperature=1.0, top_k=0, iterations=8,
        steps=50, mlp_ratio=4, inner=0, one_channel=False, output="softmax", inputs="codes", given=False, prefix=0,
        style="gpt", codes=0, classes=0, codebook_axis=-1, scales=(), assignment=())


class Case(NamedTuple):
    """What a prior is given, in one place."""

    model: Any  # config.model
    shape: tuple[int, ...]  # of one latent
    classes: int
    axis_name: str | None
    dtype: Any

    @property
    def prefix(self) -> int:
        """Rows, or frames, that are always given."""
        return self.model.prefix if self.model.given else 0

    @property
    def books(self) -> dict[str, Any]:
        """Which of the codes share a codebook."""
        axis = self.model.codebook_axis
        return dict(codebook_axis=axis if axis >= 0 else None)

    @property
    def transformer(self) -> dict[str, Any]:
        """Options that all transformers on codes have."""
        model = self.model
        return dict(num_classes=self.classes, width=model.hidden, layers=model.layers, heads=model.heads,
                    mlp_ratio=model.mlp_ratio, dropout=model.dropout, axis_name=self.axis_name, dtype=self.dtype,
                    label_dropout=model.label_dropout if self.classes else 0.0)

    @property
    def head(self) -> dict[str, Any]:
        """Options of what says which value a code may have."""
        return dict(output=self.model.output, components=self.model.components)


def _half(layers):
    return max(1, layers // 2)


def _pixelcnn(case):
    model = case.model
    return priors.autoregressive(case.shape, model.codes, case.classes, hidden=model.hidden, layers=model.layers,
                                 embed=model.embed, dropout=model.dropout, axis_name=case.axis_name, dtype=case.dtype,
                                 **case.head)


def _transformer(attention):
    def build(case):
        model = case.model
        return priors.transformer(case.shape, model.codes, attention=attention, inputs=model.inputs, style=model.style,
                                  prefix=case.prefix, **case.transformer, **case.head, **case.books)
    return build


def _axial(outer, inner=_half):
    """`outer` and `inner` are functions of the config's number of layers."""
    def build(case):
        model, options = case.model, {key: value for key, value in case.transformer.items() if key != "layers"}
        return priors.axial(case.shape, model.codes, outer=outer(model.layers), encoder=_half(model.layers),
                            inner=model.inner or inner(model.layers), one_channel=model.one_channel,
                            prefix=case.prefix, **options, **case.head)
    return build


def _masked(case, **changes):
    return priors.masked(case.shape, case.model.codes, **case.transformer | case.books | changes)


def _coarse_to_fine(case):
    return priors.coarse_to_fine(case.shape, jnp.asarray(case.model.assignment, jnp.int32),
                                 fine_layers=case.model.layers, style=case.model.style, **case.transformer)


def _next_scale(case):
    model = case.model
    return priors.next_scale(model.scales, model.codes, case.classes, width=model.hidden, depth=model.layers,
                             heads=model.heads, embed=model.embed, label_dropout=model.label_dropout,
                             axis_name=case.axis_name, dtype=case.dtype)


def _denoising(kind):
    def build(case):
        model = case.model
        return priors.diffusion(case.shape, case.classes, kind, width=model.hidden, depth=model.layers,
                                heads=model.heads, label_dropout=model.label_dropout, axis_name=case.axis_name,
                                dtype=case.dtype)
    return build


class Kind(NamedTuple):
    """A prior by name."""

    axes: tuple[int, ...]  # numbers of axes of one latent that it models
    build: Callable[[Case], Prior]
    options: tuple[str, ...] = ()  # keys of `config.model` that its `sample` takes
    classes: bool = True
    bound: Callable[[Case], Prior] | None = None  # whose `loss` is an upper bound on -log p(z), nats per example
    begins: bool = False  # whether its `sample` takes the rows `given` that samples begin with
    prefix: bool = False  # whether it can be one of the rest given the first rows


GUIDED = ("guidance", "temperature", "top_k")
CODES = {
    "autoregressive": Kind((1, 2), _pixelcnn, ("temperature",), begins=True),
    "transformer": Kind((1, 2, 3), _transformer("softmax"), GUIDED, begins=True, prefix=True),
    "linear_transformer": Kind((1, 2, 3), _transformer("linear"), GUIDED, begins=True, prefix=True),
    "axial": Kind((2, 3, 4), _axial(_half), GUIDED, begins=True, prefix=True),
    "row": Kind((2, 3, 4), _axial(lambda layers: 0, lambda layers: layers), GUIDED, begins=True, prefix=True),
    "frame": Kind((4,), _axial(lambda layers: (0, _half(layers))), GUIDED, begins=True, prefix=True),
    "masked": Kind((1, 2, 3), _masked, ("guidance", "temperature", "iterations"), True,
                   lambda case: _masked(case, schedule="uniform", dropout=0.0, label_dropout=0.0)),
    "coarse_to_fine": Kind((1, 2, 3), _coarse_to_fine, GUIDED),
    "next_scale": Kind((1,), _next_scale, GUIDED),
}
VECTORS = {
    "gaussian_mixture": Kind((1,), lambda case: priors.gaussian_mixture(
        case.model.components, case.model.covariance), (), False),
    "flow": Kind((1,), lambda case: priors.flow(case.shape[0], case.model.layers, (case.model.hidden,) * 2), (), False),
    "autoregressive": Kind((1,), lambda case: priors.masked_autoregressive(
        case.shape[0], case.model.components, (case.model.hidden,) * 2, case.classes)),
    "diffusion": Kind((1, 3), _denoising("ddpm"), ("guidance", "temperature", "steps")),
    "flow_matching": Kind((1, 3), _denoising("flow_matching"), ("guidance", "temperature", "steps")),
    "masked_continuous": Kind((2, 3), token_priors.masked, ("guidance", "temperature", "steps", "iterations")),
    "causal_continuous": Kind((2, 3), token_priors.causal, ("guidance", "temperature", "steps")),
}


def kind_of(model, shape: tuple[int, ...], discrete: bool) -> Kind:
    """The prior that the config names.

    Raises:
      ValueError: for a name that does not exist, or does not fit the type and shape of the latents.
    """
    table, other = (CODES, VECTORS) if discrete else (VECTORS, CODES)
    name = ("autoregressive" if discrete else "gaussian_mixture") if model.prior == "auto" else model.prior
    if name not in table:
        what = "codes" if discrete else "real vectors"
        why = f"is not for {what}, which these latents are" if name in other else "does not exist"
        raise ValueError(f"model.prior={name!r} {why}: for {what} there are {', '.join(table)}")
    kind = table[name]
    if name == "next_scale" and not model.scales:
        raise ValueError("model.prior='next_scale' is for the codes of a multi-scale quantizer: train one by "
                         "configs/vq.py:multi_scale")
    if len(shape) not in kind.axes:
        fitting = [other for other, row in table.items() if len(shape) in row.axes]
        raise ValueError(f"model.prior={name!r} does not model latents [n {' '.join(map(str, shape))}]; of these do "
                         f"{', '.join(fitting) or 'none'}")
    if model.given and not (model.prefix and kind.prefix):
        fitting = ", ".join(repr(name) for name, row in table.items() if row.prefix) or "no other"
        raise ValueError(f"model.given=True is for a prior {fitting} on what begins with a condition of model.prefix "
                         "rows or frames: latents of an autoencoder of configs/semantic_vq.py, or videos")
    if model.style != "gpt" and name not in ("transformer", "coarse_to_fine"):
        raise ValueError(f"model.style={model.style!r} is for the priors 'transformer' and 'coarse_to_fine', not for "
                         f"{name!r}")
    if model.conditional and not kind.classes:
        raise ValueError(f"model.prior={name!r} has no classes: set model.conditional=False")
    if name == "coarse_to_fine" and not model.assignment:
        raise ValueError("model.prior='coarse_to_fine' cuts a codebook into clusters, and this autoencoder has none: "
                         "use one with model.quantizer='vector' or 'simvq'")
    return kind


def sampling(kind: Kind, model) -> dict[str, Any]:
    """Options of the prior's `sample` from the config."""
    values = {name: model[name] for name in kind.options}
    if not values.get("top_k", 1):
        values["top_k"] = None
    return values


def fill(model, autoencoder, codebook: Array | None) -> None:
    """Writes into `config.model` what the autoencoder's own `config.model` and its codebook [K d] say.

    Raises:
      ValueError: for more clusters than codes.
    """
    if autoencoder.get("quantizer") == "multi_scale":
        model.scales = tuple(autoencoder.scales)
    if model.prior == "coarse_to_fine" and codebook is not None:
        clusters = priors.cluster_codebook(codebook, model.clusters, jax.random.key(0))
        model.assignment = tuple(clusters.assignment.tolist())


__all__ = ["CODES", "VECTORS", "Case", "Kind", "defaults", "fill", "kind_of", "sampling"]
