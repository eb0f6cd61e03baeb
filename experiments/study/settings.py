"""The settings that all experiments have: meaning, checks, and what fills them in.

A setting is a field of a configuration with its help and its check; it becomes a flag.
`None` leaves it to the preset of data set and model.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from experiments.study import rules
from experiments.study.rules import COUNT, FOLDER, MANY
from jaxticket import checks, data, models, supervised
from jaxticket.checks import Check
from jaxticket.engine import keys

DATASET = "mnist1d"  # unless something else is said
USUAL = {  # likewise, where no recipe says more
    "seeds": 5,
    "warmup_steps": 0,
    "learning_rate_factor": 0.1,
    "learning_rate_cosine": False,
    "momentum": 0.9,
    "label_smoothing": 0.0,
    "normalization": "standard",
}
MODELS = {"mnist1d": "mlp_1d", "cifar10": "conv_2", "cifar100": "conv_2"}
PATHS = ("output_dir", "data_dir", "cache_dir", "pretrained")
TRAINED_BY = (  # what a recipe is made of
    "optimizer",
    "learning_rate",
    "learning_rate_drops",
    "weight_decay",
    "augment",
    "batch_size",
    "epochs",
    "steps",
)


def setting(default: Any, help: str, check: Check | None = None) -> Any:
    """A field of a configuration, which becomes a flag with this help."""
    return dataclasses.field(default=default, metadata={"help": help, "check": check})


def streaming() -> Any:
    """The field of a configuration whose trainings may have data that stream."""
    return setting(
        False,
        "read the training data while they are trained on, through Grain, for what "
        "does not fit the memory; changes no number, but see --crop",
    )


def network(default: str | None = None) -> Any:
    """The field of a configuration that says which network is trained."""
    return setting(
        default,
        f"one of {models.NAMES}, or package.module:function; its options are flags, as "
        "--model.dropout=0.1",
        rules.named(models.NAMES),
    )


def written(default: str) -> Any:
    """The field of a configuration that says where its run goes."""
    return setting(default, "where everything is written", FOLDER)


def trained_elsewhere() -> Any:
    """The field of a configuration whose dense network may come from a file."""
    return setting(
        None, "safetensors file of the dense network's weights, in PyTorch's names"
    )


@dataclasses.dataclass(frozen=True)
class Settings:
    """What every experiment can be told. `None`: what suits data set and model.

    Attributes:
      METHODS: name -> `methods.Method`: what `methods` may hold.
      PRESETS: (data set, model) -> values for what is left open, in `hyper` those of
        methods; the entry of `None` serves every other pair.
      RECIPES: a name for `preset` -> the same, with data set and model.
      EXCLUSIVE: pairs of settings that say the same in two ways.
      VERDICTS: whether a ticket can win: it then trains as the dense network does.
      hyper: "method.name" -> value: hyper-parameters of methods, see `methods.flags`;
        "model.name" and "dataset.name": options of these.
    """

    METHODS: ClassVar[Mapping[str, Any]] = {}
    PRESETS: ClassVar[Mapping[Any, Mapping[str, Any]]] = {}
    RECIPES: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    EXCLUSIVE: ClassVar[tuple] = (
        ("steps", "epochs"),
        ("search_steps", "search_epochs"),
    )
    VERDICTS: ClassVar[bool] = True
    # What only some experiments can be told.
    preset: ClassVar[str | None] = None
    controls: ClassVar[Sequence[str]] = ()
    rounds: ClassVar[int] = 1
    rewind_step: ClassVar[int] = 0
    resume_schedule: ClassVar[bool | None] = None
    keep_multiplier: ClassVar[bool] = False
    tune_steps: ClassVar[int] = 0
    draws: ClassVar[int] = 1
    # Weights that stay in a run's folder for what looks at them in the end: those of
    # the dense network at some steps, and those of tickets and controls when trained.
    keep_steps: ClassVar[Sequence[int]] = ()
    keep_trained: ClassVar[bool] = False
    batch_statistics: ClassVar[str] = "free"
    pretrained: ClassVar[str | None] = None
    stream: ClassVar[bool] = False
    momentum: ClassVar[float] = 0.9
    learning_rate_cosine: ClassVar[bool] = False
    warmup_epochs: ClassVar[int | None] = None
    label_smoothing: ClassVar[float] = 0.0

    dataset: str | None = setting(
        None,
        "mnist1d (the default) or digits, which need no download; a TFDS image set "
        "(mnist, ...), arrays (FILE.npz), or package.module:function. Its options are "
        "flags, as --dataset.test_size=1000 of mnist1d",
    )
    data_dir: str | None = setting(
        None,
        "folder of prepared TFDS data sets; default: that of TFDS",
        rules.FOLDER_THERE,
    )
    cache_dir: str | None = setting(
        None, "where arrays that take long to read or make are kept", FOLDER
    )
    validation: int | None = setting(
        None, "training images held out for validation", COUNT
    )
    normalization: str | None = setting(
        None,
        f"one of {data.NORMALIZATIONS}; default: standard, where no recipe says more",
        checks.one_of(data.NORMALIZATIONS),
    )
    label_noise: float = setting(
        0.0,
        "share of the training labels that are of another class, drawn once for all "
        "seeds; validation and test stay as they are",
        checks.share,
    )
    augment: bool | None = setting(
        None,
        "random flips and 4-pixel crops in every step; with --crop, flips and random "
        "resized crops",
    )
    crop: int | None = setting(
        None,
        "pixels of each side of what the network gets of larger images: the middle, "
        "and with --augment, in training, parts of 8 to 100% of the image, resized; of "
        "images of many sizes with --stream of the whole, else of the middle square",
        COUNT,
    )
    model: str | None = network()
    loss: str = setting(
        "cross_entropy",
        f"one of {supervised.LOSSES}, or package.module:function of outputs and labels",
        rules.named(supervised.LOSSES),
    )
    dtype: str = setting(
        "float32",
        "what the network computes in: float32 or bfloat16; weights are float32",
        checks.one_of(("float32", "bfloat16")),
    )
    prunable: str | None = setting(
        None,
        "kernels, hidden: those but the output layer's, convolutions alone (without "
        "those of shortcuts), or all: biases and scales too",
        checks.one_of(("kernels", "hidden", "convolutions", "all")),
    )
    methods: list[str] | None = setting(None, "which methods, with commas")
    seeds: int | None = setting(
        None, "how many seeds; default 5, or what suits data set and model", MANY
    )
    first_seed: int = setting(0, "the first of them", checks.whole(0, keys.MOST))
    lanes: str | None = setting(
        None,
        "searches vmapped side by side on each device, part of a seed's identity; or "
        "auto: what is fastest in a short trial. Default: 1 on CPU, up to 16 elsewhere",
        rules.LANES,
    )
    turns: int = setting(
        1,
        "sets of lanes that take turns in one program on a device; changes no number",
        MANY,
    )
    epochs: int | None = setting(
        None, "passes over the training data in a training", COUNT
    )
    steps: int | None = setting(
        None, "optimiser steps of a training, not epochs", COUNT
    )
    search_epochs: int | None = setting(
        None, "passes in a round of a search; default: those of a training", COUNT
    )
    search_steps: int | None = setting(None, "the same in optimiser steps", COUNT)
    eval_every: int | None = setting(
        None, "steps between evaluations; default an epoch", COUNT
    )
    batch_size: int | None = setting(None, "images per step", COUNT)
    optimizer: str | None = setting(
        None,
        "adam (with decoupled decay), sgd, momentum or nesterov",
        checks.one_of(("adam", "sgd", "momentum", "nesterov")),
    )
    learning_rate: float | None = setting(
        None, "learning rate of the weights", checks.positive
    )
    learning_rate_drops: list[float] | None = setting(
        None,
        "where the learning rate falls, with commas: steps of a training, or, below 1, "
        "fractions of it",
        rules.DROPS,
    )
    learning_rate_factor: float | None = setting(
        None,
        "what the learning rate is multiplied by where it falls; default: 0.1",
        checks.positive,
    )
    warmup_steps: int | None = setting(
        None,
        "steps in which the learning rate of a training rises from 0, on a line",
        checks.whole(0),
    )
    weight_decay: float | None = setting(None, "of the weights", checks.not_negative)
    ham: float = setting(
        0.0,
        "HAM: alpha of the mirror step that follows every step of the weights' "
        "optimiser, in trainings and searches; published is 200. 0: none",
        checks.not_negative,
    )
    schedules_every: str = setting(
        "epoch",
        "schedules of searches (temperatures, rates) move every epoch or every step",
        checks.one_of(("epoch", "step")),
    )
    margin: float = setting(
        0.5,
        "points of accuracy that a ticket may fall short of the dense network and "
        "still match it (non-inferiority)",
        checks.positive,
    )
    on_divergence: str = setting(
        "mark",
        "what a seed that is not finite any more does: mark (it is left out, and said; "
        "the others go on) or stop the run",
        checks.one_of(("mark", "stop")),
    )
    accept: list[str] | None = setting(
        None,
        "what a run that goes on may have had otherwise, as jax or device: see "
        "config.json, which will say it",
    )
    distributed: bool = setting(
        False,
        "this is one of several processes that share the run, each started with the "
        "same command; SLURM, Open MPI and TPU pods tell which one, else the next "
        "three flags do",
    )
    coordinator: str | None = setting(
        None, "HOST:PORT, a free port on the host of process 0", rules.ADDRESS
    )
    processes: int | None = setting(None, "how many processes there are", MANY)
    process: int | None = setting(
        None, "which of them this one is, from 0", checks.whole(0)
    )
    output_dir: str = written("runs")
    save_seconds: float = setting(
        30.0, "seconds between checkpoints within a round", checks.not_negative
    )
    compilation_cache: bool = setting(True, "keep compiled programs for the next run")
    hyper: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def options(self, owner: str) -> dict[str, Any]:
        """Name -> value of what `hyper` holds for a method or the model."""
        flags = ((name.partition("."), x) for name, x in self.hyper.items())
        return {name: x for (whose, _, name), x in flags if whose == owner}

    def filled(self) -> Self:
        """With everything that other settings decide."""
        return self

    def in_steps(self, epoch_steps: int) -> Self:
        """With all lengths in steps, once it is known how many an epoch has."""
        steps = self.steps or self.epochs * epoch_steps
        checks.whole(1)(**{"--steps": steps})
        searching = self.search_steps
        if searching is None:
            searching = (
                steps
                if self.search_epochs is None
                else self.search_epochs * epoch_steps
            )
        checks.whole(1)(**{"--search_steps": searching})
        drops = self.learning_rate_drops
        for drop in drops:
            if drop >= steps:
                raise checks.Refused(
                    "--learning_rate_drops",
                    f"must lie within a training, of {steps} steps; got {drop}",
                )
        in_epochs = self.warmup_epochs is not None
        rising = self.warmup_epochs * epoch_steps if in_epochs else self.warmup_steps
        if (rising or 0) >= steps:
            raise checks.Refused(
                "--warmup_epochs" if in_epochs else "--warmup_steps",
                f"must end within a training, of {steps} steps; got "
                f"{self.warmup_epochs if in_epochs else rising}",
            )
        places = [round(x * steps) if x < 1 else int(x) for x in drops]
        if places != sorted(places):
            raise checks.Refused(
                "--learning_rate_drops",
                f"must be in their order; got {drops}, of {steps} steps at {places}",
            )
        return dataclasses.replace(
            self,
            steps=steps,
            search_steps=searching,
            eval_every=self.eval_every or epoch_steps,
            learning_rate_drops=tuple(places),
            warmup_steps=rising,
        )

    def trains(self, promises) -> bool:
        """Whether a ticket is trained or tested after its search.

        It is not where the looks at the search are already those of its ticket, with
        its weights, under its mask; of a ticket that every round returns to, where a
        round is as long as a training.
        """
        as_long = self.search_steps == self.steps
        own = as_long if promises.rewinds else promises.weights == "trained"
        return not (promises.hard and own)

    def training(self, resumed: int) -> tuple[int, int]:
        """The steps that the training of a ticket begins with and ends at.

        Args:
          resumed: the step of the schedule that its search resumes at.
        """
        return resumed, self.steps


@dataclasses.dataclass(frozen=True)
class Told(Settings):
    """What a finished run of any experiment had its data and its network by."""

    stream: bool = streaming()


@dataclasses.dataclass(frozen=True)
class Frozen(Settings):
    """Of masks over weights that stay as they are: tested, and not trained."""

    VERDICTS: ClassVar[bool] = False

    def trains(self, promises) -> bool:
        return not promises.hard

    def training(self, resumed: int) -> tuple[int, int]:
        del resumed
        return 0, 0


@dataclasses.dataclass(frozen=True)
class Tuned(Frozen):
    """The same, with the weights that a mask keeps trained afterwards, if wanted."""

    EXCLUSIVE: ClassVar = (*Frozen.EXCLUSIVE, ("tune_steps", "tune_epochs"))

    tune_epochs: int | None = setting(
        None,
        "passes that train the weights of every mask found; 0: none",
        checks.whole(0),
    )
    tune_steps: int | None = setting(
        None, "the same in optimiser steps", checks.whole(0)
    )
    tune_learning_rate: float = setting(
        0.01, "learning rate of that training", checks.positive
    )

    def in_steps(self, epoch_steps: int) -> Self:
        config = super().in_steps(epoch_steps)
        steps = config.tune_steps or (config.tune_epochs or 0) * epoch_steps
        return dataclasses.replace(config, tune_steps=steps)


def resolve(config: Settings) -> Settings:
    """Fills in what was left open and checks everything that needs no data.

    Raises:
      ValueError: one line that says what came and what would do.
    """
    preset = {**USUAL, **_preset(config)}
    for pair in config.EXCLUSIVE:
        given = [name for name in pair if getattr(config, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give {' or '.join(f'--{n}' for n in pair)}, not both")
        if given:
            preset = {name: x for name, x in preset.items() if name not in pair}
    hyper = {**preset.pop("hyper", {}), **config.hyper}
    opened = {name: x for name, x in preset.items() if getattr(config, name) is None}
    config = dataclasses.replace(config, hyper=hyper, **opened)
    check(config)
    config = config.filled()
    check(config)  # what that has filled in
    if config.METHODS:
        names("methods", config.methods, config.METHODS)
    checks.whole(0, keys.MOST - config.seeds + 1)(**{"--first_seed": config.first_seed})
    paths = {n: x for n in PATHS if (x := getattr(config, n, None)) is not None}
    return dataclasses.replace(
        config, **{name: str(Path(x).expanduser()) for name, x in paths.items()}
    )


def _preset(config: Settings) -> Mapping[str, Any]:
    """Values for what is left open: of the recipe named, or of data set and model."""
    if config.preset is not None:
        checks.one_of(config.RECIPES)(**{"--preset": config.preset})
        return config.RECIPES[config.preset]
    dataset = config.dataset or DATASET
    model = config.model or MODELS.get(dataset, "lenet_300_100")
    found = config.PRESETS.get((dataset, model), config.PRESETS[None])
    return {**found, "dataset": dataset, "model": model}


def fallen_back(config: Settings) -> str | None:
    """What a resolved configuration runs with for want of a preset; None with one.

    A recipe of one network is not that of another, and silence would pass for one.
    """
    pair = config.dataset, config.model
    if config.preset is not None or pair in config.PRESETS:
        return None
    filled = [name for name in config.PRESETS[None] if name in TRAINED_BY]
    values = ", ".join(f"--{name}={getattr(config, name)}" for name in filled)
    return f"there is no preset for {' with '.join(pair)}, which is trained by {values}"


def idle(given: Settings, config: Settings) -> list[str]:
    """Which of the settings that were given change nothing beside the others, in words.

    Args:
      given: as they came.
      config: the same, resolved.
    """
    came = {name for name, x in vars(given).items() if x is not None}
    found = []
    if "momentum" in came and config.optimizer not in ("momentum", "nesterov"):
        found.append(f"--momentum changes nothing with --optimizer={config.optimizer}")
    if "learning_rate_factor" in came and not config.learning_rate_drops:
        found.append(
            "--learning_rate_factor changes nothing without --learning_rate_drops"
        )
    return found


def check(config: Any) -> None:
    """Holds every setting of a configuration to the check in its field.

    Raises:
      ValueError: the first that fails: its name, what it must be, what came.
    """
    for field in dataclasses.fields(config):
        value, check = getattr(config, field.name), field.metadata.get("check")
        if check and value is not None:
            check(**{f"--{field.name}": value})


def names(what: str, given: Sequence[str], allowed: Sequence[str]) -> None:
    """Checks a list of names, of which there is at least one."""
    checks.each(checks.one_of(allowed))(**{f"--{what}": given})
    if len(set(given)) < len(given):
        raise checks.Refused(f"--{what}", f"names one twice: {', '.join(given)}")
