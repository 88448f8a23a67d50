"""Optax optimizers and schedules from a config.

Keys of `config.optim`: `name` (adam, adamw, radam, sgd, rmsprop, lion, adafactor), `learning_rate`, `schedule`
(constant, cosine, linear, piecewise, inverse_sqrt: of the step over `warmup_steps`), `warmup_steps`, `decay_steps`
(0: the whole run), `final_scale` (the share of the learning rate that is left at the end), `drops` (for 'piecewise':
pairs of a step and what the rate is multiplied by from there on), `b1`, `b2`, `eps`, `weight_decay`, `decay_exclude`
(names of parameters, or of modules, that weight decay spares, such as `("codes", "bias")`), `clip` (global gradient
norm, 0 is off), `clip_elements` (largest absolute value of each number in the gradient, 0 is off).
`accumulate` and `average` are read by the builders of systems.
"""

import jax
import optax
from jaxtyping import PyTree

SCHEDULES = ("constant", "cosine", "linear", "piecewise", "inverse_sqrt")


def schedule(config, steps: int) -> optax.Schedule:
    """Learning rate as a function of the step: linear warm-up from 0, then constant, decaying or in drops.

    Args:
      config: `config.optim` (see the module's docstring).
      steps: length of the run, where `decay_steps` is 0.

    Raises:
      ValueError: for an unknown schedule or a warm-up that is longer than the decay.
    """
    if config.schedule not in SCHEDULES:
        raise ValueError(f"optim.schedule={config.schedule!r} is unknown: choose one of {', '.join(SCHEDULES)}")
    peak, warmup = config.learning_rate, int(config.warmup_steps)
    decay = int(config.decay_steps) or int(steps)
    if config.schedule == "constant":
        main = optax.constant_schedule(peak)
    elif config.schedule == "piecewise":
        main = optax.piecewise_constant_schedule(peak, {int(step) - warmup: factor for step, factor in config.drops})
    elif config.schedule == "inverse_sqrt":
        def main(after):  # peak sqrt(warmup / t), where t counts from the beginning of the warm-up
            return peak * (max(warmup, 1) / (after + max(warmup, 1))) ** 0.5
    else:
        if warmup >= decay:
            raise ValueError(f"optim.warmup_steps={warmup} leaves no steps of the {decay} for the decay")
        if config.schedule == "cosine":
            main = optax.cosine_decay_schedule(peak, decay - warmup, alpha=config.final_scale)
        else:
            main = optax.linear_schedule(peak, peak * config.final_scale, decay - warmup)
    if not warmup:
        return main
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), main], [warmup])


def optimizer(config, steps: int) -> optax.GradientTransformation:
    """The optax chain of `config.optim`: clip, optimizer, weight decay, schedule.

    Raises:
      ValueError: for an unknown name or schedule.

    Example:
      >>> from ml_collections import ConfigDict
      >>> from jaxae import optim
      >>> tx = optim.optimizer(ConfigDict(optim.defaults()), steps=100)
    """
    rate = schedule(config, steps)
    adaptive = dict(b1=config.b1, b2=config.b2)
    decay = dict(weight_decay=config.weight_decay)
    if config.decay_exclude:
        decay["mask"] = lambda params: decayed(params, tuple(config.decay_exclude))
    choices = {
        "adam": lambda: optax.adam(rate, eps=config.eps, **adaptive),
        "adamw": lambda: optax.adamw(rate, eps=config.eps, **decay, **adaptive),
        "radam": lambda: optax.radam(rate, eps=config.eps, **adaptive),
        "sgd": lambda: optax.sgd(rate, momentum=config.b1 or None),
        "rmsprop": lambda: optax.rmsprop(rate, decay=config.b2, eps=config.eps),
        "lion": lambda: optax.lion(rate, **decay, **adaptive),
        "adafactor": lambda: optax.adafactor(rate),
    }
    if config.name not in choices:
        raise ValueError(f"optim.name={config.name!r} is unknown: choose one of {', '.join(choices)}")
    if config.name not in ("adamw", "lion") and config.weight_decay:  # in this order: a sweep traces the decay
        raise ValueError(f"optim.weight_decay is not used by {config.name!r}: set optim.name='adamw' or 'lion'")
    parts = [optax.clip(config.clip_elements)] if config.clip_elements else []
    parts += [optax.clip_by_global_norm(config.clip)] if config.clip else []
    return optax.chain(*parts, choices[config.name]())


def decayed(params: PyTree, exclude: tuple[str, ...]) -> PyTree:
    """True for each parameter that weight decay moves: those without one of the names in their path.

    Args:
      params: nested dicts of arrays.
      exclude: whole names of parameters or modules.

    >>> decayed({"codes": 1.0, "encoder": {"kernel": 1.0, "bias": 1.0}}, ("codes", "bias"))
    {'codes': False, 'encoder': {'bias': False, 'kernel': True}}
    """
    def moves(path, _):
        return not any(getattr(key, "key", getattr(key, "name", None)) in exclude for key in path)

    return jax.tree_util.tree_map_with_path(moves, params)


def defaults() -> dict:
    """The keys of `config.optim` with their defaults."""
    return dict(name="adam", learning_rate=1e-3, schedule="constant", warmup_steps=0, decay_steps=0,
                final_scale=0.0, drops=(), b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.0, decay_exclude=(), clip=0.0,
                clip_elements=0.0, accumulate=1, average=0.0)
