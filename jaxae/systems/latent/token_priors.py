"""Priors on rows of real tokens by config: masked or causal transformers with a diffusion head."""

from typing import Any

from jaxae.priors import Prior
from jaxae.priors.causal_continuous import causal_continuous
from jaxae.priors.masked_continuous import masked_continuous
from jaxae.priors.tokens import Head, diffusion_head


def defaults() -> dict[str, Any]:
    """Keys of `config.model` that only 'masked_continuous' and 'causal_continuous' read.

    `order` of revealing, 'random' or 'raster'; `buffer` class tokens; the share that training hides, normal around 1
    with deviation `mask_std` cut to [`least_masked`, 1]. Of the head: `head_hidden` units in `head_layers` blocks, what
    it `predicts` ('epsilon', 'x', 'v'), whether with a `learned_variance`, and `draws` of its noise for each token of
    an update. `layers` are halved between encoder and decoder of the masked form.
    """
    return dict(order="random", buffer=4, least_masked=0.7, mask_std=0.25, head_hidden=256, head_layers=3,
                predicts="v", learned_variance=True, draws=4)


def _head(case) -> Head:
    model = case.model
    return diffusion_head(case.shape[-1], model.head_hidden, model.head_layers, model.predicts, model.learned_variance,
                          draws=model.draws, dtype=case.dtype)


def _both(case) -> dict[str, Any]:
    model = case.model
    return dict(head=_head(case), order=model.order, width=model.hidden, heads=model.heads, buffer=model.buffer,
                dropout=model.dropout, label_dropout=model.label_dropout, axis_name=case.axis_name, dtype=case.dtype)


def masked(case) -> Prior:
    """`masked_continuous` of a `priors_by_name.Case`."""
    model = case.model
    return masked_continuous(case.shape, case.classes, depth=max(1, model.layers // 2),
                             least_masked=model.least_masked, mask_std=model.mask_std, **_both(case))


def causal(case) -> Prior:
    """`causal_continuous` of a `priors_by_name.Case`."""
    return causal_continuous(case.shape, case.classes, depth=case.model.layers, **_both(case))
