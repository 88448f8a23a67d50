"""From a config to compiled functions, and from a workdir back to a trained model."""

import json
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jaxae import data, systems
from jaxae.data import ArraySource, Dataset
from jaxae.systems import figures as draw
from jaxae.systems.base import State, System, Variables, inputs_of, variables
from jaxae.systems.latent import priors_by_name
from jaxae.train import ensemble, sharding
from jaxae.train.checkpoint import CheckpointError, Checkpoints
from jaxae.train.config import ConfigError, completed
from jaxae.train.program import Program, Spec, make_program


def program_of(config: ConfigDict, dataset: "data.Dataset", mesh) -> tuple[Program, Spec]:
    """The compiled functions of a config on a mesh, and what they are made from.

    Raises:
      ConfigError, ValueError: for a config that cannot run on this mesh or with these data.
    """
    sharding.check_batch(config.batch_size, mesh)
    data.batches_per_epoch(len(dataset.train), config.batch_size)  # refuses a set smaller than a batch
    members = ensemble.size(config)
    seeds = np.asarray(ensemble.seeds(config), np.uint32)
    root = jax.vmap(jax.random.key)(seeds) if members > 1 else jax.random.key(config.seed)
    example = example_of(dataset, config.batch_size)
    seen = jax.eval_shape(dataset.test_transform, example, jax.random.key(0))

    def build(axis_name: str | None) -> System:
        one = partial(systems.build, example=seen, axis_name=axis_name)
        return ensemble.ensemble(one, config) if members > 1 else one(config)

    spec = Spec(build, dataset.transform, dataset.test_transform, example, root, tuple(config.rules))
    return make_program(spec, mesh, config.parallel), spec


def example_of(dataset: "data.Dataset", batch_size: int) -> PyTree:
    """Shapes of one global batch as the data set stores it."""
    return {name: jax.ShapeDtypeStruct((batch_size, *s.shape), s.dtype) for name, s in dataset.train.spec.items()}


class Run(NamedTuple):
    """A finished or interrupted run, opened from its workdir."""

    config: ConfigDict
    dataset: Dataset
    program: Program
    system: System  # of one member
    state: State  # of all members
    step: int
    decode: Any = None  # samples -> images, for priors on another run's latents

    def members(self) -> list[Variables]:
        """The variables of each member, one for a run without an ensemble."""
        count = ensemble.size(self.config)
        return [variables(ensemble.select(self.state, i) if count > 1 else self.state) for i in range(count)]


def open_run(workdir: str | Path) -> Run:
    """The newest checkpoint of a workdir, on the devices that there are.

    Keys of the config that are newer than the run have their defaults.

    Raises:
      CheckpointError: where there is no run or no checkpoint.
    """
    path = Path(workdir).absolute() / "config.json"
    if not path.exists():
        raise CheckpointError(f"{workdir} is not the workdir of a run: it has no config.json")
    config = ConfigDict(completed(json.loads(path.read_text())))
    checkpoints = Checkpoints(path.parent / "checkpoints", read_only=True)
    if not checkpoints.steps():
        raise CheckpointError(f"{workdir} has no checkpoint yet: train it first")
    config.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})
    config.parallel = "jit"
    config, dataset, decode = open_data(config)
    mesh = sharding.make_mesh(config.mesh, jax.devices()[:1] if jax.process_count() == 1 else None)
    program, spec = program_of(config, dataset, mesh)
    step, state, _ = checkpoints.restore(program.abstract)
    checkpoints.close()
    seen = jax.eval_shape(dataset.test_transform, spec.example, jax.random.key(0))
    return Run(config, dataset, program, systems.build(config, seen), state, step, decode)


def open_data(config: ConfigDict):
    """(config, dataset, decode) of `config.data`, or of the latents of the run `config.autoencoder`.

    For latents the config gets the number of codes and classes, and `decode` maps figures of latents to images.

    Raises:
      ConfigError: for a prior without an autoencoder, or an autoencoder without latents.
    """
    if not config.autoencoder:
        if config.system.startswith("latent."):
            raise ConfigError("a prior needs an autoencoder: --config.autoencoder=WORKDIR of a finished run")
        return config, data.load(config.data), None
    run = open_run(config.autoencoder)
    if run.system.encode is None or run.system.latent is None:
        raise ConfigError(f"{config.autoencoder} holds {run.config.system}, which has no latents to model")
    model = run.members()[0]
    encode, decode = jax.jit(run.system.encode), jax.jit(run.system.decode)

    def latents(source) -> ArraySource:
        key, rows = jax.random.key(0), []
        for start in range(0, len(source), run.config.batch_size):
            batch = source[np.arange(start, min(start + run.config.batch_size, len(source)))]
            batch = run.dataset.test_transform(batch, jax.random.fold_in(key, start))
            codes = np.asarray(encode(model, *inputs_of(run.system, batch)))
            rows.append({"x": codes} | {k: np.asarray(v) for k, v in batch.items() if k == "label"})
        return ArraySource({name: np.concatenate([row[name] for row in rows]) for name in rows[0]})

    def same(batch, key, axis_name=None):
        return batch

    def decoded(arrays):
        shown = {}
        for name, value in arrays.items():
            x = decode(model, jnp.asarray(value))
            shown |= draw.samples(x) if draw.is_sound(x) else {name: np.clip(np.asarray(x), 0.0, 1.0)}
        return shown

    filled = config.copy_and_resolve_references()
    with filled.unlocked():
        latent, axis = run.system.latent, run.system.latent.codebook_axis
        filled.model.update(dict(codes=latent.codes, prefix=latent.prefix, codebook_axis=-1 if axis is None else axis))
        codebook = None if run.system.codebook is None else run.system.codebook(model)
        try:
            priors_by_name.fill(filled.model, run.config.model, codebook)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        if "label" in run.dataset.train.spec:
            filled.model.classes = int(run.dataset.train[np.arange(len(run.dataset.train))]["label"].max()) + 1
    dataset = Dataset(latents(run.dataset.train), latents(run.dataset.test), same, same,
                      f"latents of {config.autoencoder}")
    return filled, dataset, decoded
