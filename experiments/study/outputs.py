"""The folder of a run: whose it is, and what its numbers depend on."""

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax
import jax
import jaxlib
import numpy as np
import optax

import jaxticket
from experiments.study import lock, methods, processes
from experiments.study.methods import Planned
from jaxticket import files, machine
from jaxticket.engine import hosts

# Settings that say where and how, not what: they may change when a run is resumed.
HOW = (
    "output_dir",
    "data_dir",
    "save_seconds",
    "compilation_cache",
    "cache_dir",
    "turns",
    "on_divergence",
    "accept",
    "distributed",
    *processes.PLACE,
)
# Later calls may ask for more of these, and for more methods.
GROWS = ("seeds", "rounds")
SWITCHES = (  # of JAX, which its numbers depend on
    "default_matmul_precision",
    "default_prng_impl",
    "disable_jit",
    "disable_most_optimizations",
    "debug_infs",
    "debug_nans",
    "enable_x64",
    "numpy_dtype_promotion",
    "random_seed_offset",
    "threefry_partitionable",
)
VARIES = ("python", "devices")  # of an environment, and changes no number


def environment() -> dict[str, Any]:
    """What a result depends on besides its settings and its data."""
    modules = (jaxticket, jax, jaxlib, flax, optax, np)
    return {
        **{module.__name__: module.__version__ for module in modules},
        "python": sys.version.split()[0],
        "device": _device(),
        "devices": jax.device_count(),
        "threads": threads(),
        **{name: jax.config.values[f"jax_{name}"] for name in SWITCHES},
        "XLA_FLAGS": " ".join(x for x in _xla_flags() if "device_count" not in x),
    }


def _xla_flags() -> list[str]:
    return os.environ.get("XLA_FLAGS", "").split()


def threads() -> int | None:
    """How many XLA has on CPU, where it divides sums among them; None elsewhere.

    As many as the cores that the process may use, or as it is told, and no fewer than
    there are devices.
    """
    if jax.default_backend() != "cpu":
        return None
    told = os.environ.get("PJRT_NPROC") or os.environ.get("NPROC")
    try:
        cores = int(told or machine.cores())
    except ValueError:  # no number
        cores = os.cpu_count() or 1
    return max(cores, len(jax.local_devices()))


def recorded_threads(folder: Path) -> int | None:
    """Those of the run that a folder holds; None where none is readable there."""
    try:
        found = json.loads((folder / "config.json").read_bytes())["environment"]
        return max(1, int(found["threads"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None  # `_read` says what is wrong


def command() -> str:
    """What was given, as a shell is told it again."""
    module = "experiments." + Path(sys.argv[0]).stem
    return shlex.join(["python", "-m", module, *sys.argv[1:]])


def _device() -> str:
    """Its kind. That of a CPU is its model: what it can do decides how XLA rounds."""
    kind = jax.local_devices()[0].device_kind
    if kind != "cpu":
        return kind
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return kind
    models = (x.partition(":")[2].strip() for x in lines if x.startswith("model name"))
    return next(models, kind)


class Part(NamedTuple):
    """Seeds that one call has added, and the rounds that this and later ones ask for.

    Attributes:
      seeds: of this part.
      rounds: `--rounds` of these calls, ascending.
      first: whether the folder began with it.
    """

    seeds: range
    rounds: tuple[int, ...]
    first: bool

    @property
    def name(self) -> str:
        """What tells its work from that of other parts."""
        return "" if self.first else f"-seeds-{self.seeds[0]}"

    def prunings(self, planned: Planned) -> Iterator[tuple[str, list[int]]]:
        """The prunings that each of the calls has added, and a name for each."""
        before: set[int] = set()
        for i, rounds in enumerate(self.rounds):
            new = [n for n in planned.prunings(rounds) if n not in before]
            before.update(new)
            yield self.name + (f"-rounds-{rounds}" if i else ""), new


class Claim(NamedTuple):
    """Whose the files of a folder are.

    Attributes:
      identities: hashes of all that the numbers of a run depend on: of this call, and
        of earlier ones whose work is taken over.
      parts: seeds and rounds, as they came to it.
      begun_with: the methods that the first call had.
    """

    identities: tuple[str, ...] = ("",)
    parts: tuple[Part, ...] = ()
    begun_with: tuple[str, ...] = ()


class Folder:
    """A folder that one run has for itself, while it is entered.

    Attributes:
      path: of the folder.
      about: its `config.json`; None where the run is new.

    Args:
      path: of the folder, which is made.

    Raises:
      ValueError: its `config.json` is damaged, or it is another process's.
      OSError: it cannot be made or written to.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def __enter__(self):
        if not hosts.first():
            if not hosts.agreed(True):
                raise ValueError(f"process 0 could not take {self.path}")
            self._see()
            return self
        taken = False
        try:
            self._take()
            taken = True
        finally:
            hosts.agreed(taken)
        try:
            self._see()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _take(self) -> None:
        """Makes it, and has it for this process; as the kills before have left it."""
        try:
            self._made = not self.path.exists()
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):  # it can be written to
                pass
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            raise PermissionError(
                f"{self.path} cannot be written to ({error.strerror}): give another "
                "--output_dir"
            ) from None
        self._lock = lock.held(self.path)
        self._lock.__enter__()
        try:
            for leftover in self.path.rglob(".*.tmp"):  # of kills
                leftover.unlink()
        except BaseException:
            self._lock.__exit__(None, None, None)
            raise

    def _see(self) -> None:
        processes.shared(self.path)
        self.about = _read(self.path / "config.json")

    def __exit__(self, *_):
        if not hosts.first():
            return
        self._lock.__exit__(None, None, None)
        if self._made:
            with contextlib.suppress(OSError):  # there is something in it
                self.path.rmdir()

    @property
    def layout(self) -> dict | None:
        """That of the run that the folder holds."""
        return self.about and self.about["layout"]

    def check(self, config, **facts) -> None:
        """Refuses a folder that holds another run, before anything is compiled.

        Processes that share a run must be alike in what its numbers depend on.

        Raises:
          ValueError: it holds another run, and what differs; or what this one would
            have less of.
        """
        alike = "give it the same hardware, libraries and data"
        processes.same("numbers", [facts, _depends()], alike)
        if self.about is None:
            return
        layout = self.about["layout"]
        ours = _numbers(config, layout, facts)
        theirs = {name: self.about.get(name) for name in ours if name != "config"}
        theirs["config"] = _without(self.about["config"], (*HOW, *GROWS))
        theirs["environment"] = ours["environment"]
        there = _methods(self.about)
        both = [name for name in there if name in config.methods]
        theirs, ours = (_of_methods(x, config, both) for x in (theirs, ours))
        if theirs != ours:
            raise ValueError(
                f"{self.path} holds another run ({difference(theirs, ours)}): "
                "give another --output_dir"
            )
        fewer = "it can be given more, not fewer"
        if both != there:
            said = " there, ".join(", ".join(x) for x in (there, config.methods))
            raise ValueError(
                f"{self.path} holds another run (methods: {said} here): {fewer}"
            )
        for name in GROWS:
            before, now = self.about["config"].get(name, 1), getattr(config, name)
            if now < before:
                raise ValueError(
                    f"{self.path} holds another run ({name}: {before} there, {now} "
                    f"here): {fewer}"
                )
        if _hash(_numbers(config, layout, facts)) in self._identities():
            return
        there = self._calls()[-1]["environment"]
        new = sorted(k for k, x in _depends().items() if there.get(k) != x)
        if refused := [name for name in new if name not in (config.accept or ())]:
            said = ", ".join(
                f"{k}: {there.get(k)} there, {_depends()[k]} here" for k in new
            )
            raise ValueError(
                f"{self.path} was begun elsewhere ({said}), and numbers may depend on "
                f"it: give --accept={','.join(refused)} to go on all the same, which "
                "config.json will say"
            )

    def claim(self, config, layout: dict, **facts) -> Claim:
        """Writes what the call is into `config.json`; see `check`, which comes first.

        Args:
          config: the settings.
          layout: of its lanes.
          **facts: what else its numbers depend on, as JSON.
        """
        ours = _numbers(config, layout, facts)
        identity = _hash(ours)
        call = {
            "identity": identity,
            "environment": environment(),
            "command": command(),
        }
        settings = _without(_json(dataclasses.asdict(config)), HOW)
        if self.about is None:
            self.about = {"config": settings, **facts, "layout": layout, **call}
            self.about |= {"accepted": [], "parts": []}
        elif identity not in self._identities():
            self.about["accepted"].append(call)
        begun_with = self.about.setdefault("begun_with", _methods(self.about))
        parts = _parts(config, self.about["parts"])
        grown = {"config": settings, **facts, "parts": parts}
        if grown != {name: self.about[name] for name in grown}:
            self.about |= {**grown, "command": command()}
        self.about = _json(self.about)
        if hosts.first():
            text = json.dumps(self.about, indent=2) + "\n"
            files.write(self.path / "config.json", text)
        known = dict.fromkeys((identity, *self._identities()))
        parts = [
            Part(range(*part["seeds"]), tuple(part["rounds"]), first=i == 0)
            for i, part in enumerate(self.about["parts"])
        ]
        return Claim(tuple(known), tuple(parts), tuple(begun_with))

    def check_room(self, needed: int) -> None:
        """Raises an `OSError` where a new run would not find the room that it needs."""
        free = shutil.disk_usage(self.path).free
        if self.about is None and needed > free:
            raise OSError(
                f"{self.path} is on a disk with {free / 1e6:,.0f} MB left, and the run "
                f"needs at least {needed / 1e6:,.0f} MB: make room, or give another "
                "--output_dir"
            )

    def forget(self) -> bool:
        """Lets a run begin with another layout, where it has not finished anything."""
        if any(self.path.glob("work/*/outcome.npz")):
            return False
        shutil.rmtree(self.path / "work", ignore_errors=True)
        (self.path / "config.json").unlink()
        self.about = None
        return True

    def _calls(self) -> list[dict]:
        """The first, and those that went on elsewhere, as they come."""
        return [self.about, *self.about["accepted"]]

    def _identities(self) -> list[str]:
        return [call["identity"] for call in self._calls()]


def _read(path: Path) -> dict | None:
    """The `config.json` of a run that can be gone on with; None where there is none."""
    if not path.exists():
        return None
    wrong = f"{path} %s: give another --output_dir, or move the folder away"
    try:
        about = json.loads(path.read_bytes())
    except ValueError as error:  # JSON's, or of UTF-8
        raise ValueError(wrong % f"cannot be read ({error})") from None
    if not isinstance(about, dict):
        raise ValueError(wrong % f"holds a {type(about).__name__}, and no settings")
    kinds = {"config": dict, "layout": dict, "environment": dict, "identity": str}
    kinds |= {"accepted": list, "parts": list}
    for name, kind in kinds.items():
        if not isinstance(about.get(name), kind):
            raise ValueError(wrong % f"has no {name!r} that a run can go on with")
    layout, parts = about["layout"], about["parts"]
    try:
        sound = layout["lanes"] >= 1 and layout["width"] % layout["lanes"] == 0
        sound &= all(range(*part["seeds"]) and [*part["rounds"]] for part in parts)
        sound &= all(
            {*call} >= {"identity", "environment"} for call in about["accepted"]
        )
    except (KeyError, TypeError):
        sound = False
    if not sound:
        raise ValueError(wrong % "has a layout or parts that no run has")
    return about


def _parts(config, there: Sequence[Mapping]) -> list[dict]:
    """Seeds and rounds as they have come: those that were there, and what is new."""
    rounds = getattr(config, "rounds", 1)
    parts = [dict(part) for part in there]
    for part in parts:
        if part["rounds"][-1] < rounds:
            part["rounds"] = [*part["rounds"], rounds]
    begin = parts[-1]["seeds"][1] if parts else config.first_seed
    end = config.first_seed + config.seeds
    if begin < end:
        parts.append({"seeds": [begin, end], "rounds": [rounds]})
    return parts


def _numbers(config, layout: dict, facts: Mapping) -> dict:
    """All that numbers depend on, as JSON gives it back, so that it can be compared."""
    settings = _without(dataclasses.asdict(config), (*HOW, *GROWS))
    lanes = {"lanes": layout["lanes"], "width": layout["width"]}
    found = {"config": settings, **facts, "layout": lanes, "environment": _depends()}
    return _json(found)


def _methods(about: dict) -> list[str]:
    """Those of the run that a `config.json` is of; where nothing is searched none."""
    found = about["config"].get("methods", [])
    return [str(name) for name in (found if isinstance(found, list) else [found])]


def _of_methods(numbers: dict, config, names: Sequence[str]) -> dict:
    """What the numbers of these methods depend on, of all that a run's do."""
    settings, found = _without(numbers["config"], ["methods"]), dict(numbers)
    if isinstance(hyper := settings.get("hyper"), dict):
        ours = {k: x for k, x in hyper.items() if methods.serves(config, names, k)}
        settings["hyper"] = ours
    if isinstance(given := numbers["references"], dict):
        found["references"] = {name: given.get(name) for name in names}
    return found | {"config": settings}


def _depends() -> dict[str, Any]:
    return _without(environment(), VARIES)


def _hash(numbers: dict) -> str:
    return hashlib.sha256(json.dumps(numbers, sort_keys=True).encode()).hexdigest()


def _json(tree: Any) -> Any:
    return json.loads(json.dumps(tree))


def _without(mapping: Mapping, names: Sequence[str]) -> dict:
    return {name: x for name, x in mapping.items() if name not in names}


def difference(theirs: dict, ours: dict) -> str:
    """Where two trees of JSON differ, and what is there and here."""
    pairs, mine = _flat(theirs), _flat(ours)
    keys = sorted(k for k in {*pairs, *mine} if pairs.get(k) != mine.get(k))
    return ", ".join(f"{k}: {pairs.get(k)} there, {mine.get(k)} here" for k in keys)


def _flat(identity: dict) -> dict:
    config = identity["config"]
    rest = {k: v for k, v in identity.items() if k not in ("config", "environment")}
    return {**rest, **config, **config.get("hyper", {})} | {"hyper": None}
