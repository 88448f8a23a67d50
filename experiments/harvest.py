"""Writes hidden activations of a run to a store, on which sparse autoencoders and transcoders train.

    python experiments/harvest.py --workdir=runs/vae                                    # lists the layers
    python experiments/harvest.py --workdir=runs/vae --layers=latent --output=runs/latents
    python experiments/run.py --config=configs/sae.py --config.data.source=activations:runs/latents
    python experiments/harvest.py --workdir=runs/vae --layers=A,B --output=runs/pairs   # x of A, y of B: a transcoder

A layer is 'input', 'latent' (what the system's `encode` gives), or a module by its name in the list. Maps and sequences
give a row for each position, or with `--by_example` one for each example. `--gradient` adds the gradient of the squared
error of the reconstruction by the last layer, which `gradient_topk` uses. The splits of the run's data become the
stores `train` and `test`; a harvest that was interrupted goes on where it stopped.
"""

from pathlib import Path

from absl import flags

from jaxae.train import main
from jaxae.train.activations import layers_of, store_activations
from jaxae.train.logging import say
from jaxae.train.setup import open_run

flags.DEFINE_string("workdir", None, "Workdir of the run.", required=True)
flags.DEFINE_list("layers", [], "One layer, or two for pairs (x, y); none lists them.")
flags.DEFINE_string("output", "", "Folder of the stores; WORKDIR/activations/LAYERS by default.")
flags.DEFINE_bool("gradient", False, "Adds gradients of the reconstruction's squared error by the last layer.")
flags.DEFINE_bool("by_example", False, "A row for each example, with all positions.")
flags.DEFINE_enum("dtype", "float16", ["float16", "bfloat16", "float32"], "Of the stored values.")
flags.DEFINE_integer("batch_size", 200, "Examples at a time.")
flags.DEFINE_integer("shard_rows", 65_536, "Rows of a shard.")


def command() -> None:
    """Harvests the run of the flags."""
    options = flags.FLAGS
    run = open_run(options.workdir)
    if not options.layers:
        lines = [f"  {name}  {list(shape)}" for name, shape in layers_of(run).items()]
        say("layers, and the shape of an example's output:\n" + "\n".join(lines))
        return
    folder = "+".join(name.replace("/", ".") for name in options.layers)
    output = Path(options.output or Path(options.workdir) / "activations" / folder)
    found = store_activations(run, options.layers, output, **{name: options[name].value for name in (
        "gradient", "by_example", "dtype", "batch_size", "shard_rows")})
    arrays = ", ".join(f"{name} {array['shape']}" for name, array in found["train"]["arrays"].items())
    pair = " --config.model.center=False" if len(options.layers) > 1 else ""  # inputs and targets of different widths
    say(f"{found['train']['rows']} and {found['test']['rows']} rows of {arrays} in {output}\n"
        f"train on them: python experiments/run.py --config=configs/sae.py{pair} "
        f"--config.data.source=activations:{output}")


if __name__ == "__main__":
    main.run(command)
