"""Kinds of damage to a ticket's file, by its structure; the list is `KINDS`.

A kind is a function `(random, content) -> content`. What can pass for a file that
somebody has written so is a `Forged`: it may load as another ticket.
"""

import functools
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.fuzzing import zips
from jaxticket import archive


class Forged(bytes):
    """A file that holds together."""


Kind = Callable[[random.Random, bytes], bytes]
KINDS: dict[str, Kind] = {}
BOMB = 2**26  # bytes that a small member unpacks to


def kind(f: Kind) -> Kind:
    """Adds a function to the kinds."""
    KINDS[f.__name__.replace("_", " ")] = f
    return f


# Bytes.


@kind
def bytes_flipped(random, content):
    bad = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 8))):
        bad[random.randrange(len(bad))] ^= 1 << random.randrange(8)
    return bytes(bad)


@kind
def bytes_cut_off(random, content):
    return content[: random.randrange(len(content))]


@kind
def bytes_lost(random, content):
    begin = random.randrange(len(content))
    return content[:begin] + content[begin + random.choice((1, 2, 30, 500)) :]


@kind
def bytes_put_in(random, content):
    place = random.choice((0, len(content), random.randrange(len(content))))
    junk = random.choice((bytes(64), b"PK\5\6", random.randbytes(100)))
    return content[:place] + junk + content[place:]


@kind
def bytes_spliced(random, content):
    size = random.choice((4, 64, 400))
    source, place = (random.randrange(len(content)) for _ in range(2))
    piece = content[source : source + size]
    return content[:place] + piece + content[place + len(piece) :]


@kind
def bytes_zeroed(random, content):
    begin, size = random.randrange(len(content)), random.choice((1, 16, 512))
    return (
        content[:begin]
        + bytes(len(content[begin : begin + size]))
        + (content[begin + size :])
    )


# What the zip says of its members.


@kind
def sizes_declared(random, content):
    field = zips.FIELDS[random.choice(("packed size", "size"))]
    values = (0, 1, 127, 2**16, 2**31 - 1, 2**32 - 1, random.randrange(2000))
    return _declared(random, content, field, random.choice(values))


@kind
def methods_declared(random, content):
    value = random.choice((0, 1, 8, 9, 12, 14, 93, 99))
    return _declared(random, content, zips.FIELDS["method"], value)


@kind
def flags_declared(random, content):
    value = 1 << random.randrange(16)
    return _declared(random, content, zips.FIELDS["flags"], value)


@kind
def checksums_declared(random, content):
    value = random.randrange(2**32)
    return _declared(random, content, zips.FIELDS["checksum"], value)


@kind
def places_declared(random, content):
    """Members that overlap, or are one."""
    others = [local for _, local in zips.headers(content)]
    value = random.choice((*others, random.randrange(len(content)), 2**32 - 1))
    return _declared(random, content, zips.FIELDS["place"], value)


@kind
def large_sizes_declared(random, content):
    """As zip64 has them: in a field of their own, of eight bytes."""
    sizes = [random.choice((0, 300, 2**31, 2**40, 2**63, 2**64 - 1)) for _ in "ab"]
    extra = struct.pack("<HHQQ", 1, 16, *sizes)[: random.choice((20, 20, 12))]
    big = zips.packed(zips.members(content), extra=extra)
    field = zips.FIELDS[random.choice(("size", "packed size"))]
    return _declared(random, big, field, 2**32 - 1)


@kind
def directories_declared(random, content):
    """How many members there are, how long their directory is, and where."""
    bad, (place, form) = (
        bytearray(content),
        random.choice(((10, "<H"), (8, "<H"), (12, "<I"), (16, "<I"))),
    )
    limit = 256 ** struct.calcsize(form)
    value = random.choice((0, 1, limit - 1, random.randrange(limit)))
    struct.pack_into(form, bad, len(bad) - 22 + place, value)
    return bytes(bad)


def _declared(random, content, field, value):
    member = random.randrange(len(zips.headers(content)))
    return zips.declared(content, member, field, value, random.random() < 0.7)


# Members.


def members(f: Callable[[random.Random, list], Any]) -> Kind:
    """A kind of the members, whose list it changes; it may return bytes as well."""

    @kind
    @functools.wraps(f)
    def changed(random, content):
        given = zips.members(content)
        found = f(random, given)
        return zips.packed(given) if found is None else found

    return changed


@members
def members_removed(random, given):
    given.pop(random.randrange(len(given)))


@members
def members_added(random, given):
    name = random.choice(("a.npy", "a", f"{64 * 'a'}.npy", "../../a.npy", "", "\0.npy"))
    given.insert(random.randrange(len(given)), (name, zips.npy(np.zeros(3))))


@members
def members_added_that_are_large(random, given):
    given.append((f"{64 * 'b'}.npy", b"")), given.reverse()
    return _with_bomb(given, len(given) - 1)


@kind
def members_added_in_thousands(random, content):
    return _with_members(content, random.choice((500, 3000)))


@functools.cache
def _with_members(content, number):
    many = [(f"{i:064x}.npy", b"") for i in range(number)]
    return zips.packed(zips.members(content) + many)


@members
def members_swapped(random, given):
    i, j = random.sample(range(len(given)), 2)
    (a, x), (b, y) = given[i], given[j]
    given[i], given[j] = (a, y), (b, x)


@members
def members_renamed(random, given):
    i = random.randrange(len(given))
    name, content = given[i]
    new = (
        name.upper(),
        name[:-4],
        f"./{name}",
        f"{64 * 'c'}.npy",
        f"{name}\0",
        "é.npy",
    )
    given[i] = random.choice(new), content


@members
def members_doubled(random, given):
    name, content = random.choice(given)
    other = random.choice((content, zips.npy(np.zeros(3))))
    given.insert(random.randrange(len(given)), (name, other))


@members
def members_in_another_order(random, given):
    random.shuffle(given)


@members
def members_packed_otherwise(random, given):
    methods = zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA
    comment = random.choice((b"", b"a comment"))
    return zips.packed(given, method=random.choice(methods), comment=comment)


# Arrays, with checksums of the zip that are right.


def arrays(f: Callable[[random.Random, bytes], bytes]) -> Kind:
    """A kind of what a member holds."""

    @members
    @functools.wraps(f)
    def changed(random, given):
        i = random.randrange(len(given))
        unsealed = given[i][0] == zips.INDEX and "sha256" not in zips.index(given)
        given[i] = given[i][0], f(random, given[i][1])
        return Forged(zips.packed(given)) if unsealed else None

    return changed


@arrays
def values_changed(random, content):
    bad = bytearray(content)
    bad[random.randrange(len(bad))] ^= 1 << random.randrange(8)
    return bytes(bad)


@arrays
def values_lost_or_added(random, content):
    return random.choice(
        (content[:-1], content[:-8], content + b"\0", content * 2, b"")
    )


@arrays
def headers_changed(random, content):
    values = zips.array(content)
    said = {
        "descr": values.dtype.str,
        "fortran_order": False,
        "shape": values.shape,
    }
    said |= random.choice(
        (
            {"descr": random.choice(("|O", "<f8", "|u1", ">f4", "|S9", "f", 7, None))},
            {"descr": [("a", "<f4")]},
            {"fortran_order": random.choice((True, 1, None))},
            {"shape": random.choice(((-1,), (2**31,), (2**63,), (2**40, 0), (1.0,)))},
            {
                "shape": random.choice(
                    ((), [3], "3", None, (1,) * 70, values.shape[::-1])
                )
            },
            {"more": 1},
        )
    )
    return zips.with_header(repr(said), values.tobytes(), random.choice((1, 1, 2, 3)))


@arrays
def headers_of_nonsense(random, content):
    texts = (
        "(" * 500,
        "-" * 1900 + "1",
        "[" * 90,
        "1",
        "{}",
        "{'descr': __import__('os')}",
    )
    header = random.choice((*texts, random.randbytes(200), " " * 60_000, "\n" * 300))
    return zips.with_header(header, content[-20:], random.choice((1, 2, 3, 9)))


@members
def values_that_are_large(random, given):
    return _with_bomb(given, random.randrange(len(given)))


@members
def values_that_are_pickled(random, given):
    i = random.randrange(len(given))
    given[i] = given[i][0], zips.npy(np.array([{}, [print]], object))


@functools.cache
def _bomb() -> tuple[bytes, int]:
    """`BOMB` zeros as an array, packed; and their checksum."""
    content = zips.npy(np.zeros(BOMB, np.uint8))
    packer = zlib.compressobj(9, wbits=-15)
    return packer.compress(content) + packer.flush(), zlib.crc32(content)


def _with_bomb(given, place):
    """The members with one that unpacks to `BOMB` bytes, whatever it says it has."""
    packed, checksum = _bomb()
    name, content = given[place]
    given[place] = name, packed
    content = zips.packed(given)
    values = {"method": 8, "checksum": checksum, "size": BOMB + 128}
    for field, value in values.items():
        content = zips.declared(content, place, zips.FIELDS[field], value, True)
    return content


# The index, with checksums of the zip that are right.


def index(f: Callable[[random.Random, dict], Any]) -> Kind:
    """A kind of the index, which it changes, or for which it returns a text.

    Half of them have a digest that is made right, as have all that have no digest.
    """

    @members
    @functools.wraps(f)
    def changed(random, given):
        found, sealed = zips.index(given), random.random() < 0.5
        return _indexed(given, found, sealed, f(random, found))

    return changed


def _indexed(given, found, sealed=True, text=None):
    """The members with an index, or its text; its digest is made right, or is not."""
    text = zips.text(found, sealed) if text is None else text
    content = zips.packed(zips.with_text(given, text))
    return Forged(content) if sealed or "sha256" not in found else content


@index
def entries_removed(random, found):
    found["leaves"].pop(random.randrange(len(found["leaves"])))


@index
def entries_doubled(random, found):
    entry = random.choice(found["leaves"])
    found["leaves"].insert(random.randrange(len(found["leaves"])), entry)


@index
def entries_in_another_order(random, found):
    random.shuffle(found["leaves"])


@index
def names_changed(random, found):
    entry = random.choice(found["leaves"])
    names = ("", "w", entry[0].upper(), entry[0] + "/", "mask", "\x1b[2J", "\ud800")
    entry[0] = random.choice((*names, 99 * "long", 7, None, [entry[0]], {}, True))


@index
def dtypes_changed(random, found):
    known = ("float32", "uint32", "int32", "bool", "float16", "key of rbg", "bfloat16")
    odd = ("object", "O", "void", "S9", "float31", "key of ", "", 7, None, ["bool"])
    random.choice(found["leaves"])[1] = random.choice((*known, *odd))


@index
def shapes_changed(random, found):
    entry = random.choice(found["leaves"])
    shape = entry[2]
    sizes = -1, 0, 2**31, 2**63, 10**30, 1.0, True, "3", None, [3]
    entry[2] = random.choice(
        (
            *([size] for size in sizes),
            shape[::-1],
            [*shape, 1],
            [1] * 100,
            [],
            "[3]",
            {"0": 3},
            None,
        )
    )


@index
def masks_of_enormous_shape(random, found):
    entry = random.choice([leaf for leaf in found["leaves"] if leaf[1] == "bool"])
    entry[2] = random.choice(([2**31], [2**16, 2**15], [2**62], [entry[2][0], 2**28]))


@index
def forms_changed(random, found):
    """What is stored of a leaf, in a version that says so."""
    entry = random.choice(found["leaves"])
    known = ("whole", "gaps", "kept", "kept as float16", "kept as bfloat16", "rebuilt")
    odd = ("", "kept as object", "Whole", 99 * "long", "\x1b[2J", 7, None, ["gaps"], {})
    entry[4:] = random.choice(([random.choice(known)], [random.choice(odd)], []))


@kind
def contents_forged(random, content):
    """Another array of bytes under a digest that is made right, as is the index."""
    given = zips.members(content)
    found = zips.index(given)
    i = random.choice([i for i, (name, _) in enumerate(given) if name != zips.INDEX])
    old, values = given[i][0].removesuffix(".npy"), zips.array(given[i][1])
    raw = bytearray(values.tobytes())
    for _ in range(random.choice((1, 2, 9))):
        raw[random.randrange(len(raw))] = random.choice((0, 1, 254, 255, 7))
    new = np.frombuffer(bytes(raw), values.dtype).reshape(values.shape)
    if values.dtype == np.uint8 and random.random() < 0.5:  # bits, gaps, bfloat16
        size = random.choice((0, 1, len(values) - 1, len(values) + 1, 36, 37, 2**16))
        new = np.resize(new, size)
    member = zips.npy(new)
    hashed = member if "sha256" in found else new.tobytes()
    given[i] = f"{archive.sha256(hashed)}.npy", member
    for entry in found["leaves"]:
        if entry[3] == old:
            entry[3] = archive.sha256(hashed)
    return _indexed(given, found)


@index
def recipes_changed(random, found):
    """What the weights of a file are made of; in others a fact that nobody follows."""
    good = {"model": "mlp", "shape": [6], "num_classes": 4, "options": {"hidden": [5]}}
    good["key"] = {"kind": "threefry2x32", "data": [0, 0]}
    name = random.choice([*good])
    others = {
        "model": ("os:system", "resnet_20", "vgg_19_bn", "", 7, None, 99 * "x", []),
        "shape": ([2**20] * 3, [0], [-1], [], "6", None, [6.5], [2**62], [1] * 99),
        "num_classes": (0, -1, 2**31, 10**30, "4", None, True, 4.0),
        "options": (
            *({"hidden": x} for x in ([1] * 5000, [2**40], [[5]], "5", 5, [], [-5])),
            *(
                {},
                [],
                None,
                {"blocks": [10**6]},
                {"parent": 1},
                {"hidden": [5], "x": 1},
            ),
        ),
        "key": (
            *({"kind": "threefry2x32", "data": x} for x in ([1, 0], [0], "a", [-1, 0])),
            *({"kind": x, "data": [0, 0]} for x in ("rbg", "os.system", 7, None)),
            *({}, None, [0, 0]),
        ),
    }
    found["about"]["recipe"] = good | {name: random.choice(others[name])}
    if random.random() < 0.2:
        found["about"]["recipe"] = random.choice((None, 7, [], {}, "mlp"))


@kind
def large_networks_in_recipes(random, content):
    """Names of networks that would take long to make, or much memory."""
    given = zips.members(content)
    found = zips.index(given)
    model, options = random.choice(
        (
            ("resnet_20", {"blocks": [10**7, 1, 1]}),
            ("resnet_50", {"width": 10**9}),
            ("mlp", {"hidden": [5] * 3000}),
            ("vgg_19", {"widths": [[64] * 3000]}),
            ("vgg_19_bn", {"hidden": [2**30, 2**30]}),
        )
    )
    recipe = {"model": model, "num_classes": 4, "options": options}
    recipe["shape"] = random.choice(([6], [32, 32, 3], [4096, 4096, 1]))
    recipe["key"] = {"kind": "threefry2x32", "data": [0, 0]}
    found["about"]["recipe"] = recipe
    return _indexed(given, found)


@index
def digests_changed(random, found):
    entry = random.choice(found["leaves"])
    digests = (64 * "0", entry[3].upper(), entry[3][:-1], archive.INDEX, "", 7, None)
    entry[3] = random.choice((*digests, [entry[3]], entry[3] + "\n"))


@index
def digests_swapped(random, found):
    one, other = random.sample(found["leaves"], 2)
    one[3], other[3] = other[3], one[3]


@index
def entries_of_another_kind(random, found):
    entry = random.choice(found["leaves"])
    place = found["leaves"].index(entry)
    others = ([], entry[:3], [*entry, 1], {}, 7, None, "abcd", dict.fromkeys("abcd"))
    found["leaves"][place] = random.choice(others)


@kind
def entries_in_thousands(random, content):
    return _with_entries(content, random.choice((1000, 20_000)), random.random() < 0.5)


@functools.cache
def _with_entries(content, number, sealed):
    given = zips.members(content)
    found = zips.index(given)
    found["leaves"] += [found["leaves"][0]] * number
    return _indexed(given, found, sealed)


@index
def facts_changed(random, found):
    found["about"] = random.choice(
        ({}, {"more": 1}, [], None, 7, "x", {"n": float("nan")}, {"n": -float("inf")})
    )


@index
def facts_of_great_depth(random, found):
    place = random.choice(("about", "leaves", "version"))
    deep = random.choice((50, 5000, 100_000))
    text = zips.text(found | {place: "HERE"}, True)
    return text.replace('"HERE"', "[" * deep + "]" * deep)


@kind
def facts_in_great_number(random, content):
    size, sealed = random.choice((2**18, 2**20, 2**22)), random.random() < 0.5
    return _with_facts(content, random.choice(("x", "0, ", "[], ")), size, sealed)


@functools.cache
def _with_facts(content, each, size, sealed):
    given = zips.members(content)
    found = zips.index(given)
    many = f'"{each * size}"' if each == "x" else f"[{each * (size // len(each))}0]"
    text = zips.text(found | {"about": {"x": "HERE"}}, False).replace('"HERE"', many)
    if sealed and "sha256" in found:
        text = archive.seal(text.rpartition(', "sha256"')[0])
    return _indexed(given, found, sealed, text)


@index
def numbers_that_are_none(random, found):
    number = random.choice(("NaN", "Infinity", "1e999", "-1e999", "9" * 5000))
    return zips.text(found | {"about": "HERE"}, True).replace(
        '"HERE"', f'{{"n": {number}}}'
    )


@index
def keys_changed(random, found):
    key = random.choice([*found, "more"])
    if random.random() < 0.5:
        found.pop(key, None)
    else:
        found[key] = random.choice((0, 1, 2, 3, 1.0, True, None, "2", [], {}))


@index
def texts_changed(random, found):
    text = json.dumps(found)
    return random.choice(
        (
            *("", "[]", "{}", "7", "null", "{", text[:-1], text + " ", f" {text}"),
            *(text.encode(code) for code in ("utf-16", "utf-32", "utf-8-sig")),
            json.dumps(found, indent=1),
            text.replace("2", "3", 1),
            text.encode()[:40] + b"\xff" + text.encode()[40:],
        )
    )


@members
def masks_removed(random, given):
    """An entry and its member: what is left is that of a ticket that prunes less."""
    found = zips.index(given)
    entry = random.choice([leaf for leaf in found["leaves"] if leaf[1] == "bool"])
    found["leaves"].remove(entry)
    given[:] = [member for member in given if member[0] != f"{entry[3]}.npy"]
    return _indexed(given, found, random.random() < 0.5)


# Forged altogether: other values, with all their digests.


@members
def values_forged(random, given):
    found = zips.index(given)
    stored = [leaf for leaf in found["leaves"] if leaf[-1] != archive.REBUILT]
    entry = random.choice(stored)
    place = [name for name, _ in given].index(f"{entry[3]}.npy")
    content = given[place][1]
    values = bytearray(zips.array(content).tobytes())
    if not values:
        return None
    values[random.randrange(len(values))] ^= 1 << random.randrange(8)
    content = content[: -len(values)] + bytes(values)
    digest = archive.sha256(content if "version" in found else bytes(values))
    given[place] = f"{digest}.npy", content
    for other in found["leaves"]:
        other[3] = digest if other[3] == entry[3] else other[3]
    return _indexed(given, found)
