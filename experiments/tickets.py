"""Files of tickets: what they hold, whether it is sound, and in other forms.

    python -m experiments.tickets list runs/ticket_search
    python -m experiments.tickets show runs/.../seed-0-prunings-3.npz --output=masks.png
    python -m experiments.tickets compare ONE.npz OTHER.npz
    python -m experiments.tickets verify runs/ticket_search
    python -m experiments.tickets compact runs/ticket_search
    python -m experiments.tickets compact ONE.npz --output=smaller.npz
    python -m experiments.tickets convert ONE.npz --output=small.npz --values=float16
    python -m experiments.tickets convert ONE.npz --output=ticket.safetensors
    python -m experiments.tickets convert ONE.npz --output=arrays.npz --plain
    python -m experiments.tickets evaluate ONE.npz

`list` says what a folder has; `show` what a ticket keeps of every layer and how much of
it does anything, `--output` a picture of its masks; `compare` how much two masks share,
against chance. `verify` reads files against their digests, and holds them to their
density, to the run that they lie in, and, beside the ticket of one pruning less, to
what their search has promised of both, which they say unless they are older. `compact`
builds the networks without units that do nothing, and says how many parameters are
left, and how dense a mask is beside its effective density; `--output` has them in a
file, whose layers are as they are named in the large network. `convert` rounds values
or, where they are known, keeps those that are pruned; with `--recipe` it writes the
mask alone, and the seed of the initial weights that the ticket has. Into safetensors it
writes pairs for `torch.nn.utils.prune`. With `--plain` there are the weights with
zeros. `evaluate` is of the weights that a file has, on test data: a rewound ticket has
those that its training starts from.

Network and data are those of the `config.json` of the run that a file lies in, or what
flags say.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np

from experiments.reports import drawings
from experiments.study import command, kept, rules, settings, sound
from experiments.study.settings import setting
from jaxticket import (
    analysis,
    checks,
    export,
    files,
    masks,
    recipes,
    structure,
    summary,
    supervised,
)
from jaxticket.base import Ticket
from jaxticket.compaction import compact
from jaxticket.engine import keys
from jaxticket.models import Model, pretrained

FACTS = ("method", "setting", "seed", "prunings")
COMPARED = 8  # test images that a network and its smaller one are run on


@dataclasses.dataclass(frozen=True)
class Config:
    """What to do with which files."""

    ARGUMENTS: ClassVar = "arguments"

    arguments: Sequence[str] = ()
    output: str | None = setting(
        None, "of show, a picture; of convert and compact, the file", rules.IN_A_FOLDER
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


def listed(config: Config, *paths: str) -> None:
    rows: list[Sequence[str]] = [("file", *FACTS, "density", "bytes")]
    for path in kept.found(paths):
        about, masks_ = (plain := export.read(path)).about, [*plain.masks.values()]
        density = sum(m.sum() for m in masks_) / max(sum(m.size for m in masks_), 1)
        facts = [str(about.get(name, "")) for name in FACTS]
        size = f"{path.stat().st_size:,}"
        rows.append((_shown(path, paths), *facts, f"{density:.2%}", size))
    print(table(rows))


def _shown(path: Path, paths: Sequence[str]) -> str:
    """A file of one folder relative to it, others as they were given."""
    alone = len(paths) == 1 and Path(paths[0]).is_dir()
    return str(path.relative_to(paths[0]) if alone else path)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of words in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (map(str.ljust, row, widths) for row in rows)
    return "\n".join("  ".join(line).rstrip() for line in lines)


def shown(config: Config, path: str) -> None:
    ticket, about = kept.read(path)
    print(summary(ticket))
    whole = sum(x.nbytes for x in jax.tree.leaves(ticket.weights))
    size = Path(path).stat().st_size
    print(f"{size:,} bytes, {size / max(whole, 1):.1%} of those of all weights")
    print(f"effective density: {_effective(config, path)}")
    print("\n".join(f"{name}: {json.dumps(value)}" for name, value in about.items()))
    if config.output:
        files.write(config.output, drawings.png(drawings.of_masks(ticket.mask)))
        print(f"masks: {config.output}")


def _effective(config: Config, path: str) -> str:
    """The share of the weights that lie on a path, where the network is known."""
    try:
        origin = _origin(config, path)
        model, ticket = origin.network(path)
        found = _on_paths(model, ticket, origin.images(1))
    except (OSError, ValueError) as error:
        return f"not known ({str(error):.200})"
    return f"{found:.2%}"


def _on_paths(model: Model, ticket: Ticket, x: jax.Array) -> float:
    def network(weights, x):
        return model.apply(weights, ticket.model_state, x)[0]

    return float(masks.density(structure.effective(network, ticket, x)))


def compared(config: Config, *paths: str) -> None:
    one, other = (kept.read(path)[0].mask for path in paths)
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
    wrong, there = [], kept.found(paths)
    for path in there:
        try:
            print(f"{path}: {', '.join(sound.checked(path, kept.read))}")
        except (ValueError, AssertionError) as error:
            said = " ".join(str(error).split())
            wrong.append(said if str(path) in said else f"{path}: {said}")
            print(f"not sound: {wrong[-1]}")
    if wrong:
        raise ValueError(f"{len(wrong)} of {len(there)} are not sound: {wrong[0]}")


def compacted(config: Config, *paths: str) -> None:
    there = kept.found(paths)
    if config.output and len(there) != 1:
        raise ValueError(f"--output is for one ticket, there are {len(there)}")
    rows: list[Sequence[str]] = [
        ("file", "density", "effective", "parameters", "compacted", "of all")
    ]
    for path in there:
        origin = _origin(config, path)
        model, ticket = origin.network(path)
        small = compact(model, ticket, origin.images(COMPARED)).ticket
        whole, left = (
            sum(w.size for w in jax.tree.leaves(x.weights)) for x in (ticket, small)
        )
        shares = (
            float(masks.density(ticket.mask)),
            _on_paths(model, ticket, origin.images(1)),
        )
        sizes = f"{whole:,}", f"{left:,}", f"{left / whole:.1%}"
        rows.append((_shown(path, paths), *(f"{x:.2%}" for x in shares), *sizes))
    print(table(rows))
    if config.output:
        _, about = kept.read(there[0])
        about.pop("identity", None)  # it fits its run no more
        about |= {"density": float(masks.density(small.mask)), "compacted": True}
        files.save_ticket(config.output, small, **about)
        print(f"{config.output}: {Path(config.output).stat().st_size:,} bytes")


def converted(config: Config, path: str) -> None:
    if config.output is None:
        raise ValueError("convert needs --output")
    ticket, about = kept.read(path)
    if config.output.endswith(".safetensors"):
        origin = _origin(config, path)
        pretrained.save_ticket(
            config.output,
            origin.told.model,
            ticket,
            masks="applied" if config.plain else "pruned",
            image=tuple(config.image or origin.image),
            **origin.options,
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
        origin = _origin(config, path)
        form["recipe"] = recipes.Recipe(
            origin.told.model,
            keys.of_seed(about["seed"]).init,
            origin.image,
            origin.dataset.num_classes,
            origin.options,
        )
    elif config.pruned == "keep" or config.values:
        form["recipe"] = None
    return {**about, **form}


def evaluated(config: Config, path: str) -> None:
    origin = _origin(config, path)
    model, ticket = origin.network(path)
    dataset = origin.dataset
    state = {} if ticket.model_state is None else ticket.model_state
    evaluate = jax.jit(supervised.evaluator(model, prepare=origin.prepare))
    weights = masks.apply(ticket.mask, ticket.weights)
    found = evaluate(weights, state, dataset.test)
    print(f"test accuracy {100 * float(found.accuracy):.2f}%, loss {found.loss:.4f}, "
          f"of {len(dataset.test.labels)} of {dataset.name}")  # fmt: skip


def _origin(config: Config, path: str | Path) -> kept.Origin:
    return kept.origin(
        path, model=config.model, dataset=config.dataset, data_dir=config.data_dir
    )


COMMANDS: dict[str, Callable] = {
    "list": listed,
    "show": shown,
    "compare": compared,
    "verify": verified,
    "compact": compacted,
    "convert": converted,
    "evaluate": evaluated,
}
TAKES = dict.fromkeys(("list", "verify", "compact"), "files or folders")
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
