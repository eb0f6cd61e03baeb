"""Archives: whoever wrote the file, it is read with bounds or refused by its name."""

import json
import os
import struct
import time
import tracemalloc
import zipfile
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from test_files import TREES, identical, with_nan

from experiments.fuzzing import zips
from jaxticket import Ticket, archive, files

pytestmark = pytest.mark.usefixtures("threefry")

TREE = {"a": np.arange(6, dtype=np.float32), "m": np.arange(9) % 2 == 0}
WRITERS = {1: zips.first_version, 2: zips.second_version, 3: zips.third_version}
VERSIONS = tuple(WRITERS)


def written(version, tree=TREE, **about):
    """The bytes of a file of a version."""
    return WRITERS[version](tree, about)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.npz"


def refused(path, content, reason, like=TREE, *, seconds=1.0, most=5e6):
    """It is, by a `ValueError` with its name and the reason, at little cost."""
    path.write_bytes(content)
    load = files.load_ticket if isinstance(like, Ticket) else files.load
    tracemalloc.start()
    try:
        begun = time.process_time()
        with pytest.raises(ValueError, match=f"(?s)^{path} .*{reason}"):
            load(path, like)
        assert time.process_time() - begun < seconds
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


# What a good file is.


def test_numpy_opens_a_file_and_its_index_says_what_is_there(path):
    files.save(path, TREE, note="x")
    with np.load(path) as file:
        text = file["index.json"].tobytes().decode()
        index = json.loads(text)
        arrays = {name: file[digest] for name, _, _, digest in index["leaves"]}
    assert index["version"] == 2
    assert index["about"] == {"note": "x"}
    np.testing.assert_array_equal(arrays["a"], TREE["a"])
    np.testing.assert_array_equal(arrays["m"], np.packbits(TREE["m"]))
    body, _ = text.split(', "sha256": ')
    assert text == archive.seal(body)


def test_the_same_tree_is_the_same_file():
    assert written(2, note="x") == written(2, note="x")


@pytest.mark.parametrize("name", TREES)
def test_trees_of_version_1_come_back(path, name):
    path.write_bytes(written(1, TREES[name], note="x"))
    found, about = files.load(path, TREES[name])
    identical(found, TREES[name])
    assert about == {"note": "x"}


def test_a_ticket_that_version_0_2_0_has_written_comes_back(request):
    """The file is of the commit before the format had a version."""
    state = {"norm": {"mean": jnp.arange(6.0)}, "dropout": jax.random.key(2)}
    ticket = toy.ticket(lost=7)._replace(model_state=state)
    path = request.path.with_name("version_1.npz")
    found, about = files.load_ticket(path, ticket)
    identical(found, ticket._replace(weights=with_nan(ticket)))
    assert about == {"method": "imp", "density": 0.5}


@pytest.mark.parametrize("mask", [np.zeros(2, bool), np.ones(2, bool)])
def test_pruned_integers_of_version_1_are_refused_since_they_have_no_nan(path, mask):
    ticket = Ticket({"w": np.arange(2)}, {"w": mask})
    path.write_bytes(written(1, ticket))
    if mask.all():
        files.load_ticket(path, ticket)
        return
    with pytest.raises(ValueError, match=f"{path} lacks what the mask of w .* int64"):
        files.load_ticket(path, ticket)


# What is no file.


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "pipe", tmp_path / "folder", "/dev/zero", "/dev/null"):
        for load, like in ((files.load, TREE), (files.load_ticket, toy.ticket())):
            with pytest.raises(ValueError, match=f"^{path} is no file"):
                load(path, like)
    for where in ("nothing", "folder/nothing"):
        with pytest.raises(FileNotFoundError):
            files.load(tmp_path / where, TREE)


# Sizes.


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("size", [2**31, 2**40, 2**62])
def test_a_mask_of_enormous_shape_is_refused_at_once(path, version, size):
    """Whether the shape is expected or not."""
    given = zips.members(written(version))
    found = zips.index(given)
    found["leaves"][1][2] = [size]
    content = zips.packed(zips.with_text(given, zips.text(found, True)))
    assert len(content) < 2000
    refused(path, content, rf"expected m bool\[9\], found m bool\[{size}\]")
    like = TREE | {"m": jax.ShapeDtypeStruct((size,), bool)}
    refused(path, content, rf"m bool\[{size}\]: .*is stored, expected uint8", like)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("bits", [np.zeros(1, np.uint8), np.zeros(3, np.uint8)])
def test_bits_are_counted_and_not_padded(path, version, bits):
    tree = {"a": TREE["a"], "m": bits}
    given = zips.members(written(version, tree))
    found = zips.index(given)
    found["leaves"][1][1:3] = ["bool", [9]]
    content = zips.packed(zips.with_text(given, zips.text(found, True)))
    refused(path, content, rf"m bool\[9\]: uint8\[{bits.size}\] is stored")


def with_zeros(version, place, size):
    """A file whose member at a place holds as many bytes of zero."""
    given = zips.members(written(version))
    given[place] = given[place][0], zips.npy(np.zeros(size, np.uint8))
    return zips.packed(given, method=zipfile.ZIP_DEFLATED)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("place", range(3))
def test_a_member_that_unpacks_to_much_more_is_refused(path, version, place):
    """Before it is unpacked, if it says so; else at the first byte too many."""
    content = with_zeros(version, place, 2**25)
    assert len(content) < 2**16
    refused(path, content, "bytes, in .* at most")
    size = zips.FIELDS["size"]
    refused(path, zips.declared(content, place, size, 200, True), "at most|not as long")
    lying = zips.declared(with_zeros(version, place, 2**20), place, size, 200, True)
    refused(path, lying, "is not as long as it says", most=5e5)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (b"\0\0\0\xff\xff" * 2**19, b"", "at most"),  # blocks that hold nothing
        (b"", b"more", "is not as long as it says"),
    ],
)
def test_a_member_is_packed_in_as_many_bytes_as_it_takes(
    path, version, before, after, reason
):
    given = zips.members(written(version))
    name, content = given[0]
    packer = zlib.compressobj(wbits=-15)
    packed = packer.compress(content) + packer.flush()
    given[0] = name, before + packed + after
    bad = zips.packed(given)
    values = {"method": 8, "size": len(content), "checksum": zlib.crc32(content)}
    for field, value in values.items():
        bad = zips.declared(bad, 0, zips.FIELDS[field], value, True)
    refused(path, bad, reason, most=1e6)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_member_that_no_leaf_names_is_refused_unread(path, version):
    zeros = zips.npy(np.zeros(2**25, np.uint8))
    given = [*zips.members(written(version)), ("more.npy", zeros)]
    content = zips.packed(given, method=zipfile.ZIP_DEFLATED)
    refused(path, content, "no leaf names the member 'more'")


@pytest.mark.parametrize("version", VERSIONS)
def test_an_index_beyond_what_can_be_expected_is_refused_unread(path, version):
    given = zips.members(written(version))
    found = zips.index(given)
    found["leaves"] *= 450_000
    text = zips.text(found, True)
    content = zips.packed(zips.with_text(given, text), method=zipfile.ZIP_DEFLATED)
    refused(path, content, "the member index.json has .* at most")
    ticket = toy.ticket()
    refused(path, content, "the member index.json has .* at most", ticket)


def test_a_directory_beyond_what_can_be_expected_is_refused_unread(path):
    many = [(f"{i}.npy", b"") for i in range(20_000)]
    content = zips.packed([*zips.members(written(2)), *many])
    refused(path, content, "its directory takes more than")


def test_what_a_large_tree_takes_is_expected_of_it(path):
    """The bounds grow with it."""
    tree = {f"{'a name that is long ' * 9}{i}": np.float32([i]) for i in range(9_000)}
    files.save(path, tree, facts="x" * 400_000)
    identical(files.load(path, tree)[0], tree)


def test_facts_that_nobody_would_read_are_not_written(path):
    with pytest.raises(ValueError, match="facts of 600012 bytes: at most 524288"):
        files.save(path, TREE, note="x" * 600_000)
    assert not path.exists()


# What holds a zip together.


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("flags", 1, "it is encrypted"),
        ("method", 12, "it is compressed by method 12"),
        ("method", 99, "it is compressed by method 99"),
        ("checksum", 0, "is not what was written"),
        ("place", 3, "not where its directory says"),
        ("size", 2**32 - 1, "has 4294967295 bytes"),
        ("packed size", 2**32 - 1, "overlap"),
        ("packed size", 2**10, "overlap"),
    ],
)
def test_what_a_zip_says_of_its_members_is_checked(path, field, value, reason):
    content = zips.declared(written(2), 0, zips.FIELDS[field], value, True)
    refused(path, content, reason)


@pytest.mark.parametrize("byte", [1, 30])
def test_a_member_is_where_the_directory_says_and_of_that_name(path, byte):
    bad = bytearray(written(2))
    bad[zips.headers(bytes(bad))[0][1] + byte] ^= 1
    refused(path, bytes(bad), "not where its directory says")


@pytest.mark.parametrize("place", range(3))
def test_every_member_is_an_array_by_its_name(path, place):
    given = zips.members(written(2))
    name, content = given[place]
    given[place] = name.removesuffix(".npy"), content
    refused(path, zips.packed(given), "or no array")


def test_sizes_of_eight_bytes_are_checked_too(path):
    extra = struct.pack("<HHQ", 1, 8, 2**40)
    given = zips.members(written(2))
    large = zips.packed(given, extra=extra)
    content = zips.declared(large, 0, zips.FIELDS["size"], 2**32 - 1, False)
    refused(path, content, f"has {2**40} bytes")


def test_two_members_in_one_place_are_refused(path):
    given = zips.members(written(2))
    again = zips.packed([*given, given[0]])
    refused(path, again, "names a member twice")
    place = zips.headers(again)[0][1]
    refused(
        path,
        zips.declared(again, len(given), zips.FIELDS["place"], place, False),
        "names a member twice",
    )


# The index.


def edited(version, edit, sealed=True):
    given = zips.members(written(version, note="x"))
    found = zips.index(given)
    edit(found)
    return zips.packed(zips.with_text(given, zips.text(found, sealed)))


@pytest.mark.parametrize(
    "edit",
    [
        lambda found: found["leaves"].pop(),
        lambda found: found["about"].update(note="y"),
        lambda found: found["leaves"][0].__setitem__(0, "b"),
        lambda found: found["leaves"].reverse(),
    ],
)
def test_an_index_that_was_rewritten_has_another_digest(path, edit):
    refused(path, edited(2, edit, sealed=False), "the digest of its index differs")


def test_whoever_writes_the_digest_too_has_written_a_file(path):
    """A digest shows damage; that the file fits is checked all the same."""
    path.write_bytes(edited(2, lambda found: found["about"].update(note="y")))
    assert files.load(path, TREE)[1] == {"note": "y"}
    refused(
        path,
        edited(2, lambda found: found["leaves"][0].__setitem__(0, "b")),
        r"expected a float32\[6\], found b float32\[6\]",
    )


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("place", "value"),
    [
        *((0, name) for name in (["a"], {}, 7, None, True)),
        *((1, dtype) for dtype in (None, 4, ["float32"])),
        *((2, shape) for shape in ([-6], ["6"], [6.0], [True], None, 6, "6", [[6]])),
        *((3, digest) for digest in (7, None, "", "0" * 63, "G" * 64, "../" * 22)),
    ],
)
def test_an_entry_of_wrong_types_is_refused(path, version, place, value):
    bad = edited(version, lambda found: found["leaves"][0].__setitem__(place, value))
    refused(path, bad, "an entry of its index is no name, dtype, shape and digest")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("dtype", ["object", "O", "float31", "key of x", "\x1b[2J"])
def test_an_unknown_dtype_does_not_fit(path, version, dtype):
    bad = edited(version, lambda found: found["leaves"][0].__setitem__(1, dtype))
    shown = dtype.replace("\x1b[2J", r"\\x1b\[2J")  # no terminal obeys it
    refused(path, bad, rf"expected a float32\[6\], found a {shown}\[6\]")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_leaf_that_comes_twice_does_not_fit(path, version):
    bad = edited(version, lambda found: found["leaves"].insert(0, found["leaves"][0]))
    refused(path, bad, r"expected m bool\[9\], found a float32\[6\]")


@pytest.mark.parametrize(
    "change", [lambda text: text.view(np.int8), lambda text: text[None]]
)
def test_an_index_is_bytes_in_a_row(path, change):
    given = zips.members(written(2))
    *others, (name, content) = given
    bad = zips.npy(change(zips.array(content)))
    refused(path, zips.packed([*others, (name, bad)]), "its index is no text")


@pytest.mark.parametrize("text", ["[]", "7", '"leaves"', "null"])
def test_an_index_is_an_object(path, text):
    bad = zips.packed(zips.with_text(zips.members(written(2)), text))
    refused(path, bad, "its index is no object")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("place", range(3))
def test_a_member_that_is_missing_is_named(path, version, place):
    given = zips.members(written(version))
    lost = given.pop(place)[0].removesuffix(".npy")[:12]
    refused(path, zips.packed(given), f"it has no member {lost}")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none_are_refused(path, number):
    given = zips.members(written(1, note="x"))
    text = zips.text(zips.index(given), True).replace('"x"', number)
    refused(
        path, zips.packed(zips.with_text(given, text)), "a number that is -?(nan|inf)"
    )


def test_an_index_of_great_depth_is_refused(path):
    given = zips.members(written(1, note="x"))
    text = zips.text(zips.index(given), True)
    text = text.replace('"x"', "[" * 90_000 + "]" * 90_000)
    refused(path, zips.packed(zips.with_text(given, text)), "recursion")


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        ({"version": 4}, "it has version 4, known are 1 to 3"),
        ({"version": 3}, "an entry of its index says a form, or none, against"),
        ({"version": True}, "it has version True"),
        ({"version": 1}, "its index is not of version 1"),
        ({"more": 1}, "its index is not of version 2"),
        ({"leaves": {}}, "holds no leaves and facts"),
        ({"about": []}, "holds no leaves and facts"),
    ],
)
def test_an_index_of_another_kind_is_refused(path, edit, reason):
    refused(path, edited(2, lambda found: found.update(edit)), reason)


@pytest.mark.parametrize("form", ["gaps", "kept", "rebuilt", "", "\x1b[2J"])
def test_a_tree_that_is_no_ticket_is_stored_whole(path, form):
    bad = edited(3, lambda found: found["leaves"][0].__setitem__(4, form))
    shown = form.replace("\x1b[2J", r"\\x1b\[2J")
    reason = "no leaf names the member" if form == "rebuilt" else rf"\({shown}\)"
    refused(path, bad, reason)


@pytest.mark.parametrize("form", [7, None, ["whole"], {}, True])
def test_a_form_is_a_word(path, form):
    bad = edited(3, lambda found: found["leaves"][0].__setitem__(4, form))
    refused(path, bad, "an entry of its index is no name, dtype, shape and digest")


# The arrays.


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"fortran_order": True}, "not stored as it is written here"),
        ({"descr": "|O"}, "not stored as it is written here"),
        ({"shape": (-6,)}, "not stored as it is written here"),
        ({"shape": (2**40,)}, "is stored, expected"),
        ({"shape": (5,)}, "is stored, expected"),
        ({"descr": "<f8"}, "is stored, expected"),
        ({"descr": 7}, "descr"),
    ],
)
def test_an_array_with_another_header_is_refused(path, version, said, reason):
    given = zips.members(written(version))
    name, content = given[0]
    said = {"descr": "<f4", "fortran_order": False, "shape": (6,)} | said
    given[0] = name, zips.with_header(f"{said}\n", zips.array(content).tobytes())
    refused(path, zips.packed(given), reason)


def test_an_array_of_version_2_is_under_a_digest_with_its_header(path):
    """In version 1 a header that holds as many bytes passes for it."""
    for version in VERSIONS:
        given = zips.members(written(version))
        name, content = given[0]
        given[0] = name, zips.npy(zips.array(content).view(np.int32))
        if version == 1:
            path.write_bytes(zips.packed(given))
            identical(files.load(path, TREE)[0], TREE)
        else:
            refused(path, zips.packed(given), r"int32\[6\] is stored, expected float32")


def test_arrays_come_back_writeable(path):
    files.save(path, TREE)
    files.load(path, TREE)[0]["a"][0] = 9


def test_two_leaves_of_one_name_cannot_be_told_apart_and_are_not_written(path):
    weights = {"a": {"b": jnp.ones(2)}, "a/b": jnp.ones(2)}
    with pytest.raises(ValueError, match="two leaves are called 'a/b'"):
        files.save(path, weights)
    assert not path.exists()
