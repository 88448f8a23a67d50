"""Checkpoints of a run: asynchronous, kept by policy, restored onto whatever devices there are.

A thin layer over orbax, so that a change of its interface touches this file only.
"""

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
import tensorstore
from jaxtyping import PyTree

_log = logging.getLogger(__name__)


class CheckpointError(ValueError):
    """A checkpoint that cannot be opened; the message says what to do."""


class Checkpoints:
    """The checkpoints under one directory.

    Args:
      directory: `WORKDIR/checkpoints`; made when the first one is saved.
      keep: how many of the newest are kept.
      read_only: for another run's checkpoints, which may be written to meanwhile: nothing there is changed.
    """

    def __init__(self, directory: str | Path, keep: int = 3, read_only: bool = False):
        self.directory, self.read_only = Path(directory).absolute(), read_only  # orbax takes absolute paths only
        # orbax reports every save as a warning, and every damaged file as an error besides what it raises.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        policy = None if read_only else ocp.checkpoint_managers.LatestN(keep)
        handlers = {"state": ocp.StandardCheckpointHandler(), "meta": ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(self.directory, item_handlers=handlers, options=(
            ocp.CheckpointManagerOptions(preservation_policy=policy, create=not read_only, read_only=read_only)))

    def steps(self) -> list[int]:
        """Steps that have a finished checkpoint, oldest first."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: PyTree, meta: dict[str, Any]) -> None:
        """Starts saving; returns when the state is on the host, so that its buffers may be donated."""
        if step in self._manager.all_steps():
            return
        self._manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(state),
                                                         meta=ocp.args.JsonSave(meta)), force=True)

    def restore(self, abstract: PyTree) -> tuple[int, PyTree, dict[str, Any]] | None:
        """The newest checkpoint that can be read: (step, state, meta); None where there is none.

        A damaged checkpoint is set aside under `checkpoints-damaged` with a warning, and the one before is taken.

        Args:
          abstract: `jax.ShapeDtypeStruct`s with the shardings to restore onto.

        Raises:
          CheckpointError: where there are checkpoints and none of them fits or can be read.
        """
        return self._newest(lambda step: abstract)

    def restore_params(self, abstract: PyTree, parts: Sequence[str] = ()) -> PyTree | None:
        """`restore`, but of the parameters only: the optimizer and all else may differ from the checkpoint's.

        With `parts`, top-level entries of the parameters, of these only.
        """
        wanted = {name: abstract[name] for name in parts} if parts else abstract
        found = self._newest(lambda step: self._saved_with(step, wanted, bool(parts)))
        return found and ({name: found[1]["params"][name] for name in parts} if parts else found[1]["params"])

    def _newest(self, wanted: Callable[[int], PyTree]) -> tuple[int, PyTree, dict[str, Any]] | None:
        damaged: dict[int, str] = {}
        for step in reversed(self.steps()):
            try:
                if jax.process_count() == 1:
                    _read_through(self.directory / str(step) / "state")
                abstract = wanted(step)
                mismatch = self._shape_mismatch(step, abstract)
                if mismatch:
                    raise CheckpointError(mismatch)
                # One after the other: what else is being read when one fails ends in tracebacks of orbax.
                meta = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
                state = self._manager.restore(
                    step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract)))["state"]
            except CheckpointError:
                raise
            except Exception as error:  # orbax, tensorstore and json each raise their own
                damaged[step] = _first_line(error)
                continue
            for bad, reason in damaged.items():
                _log.warning("checkpoint %d is damaged (%s): going on from %d instead", bad, reason, step)
            if damaged and not self.read_only:
                self._set_aside(list(damaged))
            return step, state, dict(meta)
        if damaged:
            raise CheckpointError(f"no checkpoint under {self.directory} can be read; {max(damaged)}: "
                                  f"{damaged[max(damaged)]}. Restore one from a copy, or move the directory away "
                                  f"to start from scratch")
        return None

    def _saved_with(self, step: int, params: PyTree, partly: bool) -> PyTree:
        """The state that was saved, with these parameters in place of its own, or of those of the same names."""
        mesh = jax.tree.leaves(params)[0].sharding.mesh
        everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        saved = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere),
                             dict(self._manager.item_metadata(step)["state"]))
        return saved | {"params": dict(saved["params"]) | params if partly else params}

    def _shape_mismatch(self, step: int, abstract: PyTree) -> str:
        """Says how the saved tree differs from the wanted one; '' where it fits or cannot be read at all."""
        try:
            saved = self._manager.item_metadata(step)["state"]
            shapes = {_name(p): tuple(leaf.shape) for p, leaf in jax.tree_util.tree_leaves_with_path(saved)}
        except Exception:
            return ""
        wanted = {_name(p): tuple(leaf.shape) for p, leaf in jax.tree_util.tree_leaves_with_path(abstract)}
        wrong = [name for name in wanted if name in shapes and shapes[name] != wanted[name]]
        missing = sorted(set(wanted) ^ set(shapes))
        if not shapes or not (wrong or missing):
            return ""
        detail = (f"{wrong[0]} is {shapes[wrong[0]]} in the checkpoint and {wanted[wrong[0]]} in the model" if wrong
                  else f"{missing[0]} is in only one of them")
        return (f"the checkpoint {self.directory}/{step} is of another model: {detail}. "
                f"Use the config that it was trained with")

    def _set_aside(self, steps: list[int]) -> None:
        if jax.process_index() == 0:
            aside = self.directory.parent / "checkpoints-damaged"
            aside.mkdir(exist_ok=True)
            _log.warning("damaged checkpoints are kept in %s", aside)
            for step in steps:
                target = aside / str(step)
                while target.exists():
                    target = target.with_name(target.name + "x")
                (self.directory / str(step)).rename(target)
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils
            multihost_utils.sync_global_devices("damaged checkpoints set aside")
        self._manager.reload()

    def wait(self) -> None:
        """Returns when what was saved is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.wait_until_finished()
        self._manager.close()


def _read_through(state: Path) -> None:
    """Raises where bytes of a state are missing, by reading all of them, one array after the other.

    orbax reads all arrays at once, and where one fails it leaves the others behind: each of them prints a traceback
    when it ends. The second reading, by orbax, comes from the operating system's cache.
    """
    files = {"driver": "file", "path": f"{state}/"}
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": files}).result()
    keys = store.list().result()
    # A value whose file is not there reads as empty, which no array is.
    if not keys or not all(store.read(key).result().value for key in keys):
        raise ValueError(f"arrays are missing under {state}")
    for path in (state / "array_metadatas").glob("*"):
        json.loads(path.read_text())


def _name(path) -> str:
    return "/".join(str(getattr(k, "name", getattr(k, "key", getattr(k, "idx", k)))) for k in path)


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0][:160]}" if text else type(error).__name__
