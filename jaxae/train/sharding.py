"""The device mesh and where every array of a run lives on it."""

import re
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree
from ml_collections import ConfigDict

AXES = ("data", "fsdp", "tensor")
_BATCH = ("data", "fsdp")  # the batch is spread over both
_MIN_SHARDED = 1024  # smaller arrays are copied to every device


def make_mesh(shape: dict[str, int] | ConfigDict, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with axes `data`, `fsdp` and `tensor`; one of the sizes may be -1: the devices that are left.

    A single process may use fewer devices than there are: the first ones.

    Raises:
      ValueError: if the sizes do not fit the number of devices.
    """
    devices = list(devices or jax.devices())
    sizes = [int(shape.get(axis, 1)) for axis in AXES]
    if sizes.count(-1) > 1 or any(size == 0 or size < -1 for size in sizes):
        raise ValueError(f"config.mesh={dict(zip(AXES, sizes, strict=True))}: sizes are positive, at most one is -1")
    known = int(np.prod([size for size in sizes if size != -1]))
    sizes = [len(devices) // known if size == -1 else size for size in sizes]
    used = int(np.prod(sizes))
    if used == 0 or used > len(devices) or (used < len(devices) and jax.process_count() > 1):
        raise ValueError(f"config.mesh={dict(zip(AXES, sizes, strict=True))} does not fit {len(devices)} devices: its "
                         f"sizes must multiply to that number, or less in a single process")
    return jax.make_mesh(sizes, AXES, devices=devices[:used], axis_types=(AxisType.Auto,) * len(AXES))


def check_batch(batch_size: int, mesh: Mesh) -> None:
    """Raises ValueError where the batch does not divide over the mesh's batch axes."""
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size % ways:
        raise ValueError(f"config.batch_size={batch_size} does not divide over {ways} devices (config.mesh.data x "
                         f"config.mesh.fsdp): use a multiple of {ways}, such as {-(-batch_size // ways) * ways}")


def replicated(mesh: Mesh) -> NamedSharding:
    """On every device whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Rows of `axis` spread over the batch axes of the mesh."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, _BATCH))


def state_shardings(abstract: PyTree, mesh: Mesh, rules: Sequence = (), stacked: bool = False) -> PyTree:
    """A sharding for every leaf of a state, by its name.

    The first rule whose expression is found in the leaf's name (`params/encoder/Conv_0/kernel`; optimizer moments
    carry the parameter's name too) gives its axes. Leaves that no rule names: with an `fsdp` axis, the largest
    dimension that it divides is spread over it; the rest is replicated.

    Args:
      abstract: shapes of the state.
      mesh: the mesh.
      rules: pairs `(regex, spec)`, spec a tuple with a mesh axis or None for each dimension.
      stacked: whether leaves have a leading ensemble axis, which the specs do not name.

    Raises:
      ValueError: for a spec that does not fit the leaf that it names.
    """
    compiled = [(re.compile(pattern), tuple(spec)) for pattern, spec in rules]

    def place(path, leaf):
        name = leaf_name(path)
        for pattern, spec in compiled:
            if pattern.search(name) and leaf.ndim >= len(spec) + stacked:
                spec = (None,) * stacked + spec
                _check_spec(name, leaf.shape, spec, mesh)
                return NamedSharding(mesh, PartitionSpec(*spec))
        return NamedSharding(mesh, _fsdp_spec(leaf.shape, mesh, stacked))

    return jax.tree_util.tree_map_with_path(place, abstract)


def _fsdp_spec(shape, mesh: Mesh, stacked: bool) -> PartitionSpec:
    ways = mesh.shape["fsdp"]
    if ways == 1 or np.prod(shape) < _MIN_SHARDED:
        return PartitionSpec()
    fitting = [i for i in range(int(stacked), len(shape)) if shape[i] % ways == 0]
    if not fitting:
        return PartitionSpec()
    largest = max(fitting, key=lambda i: shape[i])
    return PartitionSpec(*["fsdp" if i == largest else None for i in range(len(shape))])


def _check_spec(name, shape, spec, mesh: Mesh) -> None:
    for size, axes in zip(shape, spec, strict=False):
        for axis in (axes,) if isinstance(axes, str) else axes or ():
            if axis not in mesh.shape:
                raise ValueError(f"config.rules: {axis!r} is not an axis of the mesh; axes are {', '.join(AXES)}")
            if size % mesh.shape[axis]:
                raise ValueError(f"config.rules: {name} with shape {tuple(shape)} does not divide by the "
                                 f"{mesh.shape[axis]} devices of axis {axis!r}")


def leaf_name(path) -> str:
    """`params/encoder/kernel` for a path of `jax.tree_util`."""
    return "/".join(str(getattr(k, "name", getattr(k, "key", getattr(k, "idx", k)))) for k in path)


def place(tree: PyTree, sharding: NamedSharding | PyTree) -> PyTree:
    """Host arrays that every process holds whole -> global arrays with these shardings."""
    def one(x, where):
        x = np.asarray(x)
        if jax.process_count() == 1:
            return jax.device_put(x, where)
        return jax.make_array_from_callback(x.shape, where, lambda index: x[index])

    if isinstance(sharding, NamedSharding):
        return jax.tree.map(lambda x: one(x, sharding), tree)
    return jax.tree.map(one, tree, sharding)


def place_rows(tree: PyTree, sharding: NamedSharding) -> PyTree:
    """Each process's own rows of a global batch -> global arrays."""
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), tree)


def fetch(tree: PyTree) -> PyTree:
    """Replicated global arrays -> host arrays, from this process's own copy."""
    return jax.tree.map(lambda x: np.asarray(x.addressable_data(0)) if isinstance(x, jax.Array) else x, tree)


