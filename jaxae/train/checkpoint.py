"""Checkpoints of a run: asynchronous, kept by policy, restored onto whatever devices there are.

A thin layer over orbax, so that a change of its interface touches this file only.
"""

import logging
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jaxtyping import PyTree

_log = logging.getLogger(__name__)


class CheckpointError(ValueError):
    """A checkpoint that cannot be opened; the message says what to do."""


class Checkpoints:
    """The checkpoints under one directory.

    Args:
      directory: `WORKDIR/checkpoints`; made when the first one is saved.
      keep: how many of the newest are kept.
    """

    def __init__(self, directory: str | Path, keep: int = 3):
        self.directory = Path(directory).absolute()  # orbax takes absolute paths only
        # orbax reports every save at the warning level of absl; a person wants to see what is wrong.
        logging.getLogger("absl").setLevel(logging.ERROR)
        policy = ocp.checkpoint_managers.LatestN(keep)
        self._manager = ocp.CheckpointManager(
            self.directory, options=ocp.CheckpointManagerOptions(preservation_policy=policy, create=True))

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
        steps, failure = self.steps(), None
        for step in reversed(steps):
            try:
                read = self._manager.restore(step, args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(abstract), meta=ocp.args.JsonRestore()))
            except Exception as error:  # orbax, tensorstore and json each raise their own
                failure = error
                mismatch = self._shape_mismatch(step, abstract)
                if mismatch:
                    raise CheckpointError(mismatch) from error
                _log.warning("checkpoint %d is damaged (%s); trying the one before", step, _first_line(error))
                continue
            if step != steps[-1]:
                self._set_aside([s for s in steps if s > step])
            return step, read["state"], dict(read["meta"])
        if failure is not None:
            raise CheckpointError(f"no checkpoint under {self.directory} can be read ({_first_line(failure)}): "
                                  f"move the directory away to start from scratch")
        return None

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


def _name(path) -> str:
    return "/".join(str(getattr(k, "name", getattr(k, "key", getattr(k, "idx", k)))) for k in path)


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0][:160]}" if text else type(error).__name__
