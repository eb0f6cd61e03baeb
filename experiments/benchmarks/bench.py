"""The flags that every section is given, and the sizes of what it measures."""

import dataclasses
from collections.abc import Mapping

import jax

from experiments.benchmarks import measure, tasks
from experiments.study import rules
from experiments.study.settings import setting
from jaxticket import checks, models, searches
from jaxticket.engine import lanes, layouts

NUMBERS = checks.each(rules.MANY)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How large everything is that no flag sets."""

    matrix: int = 2048
    copy: int = 2**26  # floats
    images: int = 12_000  # that one training takes in one repetition
    step_work: float = 15e9  # FLOP in one repetition of one training of a large network
    batch_size: int = 60
    train_images: int = 60_000
    test_images: int = 10_000
    search_seeds: tuple[int, ...] = (1, 2, 8)
    search_batches: tuple[int, ...] = (60, 128)
    search_steps: int = 128  # at least: room for the schedules of all
    convolution_searches: tuple[tuple[str, str], ...] = (
        ("resnet_20", "continuous_sparsification"),
    )
    rival_seeds: tuple[int, ...] = (1, 8)
    scaled_rounds: tuple[int, ...] = (2, 5, 10, 20)
    scaled_weights: tuple[int, ...] = (10**5, 10**6, 10**7, 10**8)
    scaled_steps: int = 20  # of a round
    searches: tuple[str, ...] = tuple(  # LeNet is not normalised
        name for name in searches.__all__ if name not in ("fixed", "slimming")
    )
    rounds: int = 5
    epochs: int = 2
    many: int = 8  # seeds at which layouts, batches and models are compared
    convolution_models: tuple[str, ...] = ("conv_6", "resnet_20", "vgg_16")
    file_models: tuple[str, ...] = models.NAMES
    models: tuple[str, ...] = tuple(
        name for name in models.NAMES if tasks.dataset_of(name) != "imagenet"
    )
    jackpots: tuple[str, ...] = ("lenet_300_100", "resnet_50")
    cpu_batch: int = 8  # of large networks on CPU, elsewhere:
    full_batch: int = 256
    loaded: tuple[str, int] = ("resnet_50", 256)  # what trains on streams, and a side
    wide_models: tuple[tuple[str, int], ...] = (  # model and the most lanes it is given
        ("lenet_300_100", 1024),
        ("resnet_20", 16),
    )
    memory: tuple[tuple[str, int], ...] = (  # model and images
        ("lenet_300_100", 12_000),
        ("conv_2", 600),
        ("resnet_20", 600),
    )
    resnet_batch: int = 128  # beside PyTorch, with as many images in a repetition:
    resnet_images: int = 512
    compiled_lanes: tuple[int, ...] = (2, 32)
    compiled_rounds: tuple[int, ...] = (2, 20)
    inference_layers: tuple[tuple[int, ...], ...] = ((300, 100), (2048, 2048))
    inference_densities: tuple[float, ...] = (0.2, 0.1, 0.05, 0.02, 0.01)
    inference_batches: tuple[int, ...] = (1, 64)
    file_densities: tuple[float, ...] = (0.2, 0.05, 0.01)
    decoders: tuple[tuple, ...] = (  # name, words, width, depth, inner, shared
        ("1B", 50_304, 2048, 16, 8192, 2048),
        ("7B", 32_000, 4096, 32, 11_008, 4096),
        ("13B", 32_000, 5120, 40, 13_824, 5120),
        ("70B", 128_256, 8192, 80, 28_672, 1024),
    )
    imports: tuple[str, ...] = ("jax", "jaxticket", "experiments.ticket_search")

    @property
    def large_batch(self) -> int:
        """Images in a step of a large network: fewer on CPU."""
        return self.cpu_batch if jax.default_backend() == "cpu" else self.full_batch


QUICK = Sizes(
    decoders=(("toy", 256, 64, 2, 128, 64),),
    matrix=64,
    copy=1024,
    images=16,
    step_work=0,
    batch_size=8,
    train_images=48,
    test_images=16,
    search_seeds=(2,),
    search_batches=(8,),
    search_steps=8,
    searches=("iss",),
    rounds=2,
    epochs=1,
    many=2,
    convolution_models=(),
    convolution_searches=(),
    models=("lenet_300_100",),
    jackpots=("lenet_300_100",),
    loaded=("lenet_300_100", 16),
    wide_models=(("lenet_300_100", 1024),),
    memory=(("lenet_300_100", 16),),
    resnet_batch=4,
    resnet_images=8,
    compiled_lanes=(2,),
    compiled_rounds=(2,),
    scaled_rounds=(2, 3),
    scaled_weights=(1000,),
    scaled_steps=2,
    inference_layers=((8, 6),),
    inference_densities=(0.2,),
    inference_batches=(2,),
    file_models=("lenet_300_100",),
    file_densities=(0.05,),
    imports=("math", "json"),
)


@dataclasses.dataclass(frozen=True)
class Bench:
    """What a section measures with."""

    seeds: list[int] = setting(
        (1, 2, 4, 8, 16, 32, 64), "numbers of LeNet searches to compare", NUMBERS
    )
    devices: list[int] = setting((1, 2), "numbers of devices to compare", NUMBERS)
    lanes: list[int] = setting(
        (1, 2, 4), "numbers of lanes a device to compare", NUMBERS
    )
    batch_sizes: list[int] = setting((60, 128, 1024), "batch sizes to compare", NUMBERS)
    weights: list[int] = setting(
        (1_000_000, 10_000_000),
        "sizes of networks to select masks for, and to prune",
        checks.each(checks.whole(1)),
    )
    repeats: int = setting(
        5, "of every measurement; whole searches half as many", rules.MANY
    )
    limit: float = setting(
        20.0,
        "seconds after which no more repetitions of a comparison begin",
        checks.not_negative,
    )
    roofline: bool = setting(
        False, "in models, also the memory traffic against that of a copy"
    )
    data_dir: str | None = setting(
        None,
        "folder of prepared TFDS data, to search on MNIST instead of noise",
        rules.FOLDER_THERE,
    )
    open_lth: str | None = setting(
        None,
        "folder of a checkout of open_lth, to run beside this library in rivals",
        rules.FOLDER_THERE,
    )
    jaxpruner: str | None = setting(
        None,
        "folder of a checkout of jaxpruner, to train with beside this library",
        rules.FOLDER_THERE,
    )
    quick: bool = setting(False, "toy sizes: whether it runs, not how fast")

    @property
    def sizes(self) -> Sizes:
        """Of the work."""
        return QUICK if self.quick else Sizes()

    def together(
        self,
        works: Mapping[str, measure.Work],
        *,
        repeats: int | None = None,
        warm_up: bool = True,
        apart: bool = False,
    ) -> dict[str, measure.Timing]:
        """`measure.together` as often as the flags say."""
        repeats = self.repeats if repeats is None else repeats
        return measure.together(
            works, repeats=repeats, limit=self.limit, warm_up=warm_up, apart=apart
        )


def spread(devices: int, seeds: int, width: int = 1) -> int:
    """On how many of the devices so many seeds run: on no more than they fill."""
    return max(1, min(devices, seeds // width))


def place(seeds: int) -> tuple[int, int]:
    """Devices, and lanes on each, that the experiments give so many seeds."""
    width = layouts.usual(seeds)
    return spread(jax.device_count(), seeds, width), width


def layout(devices: int, per_device: int = 1) -> lanes.Layout:
    """A layout on the first so many devices."""
    return lanes.layout(per_device, jax.devices()[:devices])
