"""Files of tickets: what they hold, whether it is sound, and in other forms.

    python -m experiments.tickets list runs/ticket_search
    python -m experiments.tickets show runs/.../seed-0-prunings-3.npz --output=masks.png
    python -m experiments.tickets compare ONE.npz OTHER.npz
    python -m experiments.tickets verify runs/ticket_search
    python -m experiments.tickets convert ONE.npz --output=small.npz --values=float16
    python -m experiments.tickets convert ONE.npz --output=ticket.safetensors
    python -m experiments.tickets convert ONE.npz --output=arrays.npz --plain
    python -m experiments.tickets evaluate ONE.npz

`list` says what a folder has; `show` what a ticket keeps of every layer and how much of
it does anything, `--output` a picture of its masks; `compare` how much two masks share,
against chance. `verify` reads files against their digests, and holds them to their
density, to the run that they lie in, and, beside the ticket of one pruning less, to
what their search promises of both. `convert` rounds values or, where they are known,
keeps those that are pruned; with `--recipe` it writes the mask alone, and the seed of
the initial weights that the ticket has. Into safetensors it writes pairs for
`torch.nn.utils.prune`. With `--plain` there are the weights with zeros. `evaluate` is
of the weights that a file has, on test data: a rewound ticket has those that its
training starts from.

Network and data are those of the `config.json` of the run that a file lies in, or what
flags say.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from experiments.reports import drawings
from experiments.study import command, own, rules, settings, sound
from experiments.study.settings import setting
from jaxticket import (
    analysis,
    checks,
    data,
    export,
    files,
    masks,
    models,
    recipes,
    structure,
    summary,
    supervised,
)
from jaxticket.base import Ticket
from jaxticket.engine import keys
from jaxticket.models import pretrained

FACTS = ("method", "setting", "seed", "prunings")


@dataclasses.dataclass(frozen=True)
class Config:
    """What to do with which files."""

    ARGUMENTS: ClassVar = "arguments"

    arguments: Sequence[str] = ()
    output: str | None = setting(
        None, "of show, a picture; of convert, the file", rules.IN_A_FOLDER
    )
    values: str | None = setting(
        None,
        "convert: a shorter dtype for the values, float16 or bfloat16",
        checks.one_of(("float16", "bfloat16")),
    )
    pruned: str = setting(
        "drop",
        "convert: drop what is pruned, or keep it where the file has it",
        checks.one_of(("drop", "keep")),
    )
    recipe: bool = setting(
        False, "convert: the mask, and what the initial weights of its run are made of"
    )
    plain: bool = setting(False, "convert: plain arrays, zeros where pruned")
    model: str | None = setting(None, "the network, where no config.json says it")
    dataset: str | None = setting(None, "the data, likewise")
    image: list[int] | None = setting(
        None,
        "convert to safetensors: the shape of one example, as 28,28,1; default: that "
        "of the data",
        checks.each(checks.whole(1)),
    )
    data_dir: str | None = setting(
        None, "folder of prepared TFDS data sets", rules.FOLDER_THERE
    )


def read(path: str | Path) -> tuple[Ticket, dict]:
    """The ticket of a file, as a tree of dicts, and its facts.

    Raises:
      OSError: there is no file.
      ValueError: it is damaged, or no ticket.
    """
    like: dict[str, Any] = {"weights": {}, "mask": {}, "model_state": {}}
    for name, (dtype, shape) in export.read(path).kinds.items():
        *where, leaf = name.split("/")
        inner = like
        for part in where:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                raise ValueError(f"{path} is no ticket: {name!r:.80} is in a leaf")
        inner[leaf] = _shaped(dtype, shape)
    found = Ticket(like["weights"], None, like["model_state"] or None)
    return files.load_ticket(path, found)


def _shaped(dtype: str, shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    kind = dtype.removeprefix("key of ")
    if kind != dtype:
        return jax.ShapeDtypeStruct(shape, jax.random.key(0, impl=kind).dtype)
    return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))


def found(paths: Iterable[str]) -> list[Path]:
    """The files, and those in folders `tickets` of the folders or in these themselves.

    Raises:
      ValueError: there are none.
    """
    files_: list[Path] = []
    for path in map(Path, paths):
        inside = sorted((path / "tickets").rglob("*.npz")) or sorted(path.glob("*.npz"))
        if path.is_dir() and not inside:
            raise ValueError(f"no ticket in {path}")
        files_ += inside if path.is_dir() else [path]
    return files_


def listed(config: Config, *paths: str) -> None:
    rows: list[Sequence[str]] = [("file", *FACTS, "density", "bytes")]
    for path in found(paths):
        about, kept = (plain := export.read(path)).about, [*plain.masks.values()]
        density = sum(m.sum() for m in kept) / max(sum(m.size for m in kept), 1)
        facts = [str(about.get(name, "")) for name in FACTS]
        rows.append((str(path), *facts, f"{density:.2%}", f"{path.stat().st_size:,}"))
    print(table(rows))


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of words in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (map(str.ljust, row, widths) for row in rows)
    return "\n".join("  ".join(line).rstrip() for line in lines)


def shown(config: Config, path: str) -> None:
    ticket, about = read(path)
    print(summary(ticket))
    whole = sum(x.nbytes for x in jax.tree.leaves(ticket.weights))
    size = Path(path).stat().st_size
    print(f"{size:,} bytes, {size / max(whole, 1):.1%} of those of all weights")
    print(f"effective density: {_effective(config, path)}")
    print("\n".join(f"{name}: {json.dumps(value)}" for name, value in about.items()))
    if config.output:
        files.write(config.output, picture(ticket))
        print(f"masks: {config.output}")


def _effective(config: Config, path: str) -> str:
    """The share of the weights that lie on a path, where the network is known."""
    try:
        model, image, ticket = _of_network(config, path)

        def network(weights, x):
            return model.apply(weights, ticket.model_state, x)[0]

        found = structure.effective(network, ticket, image)
    except (OSError, ValueError) as error:
        return f"not known ({str(error):.200})"
    return f"{float(masks.density(found)):.2%}"


def picture(ticket: Ticket) -> bytes:
    """A panel a layer: its mask, inputs down and outputs across; black is kept."""
    from matplotlib import figure

    names, leaves = masks.names(ticket.mask), jax.tree.leaves(ticket.mask)
    across = max(1, min(4, len(leaves)))
    down = max(1, -(-len(leaves) // across))
    drawing = figure.Figure((4 * across, 4 * down), layout="constrained")
    grid = drawing.subplots(down, across, squeeze=False)
    for axes in grid.flat[len(leaves) :]:
        axes.set_visible(False)
    for axes, name, leaf in zip(grid.flat, names, leaves, strict=False):
        bits = np.asarray(leaf).reshape(-1, leaf.shape[-1] if leaf.ndim else 1)
        axes.imshow(bits, cmap="gray_r", vmin=0, vmax=1, aspect="auto")
        axes.set_title(f"{name}, {bits.mean():.1%} kept", fontsize="small")
    return drawings.png(drawing)


def compared(config: Config, *paths: str) -> None:
    one, other = (read(path)[0].mask for path in paths)
    rows = [("layer", "of the first in the second", "by chance", "deviations away")]
    each = analysis.layer_overlaps(one, other)
    each = jax.tree.leaves(each, is_leaf=lambda x: isinstance(x, analysis.Overlap))
    for name, x in zip(
        [*masks.names(one), "all"], [*each, analysis.overlap(one, other)], strict=True
    ):
        seen, chance, spread = map(float, x)
        away = f"{(seen - chance) / spread:+.1f}" if spread else "-"
        rows.append((name, f"{seen:.2%}", f"{chance:.2%}", away))
    print(table(rows))


def verified(config: Config, *paths: str) -> None:
    wrong, there = [], found(paths)
    for path in there:
        try:
            print(f"{path}: {', '.join(sound.checked(path, read))}")
        except (ValueError, AssertionError) as error:
            said = " ".join(str(error).split())
            wrong.append(said if str(path) in said else f"{path}: {said}")
            print(f"not sound: {wrong[-1]}")
    if wrong:
        raise ValueError(f"{len(wrong)} of {len(there)} are not sound: {wrong[0]}")


def converted(config: Config, path: str) -> None:
    if config.output is None:
        raise ValueError("convert needs --output")
    ticket, about = read(path)
    if config.output.endswith(".safetensors"):
        told = _told(config, path)
        pretrained.save_ticket(
            config.output,
            told.model,
            ticket,
            masks="applied" if config.plain else "pruned",
            image=tuple(config.image or _prepared(told)[2]),
            **_options(told),
        )
    elif config.plain:
        plain = export.read(path)
        with files.replacing(config.output) as file:
            np.savez_compressed(file, **plain.weights, **plain.state)
    else:
        if config.pruned == "keep":
            masks.known(ticket.mask, ticket.weights, "--pruned=keep")
        off = files.save_ticket(config.output, ticket, **_form(config, path, about))
        print(f"a value is off by {off:.2g} at most")
    print(f"{config.output}: {Path(config.output).stat().st_size:,} bytes")


def _form(config: Config, path: str, about: dict[str, Any]) -> dict[str, Any]:
    """What `save_ticket` is told: the form, and the facts that hold in it."""
    form: dict[str, Any] = {"pruned": config.pruned, "values": config.values}
    if config.recipe:
        if not isinstance(about.get("seed"), int):
            raise ValueError(f"{path} does not say the seed of its run")
        told = _told(config, path)
        dataset, _, image = _prepared(told)
        key = keys.of_seed(about["seed"]).init
        parts = told.model, key, image, dataset.num_classes, _options(told)
        form["recipe"] = recipes.Recipe(*parts)
    elif config.pruned == "keep" or config.values:
        form["recipe"] = None
    return {**about, **form}


def evaluated(config: Config, path: str) -> None:
    dataset, prepare, _ = _prepared(_told(config, path))
    model, _, ticket = _of_network(config, path)
    state = {} if ticket.model_state is None else ticket.model_state
    evaluate = jax.jit(supervised.evaluator(model, prepare=prepare))
    weights = masks.apply(ticket.mask, ticket.weights)
    found = evaluate(weights, state, dataset.test)
    print(f"test accuracy {100 * float(found.accuracy):.2f}%, loss {found.loss:.4f}, "
          f"of {len(dataset.test.labels)} of {dataset.name}")  # fmt: skip


def _of_network(config: Config, path: str) -> tuple[models.Model, Any, Ticket]:
    """The network of a file, an input of zeros, and the ticket in its structure."""
    told = _told(config, path)
    dataset, _, image = _prepared(told)
    model = own.model(told.model, dataset.num_classes, told.options("model"))
    x = jnp.zeros((1, *image))
    like = jax.eval_shape(model.init, jax.random.key(0), x)
    ticket, _ = files.load_ticket(path, Ticket(like[0], None, like[1]))
    return model, x, ticket


def _told(config: Config, path: str) -> settings.Settings:
    """What the run of a file, and flags, say of network and data."""
    run = sound.of(path) or {"config": {}}
    known = {field.name for field in dataclasses.fields(settings.Settings)}
    said = {name: x for name, x in run["config"].items() if x is not None}
    values = settings.USUAL | {name: x for name, x in said.items() if name in known}
    for name in ("model", "dataset", "data_dir"):
        if getattr(config, name) is not None:
            values[name] = getattr(config, name)
    for name in ("model", "dataset"):
        if values.get(name) is None:
            raise ValueError(f"give --{name}: no config.json above {path} says it")
    return settings.Settings(**values)


def _options(told: settings.Settings) -> dict[str, Any]:
    """Those of a network of the zoo; it has no names in PyTorch otherwise."""
    known = models.defaults(told.model) if told.model in models.NAMES else {}
    return own.given("model", told.options("model"), known)


def _prepared(told: settings.Settings) -> tuple[data.Dataset, Callable, tuple]:
    """The data, what prepares images, and the shape of one."""
    dataset = own.dataset(told)
    prepare = data.normalizer(
        told.normalization, dataset.train.images, name=dataset.name
    )
    image = jax.eval_shape(prepare, jnp.asarray(dataset.train.images[:1])).shape[1:]
    return dataset, prepare, image


COMMANDS: dict[str, Callable] = {
    "list": listed,
    "show": shown,
    "compare": compared,
    "verify": verified,
    "convert": converted,
    "evaluate": evaluated,
}
TAKES = {"list": "files or folders", "verify": "files or folders"}
TAKES |= {"compare": "two files"}


def experiment(config: Config) -> None:
    """Does what the first word says with the files that the others name.

    Raises:
      ValueError: another word, or another number of files; see each command.
    """
    settings.check(config)
    what, *paths = config.arguments or ("",)
    if not what:
        raise ValueError(f"say what to do: one of {', '.join(COMMANDS)}")
    checks.one_of(tuple(COMMANDS))(**{"the first word": what})
    takes = TAKES.get(what, "one file")
    if len(paths) != {"one file": 1, "two files": 2}.get(takes, max(len(paths), 1)):
        raise ValueError(f"{what} takes {takes}, got {len(paths)}")
    COMMANDS[what](config, *paths)


if __name__ == "__main__":
    command.main(experiment, Config)
