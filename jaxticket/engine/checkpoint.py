"""Orbax checkpoints with what orbax lacks: a checksum of the data, and a fallback.

A flipped bit in an orbax folder restores wrong values without an error. Every
checkpoint here carries the sha256 of its state; one that does not match is skipped for
the one before.
"""

import contextlib
import hashlib
import json
import logging
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxticket.engine import hosts

_log = logging.getLogger(__name__)


def digest(tree: Any) -> str:
    """sha256 over path, dtype, shape and bytes of every leaf."""
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = _host(leaf)
        name = jax.tree_util.keystr(path)
        sha.update(f"{name} {array.dtype} {array.shape} ".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()


class Folder:
    """A folder of checkpoints, of which the newest two are kept; a context manager.

    Orbax is imported when it is needed, and the folder made with the first save.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path).resolve()  # orbax refuses relative paths
        self._manager = None

    def __enter__(self):
        return self

    def __exit__(self, kind=None, *_):
        # A program that ends cannot wait: threads that orbax would start never run.
        # Nor can one process among several, which another may have left alone.
        left = sys.is_finalizing() or (hosts.several() and kind is not None)
        try:
            if self._manager is not None and not left:
                self.wait()
                self._manager.close()
        finally:
            manager, self._manager = self._manager, None
            if manager is not None:
                logging.getLogger("absl").removeFilter(_is_not_of_orbax)

    def wait(self) -> None:
        """Until what was saved is written."""
        if self._manager is not None:
            with self._written():
                self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        """One error for all that orbax raises, here or for a save before."""
        try:
            yield
        except Exception as error:
            for half in self.path.glob("*.orbax-checkpoint-tmp"):
                shutil.rmtree(half, ignore_errors=True)
            said = " ".join(str(error).split())
            said = "the disk is full" if "RESOURCE_EXHAUSTED" in said else said[:200]
            raise OSError(
                f"no checkpoint could be written to {self.path} ({said}): the one "
                "before is kept; make room, and go on with the same command"
            ) from error

    def _open(self):
        import orbax.checkpoint as ocp

        if self._manager is None:
            # Its threads log a dozen tracebacks of one error, which it raises too.
            logging.getLogger("absl").addFilter(_is_not_of_orbax)
            options = ocp.CheckpointManagerOptions(
                max_to_keep=2, cleanup_tmp_directories=True
            )
            self._manager = ocp.CheckpointManager(self.path, options=options)
        return ocp, self._manager

    def save(self, step: int, state: Any, config: dict) -> None:
        """Saves in the background.

        Args:
          step: exceeds all steps saved before.
          state: pytree of arrays; no key of a dict may hold a dot (orbax mixes them
            up).
          config: JSON values that a later `restore` must be given again.
        """
        ocp, manager = self._open()
        meta = {"config": config, "digest": digest(state)}
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)
        )
        if step <= (manager.latest_step() or 0):
            raise ValueError(f"step {step} must exceed {manager.latest_step()}")
        self._check_room(state)
        with self._written():
            manager.save(step, args=args)

    def _check_room(self, state: Any) -> None:
        """Refuses a checkpoint that the disk has no room for, before it is begun.

        A disk that fills up on the way is noticed by orbax's threads, with much noise.
        """
        needed = sum(x.nbytes for x in jax.tree.leaves(state))
        free = shutil.disk_usage(self.path).free
        if free < needed:
            raise OSError(
                f"a checkpoint takes {needed / 1e6:.1f} MB, and {self.path} is on a "
                f"disk with {free / 1e6:.1f} MB left: the one before is kept; make "
                "room, and go on with the same command"
            )

    def restore(
        self, like: Callable[[int], Any], configs: Sequence[dict]
    ) -> tuple[int, Any] | None:
        """The newest intact `(step, state)`; None where there is none to go on from.

        Args:
          like: step -> the state to expect, of arrays or `jax.ShapeDtypeStruct`s, for
            structure, shapes, dtypes, and the shardings that it is to have, which may
            be others than those that were saved, on other devices.
          configs: what `save` may have been given.

        Raises:
          ValueError: the folder holds a run of another configuration.
        """
        if not hosts.agreed(self.path.exists()):
            return None
        ocp, manager = self._open()
        # As JSON gives them back: no tuples.
        configs = [json.loads(json.dumps(config)) for config in configs]
        damaged = []
        for step in sorted(manager.all_steps(), reverse=True):
            try:
                args = ocp.args.Composite(meta=ocp.args.JsonRestore())
                meta = manager.restore(step, args=args).meta
                same, expected = meta["config"] in configs, meta["digest"]
                abstract = jax.tree.map(_abstract, like(step))
                args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
                state = manager.restore(step, args=args).state if same else None
                said = None
            except Exception as error:  # orbax raises many types for a damaged folder
                said = str(error)[:200]
            if hosts.anyone(said is not None):
                _log.warning("checkpoint %d is unreadable: %s", step, said)
                damaged.append(step)
                continue
            if not same:
                raise ValueError(
                    f"{self.path} was left by another run ({meta['config']}; this is "
                    f"{configs[0]}): give another folder, or move that away"
                )
            if digest(state) == expected:
                # Left in place they would block their numbers, and outlive good ones.
                for step_ in damaged:
                    manager.delete(step_)
                return step, state
            _log.warning("checkpoint %d is damaged: its digest differs", step)
            damaged.append(step)
        if damaged:
            self.__exit__()
            self.clear()
            _log.warning("no checkpoint of %s is intact: beginning again", self.path)
        return None

    def clear(self) -> None:
        """Removes all checkpoints."""
        hosts.wait()  # nobody reads them any more
        if hosts.first():
            shutil.rmtree(self.path, ignore_errors=True)
        hosts.wait()


def _is_not_of_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname


def _abstract(leaf: Any) -> Any:
    if isinstance(leaf, jax.Array):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
    return leaf


def _host(leaf: Any) -> np.ndarray:
    """A leaf as a numpy array: typed keys as their data, global arrays gathered."""
    if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(
        leaf.dtype, jax.dtypes.prng_key
    ):
        leaf = jax.random.key_data(leaf)
    return np.asarray(hosts.gathered(leaf))
