"""Several copies of one system that differ in their start alone: same batches, same noise."""

import jax
import jax.numpy as jnp

from jaxae.systems.base import State, System, Variables, variables

_MEMBERS = State(0, 0, 0, 0, None)  # which axis of each field counts the copies; they share the number of steps


def from_starts(system: System, count: int) -> System:
    """Copies trained side by side under `vmap` on the same batches, in the same order, with the same keys.

    An ensemble of seeds shuffles each member's data by its own seed. Where the question is what the start alone does,
    that would mix two causes. Metrics have a leading axis `[count]`.

    Args:
      system: one of the copies.
      count: how many; copy i starts from the key folded with i.

    Returns:
      A `System`; `member` gives the variables of one copy, for the functions of `system`.

    Raises:
      ValueError: for a count below 1.

    Reference: after Paulo and Belrose, 'Sparse autoencoders trained on the same data learn different features', 2025,
    arXiv 2501.16615, who hold the order of the data fixed.
    """
    if count < 1:
        raise ValueError(f"from_starts wants at least one copy, not {count}")

    def init(key, batch):
        def one(i):
            return system.init(jax.random.fold_in(key, i), batch)
        return jax.vmap(one, out_axes=_MEMBERS)(jnp.arange(count))

    def step(state, batch, key):
        return jax.vmap(lambda s: system.step(s, batch, key), in_axes=(_MEMBERS,), out_axes=(_MEMBERS, 0))(state)

    def evaluate(state, batch, key):
        return jax.vmap(lambda s: system.evaluate(s, batch, key), in_axes=(_MEMBERS,))(state)

    def prepare(state, data, key):
        return jax.vmap(lambda s: system.prepare(s, data, key), in_axes=(_MEMBERS,), out_axes=_MEMBERS)(state)

    def figures(state, batch, key):
        return system.figures(_copy(state, 0), batch, key)

    return System(init, step, evaluate, jax.vmap(system.summary), prepare=prepare if system.prepare else None,
                  figures=figures if system.figures else None, latent=system.latent, inputs=system.inputs)


def member(state: State, i: int) -> Variables:
    """The variables of copy i."""
    return variables(_copy(state, i))


def _copy(state: State, i: int) -> State:
    return State(*(jax.tree.map(lambda x: x[i], field) for field in state[:-1]), state.step)
