"""Hidden activations of a trained run: its latents, the outputs of its modules, and gradients by them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxae.data import DataError, harvest
from jaxae.nn.capture import capture
from jaxae.systems.base import Batch, Variables, inputs_of
from jaxae.train.config import nearest
from jaxae.train.setup import Run

OWN = ("input", "latent")  # what is there beside the modules


def layers_of(run: Run) -> dict[str, tuple[int, ...]]:
    """The layers of a run and the shape of one example's output, in the order of the computation."""
    source = run.dataset.train
    batch = jax.eval_shape(lambda: run.dataset.test_transform(source[np.arange(2)], jax.random.key(0)))
    model = run.members()[0]

    order: list[str] = []  # `eval_shape` sorts what it returns

    def shapes(names):
        def outputs(b):
            found = _outputs(run, model, b, names)[1]
            order.extend(name for name in found if name not in order)
            return found

        found = jax.eval_shape(outputs, batch)
        return {name: found[name].shape[1:] for name in order if name in found and found[name].shape[:1] == (2,)
                and found[name].ndim > 1}

    try:
        return shapes(None)
    except jax.errors.UnexpectedTracerError:  # some are inside a scan, out of which nothing gets: leave those
        found: dict[str, tuple[int, ...]] = {}
        for name in order:
            try:
                found |= shapes([name])
            except jax.errors.UnexpectedTracerError:
                continue
        return found


def activations_of(run: Run, layers: Sequence[str], gradient: bool = False,
                   by_example: bool = False) -> Callable[[Batch], dict[str, np.ndarray]]:
    """A function of batches for `jaxae.data.harvest`.

    Args:
      run: opened by `open_run`; of an ensemble the first member.
      layers: one, or two for pairs (x, y): 'input', 'latent' (what `encode` gives), or a module of `layers_of`.
      gradient: adds that of |x - x_hat|^2, of each example, by the last of the layers.
      by_example: a row for each example, with all positions; otherwise one for each position of a map or sequence.

    Returns:
      batch as the data set stores it -> 'x [r d]', with 'y', 'gradient', and 'label' where the data have one.

    Raises:
      ValueError: for layers that are not there, that have different positions, or that have no gradient.
    """
    known, model = layers_of(run), run.members()[0]
    for name in layers:
        if name not in known:
            raise ValueError(f"there is no layer {name!r}{nearest(name, known)}; there are: {', '.join(known)}")
    shapes = [known[name] for name in layers]
    if not 1 <= len(layers) <= 2:
        raise ValueError(f"name one layer, or two for pairs (x, y); got {', '.join(layers)}")
    if not by_example and len({shape[:-1] for shape in shapes}) > 1:
        raise ValueError(f"{' and '.join(layers)} have outputs {shapes[0]} and {shapes[1]}, of different positions: "
                         "take all of an example as one row (--by_example)")
    last = layers[-1]
    if gradient and last == "input":
        raise ValueError("a gradient is by a layer after the input")

    def rows(value):
        return value.reshape(value.shape[0], -1) if by_example else value.reshape(-1, value.shape[-1])

    def arrays(batch, key):
        batch = run.dataset.test_transform(batch, key)
        found = _outputs(run, model, batch, layers)[1]
        out = {name: rows(found[layer].astype(jnp.float32)) for name, layer in zip("xy", layers, strict=False)}
        if gradient:
            out["gradient"] = rows(jax.grad(lambda zeros: _error(run, model, batch, last, zeros))(
                jnp.zeros_like(found[last])))
        if "label" in batch and batch["label"].ndim == 1:
            out["label"] = jnp.repeat(batch["label"].astype(jnp.int32), out["x"].shape[0] // batch["label"].shape[0])
        return out

    compiled = jax.jit(arrays)
    return lambda batch: jax.tree.map(np.asarray, compiled(batch, jax.random.key(0)))


def store_activations(run: Run, layers: Sequence[str], output: str | Path, *, gradient: bool = False,
                      by_example: bool = False, dtype: str = "float16", batch_size: int = 200,
                      shard_rows: int = 65_536) -> dict[str, dict]:
    """Writes the activations of a run's data to the stores `train` and `test` of a folder; returns their indices.

    Args:
      run: opened by `open_run`.
      layers: as of `activations_of`, like `gradient` and `by_example`.
      output: the folder, which `config.data.source='activations:FOLDER'` reads; goes on where a harvest stopped.
      dtype: of the stored values.
      batch_size: examples at a time.
      shard_rows: rows of a shard.

    Raises:
      DataError: where the folder holds activations of something else.
      ValueError: for layers that are not there or do not fit one another.
    """
    function = activations_of(run, layers, gradient, by_example)
    about = dict(system=run.config.system, step=run.step, seed=run.config.seed, data=run.dataset.name,
                 layers=list(layers), gradient=gradient, by_example=by_example)
    output = Path(output)
    note = output / "harvest.json"
    if note.exists() and json.loads(note.read_text()) != about:
        raise DataError(f"{output} holds activations of {json.loads(note.read_text())}: choose another --output")
    output.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(about, indent=1) + "\n")

    def batches(source):
        def from_number(start):
            for first in range(start * batch_size, len(source), batch_size):
                yield source[np.arange(first, min(first + batch_size, len(source)))]
        return from_number

    return {name: harvest(function, batches(source), output / name, dtype, shard_rows)
            for name, source in (("train", run.dataset.train), ("test", run.dataset.test))}


def _outputs(run: Run, model: Variables, batch: Batch, names: Sequence[str] | None, added: dict | None = None):
    """(x_hat, layer -> output); the latent is that of `encode`."""
    given = inputs_of(run.system, batch)
    system, found = run.system, {}
    if names is None or "input" in names:
        found["input"] = batch["x"]
    if (names is None or "latent" in names) and system.encode is not None:
        found["latent"] = system.encode(model, *given)
    wanted = None if names is None else [name for name in names if name not in OWN]
    if wanted == [] and not added:
        return None, found
    through = system.reconstruct or system.encode
    if through is None:
        raise ValueError(f"{run.config.system} has neither `reconstruct` nor `encode` to capture from")
    x_hat, inside = capture(lambda: through(model, *given), names=wanted, added=added)
    return x_hat, found | inside


def _error(run: Run, model: Variables, batch: Batch, layer: str, zeros: Any):
    if not jnp.issubdtype(batch["x"].dtype, jnp.floating):
        raise ValueError("gradients are of a squared error, which these data do not have")
    if layer == "latent":
        if run.system.decode is None or run.system.latent.codes:
            raise ValueError(f"{run.config.system} has no gradient by its latents: name a module")
        x_hat = run.system.decode(model, run.system.encode(model, *inputs_of(run.system, batch)) + zeros)
    else:
        x_hat = _outputs(run, model, batch, [layer], {layer: zeros})[0]
    return jnp.square(batch["x"] - x_hat).sum()


__all__ = ["activations_of", "layers_of", "store_activations"]
