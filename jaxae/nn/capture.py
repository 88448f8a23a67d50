"""What the modules inside a function give out, without a change to the function."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn
from jaxtyping import Array


def capture(function: Callable[..., Any], *args: Any, names: Sequence[str] | None = None,
            added: Mapping[str, Array] | None = None) -> tuple[Any, dict[str, Array]]:
    """Runs `function(*args)` and keeps the outputs of the Flax linen modules in it.

    A module is called by the class of the network that was applied and its path there, as 'MLP/Dense_0'; the network
    itself by its class. A network that is applied again, or another of the same class, is 'MLP.2', and so on in the
    order of the calls; of a module that a network calls several times the first output is kept. It works under
    `jax.jit` and `jax.grad` of the whole; a module inside a scan or another transformation of the function has outputs
    that cannot leave it: name others.

    Args:
      function: anything that applies modules.
      args: of the function.
      names: which outputs; all that are single arrays by default.
      added: name -> array that is added to this output, as zeros whose gradient is that of the output.

    Returns:
      The function's result, and name -> output.

    Raises:
      ValueError: for names that are not there.

    >>> import jax.numpy as jnp
    >>> net = nn.Sequential([nn.Dense(3), nn.relu, nn.Dense(2)])
    >>> params = net.init(jax.random.key(0), jnp.ones((1, 4)))
    >>> {name: y.shape for name, y in capture(lambda x: net.apply(params, x), jnp.ones((5, 4)))[1].items()}
    {'Sequential/layers_0': (5, 3), 'Sequential/layers_2': (5, 2), 'Sequential': (5, 2)}
    """
    added, found, networks = dict(added or {}), {}, []

    def name_of(module: nn.Module) -> str:
        root = module.scope.root
        if all(root is not scope for scope, _ in networks):
            kind = type(module).__name__
            times = 1 + sum(name.split(".")[0] == kind for _, name in networks)
            networks.append((root, kind if times == 1 else f"{kind}.{times}"))
        return "/".join([next(name for scope, name in networks if scope is root), *module.scope.path])

    def keep(call, inputs, options, context):
        if context.module.scope is None:  # before it is bound
            return call(*inputs, **options)
        name = name_of(context.module)  # on the way in, so that the outermost module names the network
        y = call(*inputs, **options)
        if context.method_name != "__call__" or not isinstance(y, jax.Array) or name in found:
            return y
        found[name] = y + added.pop(name) if name in added else y
        return found[name]

    with nn.intercept_methods(keep):
        out = function(*args)
    missing = sorted({*added, *(names or ())} - {*found})
    if missing:
        raise ValueError(f"no module called {', '.join(missing)} gives an array: there are {', '.join(found)}")
    return out, found if names is None else {name: found[name] for name in names}


__all__ = ["capture"]
