"""Orbax checkpoints with what orbax lacks: a checksum of the data, and a fallback.

A flipped bit in an orbax folder restores wrong values without an error. Every checkpoint
here carries the sha256 of its state; one that does not match is skipped for the one before.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging


def digest(tree: Any) -> str:
    """sha256 over path, dtype, shape and bytes of every leaf."""
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = _host(leaf)
        name = jax.tree_util.keystr(path)
        sha.update(f"{name} {array.dtype} {array.shape} ".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()


def manager(folder: str | Path, keep: int = 2):
    """An orbax `CheckpointManager` that keeps the newest `keep` steps."""
    import orbax.checkpoint as ocp

    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep, cleanup_tmp_directories=True
    )
    return ocp.CheckpointManager(Path(folder).resolve(), options=options)


def save(manager, step: int, state: Any, config: dict) -> None:
    """Saves in the background.

    Args:
      manager: from `manager`.
      step: exceeds all steps saved before.
      state: pytree of arrays; no key of a dict may hold a dot (orbax mixes them up).
      config: JSON values that a later `restore` must be given again.
    """
    import orbax.checkpoint as ocp

    meta = {"config": config, "digest": digest(state)}
    args = ocp.args.Composite(
        state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)
    )
    if not manager.save(step, args=args):
        raise ValueError(f"step {step} must exceed {manager.latest_step()} to be saved")


def restore(manager, like: Any, config: dict) -> tuple[int, Any] | None:
    """The newest intact `(step, state)`; None where no checkpoint can be used.

    Args:
      manager: from `manager`.
      like: the state to expect, for structure, shapes, dtypes and shardings.
      config: what `save` was given.

    Raises:
      ValueError: the folder holds a run of another configuration.
    """
    import orbax.checkpoint as ocp

    config = json.loads(json.dumps(config))  # as JSON gives it back: no tuples
    abstract = jax.tree.map(
        lambda x: (
            jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
            if isinstance(x, jax.Array)
            else x
        ),
        like,
    )
    steps = sorted(manager.all_steps(), reverse=True)
    for step in steps:
        try:
            args = ocp.args.Composite(meta=ocp.args.JsonRestore())
            meta = manager.restore(step, args=args).meta
            same, expected = meta["config"] == config, meta["digest"]
            if same:
                args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
                state = manager.restore(step, args=args).state
        except Exception as error:  # orbax raises many types for a damaged folder
            logging.warning("checkpoint %d cannot be read: %s", step, str(error)[:200])
            continue
        if not same:
            raise ValueError(
                f"{manager.directory} holds another run: {meta['config']} != {config}"
            )
        if digest(state) == expected:
            # Left in place, a damaged one would block its number and outlive good ones.
            for damaged in (s for s in steps if s > step):
                manager.delete(damaged)
            return step, state
        logging.warning("checkpoint %d is damaged: its digest differs", step)
    for step in steps:
        manager.delete(step)
    return None


def _host(leaf: Any) -> np.ndarray:
    """A leaf as a numpy array: typed keys as their data, global arrays gathered."""
    if isinstance(leaf, jax.Array):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        if not leaf.is_fully_addressable:
            from jax.experimental import multihost_utils

            leaf = multihost_utils.process_allgather(leaf, tiled=True)
    return np.asarray(leaf)
