"""Published targets: what was claimed, and what a kept run says of it.

Each has its bands, and a measure, `folder of the run -> parts`; or it says why there is
none. `experiments.scoreboard` makes the table of them.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from experiments.reports import (
    barriers,
    deleted,
    distances,
    loss_changes,
    reading,
    reset_layers,
    statistics,
)
from jaxticket import analysis

STEP = "early_stopping_step"


class Part(NamedTuple):
    """A number of a target.

    Attributes:
      what: it says.
      ours: its mean over seeds, with an interval where there is one.
      low, high: the band of the mean; without one the number is said, not judged.
      seeds: how many the mean is over, where that is to be said.
    """

    what: str
    ours: analysis.Interval
    low: float = -math.inf
    high: float = math.inf
    seeds: int = 0

    @property
    def judged(self) -> bool:
        return math.isfinite(self.low) or math.isfinite(self.high)

    @property
    def met(self) -> bool:
        return self.low <= self.ours.mean <= self.high


class Target(NamedTuple):
    """What was published, and what the kept run of it says.

    Attributes:
      id: under which it is referred to.
      claim: with the published numbers.
      state: of a target without a measure: met by tests, or why it was not run.
      run: folder of the kept run.
      measure: its folder -> parts.
      short: in what the run falls short of the length that the target is stated for.
    """

    id: str
    claim: str
    state: str = ""
    run: str = ""
    measure: Callable[[Path], list[Part]] | None = None
    short: str = ""


def over_seeds(
    what: str, values: Sequence[float], low=-math.inf, high=math.inf
) -> Part:
    """The mean of a number that every seed has."""
    values = np.asarray(values, float)
    return Part(what, analysis.interval(values), low, high, len(values))


def alone(what: str, value: float, low=-math.inf, high=math.inf, seeds=0) -> Part:
    """A number without an interval."""
    return Part(what, analysis.Interval(value, math.nan, math.nan), low, high, seeds)


def ticket(run: reading.Run, method: str, density: float) -> pd.DataFrame:
    """A row a seed of the ticket of a method whose density comes nearest."""
    ours = statistics.of_method(statistics.tickets(run), method)
    return min(ours, key=lambda x: abs(np.log(x["density"].mean() / density)))


def control(run: reading.Run, of: pd.DataFrame, name: str, column: str) -> np.ndarray:
    """A number of a ticket's control, in the order of its seeds."""
    rows = run.rows[run.rows["treatment"] == name]
    keys = [*statistics.TICKET, "seed"]
    return of[keys].merge(rows, "left", on=keys)[column].to_numpy(float)


def lottery_gain(folder: Path) -> list[Part]:
    run = reading.read(folder)
    found = ticket(run, "imp", 0.1352)
    return [over_seeds("points above dense", 100 * found["to_dense"], 0.1, 0.6)]


def lottery_speed(folder: Path) -> list[Part]:
    run = reading.read(folder)
    found = ticket(run, "imp", 0.2107)
    steps = found[STEP].to_numpy(float)
    again = control(run, found, "reinitialise", STEP)
    sooner = analysis.ratio(steps, found["dense_step"].to_numpy(float))
    sooner = analysis.Interval(
        *(100 * (1 - x) for x in (sooner[0], sooner[2], sooner[1]))
    )
    later, seeds = analysis.ratio(again, steps), len(found)
    return [
        Part("% earlier than dense", sooner, 20, 55, seeds),
        Part("times later re-initialised", later, 1.5, seeds=seeds),
        over_seeds("points above re-initialised", 100 * found["to_reinitialise"], 0.25),
    ]


def crossing(densities: np.ndarray, differences: np.ndarray) -> float:
    """The density at which a mean falls below dense for good, log-linear between."""
    order = np.argsort(-densities)
    x, y = np.log(densities[order]), differences[order]
    above = np.flatnonzero(y >= 0)
    if not above.size or above[-1] + 1 == len(y):
        return math.nan  # it never is above, or never falls
    i = above[-1]
    return math.exp(x[i] + (x[i + 1] - x[i]) * y[i] / (y[i] - y[i + 1]))


def lottery_crossings(folder: Path) -> list[Part]:
    run = reading.read(folder)
    ours = statistics.of_method(statistics.tickets(run), "imp")
    densities = np.array([x["density"].mean() for x in ours])
    tickets = np.array([x["to_dense"].mean() for x in ours])
    again = tickets - [x["to_reinitialise"].mean() for x in ours]
    ends = [100 * crossing(densities, y) for y in (tickets, again)]
    return [
        alone("% of the weights where the ticket falls below dense", ends[0], 2, 6),
        alone("% where the re-initialised one does", ends[1], 15, 45),
    ]


def signs(folder: Path) -> list[Part]:
    """Of the masks of another run, whose tickets are trained here again."""
    [found] = statistics.tickets(reading.read(folder))
    parts = {
        "signed_permute": ("signed weights of the layer", -0.3, 0.3),
        "signed_constant": ("signed constants", -0.3, 0.3),
        "permute": ("weights of the layer, with their signs", 0.3, math.inf),
        "random_constant": ("constants of random signs", 0.3, math.inf),
    }
    return [
        over_seeds(f"points above {what}", 100 * found[f"to_{name}"], low, high)
        for name, (what, low, high) in parts.items()
    ]


def convolutions(folder: Path) -> list[Part]:
    """Of a sparse and of a denser ticket, beside their dense network."""
    run = reading.read(folder)
    sparse, denser = (ticket(run, "imp", density) for density in (0.046, 0.088))
    dense = run.rows[run.rows["method"] == "dense"]
    sooner = analysis.ratio(*(denser[x].to_numpy(float) for x in ("dense_step", STEP)))
    gain = 100 * sparse["to_dense"]
    validated = 100 * dense["early_stopping_validation_accuracy"]

    def kept(found):
        return f"{100 * found['density'].mean():.1f}% of the weights"

    return [
        over_seeds(f"points above dense at {kept(sparse)}", gain, 2),
        Part(f"times earlier at {kept(denser)}", sooner, 2, seeds=len(denser)),
        over_seeds("% dense, on validation", validated, 65.6, 69.6),
    ]


def resetting(folder: Path) -> list[Part]:
    """Of tickets of at most a tenth of the weights, by both of two runs' searches.

    A seed has a number of all of them together, since it is what is repeated.
    """

    def sparse(folder: Path, method: str) -> pd.DataFrame:
        every = pd.concat(statistics.tickets(reading.read(folder)))
        rows = every[(every["method"] == method) & (every["density"] <= 0.1)]
        return rows.set_index(["prunings", "seed"])

    reset = sparse(folder.parent / "mnist_lottery_rewound", "imp")
    going_on = sparse(folder, "imp_continued")
    both = reset.merge(going_on, on=["prunings", "seed"], suffixes=("", "_on"))
    of_seeds = both.groupby(level="seed")[
        [f"{name}{x}" for x in ("", "_on") for name in ("accuracy", STEP)]
    ].mean()
    gain = 100 * (of_seeds["accuracy"] - of_seeds["accuracy_on"]).to_numpy()
    steps, on = (of_seeds[name].to_numpy() for name in (STEP, f"{STEP}_on"))
    seeds = len(gain)
    shares = {
        "% of the seeds where resetting is as good": gain >= 0,
        "% where it stops no later": steps <= on,
    }
    return [
        *(
            alone(what, 100 * np.mean(x), 200 / 3, seeds=seeds)
            for what, x in shares.items()
        ),
        over_seeds("points above going on", gain),
        Part("times its steps", analysis.ratio(steps, on), seeds=seeds),
    ]


def constants(folder: Path) -> list[Part]:
    """At the density that is best on validation."""
    run = reading.read(folder)
    rows = run.rows[run.rows["method"] == "large_final_same_sign_constant"]
    by = rows.groupby("setting")["validation_accuracy"].mean().idxmax()
    here = rows[rows["setting"] == by]
    return [over_seeds(f"% at {by}, untrained", 100 * here["test_accuracy"], 75)]


def learned(folder: Path) -> list[Part]:
    run = reading.read(folder)
    rows = run.rows[
        (run.rows["method"] == "learned") & (run.rows["treatment"] == "ticket")
    ]
    return [over_seeds("%", 100 * rows["test_accuracy"], 93, 97)]


def initial_order(folder: Path) -> list[Part]:
    """After the last step: by how much SynFlow is above SNIP, and SNIP above GraSP."""
    run = reading.read(folder)
    by = {
        name: 100 * rows.sort_values("seed")["test_accuracy"].to_numpy(float)
        for name, rows in run.rows[run.rows["treatment"] == "ticket"].groupby("method")
    }
    more = 0.1  # points: equal ones are in no order
    return [
        over_seeds("% by SynFlow", by["synflow"]),
        over_seeds("points above SNIP", by["synflow"] - by["snip"], more),
        over_seeds("points SNIP above GraSP", by["snip"] - by["grasp"], more),
    ]


def moving(folder: Path) -> list[Part]:
    """Of the ticket whose density comes nearest to 21%."""
    rows = reading.table(folder / distances.FILE, distances.COLUMNS)
    far = np.abs(np.log(rows["density"] / 0.2107))
    rows = rows[far == far.min()]
    by_layer = {name: x.sort_values("seed") for name, x in rows.groupby("layer")}
    together = by_layer.pop(distances.ALL)
    ratio = analysis.ratio(
        *(together[f"distance_{x}"].to_numpy() for x in ("in", "out"))
    )
    first, *others = (by_layer[name]["valley"] for name in sorted(by_layer))
    seeds = len(together)
    return [
        Part("times as far as the others", ratio, 1.2, seeds=seeds),
        over_seeds("the middle of the first layer's initial values", first, 1.0),
        over_seeds("that of the others, the largest", np.max(others, axis=0), high=1.0),
    ]


def stability(folder: Path) -> list[Part]:
    """Of all tickets the largest barrier."""
    rows = reading.table(folder / barriers.FILE, barriers.COLUMNS)
    found = barriers.barriers(rows).groupby(statistics.TICKET)["test_barrier"]
    means = found.mean()
    (whole,) = (x for name, x in found if name[0] == "unpruned")
    worst = found.get_group(means.drop("unpruned", level="method").idxmax())
    return [
        over_seeds("points, the whole network", 100 * whole, high=2),
        over_seeds("points, the worst of its tickets", 100 * worst, high=2),
    ]


def swapping(folder: Path) -> list[Part]:
    """All layers together, at every density."""
    rows = reading.table(folder / loss_changes.FILE, loss_changes.COLUMNS)
    rows = rows[rows["layer"] == loss_changes.ALL].sort_values("swaps")
    ratio = rows.assign(ratio=rows["actual"] / rows["predicted"])
    by = ratio.groupby(["setting", "seed"])["ratio"]
    falls = by.agg(lambda x: (x.diff().dropna() < 0).all())
    what = "% of seeds and densities in which it falls at every doubling"
    seeds = rows["seed"].nunique()
    return [alone(what, 100 * falls.mean(), 100, seeds=seeds)]


def resets(folder: Path) -> list[Part]:
    """Points of accuracy that are lost, against the trained network of the seed."""
    rows = reading.table(folder / reset_layers.FILE, reset_layers.COLUMNS)
    rows["lost"] = 100 * (rows["trained_test_accuracy"] - rows["test_accuracy"])

    def lost(of):
        wide = of.pivot(index="layer", columns="seed", values="lost").sort_index()
        return wide.to_numpy()

    put = rows[(rows["kind"] == reset_layers.RESET) & (rows["step"] == 0)]
    first, *others = lost(put)
    worst = max(others, key=np.mean)
    anew = min(lost(rows[rows["kind"] == reset_layers.FRESH]), key=np.mean)
    return [
        over_seeds("points lost by the worst of the later layers", worst, high=2),
        over_seeds("more by the first", first - worst, 5),
        over_seeds("by the best of those drawn anew", anew, 30),
    ]


def deletions(folder: Path) -> list[Part]:
    """Seeds in which Optimal Brain Damage adds less to the training loss."""
    rows = reading.table(folder / deleted.FILE, deleted.COLUMNS)
    rows["added"] = rows["train_loss"] - rows["dense_train_loss"]
    wide = rows.pivot(index=["setting", "seed"], columns="method", values="added")
    less = (wide["obd"] < wide["magnitude"]).groupby("setting")
    return [
        alone(
            f"% of the seeds at {setting}",
            100 * here.mean(),
            100 * 2 / 3,
            seeds=len(here),
        )
        for setting, here in sorted(
            less, key=lambda pair: -float(pair[0].split("=")[1])
        )
        if float(setting.split("=")[1]) <= 0.2
    ]


def constrained(folder: Path) -> list[Part]:
    """The densities of tickets, where a constraint asks for them."""
    run = reading.read(folder)
    found = run.rows[run.rows["treatment"] == "ticket"]
    parts = []
    for (method, setting), here in found.groupby(["method", "setting"], sort=False):
        asked = 100 * float(setting.removeprefix("density="))
        what = f"% of the weights, {method.replace('_', ' ')} at {asked:g}"
        parts.append(over_seeds(what, 100 * here["density"], asked - 2, asked + 2))
    return parts


def mnist1d(folder: Path) -> list[Part]:
    run = reading.read(folder)
    ours, chance = (ticket(run, name, 0.1) for name in ("imp", "imp_random"))
    rest = 100 * (ours["accuracy"].to_numpy() - chance["accuracy"].to_numpy())
    tickets = statistics.of_method(statistics.tickets(run), "imp")
    best = max(tickets, key=lambda x: x["accuracy"].mean())
    peak = 100 * best["density"].mean()
    return [
        over_seeds("points above dense at a tenth", 100 * ours["to_dense"], 6),
        over_seeds("points above random masks there", rest, 8),
        alone("% of the weights at the peak, by test accuracy", peak, 5, 20),
    ]


GPU = "not run: needs a GPU"
TARGETS = (
    Target(
        "R01",
        "LeNet-300-100 pruned by 20% a round, 10% in the output layer: 51.28, 21.07, "
        "13.52, 3.58 and 2.87% after 3, 7, 9, 15 and 16 rounds",
        "**met**, exact: `tests/test_selection.py`",
    ),
    Target(
        "R02",
        "MNIST tickets of LeNet-300-100 at 13.5% of the weights are 0.3 points above "
        "dense",
        run="mnist_lottery",
        measure=lottery_gain,
    ),
    Target(
        "R03",
        "at 21% they stop 38% earlier; re-initialised 2.51 times later and 0.5 points "
        "worse",
        run="mnist_lottery",
        measure=lottery_speed,
    ),
    Target(
        "R04",
        "pruned on, the ticket returns to dense accuracy at about 3.6%, the "
        "re-initialised one falls below it at about 21%",
        run="mnist_lottery",
        measure=lottery_crossings,
    ),
    Target(
        "R05, Conv-2",
        "on CIFAR-10 tickets of Conv-2 are 3.4 points above dense at 4.6% of the "
        "weights, and stop 3.5 times earlier at 8.8%; the dense network has 67.6% on "
        "validation",
        run="cifar10_conv_2_imp",
        measure=convolutions,
        short="two rounds in one, of 4,000 steps in place of 20,000",
    ),
    Target("R05, Conv-4", "the same: 3.5 points above dense", GPU),
    Target(
        "R06",
        "weights of the ticket move further than the others when the dense network "
        "trains; their initial values are unimodal in the first layer (the middle at "
        "least 1), bimodal in the others",
        run="mnist_lottery",
        measure=moving,
    ),
    Target(
        "R07",
        "at 10% of the weights and below, going on without rewinding is no better than "
        "rewinding",
        run="mnist_lottery_continued",
        measure=resetting,
    ),
    Target(
        "R08",
        "ResNet-20 pruned at once to 13.4%: rewinding weights 90.20%, fine-tuning "
        "89.44, re-initialised 87.40",
        GPU,
    ),
    Target(
        "R09",
        "ResNet-20 iteratively to 13.4%: rewinding to epoch 12 91.31%, to the "
        "initialisation 87.49",
        f"{GPU}: 3.9 million steps of ResNet-20",
    ),
    Target(
        "R10, LeNet",
        "no barrier between two trainings from one initialisation (less than 1 point)",
        run="mnist_instability_long",
        measure=stability,
    ),
    Target(
        "R10, ResNet-20",
        "a barrier at k = 0, none at k = 2000",
        GPU,
    ),
    Target(
        "R11",
        "Continuous Sparsification's released recipe, ResNet-20, 85 epochs, 3 rounds: "
        "tickets 91.5 to 92.0% at 20 to 30% of the weights, dense 90 to 91",
        f"{GPU} (0.3 to 0.5 s a step here). One round of 22 epochs: "
        "[ResNet-20](#resnet-20-on-cifar-10); that the recipe runs: `resnet_20_short`, "
        "`vgg_16_short`",
    ),
    Target(
        "R12",
        "the density rises with `s0`, and tickets of Continuous Sparsification are as "
        "good as IMP's in fewer rounds",
        f"{GPU}. On MNIST with LeNet: "
        "[Continuous Sparsification](#continuous-sparsification); on CIFAR-10, beside "
        "one-shot pruning: [ResNet-20](#resnet-20-on-cifar-10)",
    ),
    Target(
        "R13",
        "Continuous Sparsification: mask all ones at the start, the course of `beta`, "
        "what was pruned stays off by the paper's rule and has a gate of 0.975 by the "
        "code's",
        "**met**, exact: `tests/test_references_cs.py`",
    ),
    Target(
        "R14",
        "jackpots: first mask by magnitude, layer rates, exact numbers of swaps",
        "**met**, exact: `tests/test_frozen.py`, `tests/test_references_frozen.py`",
    ),
    Target(
        "R15",
        "jackpots of VGG-19 93.88 and 93.49%, of ResNet-32 93.70 and 92.90 at 10 and "
        "5%",
        f"{GPU}: 160 epochs of dense training, 30 of search. That the searches run: "
        "`resnet_32_short`, `vgg_19_short`",
    ),
    Target(
        "R16, at once",
        "supermasks of LeNet on MNIST: 86% by signs and constants",
        run="mnist_supermasks_one_shot",
        measure=constants,
    ),
    Target(
        "R16, learned",
        "95.3% learned in 2000 epochs",
        run="mnist_supermasks_long",
        measure=learned,
    ),
    Target(
        "R17, FC",
        "signs matter when tickets are trained, at about 10%: rewound weights, other "
        "weights of the same signs and signed constants alike, unsigned ones worse",
        run="mnist_signs",
        measure=signs,
    ),
    Target("R17, Conv-4", "the same on CIFAR-10", GPU),
    Target(
        "R18",
        "edge-popup of Conv-4 at 50%, 100 epochs: at least 78%, and better from "
        "constants than from normal values",
        f"{GPU}. That it runs: `conv_4_short`",
    ),
    Target(
        "R19",
        "at density 0.1% of VGG-16 on CIFAR-100 SynFlow keeps 41.0%, SNIP 15.5, GraSP "
        "3.5",
        run="cifar10_initial_pruning",
        measure=initial_order,
        short="CIFAR-10, a quarter of the width, 400 steps: the order alone, from a "
        "tenth of a point on",
    ),
    Target(
        "R20",
        "shuffling masks of SNIP or SynFlow within layers costs less than 1 point, "
        "those of IMP more",
        "not run: needs R09's masks. On MNIST with LeNet: [pruning at "
        "initialisation](#pruning-at-initialisation)",
    ),
    Target(
        "R21",
        "VGG-16-A: fine-tuned 93.41%, from scratch 93.62 and 93.78",
        "not run: needs a GPU. The command: `experiments/structured.py`. On MNIST with "
        "LeNet: [structured pruning](#structured-pruning)",
    ),
    Target(
        "R22",
        "FCN 3x256 on MNIST: a later layer put back to its initial values costs "
        "nothing, the first much, any layer drawn anew leaves chance",
        run="mnist_layers_long",
        measure=resets,
    ),
    Target(
        "R23",
        "Optimal Brain Damage adds less to the loss than magnitude does, in one shot "
        "at 5 to 20% of the weights",
        run="mnist_second_order_long",
        measure=deletions,
    ),
    Target(
        "R24",
        "layer densities of Erdős–Rényi masks of LeNet at 10%: 0.0796, 0.2302, 1.0",
        "**met**, exact: `tests/test_selection.py`",
    ),
    Target(
        "R25",
        "MNIST-1D: tickets 74% at a tenth of the weights, dense 65 to 66, random masks "
        "60 to 66",
        run="mnist1d_paper",
        measure=mnist1d,
    ),
    Target(
        "R26",
        "weight decay on a product of two factors equals the Lasso, to 1e-4 on a "
        "random design",
        "**met**, exact: `tests/test_factored.py`",
    ),
    Target(
        "R27",
        "L0 gates of LeNet-300-100, on units, held to 20, 35, 50, 65 and 80% by a "
        "constraint: 22.8, 36.3, 50.9, 65.4 and 80.0%. Published gates are held from "
        "above; ours hold the weights of the ticket, from both sides, by a faster dual "
        "rate",
        run="mnist_constraint_inputs",
        measure=constrained,
    ),
    Target(
        "R28",
        "of a random mask of 1% of LeNet, 0.1% can be reached; of SynFlow's all",
        "**met**, exact: `tests/test_effective.py`",
    ),
    Target(
        "R29",
        "actual over predicted change of the loss falls with the number of swaps, for "
        "every seed",
        run="mnist_swaps",
        measure=swapping,
    ),
)
