"""What the searches and trainings of one run share: network, data, programs, files."""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.study import methods, optimizers, own, settings
from experiments.study.methods import Planned, Setting
from experiments.study.outputs import Claim
from experiments.study.records import Lane, Records, dense
from experiments.study.settings import Settings
from experiments.study.shelf import Shelf
from jaxticket import (
    controls,
    data,
    export,
    files,
    hyperparameters,
    masks,
    models,
    searches,
    starts,
    structure,
    supervised,
    units,
)
from jaxticket.base import Mask, Params, PRNGKey, Promises, Search, Ticket
from jaxticket.engine import hosts, keys, lanes, programs, resumable
from jaxticket.graphs import products

METRICS = ("validation_loss", "validation_accuracy", "test_loss", "test_accuracy")
# Programs that no method has.
TRAINING, FREEZING, TUNING = "training", "freezing", "tuning"
PRUNABLE = {  # weights -> the mask of what is prunable
    "kernels": masks.full,
    "hidden": lambda weights: masks.full(weights, models.is_hidden),
    "convolutions": lambda weights: masks.full(weights, models.is_convolution),
    "all": lambda weights: masks.full(weights, _is_floating),
}


class Study:
    """A run: what it trains on, what it may run, and where it puts what comes out.

    Attributes:
      config: the settings, all lengths in steps.
      layout: where the lanes are.
      data: training data, and the two sets to evaluate on.
      placed: the same, on the devices of the layout, when it runs.
      planned: name -> method, whose hyper-parameters have values.
      programs: name -> what runs a method's searches, or trains or tunes tickets.
      records: what came out; `records.rows` are the rows of `results.csv`.
      shelf: the tickets.
      metrics: `(params, model_state, split) -> supervised.Metrics`, a pure function.
      seeds: all of them.
      claim: whose the files of its folder are.

    Args:
      config: resolved.
      dataset: what to train on.
      layout: where the lanes are.
    """

    def __init__(self, config: Settings, dataset: data.Dataset, layout: lanes.Layout):
        epoch_steps = len(dataset.train.labels) // config.batch_size
        self.config = config = config.in_steps(epoch_steps)
        self.folder = Path(config.output_dir)
        self.layout = layout
        train, augment = own.augmented(config, dataset.train)
        if config.stream:
            train = data.streams.stream(train, first=supervised.IMAGES)
        self.data = programs.Data(train, (dataset.validation, dataset.test))
        self.seeds = range(config.first_seed, config.first_seed + config.seeds)
        options = (
            {} if config.dtype == "float32" else {"dtype": jnp.dtype(config.dtype)}
        )
        model = own.model(
            config.model, dataset.num_classes, options | config.options("model")
        )
        loss = own.loss(config.loss)
        prepare = own.prepare(config, dataset)
        self.model, self.prepare = model, prepare
        self.image = prepare(jnp.asarray(dataset.train.images[:1]))
        self.init = _initialiser(config, dataset, model, self.image)
        self.objective = functools.partial(
            supervised.objective,
            loss=own.training_loss(config),
            prepare=prepare,
            augment=augment,
        )
        self.evaluator = functools.partial(
            supervised.evaluator, loss=loss, prepare=prepare
        )
        self._loss = functools.partial(self.objective, model)
        self.metrics = self.evaluator(model)
        self.effective = jax.jit(self._effective)
        self.evidence = functools.partial(
            supervised.evidence, model, loss=loss, prepare=prepare
        )
        own.shapes(config, self.init, dataset.train)
        like = jax.eval_shape(self.network, jax.random.key(0))
        own.check(config, self._loss(), like, data.streams.leading(train))
        methods.check_flags(config)
        self.planned = {
            name: methods.plan(config, name, epoch_steps) for name in config.methods
        }
        for planned in self.planned.values():
            methods.check_kept(config, planned, like.mask)
        self._starts = {
            name: jax.jit(functools.partial(self._start, planned))
            for name, planned in self.planned.items()
        }
        self._given = self._read(like)
        for planned in self.planned.values():  # what cannot begin, before all trains
            jax.eval_shape(
                self._starts[planned.name],
                jax.random.key(0),
                planned.settings[0].swept,
                like,
                like,
                self.leading,
                self._given.get(
                    (planned.name, planned.settings[0].label, self.seeds[0])
                ),
            )
        self._controlled = jax.jit(self._control, static_argnums=0)
        self.programs = {
            name: self._searching(planned)
            for name, planned in self.planned.items()
            if planned.search
        }
        self.programs[TRAINING] = self._program(self._trainer)
        if any(controls.differs_by(name) == "pruned" for name in config.controls):
            freezing = functools.partial(self._trainer, pruned="frozen")
            self.programs[FREEZING] = self._program(freezing)
        if config.tune_steps:
            self.programs[TUNING] = self._program(self._tuner)
        stops = config.on_divergence == "stop"
        self.records = Records(self.folder, epoch_steps, stops=stops)
        self.shelf = Shelf(self.folder, like, Claim())

    @property
    def claim(self) -> Claim:
        return self.shelf.claim

    @property
    def leading(self) -> data.Split:
        """Training data that are at hand: the first of what streams, else all."""
        return data.streams.leading(self.data.train)

    def least_bytes(self) -> int:
        """What it writes at the least: checkpoints, whole weights, packed masks."""

        def size(tree):
            return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))

        ticket = self.shelf.like
        whole, packed = size(ticket.weights), masks.size(ticket.mask) // 8
        searches = len(self.seeds) * sum(len(p.settings) for p in self.planned.values())
        tickets = len(self.seeds) * sum(
            len(p.settings) * len(p.prunings()) for p in self.planned.values()
        )
        carries = [
            size(jax.eval_shape(program.start, *self._like(name)))
            for name, program in self.programs.items()
        ]
        dense = len(self.seeds) * (1 + len(self.config.keep_steps))
        anchors = (dense + searches) * whole
        return 2 * max(carries) + int(0.9 * anchors) + tickets * packed

    def network(self, key: PRNGKey) -> Ticket:
        """The dense network as it is initialised: a ticket that keeps everything."""
        weights, model_state = self.init(key)
        mask = PRUNABLE[self.config.prunable](weights)
        return Ticket(weights, mask, model_state)

    def opened(self, planned: Planned, lane: Lane) -> Ticket:
        """What a search starts from, for the seed and the setting of a lane."""
        stream, swept = keys.of_seed(lane.seed), self.swept(lane)
        initial = trained = self.network(stream.init)
        if planned.start(swept).trained:  # else it may have diverged
            trained = self.shelf.anchor(dense(lane.seed))
        return self._starts[planned.name](
            keys.named(stream.controls, "start"),
            swept,
            initial,
            trained,
            self.leading,
            self._given.get((planned.name, lane.setting, lane.seed)),
        )

    def outputs(self, variables: tuple[Params, Any], image: jax.Array) -> jax.Array:
        """What the network makes of weights, model state and an image."""
        return self.model.apply(*variables, image)[0]

    def _effective(self, ticket: Ticket) -> Mask:
        """The weights of a ticket that lie on a path, see `structure.effective`."""

        return structure.effective(self._network(ticket), ticket, self.image)

    def _network(self, ticket: Ticket) -> Callable[[Params, Any], Any]:
        """`(weights, images) -> outputs`, with the model state of a ticket."""
        return lambda weights, x: self.outputs((weights, ticket.model_state), x)

    def _start(
        self, planned: Planned, key, swept, initial, trained, train, given
    ) -> Ticket:
        filters = functools.partial(units.filters, self.outputs, x=self.image)

        def corrupted(key, kind):
            first = jax.tree.map(lambda x: x[: supervised.IMAGES], train)
            return self.evidence(data.corrupted(key, first, kind))

        opening = starts.Opening(
            key,
            initial,
            trained,
            self.evidence(train),
            given,
            filters,
            corrupted,
            self._order,
        )
        return planned.start(swept).ticket(opening)

    def _order(self, ticket: Ticket) -> list[str]:
        """The prunable layers of a ticket, in the order of the network."""
        prunable = masks.names(ticket.mask)
        found = products.order(self._network(ticket), ticket.weights, self.image)
        return [name for name in found if name in prunable]

    def _read(self, like: Ticket) -> dict[tuple[str, str, int], Ticket]:
        """The tickets that methods start from and others have left, by their lanes.

        Raises:
          FileNotFoundError: one is not there.
          ValueError: one is damaged, or of another network.
        """
        found = {}
        for planned in self.planned.values():
            for setting, seed in itertools.product(planned.settings, self.seeds):
                start = planned.start(setting.swept)
                if not start.file:
                    continue
                path = start.file.replace("{seed}", str(seed))
                found[planned.name, setting.label, seed] = _of_file(
                    path, like, start.without
                )
        return found

    def treated(self, lane: Lane) -> tuple[Ticket, Ticket]:
        """What a lane trains, and the ticket that it is, or that it controls.

        A control gets all weights of the step that its ticket starts from: what the
        ticket's file leaves out is what a shuffled mask needs.
        """
        ticket = self.shelf.ticket(lane)
        if controls.differs_by(lane.control) is None:
            return ticket, ticket
        ticket = ticket._replace(weights=self.shelf.anchor(lane).weights)
        named = f"{lane.treatment} {lane.setting}".strip()
        key = keys.named(keys.of_seed(lane.seed).controls, named)
        key = jax.random.fold_in(key, lane.prunings)
        control = self._controlled(lane.control, key, ticket, self.scale(lane))
        return jax.tree.map(np.asarray, control), ticket

    def _control(self, name: str, key: PRNGKey, ticket: Ticket, scale: float) -> Ticket:
        init = functools.partial(self._redrawn, scale)
        return getattr(controls, name)(key, ticket, init)

    def _redrawn(self, scale: float, key: PRNGKey) -> tuple[Params, Any]:
        """New weights, at the scale of a ticket's."""
        weights, mask, model_state = self.network(key)
        return masks.scale(mask, weights, scale), model_state

    def scale(self, lane: Lane) -> float:
        """What the search of a lane multiplies the weights of its tickets by."""
        if lane.method not in self.planned:
            return 1.0
        scale = self.promises(lane).scale
        return 1.0 if scale is None else float(scale)

    @property
    def trained_seeds(self) -> list[int]:
        """Those whose dense network has not diverged."""
        return [seed for seed in self.seeds if not self.records.lost(dense(seed))]

    def promises(self, lane: Lane) -> Promises:
        """What the search of a lane may be held to."""
        return self._setting(lane).promises

    def swept(self, lane: Lane) -> dict[str, np.float32]:
        """The numbers that tell a lane from others of its method and seed."""
        return self._setting(lane).swept

    def _setting(self, lane: Lane) -> Setting:
        settings = self.planned[lane.method].settings
        return next(x for x in settings if x.label == lane.setting)

    @functools.cached_property
    def sharing(self) -> tuple[str, ...]:
        """Methods whose first round is the dense network's training: they share it.

        They are variants of one search, from the initialised network, with states of
        one structure; the first of them trains it, which the folder was begun with.
        """
        if self.config.pretrained or self.config.search_steps != self.config.steps:
            return ()
        able = [
            name
            for name, planned in self.planned.items()
            if planned.search
            and planned.opens_given
            and planned.promises.rounds  # else there is nothing to go on to
            and self.config.METHODS[name].start is starts.initial
        ]

        def kind(name):
            factory = hyperparameters.unbound(self.config.METHODS[name].search)
            leaves, structure = jax.tree.flatten(self.state_like(name))
            return factory, structure, [(x.shape, x.dtype) for x in leaves]

        kinds = {name: kind(name) for name in able}
        first = next((name for name in self.claim.begun_with if name in kinds), None)
        if first is None:
            return ()  # it was trained without them
        others = [name for name in able if name != first]
        return (first, *[name for name in others if kinds[name] == kinds[first]])

    def state_like(self, name: str) -> Any:
        """What the state of a lane of a program is like."""
        _, state = jax.eval_shape(self.programs[name].start, *self._like(name))
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), state)

    def traced(self, program: str, group: Sequence[Lane]) -> Any:
        """The numbers that a program traces, of each lane of a group.

        Of a search those of its settings; the dense network, which it may train, has
        those of the first. Of tickets their multipliers, see `searches.fixed`.
        """
        if program in self.planned:
            first = self.planned[program].settings[0].swept
            return resumable.together(
                [self.swept(x) if x.method == program else first for x in group]
            )
        if program == TUNING or not self.config.keep_multiplier:
            return ()
        return np.float32([self.scale(lane) for lane in group])

    def _trainer(self, multiplier, pruned: str = "zero") -> Search:
        """What trains the dense network, tickets and controls."""
        optimizer = optimizers.of_weights(self.config)
        if self.config.keep_multiplier:
            return searches.fixed(optimizer, multiplier=multiplier, pruned=pruned)
        return searches.fixed(optimizer, pruned=pruned)

    def _tuner(self, _) -> Search:
        """What trains the weights of tickets further: momentum, without decay."""
        rate = self.config.tune_learning_rate
        return searches.fixed(optimizers.optimizer("momentum", lambda _: rate, 0.0))

    def _searching(self, planned: Planned) -> programs.Program:
        promises = planned.promises
        options = {}
        if promises.hard and promises.weights == "given":
            options = {"names": ("changed",), "observe": _changed}
        return self._program(
            planned.search,
            train=self.config.batch_statistics == "free",
            evidence=self.evidence,
            **options,
        )

    def _program(
        self,
        search: Callable[[Any], Search],
        *,
        train: bool = True,
        names: Sequence[str] = (),
        **options: Any,
    ) -> programs.Program:
        def evaluate(params, model_state, held_out):
            both = [self.metrics(params, model_state, split) for split in held_out]
            return dict(zip(METRICS, (x for m in both for x in m), strict=True))

        return programs.program(
            search,
            self._loss(train=train),
            evaluate,
            (*METRICS, *names),
            self.layout,
            batch_size=self.config.batch_size,
            streams=self.config.stream,
            **options,
        )

    def compile(self) -> int:
        """Compiles all programs; returns the bytes a device needs for the largest."""
        sizes = []
        for name, program in self.programs.items():
            stream, *start = self._like(name)
            compiled, size = programs.compiled(
                program, stream, *start, stream, self.data
            )
            self.programs[name] = compiled
            sizes.append(size)
        return max(sizes)

    def trial(self) -> float:
        """Seconds that a step of all lanes takes, in the search of the first method."""
        name, program = next(iter(self.programs.items()))
        stream, everywhere = self._any_keys(), lanes.everywhere(self.layout, self.data)
        carry = program.start(*self.spread(self._any_start(name, stream)))
        stream = self.spread(stream)
        return programs.seconds_a_step(
            program, carry, stream, everywhere, most=self.config.steps
        )

    def place(self) -> None:
        """Puts the data where the lanes are."""
        self.placed = lanes.everywhere(self.layout, self.data)
        if not hosts.several():  # else a process cannot look at it by itself
            self.data = self.placed

    def spread(self, tree: Any) -> Any:
        """What has a row for every lane, where the lanes are."""
        return lanes.spread(self.layout, tree)

    def _like(self, name: str) -> tuple:
        """The shapes of what a program starts from."""
        stream = jax.eval_shape(self._any_keys)
        return jax.eval_shape(functools.partial(self._any_start, name), stream)

    def _any_keys(self) -> PRNGKey:
        return jax.random.split(jax.random.key(0), self.layout.width)

    def _any_start(self, name: str, stream: PRNGKey) -> tuple:
        """What a program starts from: as long as there are lanes."""
        traced = self.traced(name, [dense(0)] * self.layout.width)
        return stream, jax.vmap(self.network)(stream), traced


def _of_file(path: str, like: Ticket, without: Sequence[str]) -> Ticket:
    """The ticket of a file; of layers `without` only the places, of our shapes.

    Raises:
      ValueError: the file does not fit, or there is no such layer.
    """
    layers = [name.rpartition("/")[0] for name in masks.names(like.weights)]
    if without:
        settings.names("given.without", without, dict.fromkeys(layers))
    kinds = export.read(path).kinds if without else {}

    def theirs(where, leaf):
        name = masks.name(where)
        _, shape = kinds.get(f"weights/{name}", ("", leaf.shape))
        other = name.rpartition("/")[0] in without
        return jax.ShapeDtypeStruct(shape if other else leaf.shape, leaf.dtype)

    weights = jax.tree_util.tree_map_with_path(theirs, like.weights)
    found, _ = files.load_ticket(path, Ticket(weights, None, like.model_state))
    there, here = masks.names(found.mask), masks.names(like.mask)
    if there != here:
        raise ValueError(
            f"{path} has masks for {there}, and this run for {here}: give another "
            "--prunable"
        )

    def ours(leaf, there):
        return there if there.shape == leaf.shape else np.ones(leaf.shape, leaf.dtype)

    return found._replace(
        weights=jax.tree.map(ours, like.weights, found.weights),
        mask=jax.tree.map(ours, like.mask, found.mask),
    )


def searches_of(config: Settings) -> int:
    """How many searches the largest of the methods has."""
    counts = [len(methods.plan(config, name).settings) for name in config.methods]
    return config.seeds * max(counts, default=1)


def _initialiser(config, dataset, model, example) -> Callable[[PRNGKey], tuple]:
    """`key -> (weights, model_state)`: a draw, or what a file holds for every seed."""
    if config.pretrained is None:
        return jax.jit(lambda key: model.init(key, example))
    given = models.pretrained.load(
        config.pretrained,
        config.model,
        num_classes=dataset.num_classes,
        image=example.shape[1:],
    )
    return lambda key: given


def _changed(search: Search) -> Callable[[Any, Any], Mapping[str, jax.Array]]:
    """How many entries of its mask a search changes in a step."""

    def observe(before, after):
        ours = (search.ticket(state).mask for state in (before, after))
        return {"changed": masks.count(jax.tree.map(jnp.logical_xor, *ours))}

    return observe


def _is_floating(path: tuple, leaf: jax.Array) -> bool:
    del path
    return jnp.issubdtype(leaf.dtype, jnp.floating)
