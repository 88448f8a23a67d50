"""Trains a Pareto front of a config, and draws it.

    python experiments/pareto.py --config=configs/sae.py --seeds=3 \\
        --over="model.sparsifier=topk,batch_topk model.k=4,8,16,32" --over=relu:model.l1=0.002,0.005,0.01,0.02
    python experiments/pareto.py --config=configs/sae.py --over="model.atoms=128,512 model.k=4,16" --output=runs/width
    python experiments/pareto.py --config=configs/vae.py --x=kl --y=reconstruction --beside= --over=model.beta=0.3,1,3

Every `--over` is a family: variants of the config before the colon, joined by +, or none; then keys with the values
that they take, separated by spaces, in all combinations. Along a line of the figure runs the last key; those before it
give one line for each combination. Values of keys that can be traced (weights, rates) train side by side under `vmap`,
the others in one run on the same batches; `--seeds` of each, whose agreement is the pairwise mean correlation
coefficient of their atoms (Song et al. 2025, arXiv 2505.20254), where the model has a dictionary.

Numbers are of the test split. In the output folder: `pareto.json`, `pareto.md`, whose starred rows no other row beats
in both x and y, and `pareto.png`.
"""

import importlib.util
import shlex
import sys
import time
from pathlib import Path

from absl import flags
from claims.fronts import Family, check_metrics, columns, family, measured, write
from ml_collections import config_flags

from jaxae import data
from jaxae.train import main, mistakes
from jaxae.train.config import ConfigError
from jaxae.train.logging import say
from jaxae.train.sweeps import reported

flags.DEFINE_multi_string("over", [], "FAMILY:KEY=VALUE,VALUE KEY=VALUE,VALUE; the family may be left out.")
flags.DEFINE_integer("seeds", 1, "Members of each setting, side by side.")
flags.DEFINE_string("x", "l0", "Test metric across.")
flags.DEFINE_string("y", "fvu", "Test metric upwards.")
flags.DEFINE_string("beside", "dead", "Test metric of the second panel; none if empty.")
flags.DEFINE_string("output", "runs/pareto", "Folder of pareto.json, .md and .png.")


def configs_of(families: list[Family], seeds: int) -> list:
    """The config of each family: of the flags, with its variants and the flags' overrides."""
    path, arg = mistakes.config_path(sys.argv[1:])
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = []
    for one in families:
        config = module.get_config(",".join(filter(None, [arg, *one.variants.split("+")])))
        config.update_from_flattened_dict(config_flags.get_override_values(flags.FLAGS["config"]))
        config.ensemble = seeds
        found.append(config)
    return found


def run() -> None:
    """Trains the families of the flags."""
    options, started, base = flags.FLAGS, time.perf_counter(), main.config()
    if not options.over:
        raise ConfigError("name what to sweep: --over=model.k=4,8,16")
    families = [family(text) for text in options.over]
    configs = configs_of(families, options.seeds)
    for one, config in zip(families, configs, strict=True):
        if config.data.to_dict() != base.data.to_dict():
            raise ConfigError(f"--over={one.variants}: all families train on the same data: name variants that change "
                              "it in --config")
    dataset = data.load(base.data)
    for one, config in zip(families, configs, strict=True):  # before anything is trained
        check_metrics(columns(options.x, options.y, options.beside), reported(config, one.settings[0], dataset))
    rows = measured(families, configs, dataset, Path(mistakes.config_path(sys.argv[1:])[0]).stem)
    command = shlex.join(["pareto.py", *(word for word in sys.argv[1:] if not word.startswith("--output"))])
    settings = dict(command=command, data=dataset.name, updates=base.steps, batch=base.batch_size, seeds=options.seeds)
    say(write(rows, Path(options.output), options.x, options.y, options.beside, settings))
    say(f"{time.perf_counter() - started:.0f} s; in {options.output}: pareto.json, pareto.md, pareto.png")


if __name__ == "__main__":
    main.run(run)
