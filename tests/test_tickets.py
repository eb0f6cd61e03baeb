"""Files of tickets from the command line: what is said of them, and other forms."""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import studies
from safetensors.numpy import load_file
from test_files import identical

from experiments import tickets
from experiments.reports import drawings
from experiments.study import kept
from jaxticket import Ticket, export, files, masks, models, prune
from jaxticket.engine import keys
from jaxticket.models import pretrained

HYPER = {"model.hidden": "(8,)", "imp.density": [0.5, 0.8]}
CONFIG = {"model": "mlp", "dataset": "digits", "hyper": HYPER}
RUN = {"identity": "ours", "config": CONFIG, "accepted": []}


@pytest.fixture(scope="module")
def weights():
    """Those of the run of `folder`, of its first seed."""
    model = models.create("mlp", hidden=(8,))
    return jax.jit(model.init)(keys.of_seed(0).init, jnp.ones((1, 8, 8, 1)))[0]


@pytest.fixture
def folder(tmp_path, weights):
    """A run of two tickets by IMP, the second inside the first."""
    (tmp_path / "config.json").write_text(json.dumps(RUN))
    ticket = Ticket(weights, masks.full(weights))
    for number in (1, 2):
        ticket = prune(ticket, "magnitude", 0.5)
        put(tmp_path, number, ticket)
    return tmp_path


def put(folder, number, ticket, **facts):
    path = folder / "tickets" / "imp" / f"seed-0-prunings-{number}.npz"
    density = float(masks.density(ticket.mask))
    about = {"method": "imp", "seed": 0, "prunings": number, "density": density}
    about["promised"] = ["nested", "anchored"]
    files.save_ticket(path, ticket, **{**about, "identity": "ours", **facts})
    return path


def path_of(folder, number=2):
    return folder / "tickets" / "imp" / f"seed-0-prunings-{number}.npz"


def run(*arguments, **options):
    tickets.experiment(tickets.Config(tuple(map(str, arguments)), **options))


def said(capsys):
    return capsys.readouterr().out


def test_the_command_line_has_words(monkeypatch):
    seen = []
    typed = ("show", "a.npz", "--pruned=keep")
    studies.shell(monkeypatch, "tickets", *typed, experiment=seen.append)
    assert seen == [tickets.Config(("show", "a.npz"), pruned="keep")]


def test_a_folder_is_listed(folder, capsys):
    run("list", folder)
    header, *rows = said(capsys).splitlines()
    assert header.split() == ["file", *tickets.FACTS, "density", "bytes"]
    assert [row.split()[1:5] for row in rows] == [
        ["imp", "0", str(number), density]
        for number, density in ((1, "50.00%"), (2, "25.00%"))
    ]
    assert rows[0].split()[-1] == f"{path_of(folder, 1).stat().st_size:,}"
    assert [row.split()[0] for row in rows] == [
        f"tickets/imp/seed-0-prunings-{number}.npz" for number in (1, 2)
    ]
    run("list", path_of(folder), folder / "tickets")
    assert [row.split()[0] for row in said(capsys).splitlines()[1:]] == [
        str(path_of(folder, number)) for number in (2, 1, 2)
    ]


def test_folders_are_searched_for_tickets_alone(folder, capsys):
    """Below any folder, in the order of their numbers, and not in `work`."""
    ticket, _ = kept.read(path_of(folder))
    put(folder, 10, ticket)
    (folder / "work").mkdir()
    for other in ("work/lanes.npz", "data.npz"):
        (folder / other).write_bytes(b"of something else")
    for above, where in (
        (folder, "tickets/imp/"),
        (folder / "tickets", "imp/"),
        (folder / "tickets" / "imp", ""),
    ):
        run("list", above)
        shown = [row.split()[0] for row in said(capsys).splitlines()[1:]]
        assert shown == [f"{where}seed-0-prunings-{n}.npz" for n in (1, 2, 10)]
    for density in ("0.5", "0.25"):
        path = folder / "tickets" / "snip" / f"density={density}-seed-0.npz"
        files.save_ticket(path, ticket)
    run("list", folder / "tickets" / "snip")
    assert [row[:12] for row in said(capsys).splitlines()[1:]] == [
        *("density=0.25", "density=0.5-")
    ]
    (folder / "tickets" / "cs").mkdir()
    with pytest.raises(ValueError, match="no ticket in .*cs"):
        run("list", folder, folder / "tickets" / "cs")


def test_a_ticket_is_shown_and_drawn(folder, capsys):
    run("show", path_of(folder), output=str(folder / "masks.png"))
    shown = said(capsys)
    assert "fc_0/kernel     64x8" in shown
    assert 'method: "imp"' in shown
    mask = kept.read(path_of(folder))[0].mask
    first, last = (np.asarray(mask[name]["kernel"]) for name in ("fc_0", "output"))
    paths = (first & last.any(1)).sum() + (last & first.any(0)[:, None]).sum()
    assert f"effective density: {paths / (first.size + last.size):.2%}" in shown
    assert (folder / "masks.png").read_bytes()[:4] == b"\x89PNG"


def test_pictures_show_how_much_of_every_block_is_kept():
    rng = np.random.default_rng(0)
    mask = {
        "conv": rng.random((3, 3, 2, 5)) < 0.5,
        "deep": rng.random((1001, 7)) < 0.1,
        "bias": np.array([True, False, True]),
    }
    drawing = drawings.of_masks(mask)
    panels = {axes.get_title().split(",")[0]: axes for axes in drawing.axes}
    assert panels.keys() == mask.keys()
    for name, leaf in mask.items():
        rows, columns = leaf.reshape(-1, leaf.shape[-1]).shape
        [image] = panels[name].images
        assert image.get_extent() == [0, columns, rows, 0]
        if name == "deep":  # three rows a dot, and two in the last
            shown = np.asarray(image.get_array())
            np.testing.assert_allclose(shown[0], leaf[:3].mean(0))
            np.testing.assert_allclose(shown[-1], leaf[999:].mean(0))
        else:
            np.testing.assert_array_equal(image.get_array(), leaf.reshape(rows, -1))


def test_two_tickets_are_compared(folder, capsys):
    run("compare", path_of(folder), path_of(folder, 1))
    *_, row = said(capsys).splitlines()
    name, seen, chance, away = row.split()
    assert (name, seen) == ("all", "100.00%")
    assert float(chance[:-1]) < 60
    assert float(away) > 5


def test_sound_files_are_verified(folder, capsys):
    run("verify", folder)
    first, second = said(capsys).splitlines()
    assert first.endswith(": digests, finite, density, run")
    assert second.endswith("run, nested in seed-0-prunings-1.npz, weights as there")


def flipped(folder, ticket):
    content = bytearray(path_of(folder).read_bytes())
    content[200] ^= 1
    path_of(folder).write_bytes(content)


def wider(folder, ticket):
    whole = masks.full(ticket.weights)
    put(folder, 2, Ticket(ticket.weights, whole), density=1.0)


def moved(folder, ticket):
    put(
        folder,
        2,
        ticket._replace(weights=jax.tree.map(lambda w: 2 * w, ticket.weights)),
    )


def infinite(folder, ticket):
    put(
        folder,
        2,
        ticket._replace(weights=jax.tree.map(lambda w: w / 0, ticket.weights)),
    )


FAULTS = {
    "digests": (flipped, "is damaged or is no ticket"),
    "nested": (wider, "pruned weights of fc_0/kernel came back"),
    "weights": (moved, "fc_0"),
    "finite": (infinite, "a value that it keeps is not finite"),
    "density": (lambda folder, t: put(folder, 2, t, density=0.3), "it says 0.3"),
    "run": (lambda folder, t: put(folder, 2, t, identity="x"), "of another run than"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_not_sound_is_said(folder, weights, fault, capsys):
    make, reason = FAULTS[fault]
    make(folder, prune(Ticket(weights, masks.full(weights)), "magnitude", 0.25))
    with pytest.raises(ValueError, match=f"1 of 2 are not sound: .*({reason})"):
        run("verify", folder)
    assert said(capsys).count("not sound") == 1


def test_a_ticket_is_converted(folder, weights, capsys):
    path, small = path_of(folder), folder / "small.npz"
    ticket, about = kept.read(path)
    run("convert", path, output=str(small), values="float16")
    found, facts = kept.read(small)
    assert facts.items() > about.items()
    assert 0 < facts["largest_error"] < 1e-3
    identical(found.mask, ticket.mask)
    run("convert", path, output=str(small), recipe=True)
    identical(kept.read(small)[0].weights, weights)
    run("convert", small, output=str(folder / "kept.npz"), pruned="keep")
    found, facts = kept.read(folder / "kept.npz")
    identical(found.weights, weights)
    assert facts == about
    run("convert", path, output=str(folder / "plain.npz"), plain=True)
    whole = masks.apply(ticket.mask, ticket.weights)
    with np.load(folder / "plain.npz") as arrays:
        assert {*arrays} == {*masks.names(whole)}
        np.testing.assert_array_equal(arrays["fc_0/kernel"], whole["fc_0"]["kernel"])
    with pytest.raises(ValueError, match="--pruned=keep reads what the mask prunes"):
        run("convert", path, output=str(small), pruned="keep")


def test_a_ticket_is_compacted(folder, weights, capsys):
    """Its density beside the effective one, and the same function in a smaller file."""
    mask = masks.full(weights)
    mask["fc_0"]["kernel"] = np.zeros((64, 8), bool)
    mask["fc_0"]["kernel"][:4, :3] = True
    mask["output"]["kernel"] = np.zeros((8, 10), bool)
    mask["output"]["kernel"][2:5] = True  # of what is reached, unit 2 alone is seen
    path, small = put(folder, 2, Ticket(weights, mask)), folder / "smaller.npz"
    run("compact", folder)
    header, _, row = said(capsys).splitlines()
    assert header.split() == [
        *("file", "density", "effective", "parameters", "compacted", "of", "all")
    ]
    left = 64 + 1 + 10 + 10
    assert row.split()[1:] == [
        *(f"{(12 + 30) / 592:.2%}", f"{(4 + 10) / 592:.2%}", "610", str(left)),
        f"{left / 610:.1%}",
    ]
    run("compact", path, output=str(small))
    plain, x = export.read(small), np.random.default_rng(0).normal(size=(5, 64))
    assert plain.weights["fc_0/kernel"].shape == (64, 1)
    assert plain.about["density"] == pytest.approx(14 / (64 + 10))
    outputs = [export.chain(export.read(each))(x) for each in (path, small)]
    np.testing.assert_allclose(*outputs, atol=1e-6)
    with pytest.raises(ValueError, match="--output is for one ticket, there are 2"):
        run("compact", folder, output=str(small))


@pytest.mark.parametrize("image", [None, (8, 8, 1)])
def test_a_ticket_is_converted_for_pytorch(folder, image):
    path, ticket = folder / "t.safetensors", kept.read(path_of(folder))[0]
    run("convert", path_of(folder), output=str(path), image=image)
    options = {"hidden": (8,), "image": (8, 8, 1)}
    found = pretrained.load_ticket(path, "mlp", **options)
    identical(found.mask, ticket.mask)
    run("convert", path_of(folder), output=str(path), image=image, plain=True)
    np.testing.assert_array_equal(
        load_file(path)["output.weight"] != 0, ticket.mask["output"]["kernel"].T
    )


def test_facts_of_anybody_are_no_error(folder, weights, capsys):
    ticket = Ticket(weights, masks.full(weights))
    put(folder, 2, ticket, prunings="2", method=["imp"], seed=None)
    run("verify", folder)
    assert said(capsys).count(": digests, finite, density, run\n") == 2
    with pytest.raises(ValueError, match="does not say the seed of its run"):
        run("convert", path_of(folder), output=str(folder / "m.npz"), recipe=True)
    files.save(folder / "odd.npz", {"weights": {"a": jnp.ones(2), "a/b": jnp.ones(2)}})
    with pytest.raises(ValueError, match="odd.npz is no ticket: 'weights/a/b' is in a"):
        run("show", folder / "odd.npz")


def test_a_ticket_is_evaluated(folder, capsys):
    run("evaluate", path_of(folder))
    first = said(capsys)
    assert first.startswith("test accuracy ")
    assert first.endswith("of 360 of digits\n")
    os.remove(folder / "config.json")
    with pytest.raises(ValueError, match="give --model: no config.json above"):
        run("evaluate", path_of(folder))
    with pytest.raises(ValueError, match="does not fit"):
        run("evaluate", path_of(folder), model="lenet_300_100", dataset="digits")


def test_settings_that_are_none_are_refused(folder):
    for text in ("{", "[]", '{"config": 3}'):
        (folder / "config.json").write_text(text)
        with pytest.raises(ValueError, match="config.json holds no settings of a run"):
            run("evaluate", path_of(folder))
