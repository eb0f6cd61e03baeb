"""ImageNet's data sets by name, on a few pictures prepared in their format."""

import dataclasses
import functools
from types import SimpleNamespace

import numpy as np
import pytest
import studies

from jaxticket import data, machine, models
from jaxticket.data import pictures, tfds_source

pytest.importorskip("grain")
toy_images = pytest.importorskip("toy_images", exc_type=ImportError)
REAL = models.create
NARROW = {"model.width": 2, "model.blocks": (1,)}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Two data sets of ImageNet: 36 pictures to train on, 12 to test, of 3 classes."""
    folder = tmp_path_factory.mktemp("tfds")
    toy_images.prepare(folder, "imagenet2012", "5.1.0")
    toy_images.prepare(folder, "imagenet_resized/64x64", "0.1.0", (64, 64))
    return folder


def loaded(name, folder, tmp_path, **options):
    options = {"validation": 6, "cache_dir": tmp_path / "cache", **options}
    return data.load(name, data_dir=folder, **options)


@pytest.mark.parametrize(
    ("name", "side"), [("imagenet2012", 32), ("imagenet_resized/64x64", None)]
)
def test_what_streams_is_what_would_be_in_memory(name, side, prepared, tmp_path):
    whole = loaded(name, prepared, tmp_path, side=side)
    ours = loaded(name, prepared, tmp_path, side=side, stream=True)
    assert whole.train.images.shape == (30, side or 64, side or 64, 3)
    assert isinstance(ours.train.images, data.streams.Rows)
    assert ours.train.images.shape == whole.train.images.shape
    assert ours.num_classes == whole.num_classes == 3
    np.testing.assert_array_equal(ours.train.images[:], whole.train.images)
    np.testing.assert_array_equal(ours.train.labels, whole.train.labels)
    for first, second in zip(ours[2:4], whole[2:4], strict=True):
        np.testing.assert_array_equal(first.images, second.images)
        np.testing.assert_array_equal(first.labels, second.labels)
    assert [len(split.labels) for split in ours[2:4]] == [6, 12]
    # The brightest channel is the class: labels go with their images.
    brightest = whole.test.images.mean((1, 2)).argmax(1)
    np.testing.assert_array_equal(brightest, whole.test.labels)


def test_what_was_decoded_is_kept_and_by_its_size(prepared, tmp_path, monkeypatch):
    load = lambda **options: loaded("imagenet2012", prepared, tmp_path, **options)  # noqa: E731
    small, large = load(side=16), load(side=32)
    assert (small.test.images.shape[1], large.test.images.shape[1]) == (16, 32)
    labels = load(side=16, stream=True).train.labels

    def unreadable(*args, **options):
        raise AssertionError("the source is read again")

    monkeypatch.setattr(tfds_source, "_examples", unreadable)
    monkeypatch.setattr(tfds_source, "labels", unreadable)
    assert load(side=16).checksum == small.checksum
    np.testing.assert_array_equal(load(side=16, stream=True).train.labels, labels)


def test_the_middle_of_an_image_is_taken_at_the_size_asked_for():
    for height, width in ((40, 60), (61, 40), (40, 40)):
        y, x = np.mgrid[:height, :width]
        image = np.stack([2 * y, 2 * x, 0 * x], axis=-1).astype(np.uint8)
        whole = pictures.square(image, 40).astype(int)
        top, left = (height - 40) // 2, (width - 40) // 2
        middle = image[top : top + 40, left : left + 40]
        np.testing.assert_array_equal(whole, middle)
        half = pictures.square(image, 20).astype(int)
        # A pixel of half the size is where four of the image meet.
        where = 2 * (2 * np.arange(20) + 0.5)
        inner = slice(2, -2)
        rows, columns = half[inner, inner, 0], half[inner, inner, 1]
        expected = where[inner] + 2 * top
        assert np.abs(rows - expected[:, None]).max() <= 3
        assert np.abs(columns - (where[inner] + 2 * left)).max() <= 3
    grey = pictures.square(np.full((9, 7, 1), 5, np.uint8), 4)
    np.testing.assert_array_equal(grey, np.full((4, 4, 1), 5))


def part(image, generator, size):
    """As `pictures.random_part`, drawn one after another; and what it has cut out."""
    height, width, _ = image.shape
    draws = generator.random(23)
    low, high = np.log(3 / 4), np.log(4 / 3)
    tall = wide = min(height, width)
    top, left = (height - tall) // 2, (width - wide) // 2
    for share, ratio in zip(draws[:10], draws[10:20], strict=True):
        area, ratio = (0.08 + 0.92 * share) * height * width, low + (high - low) * ratio
        wanted = (
            round((area * np.exp(ratio)) ** 0.5),
            round((area / np.exp(ratio)) ** 0.5),
        )
        if wanted[0] <= width and wanted[1] <= height:
            wide, tall = wanted
            top = int(draws[20] * (height - tall + 1))
            left = int(draws[21] * (width - wide + 1))
            break

    def weights(length):  # of each pixel, by what it has of every pixel of the result
        scale = length / size
        centres = (np.arange(size) + 0.5) * scale - 0.5
        away = np.abs(centres[:, None] - np.arange(length)) / max(scale, 1)
        found = np.maximum(0, 1 - away)
        return found / found.sum(1, keepdims=True)

    cut = image[top : top + tall, left : left + wide].astype(float)
    made = np.einsum("ih,jw,hwc->ijc", weights(tall), weights(wide), cut)
    return made[:, ::-1] if draws[22] < 0.5 else made, (top, left, tall, wide)


@pytest.mark.parametrize("shape", [(40, 56, 3), (64, 48, 1), (12, 90, 3)])
def test_a_random_part_is_cut_out_of_the_whole_image(shape):
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    boxes = []
    for seed in range(300):
        ours = pictures.random_part(image, np.random.default_rng(seed), 16)
        theirs, box = part(image, np.random.default_rng(seed), 16)
        assert (ours.shape, ours.dtype) == ((16, 16, shape[2]), np.uint8)
        assert np.abs(ours - theirs).max() < 1.6  # two roundings, each by a half
        boxes.append(box)
    top, left, tall, wide = np.transpose(boxes)
    height, width, _ = shape
    if height > 12:  # else hardly a part fits
        assert (top.min(), left.min()) == (0, 0)
        assert (top + tall).max() == height
        assert (left + wide).max() == width
        share = tall * wide / (height * width)
        assert 0.07 < share.min() < 0.1
        assert share.max() > 0.8
        assert 0.7 < (wide / tall).min() < 0.8
        assert 1.25 < (wide / tall).max() < 1.4


def test_parts_of_pictures_that_stream_are_of_the_whole_picture(prepared, tmp_path):
    found = loaded("imagenet2012", prepared, tmp_path, side=20, stream=True)
    images = found.train.images
    assert images.many_sizes
    ours = images.varied(lambda image, _: np.array(image.shape))
    bits = np.zeros((30, data.streams.BITS), np.uint32)
    sizes = {(*size.tolist(),) for size in ours.visited(np.arange(30), bits)}
    assert sizes == {(*size, 3) for size in toy_images.SIZES}
    assert ours.shape == (30, 20, 20, 3)  # for all else
    small = loaded("imagenet_resized/64x64", prepared, tmp_path, stream=True)
    assert not small.train.images.many_sizes


def test_published_constants_normalise():
    images = np.full((1, 2, 2, 3), 255, np.uint8)
    for name in ("imagenet2012", "imagenet2012:5.1.0", "imagenet_resized/64x64"):
        found = data.normalizer("standard", images, name=name)(images)
        expected = (1 - np.array([0.485, 0.456, 0.406])) / [0.229, 0.224, 0.225]
        np.testing.assert_allclose(found[0, 0, 0], expected, rtol=1e-5)


def test_what_streams_has_the_statistics_of_what_is_in_memory(monkeypatch):
    monkeypatch.setattr(data.streams, "CHUNK", 7)
    images = np.random.default_rng(0).integers(0, 256, (40, 6, 5, 3), np.uint8)
    lazy = data.streams.Rows([*images])
    for kind in ("standard", "unit", "l2"):
        ours, theirs = (data.normalizer(kind, x)(images) for x in (lazy, images))
        np.testing.assert_array_equal(ours, theirs)


# What is refused


def test_what_is_not_prepared_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="no prepared imagenet2012/") as caught:
        data.load("imagenet2012", data_dir=tmp_path, stream=True)
    message = str(caught.value)
    assert "--data_dir" in message
    assert f"ILSVRC2012_img_val.tar in {tmp_path}/downloads/manual" in message
    assert "\n" not in message
    with pytest.raises(FileNotFoundError, match=r"imagenet_resized/64x64/0.1.0"):
        data.load("imagenet_resized/64x64", data_dir=tmp_path)


def test_more_than_the_memory_is_refused_before_it_is_read(
    prepared, tmp_path, monkeypatch
):
    monkeypatch.setattr(machine, "memory", lambda: 10**5)
    needed = 48 * 32 * 32 * 3 / 1e9
    with pytest.raises(ValueError, match="give --stream") as caught:
        loaded("imagenet2012", prepared, tmp_path, side=32)
    assert f"imagenet2012 takes {needed:.1f} GB decoded" in str(caught.value)
    loaded("imagenet2012", prepared, tmp_path, side=32, stream=True)


def test_a_side_is_for_images_of_many_sizes(prepared, tmp_path):
    with pytest.raises(ValueError, match="side 32 is for images of many sizes"):
        loaded("imagenet_resized/64x64", prepared, tmp_path, side=32)
    with pytest.raises(ValueError, match="side must be a whole number"):
        loaded("imagenet2012", prepared, tmp_path, side=0)


def test_only_array_record_is_read_at_random_places(prepared, tmp_path, monkeypatch):
    find = tfds_source.find

    def tfrecord(*args):
        builder = find(*args)
        formats = [SimpleNamespace(value="tfrecord")]
        monkeypatch.setattr(
            type(builder.info), "available_file_formats", lambda self: formats
        )
        return builder

    with monkeypatch.context() as patch:
        patch.setattr(tfds_source, "find", tfrecord)
        with pytest.raises(RuntimeError, match="cannot be read at random places"):
            loaded("imagenet2012", prepared, tmp_path, stream=True)


def test_without_array_record_it_is_said_what_to_install(
    prepared, tmp_path, monkeypatch
):
    builder = type(tfds_source.find("imagenet2012", prepared))

    def missing(*args, **options):
        raise ModuleNotFoundError("No module named 'array_record.python'")

    monkeypatch.setattr(builder, "as_data_source", missing)
    for stream in (True, False):
        with pytest.raises(ImportError, match="pip install array_record"):
            loaded("imagenet2012", prepared, tmp_path, stream=stream)


# A study


def pictured(door, prepared, folder, name, **changes):
    """What a study of pictures that are augmented has logged, and its rows."""
    changes = {
        "stream": True,
        "model": "resnet_50",
        "data_dir": str(prepared),
        "cache_dir": str(folder / "cache"),
        "validation": 6,
        "seeds": 1,
        "batch_size": 10,
        "epochs": 2,
        "augment": True,
        "crop": 16,
        **changes,
    }
    rows = studies.run(door, folder / name, **changes)
    return (folder / name / "metrics.jsonl").read_text(), rows


def test_a_bottleneck_network_is_pruned_on_pictures_that_stream(
    toy_study, prepared, tmp_path, monkeypatch
):
    """As in memory, where pictures are of one size."""
    monkeypatch.setattr(models, "create", REAL)
    (ours, rows), (whole, _) = (
        pictured(
            "ticket_search",
            prepared,
            tmp_path,
            f"{stream}",
            stream=stream,
            dataset="imagenet_resized/64x64",
            optimizer="momentum",
            methods=("one_shot",),
            controls=(),
            hyper={"one_shot.density": (0.5,), **NARROW},
        )
        for stream in (True, False)
    )
    assert ours == whole
    assert {*rows.method} == {"dense", "one_shot"}


# By the presets, which are short here.
PRESET = {
    "dataset": "imagenet2012",
    "hyper": {"dataset.side": 20, **NARROW},
    "learning_rate": None,
    "learning_rate_drops": None,
    "controls": (),
    "rounds": 2,
    "warmup_epochs": 1,
    "rewind_epoch": 1,
}


def test_parts_are_those_of_a_run_in_peace_whoever_cuts_them(
    toy_study, prepared, tmp_path, monkeypatch
):
    """From whole pictures, after an interruption, with other threads."""
    monkeypatch.setattr(models, "create", REAL)
    seen, real = set(), pictures.random_part

    def spied(image, generator, size):
        seen.add(image.shape)
        return real(image, generator, size)

    monkeypatch.setattr(pictures, "random_part", spied)
    run = functools.partial(pictured, "ticket_search", prepared, tmp_path, **PRESET)
    whole, rows = run("whole")
    assert {*rows.method} == {"dense", "imp"}
    assert seen == {(*size, 3) for size in toy_images.SIZES}
    with monkeypatch.context() as patch:
        studies.faulty(patch, "SIGINT:1")
        with pytest.raises(KeyboardInterrupt):
            run("cut")
    monkeypatch.setattr(machine, "cores", lambda: 3)
    assert run("cut")[0] == whole


def test_gates_and_jackpots_are_searched_on_pictures_by_their_presets(
    toy_study, prepared, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(models, "create", REAL)
    frozen = {name: PRESET[name] for name in ("dataset", "hyper")}
    frozen |= {"search_epochs": 2, "tune_epochs": 1}
    for door, changes, methods in (
        ("continuous_sparsification", PRESET, {"one_shot"}),
        ("jackpots", {**frozen, "learning_rate": None}, {"jackpot", "magnitude"}),
    ):
        _, rows = pictured(door, prepared, tmp_path, door, **changes)
        assert methods < {*rows.method} <= {"dense", door, *methods}
    assert "there is no preset" not in capsys.readouterr().err


def test_experiments_that_hold_data_in_memory_have_no_such_flag():
    for name, streams in (
        ("ticket_search", True),
        ("continuous_sparsification", True),
        ("jackpots", True),
        ("instability", False),
        ("alignment", False),
    ):
        fields = dataclasses.fields(studies.door(name).Config)
        assert ("stream" in [field.name for field in fields]) == streams
