"""Methods and their flags: what signatures say, which value wins, what is refused."""

import functools
import subprocess
import sys
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import pytest
import studies
from absl import flags
from jax.typing import ArrayLike

from experiments.study import methods, settings
from experiments.study.methods import Method
from jaxticket import hyperparameters, masks, models, searches
from jaxticket.base import OfWeights

DOORS = (
    "ticket_search",
    "continuous_sparsification",
    "pruning",
    "jackpots",
    "supermasks",
)
NAN, INF = float("nan"), float("inf")


def toy(
    optimizer: OfWeights,
    *,
    density: ArrayLike = 0.5,
    every: int = 3,
    keep: bool = True,
    kind: Literal["one", "other"] = "one",
    select: Any | str = "global_top",
    rate: ArrayLike | None = None,
    function: functools.partial | None = None,
    steps: int | None = None,
    rewind_step: int = 0,
):
    """A toy.

    Args:
      optimizer: trains.
      density: how much is kept. May
        be traced.
      every, keep: two in
        one.
      kind: of toy.

    Returns:
      Nothing.
    """


# Signatures.


def test_hyper_parameters_are_read_from_the_signature_and_the_docstring():
    found = hyperparameters.of(toy)
    assert {name: (h.kind, h.swept, h.choices) for name, h in found.items()} == {
        "density": (float, True, ()),
        "every": (int, False, ()),
        "keep": (bool, False, ()),
        "kind": (str, False, ("one", "other")),
        "select": (str, False, ()),
        "rate": (float, True, ()),
    }
    assert found["density"].default == 0.5
    assert found["density"].help == "how much is kept. May be traced."
    assert found["every"].help == found["keep"].help == "two in one."
    assert found["rate"].help == ""


def test_a_partial_hides_what_it_binds():
    bound = functools.partial(functools.partial(toy, density=0.1), keep=False)
    assert set(hyperparameters.of(bound)) == {"every", "kind", "select", "rate"}
    assert hyperparameters.unbound(bound) is toy
    assert "density" not in hyperparameters.arguments(bound)


# Values.


class Kept(NamedTuple):
    """A start that remembers what it was given."""

    given: dict
    trained: bool = False


def start(*, density: ArrayLike, count: int = 1, word: str = "a"):
    """A start.

    Args:
      density: the fraction that is kept.
      count: how many.
      word: any.
    """
    return Kept({"density": density, "count": count, "word": word})


def planned(hyper=None, preset=None, base_preset=None, base="base"):
    class Config(settings.Settings):
        METHODS = {
            "base": Method(start=start, preset=base_preset or {}),
            "own": Method(start=start, preset=preset or {}, base=base),
        }

    config = Config(methods=("own",), hyper=hyper or {}, search_steps=10)
    plan = methods.plan(config, "own")
    return plan, [plan.start(setting.swept).given for setting in plan.settings]


@pytest.mark.parametrize(
    ("levels", "density"),
    [(1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4)],
    ids=["base preset", "base flag", "own preset", "own flag"],
)
def test_the_nearest_value_wins(levels, density):
    """Own flag, own preset, flag of the base, preset of the base, default."""
    hyper = {"base.density": 0.2} if levels >= 2 else {}
    hyper |= {"own.density": 0.4} if levels >= 4 else {}
    own = {"density": 0.3} if levels >= 3 else {}
    _, (given,) = planned(hyper, own, {"density": 0.1, "count": 2})
    assert given == {"density": density, "count": 2, "word": "a"}


def test_a_value_without_default_must_be_given():
    with pytest.raises(
        ValueError, match=r"^give --own.density: the fraction that is kept"
    ):
        planned()


def test_sweeps_are_the_product_of_their_values_and_named_by_them():
    class Config(settings.Settings):
        METHODS = {"imp": Method(searches.continuous_sparsification)}
        optimizer, learning_rate, weight_decay = "adam", 1e-3, 0.0
        learning_rate_drops = ()

    values = {"imp.initial_logit": (0.1, -0.1), "imp.penalty": (1e-6,)}
    values["imp.temperature"] = (50.0, 200.0, 500.0)
    config = Config(methods=("imp",), hyper=values, search_steps=10)
    plan = methods.plan(config, "imp")
    assert [setting.label for setting in plan.settings] == [
        f"temperature={t}, initial_logit={s}"
        for t in (50, 200, 500)
        for s in (0.1, -0.1)
    ]
    first = plan.settings[0].swept
    assert first == {"temperature": 50, "initial_logit": np.float32(0.1)}
    assert {x.dtype for x in first.values()} == {np.dtype("float32")}
    scales = [float(promises.scale) for promises in plan.promises]
    np.testing.assert_allclose(scales, [1 + np.exp(-s) for s in (0.1, -0.1)] * 3)


def test_hyper_parameters_from_python():
    config = studies.door("ticket_search").Config(
        dataset="digits", methods=("imp",), hyper={"imp.density": 0.5}
    )
    config = settings.resolve(config)
    assert config.hyper["imp.density"] == 0.5  # of the caller, not of the preset
    assert config.hyper["imp.select"] == "lottery"
    plan = methods.plan(config.in_steps(20), "imp", 20)
    assert [setting.label for setting in plan.settings] == [""]
    mask = {"fc_0": {"kernel": np.ones((8, 5), bool)}}
    mask["output"] = {"kernel": np.ones((5, 4), bool)}
    counts = plan.promises[0].kept(mask)
    assert counts == {"fc_0/kernel": 20, "output/kernel": 15}


# Flags.


@pytest.fixture
def shell(monkeypatch):
    """`(door, *flags) -> (config, flags)` of a command line; nothing is run."""

    def call(name, *given):
        seen = []
        with monkeypatch.context() as patch:
            values = studies.shell(patch, name, *given, experiment=seen.append)
        return seen[0], values

    return call


@pytest.mark.parametrize("name", DOORS)
def test_every_hyper_parameter_of_every_method_is_a_flag_with_help(shell, name):
    config, values = shell(name)
    text = values.get_help()
    hypers = methods.flags(config.METHODS)
    assert set(config.METHODS) >= set(searches.__all__)
    for flag, hyper in hypers.items():
        assert hyper.help, f"{flag} has no help"
        assert f"--{flag}:" in text or f"--[no]{flag}:" in text
        assert values[flag].value is None
    assert not config.hyper
    assert {flag for flag in values if "." in flag} == set(hypers)
    for field in settings.dataclasses.fields(config):
        assert (field.name in values) == (field.name != "hyper")
    # What a variant binds and what the loop knows are no flags.
    for flag in ("imp_continued.retrain", "imp.steps", "imp.rewind_step"):
        assert flag not in values


def test_flags_are_parsed_to_the_kinds_of_their_values(shell):
    config, _ = shell(
        "ticket_search",
        "--imp.density=0.5,0.8",
        "--imp.select=erk",
        "--gradual.every=5",
        "--nocontinuous_sparsification.scaling",
        "--one_shot.density=0.2",
        "--methods=imp,gradual",
        "--controls=",
        "--learning_rate_drops=0.5,30",
        "--seeds=3",
    )
    assert config.hyper == {
        "imp.density": (0.5, 0.8),
        "imp.select": "erk",
        "gradual.every": 5,
        "continuous_sparsification.scaling": False,
        "one_shot.density": (0.2,),
    }
    assert (config.methods, config.controls) == (("imp", "gradual"), ())
    assert (config.learning_rate_drops, config.seeds) == ((0.5, 30.0), 3)
    assert config.epochs is None


@pytest.mark.parametrize(
    ("name", "flag"),
    [
        ("ticket_search", "--jackpot_restricted.density=0.1"),
        ("ticket_search", "--search_share=0.5"),
        ("pruning", "--imp_continued.density=0.5"),
        ("pruning", "--rewind_step=3"),
        ("jackpots", "--controls=shuffle"),
        ("supermasks", "--tune_steps=3"),
        ("continuous_sparsification", "--batch_statistics=free"),
    ],
)
def test_a_flag_of_another_experiment_does_not_exist(shell, name, flag):
    with pytest.raises(flags.UnrecognizedFlagError):
        shell(name, flag)


def test_the_program_says_what_is_wrong_in_one_line_and_helps(tmp_path):
    line = [sys.executable, "-m", "experiments.pruning"]
    options = {"cwd": studies.ROOT, "capture_output": True, "text": True}
    bad = subprocess.run(
        [*line, "--gradual.final_density=1.5", f"--output_dir={tmp_path / 'out'}"],
        check=False, **options,
    )  # fmt: skip
    assert (bad.returncode, bad.stderr.count("\n")) == (1, 1)
    assert bad.stderr.startswith("error: --gradual.*: final_density is the fraction")
    assert not (tmp_path / "out").exists()
    helped = subprocess.run([*line, "--help"], check=False, **options)
    for flag in ("--search_share:", "--gradual.final_density:", "--seeds:"):
        assert flag in helped.stdout


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["imp"], "not a flag: imp"),
        (["--learning_rate_drops=1,x"], "--learning_rate_drops takes floats, got"),
        (["--imp.density=0.5,x"], "--imp.density takes floats, got"),
    ],
)
def test_what_no_value_can_be_made_of_is_one_line(shell, capsys, given, says):
    with pytest.raises(SystemExit) as stopped:
        shell("ticket_search", *given)
    error = capsys.readouterr().err
    assert (stopped.value.code, error.count("\n")) == (1, 1)
    assert error.startswith(f"error: {says}")


# Presets.


def resolved(name, **options):
    return settings.resolve(studies.door(name).Config(**options))


def test_presets_of_the_lottery_ticket_paper():
    config = resolved("ticket_search", dataset="mnist", model="lenet_300_100")
    assert (config.optimizer, config.learning_rate) == ("adam", 1.2e-3)
    assert (config.batch_size, config.steps, config.epochs) == (60, 50_000, None)
    assert config.hyper == {"imp.select": "lottery"}
    assert resolved("ticket_search", dataset="mnist", epochs=8).steps is None
    for model, select in (
        ("conv_2", "lottery_conv_2"),
        ("conv_4", "lottery_conv_2"),
        ("conv_6", "lottery_conv_6"),
    ):
        config = resolved("ticket_search", dataset="cifar10", model=model)
        assert config.hyper == {"imp.select": select}


@pytest.mark.parametrize("name", DOORS)
def test_without_a_word_it_is_mnist1d(name):
    config = resolved(name)
    assert (config.dataset, config.model) == ("mnist1d", "mlp_1d")
    assert (config.learning_rate, config.batch_size) == (0.02, 50)
    assert resolved(name, dataset="digits").model == "lenet_300_100"


def test_a_recipe_says_what_no_flag_says():
    config = resolved("ticket_search", preset="mnist1d_paper")
    assert (config.dataset, config.model) == ("mnist1d", "mlp_1d")
    assert (config.rounds, config.steps) == (100, 1501)
    assert config.methods == ("imp", "imp_random")
    ours = {"dataset": "digits", "model": "mlp", "rounds": 3, "epochs": 2}
    hyper = {"imp.density": 0.9}
    config = resolved("ticket_search", preset="mnist1d_paper", hyper=hyper, **ours)
    assert {name: getattr(config, name) for name in ours} == ours
    assert (config.steps, config.learning_rate) == (None, 0.02)
    assert config.hyper == {"imp.select": "linear", **hyper}


def test_a_final_density_is_reached_along_the_law_of_the_selection():
    for select, density in (("linear", 0.7), ("global_top", 0.1 ** (1 / 3))):
        hyper = {"imp.select": select}
        config = resolved("ticket_search", final_density=0.1, rounds=4, hyper=hyper)
        assert config.hyper["imp.density"] == pytest.approx(density)


def test_the_preset_of_residual_networks_is_the_released_recipe():
    door = "continuous_sparsification"
    options = {"dataset": "cifar10", "model": "resnet_20"}
    config = resolved(door, **options).in_steps(351)
    assert (config.batch_size, config.steps, config.rounds) == (128, 85 * 351, 3)
    assert config.learning_rate_drops == (56 * 351, 71 * 351)
    assert (config.rewind_step, config.prunable) == (2 * 351, "convolutions")
    assert (config.optimizer, config.weight_decay) == ("nesterov", 1e-4)
    assert (config.learning_rate, config.augment) == (0.1, True)
    assert config.schedules_every == "epoch"
    (sequential,) = methods.plan(config, door, 351).settings
    assert sequential.label == ""
    assert len(methods.plan(config, f"{door}_parallel", 351).settings) == 11
    short = resolved(door, **options, steps=170, rewind_step=5).in_steps(351)
    assert (short.steps, short.rewind_step) == (170, 5)
    assert short.learning_rate_drops == (112, 142)


def test_of_resnet_only_the_3x3_convolutions_are_pruned():
    from experiments.study.study import PRUNABLE

    init = models.create("resnet_20").init
    params, _ = jax.eval_shape(init, jax.random.key(0), np.zeros((1, 32, 32, 3)))
    mask = jax.eval_shape(PRUNABLE["convolutions"], params)
    assert masks.size(mask) == 267_696


@pytest.mark.parametrize("name", DOORS)
def test_every_method_of_every_door_can_be_planned(name):
    """At its defaults and presets, where no value must be given."""
    door = studies.door(name)
    config = resolved(name, methods=tuple(door.METHODS)).in_steps(20)
    for method in door.METHODS:
        plan = methods.plan(config, method, 20)
        assert len(plan.settings) == len(plan.promises) > 0
        assert plan.search is not None or plan.rounds == 0


# What is refused.

FRACTION = "is the fraction kept, in (0, 1]; got"
BAD = [
    ("ticket_search", {"model": "lenet"}, "--model must be one of mlp, mlp_1d, lenet"),
    ("ticket_search", {"methods": ("impp",)}, "--methods: no 'impp', choose of"),
    ("ticket_search", {"methods": ()}, "--methods needs at least one of"),
    ("ticket_search", {"methods": ("imp", "imp")}, "--methods: one is given twice"),
    ("ticket_search", {"controls": ("shufle",)}, "--controls: no 'shufle', choose of"),
    ("ticket_search", {"imp.density": 1.3}, f"--imp.*: density {FRACTION} 1.3"),
    ("ticket_search", {"imp.density": 0.0}, f"--imp.*: density {FRACTION} 0.0"),
    ("ticket_search", {"imp.density": (0.5, 1.3)}, f"density {FRACTION} 1.3"),
    ("ticket_search", {"imp.density": NAN}, "--imp.density must be finite, got nan"),
    ("ticket_search", {"imp.density": (0.5, 0.5)}, "needs different values, got"),
    ("ticket_search", {"imp.density": ()}, "--imp.density needs different values"),
    ("ticket_search", {"imp.select": ("erk", "equal")}, "--imp.select takes one value"),
    ("ticket_search", {"imp.select": "layers"}, "select must be one of ['global_top'"),
    ("ticket_search", {"imp.score": "snipp"}, "--imp.*: score must be one of"),
    ("ticket_search", {"imp.retrain": "never"}, "--imp.retrain: no 'never', choose of"),
    ("ticket_search", {"imp.rounds": 0}, "--imp.rounds must be at least 1; got 0"),
    ("ticket_search", {"imp.rate": 1}, "there is no --imp.rate"),
    ("ticket_search", {"inp.density": 1}, "did you mean --imp.density?"),
    ("ticket_search", {"final_density": 2.0}, "--final_density must be the fraction"),
    (
        "ticket_search",
        {"final_density": 0.2, "rounds": 1},
        "--final_density needs --rounds from 2",
    ),
    ("ticket_search", {"rounds": 0}, "--rounds must be at least 1; got 0"),
    ("ticket_search", {"epochs": 0}, "--epochs must be at least 1; got 0"),
    ("ticket_search", {"steps": -1}, "--steps must be at least 1; got -1"),
    ("ticket_search", {"steps": 9, "epochs": 2}, "give --steps or --epochs, not both"),
    ("ticket_search", {"search_epochs": 0}, "--search_epochs must be at least 1"),
    (
        "ticket_search",
        {"search_steps": 9, "search_epochs": 2},
        "give --search_steps or --search_epochs, not both",
    ),
    ("ticket_search", {"seeds": 0}, "--seeds must be at least 1; got 0"),
    ("ticket_search", {"first_seed": -1}, "--first_seed must be at least 0; got -1"),
    ("ticket_search", {"lanes": "0"}, "--lanes must be a number from 1, or auto"),
    ("ticket_search", {"lanes": "all"}, "or auto; got all"),
    ("ticket_search", {"turns": 0}, "--turns must be at least 1; got 0"),
    ("ticket_search", {"eval_every": 0}, "--eval_every must be at least 1; got 0"),
    ("ticket_search", {"batch_size": 0}, "--batch_size must be at least 1; got 0"),
    ("ticket_search", {"validation": 0}, "--validation must be at least 1; got 0"),
    ("ticket_search", {"normalization": "none"}, "--normalization must be one of"),
    ("ticket_search", {"optimizer": "adagrad"}, "--optimizer must be one of adam"),
    ("ticket_search", {"learning_rate": 0.0}, "--learning_rate must be above 0"),
    ("ticket_search", {"learning_rate": NAN}, "above 0 and finite; got nan"),
    *(
        ("ticket_search", {"learning_rate_drops": (drop,)}, "must be steps from 1, or")
        for drop in (0, 1.5, NAN)
    ),
    ("ticket_search", {"weight_decay": -0.1}, "--weight_decay must be at least 0"),
    ("ticket_search", {"rewind_step": -1}, "--rewind_step must be at least 0; got -1"),
    (
        "ticket_search",
        {"rewind_step": 300},
        "--rewind_step 300 must lie before the end",
    ),
    ("ticket_search", {"rewind_epoch": 15}, "--rewind_epoch 15 must lie before"),
    ("ticket_search", {"rewind_epoch": -1}, "--rewind_epoch must be at least 0"),
    (
        "ticket_search",
        {"rewind_epoch": 1, "rewind_step": 1},
        "give --rewind_step or --rewind_epoch, not both",
    ),
    ("ticket_search", {"schedules_every": "round"}, "must be one of epoch, step"),
    ("ticket_search", {"save_seconds": -1.0}, "--save_seconds must be at least 0"),
    ("ticket_search", {"dtype": "float16"}, "--dtype must be one of float32, bfloat16"),
    ("ticket_search", {"prunable": "biases"}, "--prunable must be one of kernels"),
    ("ticket_search", {"margin": 0.0}, "--margin must be above 0 and finite; got 0.0"),
    *(
        ("ticket_search", {f"continuous_sparsification.{name}": value}, says)
        for name, value, says in (
            ("initial_logit", INF, ".initial_logit must be finite, got inf"),
            ("penalty", -1.0, ".*: penalty must be at least 0, got -1.0"),
            ("logit_learning_rate", 0.0, "logit_learning_rate must be above 0"),
            ("between", "mine", ".between: no 'mine', choose of paper, code"),
        )
    ),
    *(
        ("ticket_search", {"methods": ("gradual",), f"gradual.{name}": value}, says)
        for name, value, says in (
            ("final_density", 2.0, f"--gradual.*: final_density {FRACTION} 2.0"),
            ("every", 0, "--gradual.*: every must be at least 1, got 0"),
            (
                "stop",
                1.5,
                "stop is a fraction of a round, in [0, 1], or a whole number",
            ),
        )
    ),
    *(
        ("ticket_search", {"methods": ("snip",), f"snip.{name}": value}, says)
        for name, value, says in (
            ("density", (0.5, 1.5), f"--snip.*: density {FRACTION} 1.5"),
            ("select", "half", "--snip.*: select must be one of"),
            ("iterations", 0, "--snip.*: iterations must be at least 1, got 0"),
        )
    ),
    (
        "continuous_sparsification",
        {"continuous_sparsification_parallel.initial_logit": (0.1, NAN)},
        "_parallel.initial_logit must be finite, got nan",
    ),
    (
        "continuous_sparsification",
        {"continuous_sparsification_parallel.rounds": 0},
        "_parallel.rounds must be at least 1; got 0",
    ),
    ("ticket_search", {"preset": "paper"}, "--preset: no 'paper', choose of mnist1d_p"),
    ("pruning", {"methods": ("imp_continued",)}, "--methods: no 'imp_continued'"),
    ("pruning", {"search_share": 1.0}, "--search_share must be between 0 and 1"),
    ("pruning", {"search_share": NAN}, "between 0 and 1; got nan"),
    ("pruning", {"steps": 1}, "--steps must be at least 2, got 1"),
    ("pruning", {"gradual.final_density": (0.5, 1.5)}, f"{FRACTION} 1.5"),
    ("pruning", {"one_shot.density": (0.5, 0.5)}, "--one_shot.density needs different"),
    ("pruning", {"soft_threshold.initial_logit": ()}, "needs different values, got ()"),
    ("pruning", {"soft_threshold.initial_logit": INF}, "must be finite, got inf"),
    ("pruning", {"l0.penalty": (-1.0, 1.0)}, "--l0.*: penalty must be at least 0"),
    ("pruning", {"l0.initial_logit": NAN}, "--l0.initial_logit must be finite"),
    *(
        ("pruning", {"methods": ("slimming",), f"slimming.{name}": value}, says)
        for name, value, says in (
            ("density", 0.0, f"--slimming.*: density {FRACTION} 0.0"),
            ("penalty", -1.0, "--slimming.*: penalty must be at least 0, got -1.0"),
        )
    ),
    ("jackpots", {"jackpot.select": "layer"}, "--jackpot.*: select must be one of"),
    ("jackpots", {"jackpot.density": (0.1, 1.3)}, f"density {FRACTION} 1.3"),
    ("jackpots", {"jackpot.density": (0.1, 0.1)}, "--jackpot.density needs different"),
    (
        "jackpots",
        {"jackpot_restricted.restriction": "linear"},
        ".restriction: no 'linear', choose of none, quartic, cosine",
    ),
    (
        "jackpots",
        {"tune_epochs": 1, "tune_steps": 4},
        "give --tune_steps or --tune_epochs, not both",
    ),
    ("jackpots", {"tune_steps": -1}, "--tune_steps must be at least 0; got -1"),
    ("jackpots", {"tune_learning_rate": 0.0}, "--tune_learning_rate must be above 0"),
    ("jackpots", {"batch_statistics": "kept"}, "must be one of free, frozen; got kept"),
    ("jackpots", {"jackpot.pruned_score": 1.0}, "pruned_score must be below 1"),
    ("jackpots", {"jackpot.score_learning_rate": 0.0}, "score_learning_rate must be"),
    ("jackpots", {"jackpot.score_decay": -1.0}, "score_decay must be at least 0"),
    ("jackpots", {"jackpot.score_schedule": "linear"}, "no 'linear', choose of cosine"),
    ("supermasks", {"methods": ("learnt",)}, "--methods: no 'learnt', choose of"),
    ("supermasks", {"large_final.density": 1.3}, f"density {FRACTION} 1.3"),
    ("supermasks", {"large_final.select": "half"}, "select must be one of"),
    ("supermasks", {"edge_popup.density": (0.5, 0.5)}, "needs different values"),
    ("supermasks", {"edge_popup.scale_fan": "fan"}, "choose of none, density, code"),
    (
        "supermasks",
        {"edge_popup.scale_fan": "code", "edge_popup.density": 1.0},
        "scale_fan=code divides by one minus the density",
    ),
    ("supermasks", {"learned.read": "mean"}, "--learned.read: no 'mean', choose of"),
]


def planning(door, given):
    hyper = {name: value for name, value in given.items() if "." in name}
    rest = {name: value for name, value in given.items() if name not in hyper}
    config = resolved(door, hyper=hyper, **{"dataset": "digits", **rest}).in_steps(20)
    for name in config.methods:
        methods.plan(config, name, 20)


@pytest.mark.parametrize(
    ("door", "given", "says"),
    BAD,
    ids=[f"{door}-{[*given][0]}-{i}" for i, (door, given, _) in enumerate(BAD)],
)
def test_a_bad_value_is_refused_before_there_are_data(door, given, says):
    with pytest.raises(ValueError) as error:
        planning(door, given)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"dataset": "mnits"}, "mnits"),
        ({"dataset": "mnist", "data_dir": "."}, "mnist"),
        ({"validation": 5000}, "5000"),
        ({"batch_size": 5000}, "--batch_size 5000 is more than the 1200 training"),
        ({"prunable": "convolutions"}, "prun"),
        ({"hyper": {"dataset.test_size": 100}}, "no --dataset.test_size; its options"),
        ({"methods": ("slimming",)}, "slimming needs convolutions with batch norm"),
    ],
    ids=lambda x: "-".join(map(str, x)) if isinstance(x, dict) else "",
)
def test_what_the_data_or_the_network_cannot_do_is_refused_too(tmp_path, given, says):
    folder = tmp_path / "out"
    with studies.tiny(), pytest.raises((ValueError, OSError)) as error:
        studies.run("ticket_search", folder, **{"methods": ("imp",), **given})
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert not folder.exists()
