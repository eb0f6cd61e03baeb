"""Data: splits, cache, errors, and preprocessing against plain numpy."""

import functools
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxticket import data
from jaxticket.data import cache, dataset, digits, mnist1d, tfds_source

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def embedded():
    return data.load("digits")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data folder that holds the digits as written by the in-repo TFDS builder."""
    tfds = pytest.importorskip("tensorflow_datasets")
    from jaxticket.data.sklearn_digits import sklearn_digits_dataset_builder  # noqa: F401

    folder = str(tmp_path_factory.mktemp("tfds"))
    builder = tfds.builder(
        "sklearn_digits", data_dir=folder, file_format="array_record"
    )
    builder.download_and_prepare()
    return folder


def counts(split, classes=10):
    return np.bincount(split.labels, minlength=classes)


def equal(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


# Splits


def test_digits_have_the_documented_form(embedded):
    assert (embedded.name, embedded.num_classes) == ("digits", 10)
    sizes = [len(split.labels) for split in embedded[1:4]]
    assert sizes == [1200, 237, 360]
    for images, labels in embedded[1:4]:
        assert images.shape == (len(labels), 8, 8, 1)
        assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
        assert images.max() == 16


def test_held_out_images_partition_the_training_set(embedded):
    images, labels = digits.arrays("train")
    both = [np.concatenate(pair) for pair in zip(*embedded[1:3], strict=True)]

    def rows(images, labels):
        table = np.column_stack([images.reshape(len(images), -1), labels])
        return table[np.lexsort(table.T)]

    np.testing.assert_array_equal(rows(*both), rows(images, labels))


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_label_noise_is_of_other_classes_and_of_training_alone(embedded, share):
    found = data.with_label_noise(embedded, share)
    wrong = found.train.labels != embedded.train.labels
    assert wrong.sum() == round(share * len(wrong))
    assert found.train.labels.dtype == embedded.train.labels.dtype
    by = (found.train.labels - embedded.train.labels)[wrong] % 10
    counts = np.bincount(by, minlength=10)
    assert counts[0] == 0
    assert counts[1:].min() > 0.5 * wrong.sum() / 9
    more = data.with_label_noise(embedded, share / 2).train.labels
    less = more != embedded.train.labels
    assert not (less & ~wrong).any()
    np.testing.assert_array_equal(more[less], found.train.labels[less])
    assert found.validation is embedded.validation
    assert found.test is embedded.test
    assert found.checksum != embedded.checksum
    assert data.with_label_noise(embedded, 0.0) is embedded


def test_label_noise_needs_classes_and_a_share(embedded):
    with pytest.raises(
        ValueError, match=r"share must be a share, in \[0, 1\]; got 1.5"
    ):
        data.with_label_noise(embedded, 1.5)
    train = embedded.train._replace(labels=np.ones((1200, 2), np.float32))
    with pytest.raises(ValueError, match="label noise needs classes"):
        data.with_label_noise(embedded._replace(train=train), 0.1)
    with pytest.raises(ValueError, match="label noise needs two classes"):
        data.with_label_noise(embedded._replace(num_classes=1), 0.1)


@pytest.mark.parametrize(("count", "held_out"), [(2, 1), (5, 1), (12, 2)])
def test_of_few_images_one_is_held_out_at_least(count, held_out):
    split = data.Split(np.ones((count, 3), np.float32), np.arange(count) % 2)
    found = data.of_splits("few", split, split)
    assert len(found.validation.labels) == held_out
    one = data.Split(split.images[:1], split.labels[:1])
    with pytest.raises(ValueError, match="few: of the training images one is held out"):
        data.of_splits("few", one, split)


def test_loading_is_deterministic_and_the_checksum_sees_the_split(embedded):
    equal(embedded[1:5], data.load("digits")[1:5])
    assert embedded.checksum == "712a155ab405a067"
    assert data.load("digits", validation=100).checksum != embedded.checksum


# MNIST-1D


@pytest.fixture(scope="module")
def signals(tmp_path_factory):
    """The data set of 2,000 test signals, and its cache."""
    folder = tmp_path_factory.mktemp("signals")
    return data.load("mnist1d", cache_dir=folder, test_size=2000), folder


@pytest.fixture(scope="module")
def published():
    """What the package makes without a word from us."""
    package = pytest.importorskip("mnist1d.data")
    return package.make_dataset(package.get_dataset_args())


def test_signals_have_the_documented_form(signals):
    loaded, _ = signals
    assert (loaded.name, loaded.num_classes) == ("mnist1d", 10)
    for size, (images, labels) in zip((3500, 500, 2000), loaded[1:4], strict=True):
        assert (images.shape, labels.shape) == ((size, 40), (size,))
        assert (images.dtype, labels.dtype) == (np.float32, np.int32)
    whole = counts(loaded.train) + counts(loaded.validation)
    assert (np.abs(counts(loaded.validation) - whole / 8) < 1).all()
    # A seed makes as many of each class.
    first = counts(data.Split(None, loaded.test.labels[:1000]))
    assert set(whole + first) == {500}


def test_the_first_signals_are_the_published_ones(signals, published):
    kept = signals[1]
    for split, size, end in (("train", 4000, ""), ("test", 1000, "_test")):
        images, labels = mnist1d.arrays(split, test_size=2000, cache_dir=kept)
        np.testing.assert_array_equal(
            images[:size], published[f"x{end}"].astype(np.float32)
        )
        np.testing.assert_array_equal(labels[:size], published[f"y{end}"])


def test_further_test_signals_are_like_the_first_and_none_is_trained_on(signals):
    (_, train, validation, test, *_), _ = signals
    seen = np.concatenate([train.images, validation.images, test.images])
    assert len(np.unique(seen, axis=0)) == len(seen)
    first, further = test.images[:1000], test.images[1000:]
    assert abs(further.mean() - first.mean()) < 0.05
    assert abs(further.std() - first.std()) < 0.05


def test_the_number_of_test_signals_changes_nothing_else(signals, monkeypatch):
    loaded, kept = signals
    monkeypatch.setattr(mnist1d, "made", unreadable)  # all is in the cache
    fewer = data.load("mnist1d", cache_dir=kept, test_size=700)
    equal(fewer[1:3], loaded[1:3])
    equal(fewer.test, jax.tree.map(lambda x: x[:700], loaded.test))
    assert fewer.checksum != loaded.checksum
    assert sorted(p.name for p in kept.glob("mnist1d/*/*")) == ["seed_42", "seed_43"]


@pytest.mark.parametrize("fails", [False, True])
def test_making_signals_leaves_the_global_random_states_alone(fails, monkeypatch):
    package = pytest.importorskip("mnist1d.data")

    def make_dataset(arguments):
        package.set_seed(arguments.seed)
        if fails:
            raise RuntimeError("no signals")
        return {k: np.zeros(3) for k in ("x", "x_test", "y", "y_test")}

    monkeypatch.setattr(package, "make_dataset", make_dataset)
    draws = []
    for make in (lambda: None, lambda: mnist1d.made(42)):
        random.seed(7)
        np.random.seed(7)  # noqa: NPY002
        try:
            make()
        except RuntimeError:
            assert fails
        draws.append((random.random(), np.random.rand()))  # noqa: NPY002
    assert draws[0] == draws[1]


# Held-out images


@pytest.mark.parametrize("count", [1, 7, 237, 1436])
def test_every_class_gives_its_share(count):
    labels = digits.arrays("train")[1]
    held_out = dataset._hold_out(labels, count)
    assert held_out.sum() == count
    share = np.bincount(labels) * count / len(labels)
    assert (np.abs(np.bincount(labels[held_out], minlength=10) - share) < 1).all()


@pytest.mark.parametrize(
    ("name", "sizes", "shape"),
    [
        ("mnist", (55_000, 5_000, 10_000), (28, 28, 1)),
        ("cifar10", (45_000, 5_000, 10_000), (32, 32, 3)),
    ],
)
def test_prepared_data_have_the_papers_sizes(name, sizes, shape, tfds_dir):
    pytest.importorskip("tensorflow_datasets")
    loaded = data.load(name, data_dir=tfds_dir)  # the default cache: decoded only once
    for size, (images, labels) in zip(sizes, loaded[1:4], strict=True):
        assert images.shape == (size, *shape)
        assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
        assert images.max() == 255
    whole = counts(loaded.train) + counts(loaded.validation)
    share = whole * 5_000 / whole.sum()
    assert (np.abs(counts(loaded.validation) - share) < 1).all()
    if name == "cifar10":
        assert set(counts(loaded.validation)) == {500}


def test_the_tfds_builder_gives_the_same_digits(prepared, tmp_path, embedded):
    images = data.load("sklearn_digits", data_dir=prepared, cache_dir=tmp_path)
    assert len(images.validation.labels) == 1437 // 6
    for split in ("train", "test"):
        direct = digits.arrays(split)
        equal(direct, tfds_source.read("sklearn_digits", split, prepared))
    same = data.load(
        "sklearn_digits", data_dir=prepared, cache_dir=tmp_path, validation=237
    )
    assert same.checksum == embedded.checksum


# Errors


def test_without_tfds_the_digits_load_and_the_error_names_the_remedy():
    program = """
import sys
sys.modules["tensorflow_datasets"] = None
from jaxticket import data
slow = {"sklearn", "tensorflow", "PIL", "mnist1d", "matplotlib"}
assert not slow & set(sys.modules), "slow imports"
assert len(data.load("digits").train.labels) == 1200
try:
    data.load("mnist")
except ImportError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "'mnist' needs `pip install tensorflow-datasets" in done.stdout
    assert "'mnist1d' and 'digits' work without" in done.stdout


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("mnits", "did you mean 'mnist'"),
        ("digit", "did you mean 'digits'"),
        ("mnist-1d", "did you mean 'mnist1d'"),
        ("mnist/nonsense", "did you mean 'mnist'"),
        ("mnist:0.0.1", "did you mean 'mnist'"),
        ("", "'mnist1d' and 'digits' are always there"),
    ],
)
def test_an_unknown_name_gets_a_hint(name, hint, tmp_path):
    pytest.importorskip("tensorflow_datasets")
    with pytest.raises(ValueError, match=hint) as caught:
        data.load(name, data_dir=tmp_path)
    assert "\n" not in str(caught.value)


def test_data_that_are_not_prepared_say_where_and_how(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    with pytest.raises(FileNotFoundError) as caught:
        data.load("mnist", data_dir=tmp_path)
    message = str(caught.value)
    assert f"mnist/3.0.1 in {tmp_path}/mnist/3.0.1" in message
    assert "--data_dir" in message
    assert f'tfds.builder("mnist", data_dir="{tmp_path}", file_format=' in message
    assert "\n" not in message


SQUARE = {"image": np.zeros((2, 2, 1), np.uint8), "label": np.int64(1)}


@pytest.mark.parametrize(
    ("features", "examples", "message"),
    [
        (("audio", "label"), [], "'image', 'label' are needed"),
        (("image", "label"), [{"image": np.zeros((3, 2, 1), np.uint8)}], "varying"),
        (("image", "label"), [{"image": np.zeros((2, 2, 1), np.float32)}], "float32"),
        (("image", "label"), [{"label": np.float32(0.5)}], "labels float"),
    ],
)
def test_data_of_another_kind_are_refused(features, examples, message, monkeypatch):
    info = SimpleNamespace(features=dict.fromkeys(features), splits={"train": None})
    monkeypatch.setattr(tfds_source, "find", lambda *_: SimpleNamespace(info=info))
    rows = [SQUARE, *(SQUARE | example for example in examples)]
    monkeypatch.setattr(tfds_source, "_examples", lambda *_: iter(rows))
    with pytest.raises(ValueError, match=message):
        tfds_source.read("odd", "train", None)
    if "image" in features:
        with pytest.raises(ValueError, match="no 'test', only"):
            tfds_source.read("odd", "test", None)


def test_grey_images_get_a_channel_axis(monkeypatch):
    info = SimpleNamespace(features=dict(SQUARE), splits={"train": None})
    monkeypatch.setattr(tfds_source, "find", lambda *_: SimpleNamespace(info=info))
    rows = [{"image": np.zeros((2, 3), np.uint8), "label": 1}] * 4
    monkeypatch.setattr(tfds_source, "_examples", lambda *_: iter(rows))
    images, labels = tfds_source.read("grey", "train", None)
    assert images.shape == (4, 2, 3, 1)
    assert labels.dtype == np.int32


# Cache


def pair():
    return np.arange(60, dtype=np.uint8).reshape(5, 2, 2, 3), np.arange(
        5, dtype=np.int32
    )


def unreadable():
    raise FileNotFoundError("the source is gone")


def test_the_second_load_does_not_read_the_source(prepared, tmp_path, monkeypatch):
    def load():
        return data.load("sklearn_digits", data_dir=prepared, cache_dir=tmp_path)

    first = load()
    monkeypatch.setattr(tfds_source, "read", unreadable)
    equal(first[1:5], load()[1:5])
    assert not [path for path in tmp_path.rglob(".*")], "temporary files are left"


@pytest.mark.parametrize("name", [*cache.FILES, cache.RECORD])
def test_a_damaged_entry_is_read_again(name, tmp_path, caplog):
    cache.fetch(tmp_path, pair)
    path = tmp_path / name
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(RuntimeError, match="damaged .* the source is gone"):
        cache.fetch(tmp_path, unreadable)
    caplog.clear()
    equal(cache.fetch(tmp_path, pair), pair())
    assert "damaged" in caplog.text
    equal(cache.fetch(tmp_path, unreadable), pair())


def test_without_its_record_an_entry_is_absent(tmp_path, caplog):
    cache.fetch(tmp_path, pair)
    (tmp_path / cache.RECORD).unlink()  # as a writer that was killed leaves it
    with pytest.raises(FileNotFoundError, match="the source is gone"):
        cache.fetch(tmp_path, unreadable)
    equal(cache.fetch(tmp_path, pair), pair())
    assert not caplog.text


def test_a_cache_that_cannot_be_written_only_warns(tmp_path, caplog):
    (tmp_path / "file").touch()
    equal(cache.fetch(tmp_path / "file" / "entry", pair), pair())
    assert "cannot be written" in caplog.text


def test_entries_tell_sources_apart_and_stay_out_of_the_data(tmp_path):
    sources = [tmp_path / name / "mnist" / "3.0.1" for name in ("first", "second")]
    for source in sources:
        source.mkdir(parents=True)
        (source / "dataset_info.json").write_text("{}")
    entries = [cache.entry("mnist/3.0.1", source, tmp_path) for source in sources]
    (sources[0] / "dataset_info.json").write_text('{"changed": 1}')
    entries.append(cache.entry("mnist/3.0.1", sources[0], tmp_path))
    assert len(set(entries)) == 3
    with pytest.raises(ValueError, match="inside the data folder"):
        cache.entry("mnist/3.0.1", sources[0], tmp_path / "first" / "cache")


def test_the_default_cache_follows_the_environment(tmp_path, monkeypatch):
    source = tmp_path / "data" / "mnist" / "3.0.1"
    source.mkdir(parents=True)
    (source / "dataset_info.json").write_text("{}")
    monkeypatch.setenv("JAXTICKET_CACHE", str(tmp_path / "here"))
    assert cache.entry("mnist/3.0.1", source).is_relative_to(tmp_path / "here")
    monkeypatch.delenv("JAXTICKET_CACHE")
    home = Path.home() / ".cache" / "jaxticket"
    assert cache.entry("mnist/3.0.1", source).is_relative_to(home.resolve())


# Preprocessing


def pictures(count=6, channels=3, top=255):
    rng = np.random.default_rng(0)
    shape = (count, 32, 32, channels)
    return rng.integers(0, top, shape, np.uint8, endpoint=True)


MNIST = (0.1307, 0.3081)
CIFAR = (np.array([125.3, 123, 113.9]) / 255, np.array([63, 62.1, 66.7]) / 255)


@pytest.mark.parametrize(
    ("kind", "name", "channels", "top", "expected"),
    [
        ("standard", "mnist", 1, 255, lambda x: (x / 255 - MNIST[0]) / MNIST[1]),
        ("standard", "cifar10", 3, 255, lambda x: (x / 255 - CIFAR[0]) / CIFAR[1]),
        ("standard", "", 3, 255, lambda x: (x - x.mean((0, 1, 2))) / x.std((0, 1, 2))),
        ("standard", "digits", 1, 16, lambda x: (x - x.mean()) / x.std()),
        ("unit", "cifar10", 3, 255, lambda x: x / 255),
        ("unit", "digits", 1, 16, lambda x: x / 16),
        ("l2", "", 3, 255, lambda x: x / np.sqrt((x**2).sum((1, 2, 3), keepdims=True))),
    ],
)
def test_normalizers_follow_their_equations(kind, name, channels, top, expected):
    images = pictures(channels=channels, top=top)
    normalize = data.normalizer(kind, images, name=name)
    got = jax.jit(normalize)(images)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, expected(images.astype(float)), 2e-5, 2e-6)
    lanes = jax.vmap(normalize)(images[None])[0]
    np.testing.assert_allclose(lanes, got, 1e-6, 1e-6)


def test_a_file_has_no_published_numbers_whatever_its_folder_is_called():
    images = np.random.default_rng(0).random((9, 4, 4, 1), np.float32)
    found = np.asarray(
        data.normalizer("standard", images, name="mnist/own.npz")(images)
    )
    np.testing.assert_allclose([found.mean(), found.std()], [0, 1], atol=1e-5)


def test_normalizers_of_signals():
    """A signal is one channel; published standardised, MNIST-1D stays as it is."""
    signals = np.random.default_rng(0).normal(3, 2, (50, 40)).astype(np.float32)
    signals[3, 4] = -20  # the largest magnitude

    def got(kind, name=""):
        return jax.jit(data.normalizer(kind, signals, name=name))(signals)

    norms = np.sqrt((signals**2).sum(1, keepdims=True))
    standard = (signals - signals.mean()) / signals.std()
    np.testing.assert_array_equal(got("standard", "mnist1d"), signals)
    np.testing.assert_allclose(got("standard"), standard, 1e-4, 1e-5)
    np.testing.assert_allclose(got("unit"), signals / 20, 1e-6)
    np.testing.assert_allclose(got("l2"), signals / norms, 1e-5)


@pytest.mark.parametrize("kind", data.NORMALIZATIONS)
def test_constant_images_stay_finite(kind):
    black = np.zeros((2, 4, 4, 1), np.uint8)
    assert not data.normalizer(kind, black)(black).any()


def crops(image, pad, flip):
    """Every image that augmentation may make of one: {bytes: (top, left, mirrored)}."""
    height, width, _ = image.shape
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    found = {}
    for top in range(2 * pad + 1):
        for left in range(2 * pad + 1):
            crop = padded[top : top + height, left : left + width]
            found[crop.tobytes()] = (top, left, False)
            if flip:
                found[crop[:, ::-1].tobytes()] = (top, left, True)
    return found


@pytest.mark.parametrize(("pad", "flip"), [(4, True), (4, False), (1, True), (0, True)])
def test_every_augmented_image_is_a_crop_of_its_own(pad, flip):
    images = pictures(64)[:, :12, :10]
    augment = functools.partial(data.augment, pad=pad, flip=flip)
    augmented = jax.jit(augment)(jax.random.key(0), images)
    assert (augmented.shape, augmented.dtype) == (images.shape, jnp.uint8)
    draws = [
        crops(image, pad, flip)[np.asarray(made).tobytes()]
        for image, made in zip(images, augmented, strict=True)
    ]
    top, left, mirrored = np.array(draws).T
    assert set(top) == set(left) == set(range(2 * pad + 1))
    assert set(mirrored) == {0, 1} if flip else not mirrored.any()
    assert pad == 0 or (top != left).any()


def test_augmentation_draws_evenly():
    count = 20_000
    column = np.zeros((count, 9, 9, 1), np.uint8)
    column[:, 4, 4] = 1  # where it lands tells the offsets; 4 + 4 - offset
    augment = jax.jit(functools.partial(data.augment, flip=False))
    augmented = np.asarray(augment(jax.random.key(1), column))
    landed = augmented.mean(0)[..., 0]
    np.testing.assert_allclose(landed, 1 / 81, atol=5 * np.sqrt(1 / 81 / count))


def linearly(image, size, top, left, tall, wide):
    """A part of an image, resized: weights of a triangle over what a pixel covers."""

    def weights(length, first, part):
        scale = part / size  # pixels of the image to one of the result
        centres = first + (np.arange(size) + 0.5) * scale - 0.5
        away = np.abs(centres[:, None] - np.arange(length)) / max(scale, 1)
        found = np.maximum(0, 1 - away)
        return found / found.sum(1, keepdims=True)

    height, width, _ = image.shape
    rows, columns = weights(height, top, tall), weights(width, left, wide)
    return np.einsum("ih,jw,hwc->ijc", rows, columns, image.astype(np.float64))


@pytest.mark.parametrize("size", [6, 20])
def test_every_resized_crop_is_a_part_of_its_image(size):
    images = np.random.default_rng(0).integers(0, 256, (6, 9, 12, 2), np.uint8)
    crop = functools.partial(data.random_resized_crop, size=size, area=(0.3, 0.9))
    made = np.asarray(jax.jit(crop)(jax.random.key(3), images))
    assert (made.shape, made.dtype) == ((6, size, size, 2), np.float32)
    drawn = []
    for image, ours in zip(images, made, strict=True):
        parts = [
            (mirror, top, left, tall, wide)
            for mirror in (1, -1)
            for tall in range(1, 10)
            for wide in range(1, 13)
            if 0.25 < tall * wide / 108 < 0.95 and 0.6 < wide / tall < 1.6
            for top in range(10 - tall)
            for left in range(13 - wide)
        ]
        for mirror, *part in parts:
            theirs = linearly(image, size, *part)
            if np.abs(theirs - ours[:, ::mirror]).max() < 1e-2:
                drawn.append((mirror, *part))
                break
    assert len(drawn) == 6
    assert len({*drawn}) > 3


def test_resized_crops_have_the_shares_and_ratios_that_are_asked_for():
    # Places as colours: slopes tell how large a part was, its middle where it was.
    count, side, size = 2000, 60, 30
    place = np.arange(side, dtype=np.float32)
    image = np.stack(np.meshgrid(place, place, indexing="ij"), axis=-1)
    images = np.broadcast_to(image, (count, *image.shape))
    crop = jax.jit(functools.partial(data.random_resized_crop, size=size))
    made = np.asarray(crop(jax.random.key(4), images))
    inner = made[:, 5:-5, 5:-5]  # where no edge counts
    slopes = [inner[:, -1, 0, 0] - inner[:, 0, 0, 0]]
    slopes += [inner[:, 0, -1, 1] - inner[:, 0, 0, 1]]
    tall, wide = np.round(np.abs(slopes) / 19 * size)
    np.testing.assert_allclose(np.abs(slopes) / 19 * size, [tall, wide], atol=0.3)
    assert 0.45 < (slopes[1] < 0).mean() < 0.55  # mirrored
    assert (slopes[0] > 0).all()
    area, ratio = tall * wide / side**2, wide / tall
    assert 0.07 < area.min() < 0.1
    assert 0.9 < area.max() <= 1.0
    assert 0.7 < ratio.min() < 0.78
    assert 1.28 < ratio.max() < 1.42
    assert abs(np.log(ratio).mean()) < 0.02
    # As often as in draws of the same kind: large parts of odd ratios do not fit.
    draw = np.random.default_rng(0)
    areas = draw.uniform(0.08, 1, 10**5)
    ratios = np.exp(draw.uniform(np.log(3 / 4), np.log(4 / 3), 10**5))
    fit = (areas * ratios <= 1) & (areas / ratios <= 1)
    for bound in (0.2, 0.4, 0.7):
        expected = (areas[fit] < bound).mean()
        assert abs((area < bound).mean() - expected) < 5 * np.sqrt(0.25 / count)
    middle = inner.mean((1, 2))
    np.testing.assert_allclose(middle.mean(0), 29.5, atol=0.6)
    assert (middle - np.stack([tall, wide], 1) / 2 > -0.8).all()
    assert (middle + np.stack([tall, wide], 1) / 2 < side - 0.2).all()
    free = side - tall > 10
    top = (middle[:, 0] - tall / 2 + 0.5)[free] / (side - tall)[free]
    assert abs(np.mean(top < 0.25) - 0.25) < 0.05


def test_where_no_part_fits_the_middle_square_is_taken():
    images = np.random.default_rng(1).integers(0, 256, (3, 6, 40, 1), np.uint8)
    made = data.random_resized_crop(
        jax.random.key(0), images, 6, area=(1.0, 1.0), flip=False
    )
    np.testing.assert_allclose(made, images[:, :, 17:23], atol=1e-3)
    np.testing.assert_array_equal(data.centre_crop(images, 6), images[:, :, 17:23])


def test_the_centre_of_an_image():
    images = np.arange(2 * 7 * 8).reshape(2, 7, 8, 1)
    np.testing.assert_array_equal(data.centre_crop(images, 4), images[:, 1:5, 2:6])
    np.testing.assert_array_equal(data.centre_crop(images, 7), images[:, :, :7])


def test_resized_crops_jit_and_vmap():
    images = pictures()
    keys = jax.random.split(jax.random.key(2), 2)
    crop = jax.jit(functools.partial(data.random_resized_crop, size=8))
    one_by_one = np.stack([crop(key, images) for key in keys])
    lanes = jax.vmap(crop, (0, None))(keys, images)
    np.testing.assert_allclose(lanes, one_by_one, atol=1e-3)
    assert (lanes[0] != lanes[1]).any()


def test_augmentation_jits_and_vmaps():
    images = pictures()
    keys = jax.random.split(jax.random.key(2), 3)
    one_by_one = np.stack([jax.jit(data.augment)(key, images) for key in keys])
    lanes = jax.jit(jax.vmap(data.augment, (0, None)))(keys, images)
    np.testing.assert_array_equal(lanes, one_by_one)
    assert (lanes[0] != lanes[1]).any()
