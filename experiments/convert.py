"""Converts sparse dictionaries between workdirs and the files of SAELens, sparsify and Gemma Scope.

    python experiments/convert.py --from=runs/sae --to=saelens:exported
    python experiments/convert.py --from=gemma_scope:params.npz --to=sparsify:layers.5
    python experiments/convert.py --from=saelens:exported --to=runs/imported \
        --config=configs/sae.py --config.data.source=npz:activations.npz

A place is a workdir, or FORMAT:PATH with `saelens` or `sparsify` (a folder) or `gemma_scope` (an npz file, or a folder
with params.npz). A workdir is made from a config, whose data are what the dictionary is for; the keys of `config.model`
that the file decides are set. `evaluate.py --workdir=runs/imported` measures it, and the command that is printed trains
it on. Files are for activations as they are stored: what `data.normalise` does to them goes into the weights, and out.
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from jaxae.sae import formats
from jaxae.systems.dictionary_files import fitted, for_data, of_raw, plain
from jaxae.train import config as configs
from jaxae.train import ensemble, main, sharding
from jaxae.train.checkpoint import Checkpoints
from jaxae.train.config import ConfigError
from jaxae.train.logging import say
from jaxae.train.record import Record
from jaxae.train.setup import open_data, open_run, program_of

FORMATS = {"saelens": (formats.load_saelens, formats.save_saelens),
           "sparsify": (formats.load_sparsify, formats.save_sparsify),
           "gemma_scope": (formats.load_gemma_scope, formats.save_gemma_scope)}

flags.DEFINE_string("from", None, "What to read: a workdir, or FORMAT:PATH.", required=True)
flags.DEFINE_string("to", None, "What to write: a workdir, or FORMAT:PATH.", required=True)
flags.DEFINE_integer("member", 0, "Which member of an ensemble to read.")
flags.DEFINE_float("scale", 0.0, "Fold this factor, by which activations were multiplied in training, for raw ones.")


def convert() -> None:
    """Reads, folds a scale if there is one, writes."""
    source, target = place(flags.FLAGS["from"].value), place(flags.FLAGS.to)
    found = read(*source)
    if flags.FLAGS.scale and source[0] != "saelens":
        found = formats.fold_scale(found, flags.FLAGS.scale)
    (width, atoms), out = found.params["encoder"].shape, found.params["decoder"].shape[1]
    say(f"{flags.FLAGS['from'].value}: {atoms} atoms, {width} to {out}, {found.model['sparsifier']}")
    if target[0]:
        say(f"wrote {FORMATS[target[0]][1](target[1], found)}")
    else:
        import_into(target[1], found)


def place(text: str) -> tuple[str, Path]:
    """(format, path), the format '' for a workdir.

    Raises:
      ConfigError: for a format that is not there.
    """
    name, colon, path = text.partition(":")
    if colon and name not in FORMATS:
        raise ConfigError(f"{text}: {name!r} is not a format{configs.nearest(name, FORMATS)}; there are "
                          f"{', '.join(FORMATS)}, and a workdir has no colon")
    return (name, Path(path)) if colon else ("", Path(text))


def read(name: str, path: Path) -> formats.Dictionary:
    """The dictionary of a file, or of the newest checkpoint of a workdir."""
    if name:
        options = {"scale": flags.FLAGS.scale} if name == "saelens" and flags.FLAGS.scale else {}
        return FORMATS[name][0](path, **options)
    run = open_run(path)
    if run.config.system != "sparse.dictionary":
        raise ConfigError(f"{path} is a run of {run.config.system}: only runs of configs/sae.py can be converted")
    members = run.members()
    if not 0 <= flags.FLAGS.member < len(members):
        raise ConfigError(f"--member={flags.FLAGS.member}: {path} has {len(members)}, counted from 0")
    found = plain(run.config.model, members[flags.FLAGS.member])
    return of_raw(found, run.config.data.normalise, run.dataset.train.info.get("scale", {}))


def import_into(workdir: Path, found: formats.Dictionary) -> None:
    """Writes `config.json` and a checkpoint, at step 1, whose state is that of a new run but for the parameters."""
    if main.CONFIG.value is None:
        raise ConfigError("a workdir is made from a config with the data that the dictionary is for: "
                          "--config=configs/sae.py --config.data.source=npz:FILE")
    config = main.config()
    if config.system != "sparse.dictionary" or ensemble.size(config) > 1:
        raise ConfigError("a dictionary is imported by a config of one sparse dictionary: --config=configs/sae.py")
    changed = {name: value for name, value in found.model.items() if config.model[name] != value}
    config.model.update(found.model)
    configs.check(config)
    config, dataset, _ = open_data(config)
    found = for_data(found, config.data.normalise, dataset.train.info.get("scale", {}))
    mesh = sharding.make_mesh(config.mesh)
    program, _ = program_of(config, dataset, mesh)
    params = fitted(program.abstract.params, found)
    record = Record(config, workdir)
    checkpoints = Checkpoints(record.workdir / "checkpoints", config.keep)
    if checkpoints.steps():
        raise ConfigError(f"{workdir} holds a run already: choose another --to")
    record.start(mesh, dataset, program.abstract.params)
    checkpoints.save(1, state_with(program, config, dataset, params), {"step": 1})
    checkpoints.wait()
    checkpoints.close()
    say(f"evaluate: python experiments/evaluate.py --workdir={workdir}")
    say(f"train on: python experiments/run.py {' '.join(flags_of(changed))} --workdir={workdir}")


def state_with(program, config: ConfigDict, dataset, params):
    """A prepared state, as the variance of the data is part of it, with other parameters and one update behind it."""
    count = len(dataset.train) if not config.prepare_examples else min(config.prepare_examples, len(dataset.train))
    state = program.prepare(program.init(), dataset.train[np.arange(count)])
    params = jax.tree.map(lambda new, old: jax.device_put(new, old.sharding), params, dict(state.params))
    average = params if jax.tree.leaves(state.average) else state.average
    return state._replace(params=params, average=average, step=state.step + 1)


def flags_of(changed: dict) -> list[str]:
    """The flags of this command that concern the config, and those for what the file changed of it."""
    given = [arg for arg in sys.argv[1:] if arg.startswith(("--config", "--cpu_devices"))]
    return given + [f"--config.model.{name}={json.dumps(value) if isinstance(value, bool) else value}"
                    for name, value in changed.items()]


if __name__ == "__main__":
    main.run(convert)
