"""Methods and their flags: what signatures say, which value wins, what is refused."""

import dataclasses
import functools
import re
import subprocess
import sys
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import pytest
import studies
from jax.typing import ArrayLike

from experiments import pruning, ticket_search
from experiments.study import methods, optimizers, settings
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


def test_a_density_that_is_given_takes_the_place_of_a_penalty_of_the_preset():
    plan = methods.plan(resolved("pruning", methods=("l0",)), "l0")
    assert [setting.label for setting in plan.settings][0] == "penalty=1e-06"
    hyper = {"l0.density": (0.2, 0.5)}
    plan = methods.plan(resolved("pruning", methods=("l0",), hyper=hyper), "l0")
    found = [setting.label for setting in plan.settings]
    assert found == ["density=0.2", "density=0.5"]


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
    scales = [float(setting.promises.scale) for setting in plan.settings]
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
    counts = plan.promises.kept(mask)
    assert counts == {"fc_0/kernel": 20, "output/kernel": 15}


@pytest.mark.parametrize(
    ("hyper", "says"),
    [
        ({"imp.rate": 1}, "there is no --imp.rate; did you mean --imp.score?"),
        ({"inp.density": 1}, "there is no --inp.density; did you mean --imp.density?"),
        ({"imp.density": "0.5"}, "--imp.density must be a finite number; got '0.5'"),
        ({"imp.select": ("erk", "equal")}, "--imp.select takes one value; got"),
        ({"imp.rounds": 2.5}, "--imp.rounds must be a whole number from 1 to 65536; "),
        ({"gradual.every": 2.5}, "--gradual.every must be a whole number from 1; got"),
    ],
)
def test_values_from_python_are_held_to_the_same(hyper, says):
    name = "gradual" if "gradual.every" in hyper else "imp"
    config = resolved("ticket_search", hyper=hyper)
    with pytest.raises(ValueError) as error:
        methods.plan(config, name)
    assert str(error.value).startswith(says)


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


def test_the_program_helps():
    line = [sys.executable, "-m", "experiments.pruning", "--help"]
    options = {"cwd": studies.ROOT, "capture_output": True, "text": True}
    helped = subprocess.run(line, check=False, **options)
    for flag in ("--search_share:", "--gradual.final_density:", "--seeds:"):
        assert flag in helped.stdout


# Presets.


def resolved(name, **options):
    return settings.resolve(studies.door(name).Config(**options))


@pytest.mark.parametrize("rounds", [{"rounds": 3}, {"hyper": {"imp.rounds": 3}}])
def test_the_final_density_is_that_after_the_rounds_of_imp(rounds):
    config = resolved("ticket_search", final_density=0.01, **rounds)
    assert config.hyper["imp.density"] == pytest.approx(0.1)


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


def test_recipes_of_the_lottery_ticket_paper():
    """Figure 2: rates, batches and lengths; convolutions alone where that is global."""
    numbers = {
        "lth_lenet": ("adam", 1.2e-3, 60, 50_000, 0),
        "lth_lenet_sgd": ("sgd", 0.8, 60, 50_000, 0),
        "lth_conv_2": ("adam", 2e-4, 60, 20_000, 0),
        "lth_conv_6_dropout": ("adam", 2e-4, 60, 90_000, 0),
        "lth_resnet_20": ("momentum", 0.03, 128, 30_000, 20_000),
        "lth_resnet_20_low": ("momentum", 0.01, 128, 30_000, 0),
        "lth_vgg_19": ("momentum", 0.1, 64, 112_480, 10_000),
        "lth_vgg_19_high": ("momentum", 0.1, 64, 112_480, 0),
    }
    for name, expected in numbers.items():
        config = resolved("ticket_search", preset=name)
        found = (config.optimizer, config.learning_rate, config.batch_size)
        assert (*found, config.steps, config.warmup_steps) == expected
    hyper = {"imp.select": "lottery_conv_6", "model.dropout": 0.5}
    assert resolved("ticket_search", preset="lth_conv_6_dropout").hyper == hyper
    for name in ("lth_resnet_20", "lth_vgg_19"):
        config = resolved("ticket_search", preset=name)
        assert config.prunable == "convolutions"
        assert config.augment
        assert config.hyper == {"imp.select": "global_top"}
        pair = {"dataset": config.dataset, "model": config.model}
        ours = resolved("ticket_search", **pair)
        assert dataclasses.replace(config, preset=None) == ours
    drops = {"lth_resnet_20": (20_000, 25_000), "lth_vgg_19": (56_240, 84_360)}
    for name in ticket_search.RECIPES:
        config = resolved("ticket_search", preset=name).in_steps(351)
        assert config.learning_rate_drops == drops.get(
            re.sub("_(h|l|b).*", "", name), ()
        )
        assert settings.fallen_back(config) is None


def test_what_has_no_preset_says_what_it_is_trained_by():
    config = resolved("ticket_search", dataset="cifar10", model="vgg_16", epochs=3)
    note = settings.fallen_back(config)
    assert note.startswith("there is no preset for cifar10 with vgg_16, which is")
    assert "--optimizer=adam, --learning_rate=0.001" in note
    assert "--augment=False" in note
    assert note.endswith("--epochs=3")


def test_flags_of_methods_that_do_not_run_are_named():
    flags = "imp.density", "snip.density", "model.width", "imp_continued.select"
    config = resolved("ticket_search", methods=("imp_continued", "iss"))
    given = [dataclasses.replace(config, hyper=dict.fromkeys(x)) for x in (flags, ())]
    assert methods.idle(given[1], config) == []
    note = "--snip.density changes nothing with --methods=imp_continued,iss"
    assert methods.idle(given[0], config) == [note]  # imp's are its variant's
    config = resolved("ticket_search", methods=("imp",))
    (note,) = methods.idle(given[0], config)
    assert note.startswith("--snip.density, --imp_cont")


def test_settings_that_change_nothing_are_named():
    given = ticket_search.Config(momentum=0.5, learning_rate_factor=0.2)
    adam = settings.resolve(given)
    assert settings.idle(given, adam) == [
        "--momentum changes nothing with --optimizer=adam",
        "--learning_rate_factor changes nothing without --learning_rate_drops",
    ]
    sgd = {"optimizer": "nesterov", "learning_rate_drops": (0.5,)}
    assert settings.idle(given, dataclasses.replace(adam, **sgd)) == []
    assert settings.idle(ticket_search.Config(), adam) == []
    assert settings.idle(pruning.Config(), adam) == []  # which has no such setting


def test_a_learning_rate_rises_and_falls():
    config = resolved(
        "ticket_search",
        warmup_steps=100,
        learning_rate_drops=(0.4, 800),
        steps=1000,
    )
    rate = optimizers.dropping(config.in_steps(70), 0.4)
    expected = {0: 0, 25: 0.1, 100: 0.4, 399: 0.4, 400: 0.04, 799: 0.04, 800: 0.004}
    for step, value in expected.items():
        np.testing.assert_allclose(jax.jit(rate)(step), value, rtol=1e-6)


def test_a_learning_rate_falls_on_a_cosine_once_it_has_risen():
    given = {"learning_rate_cosine": True, "warmup_epochs": 2, "steps": 110}
    config = resolved("ticket_search", **given).in_steps(5)
    assert config.warmup_steps == 10
    rate = optimizers.dropping(config, 0.4)
    expected = {0: 0, 5: 0.2, 10: 0.4, 60: 0.2, 35: 0.2 + 0.1 * 2**0.5, 110: 0, 120: 0}
    for step, value in expected.items():
        np.testing.assert_allclose(jax.jit(rate)(step), value, atol=1e-7)


def test_the_preset_of_imagenet_is_a_published_training():
    options = {"dataset": "imagenet2012", "model": "resnet_50"}
    for door, methods_ in (
        ("ticket_search", ("imp",)),
        ("continuous_sparsification", ("continuous_sparsification", "one_shot")),
    ):
        config = resolved(door, **options).in_steps(5000)
        assert settings.fallen_back(config) is None
        assert config.methods == methods_
        assert (config.optimizer, config.momentum) == ("momentum", 0.875)
        assert (config.learning_rate, config.weight_decay) == (0.256, 3.05e-5)
        assert (config.batch_size, config.steps) == (256, 500_000)
        assert (config.warmup_steps, config.learning_rate_cosine) == (25_000, True)
        assert (config.label_smoothing, config.augment, config.crop) == (0.1, True, 224)
    # Another way of falling, or of rising, takes the place of the preset's.
    ours = resolved(door, **options, learning_rate_drops=(0.5,), warmup_steps=7)
    ours = ours.in_steps(5000)
    assert not ours.learning_rate_cosine
    assert (ours.warmup_steps, ours.learning_rate_drops) == (7, (250_000,))
    config = resolved("ticket_search", **options).in_steps(5000)
    assert (config.rewind_step, config.rounds) == (25_000, 2)
    assert config.hyper["imp.density"] == 0.3


def test_momentum_is_that_of_the_settings():
    config = resolved("ticket_search", optimizer="momentum", momentum=0.5, steps=9)
    ours = optimizers.of_weights(config.in_steps(3))
    state = ours.init(np.ones(1))
    for total in (1.0, 1.5, 1.75):
        update, state = ours.update(np.ones(1), state, np.ones(1), step=0)
        np.testing.assert_allclose(update, -config.learning_rate * total, rtol=1e-6)


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
    """At its defaults and presets, where no value must be given but that of a file."""
    door = studies.door(name)
    hyper = {"given.file": "ticket.npz"} if "given" in door.METHODS else {}
    config = resolved(name, methods=tuple(door.METHODS), hyper=hyper).in_steps(20)
    for method in door.METHODS:
        plan = methods.plan(config, method, 20)
        assert plan.settings
        assert plan.search is not None or plan.rounds == 0


def test_how_layers_share_what_all_keep_is_not_guessed():
    """A tenth of both would be lost in the smaller one, which comes first."""
    config = resolved("jackpots", hyper={"jackpot.density": 0.1})
    planned = methods.plan(config, "jackpot")
    sizes = {"a": (10, 10), "b": (20, 20)}
    mask = {name: np.ones(shape, bool) for name, shape in sizes.items()}
    methods.check_kept(config, planned, mask)
