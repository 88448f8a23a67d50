"""A few steps of a system on given devices: what test_parallel.py compares.

    python tests/parallel_case.py CASE LAYOUT OUT.npz [COORDINATOR PROCESSES PROCESS]    (after 20 steps)
"""

import os
import sys

CASES = {"vq_ema": ("vq", {}), "vq_gradient": ("vq", {"codebook": "gradient"}), "vae": ("vae", {}),
         "wae": ("wae", {"divergence": "sliced", "latent": 8}), "wae_gan": ("wae", {"divergence": "gan", "latent": 8}),
         "sae_topk": ("sae", {"k": 2, "multi_k": 2}),
         "sae_batch_topk": ("sae", {"sparsifier": "batch_topk", "aux": "zipf", "tilt": 2.0}),
         "sae_feature_choice": ("sae", {"sparsifier": "feature_choice", "input": "example"}),
         "sae_jump_relu": ("sae", {"sparsifier": "jump_relu", "l0": 0.1, "l0_goal": 4.0, "threshold": 0.1,
                                   "bandwidth": 0.5}),
         "sae_adapted": ("sae", {"encoder": "tied", "decoder": "scaled", "sparsifier": "relu", "bias": "adapted",
                                 "adapt_every": 4, "bias_rate": 0.1, "groups": 4, "center": False})}
LAYOUTS = {"one": {"data": 1}, "data": {"data": -1}, "fsdp": {"data": 2, "fsdp": -1}, "pmap": {"data": -1},
           "tensor": {"data": 2, "tensor": -1}}  # a dictionary's atoms over devices


def small_config(case: str, layout: str):
    """A small config for a layout: batch 32 of digits, every coupled statistic in use."""
    import importlib.util
    from pathlib import Path

    name, model = CASES[case]
    path = Path(__file__).parent.parent / "configs" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    get_config = module.get_config
    config = get_config("tiny")
    config.batch_size = 32
    config.data.num_train = 128
    # A larger eps: Adam divides small gradients by their own size, which would magnify rounding.
    config.optim.update(dict(learning_rate=1e-3, schedule="constant", clip=1.0, average=0.9, eps=1e-3))
    if name == "vq":
        # Wide enough that fsdp shards it; revival at a threshold that is met.
        config.model.update(dict(width=16, codes=64, revive=0.3) | model)
    elif name == "sae":
        config.rules = get_config("sharded").rules if layout == "tensor" else ()
        config.model.update(dict(atoms=64, k=4, aux_atoms=8, dead_after=100) | model)
    else:
        config.model.update(dict(features=(64,), latent=8) | model)
    return config


def run(case: str, layout: str, stops: tuple[int, ...] = (1, 20)):
    """For each stop the state after as many steps, as a dict of host arrays by name."""
    import jax
    import numpy as np

    from jaxae import data
    from jaxae.train import feed, sharding
    from jaxae.train.setup import program_of

    config = small_config(case, layout)
    config.steps, config.log_every = stops[-1], stops[-1]
    config.parallel = "pmap" if layout == "pmap" else "jit"
    dataset = data.load(config.data)
    devices = jax.devices()[:1] if layout == "one" else jax.devices()
    program, _ = program_of(config, dataset, sharding.make_mesh(LAYOUTS[layout], devices))
    state = program.init()
    if program.prepare:
        state = program.prepare(state, dataset.train[np.arange(64)])
    advance = feed.resident(program, dataset.train, config.batch_size, (0,), False, stops[-1])
    placed, states = program.spread(state), []
    for first, stop in zip((0, *stops), stops, strict=False):
        placed, _ = advance(placed, first, stop)
        sums = None
        for i, batch in enumerate(feed.evaluation_batches(dataset.test, config.batch_size)):
            sums = program.evaluate(placed, sums, batch, np.int32(i))
        whole = jax.jit(lambda s: s, out_shardings=jax.tree.map(
            lambda a: jax.sharding.NamedSharding(a.sharding.mesh, jax.sharding.PartitionSpec()), program.abstract))(
                program.whole(placed))
        leaves = {sharding.leaf_name(path): leaf for path, leaf in
                  jax.tree_util.tree_leaves_with_path(sharding.fetch(whole))}
        states.append(leaves | {f"evaluate/{k}": np.asarray(v) for k, v in program.fetch(sums).items()})
    return states


def main():
    case, layout, out, *cluster = sys.argv[1:]
    import jax
    if cluster:
        coordinator, processes, process = cluster
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(coordinator, int(processes), int(process))
    import numpy as np
    state, = run(case, layout, (20,))
    if jax.process_index() == 0:
        np.savez(out, **state)


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main()
