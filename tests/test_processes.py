"""One run in several processes: the numbers of a single one, whatever ends some."""

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import studies

from experiments.study import last_words
from jaxticket import Ticket, files, prune
from jaxticket.engine import checkpoint, hosts

NEVER = "SIGKILL:0"
GRAIN = importlib.util.find_spec("grain") is not None
SHARDED = """
import sys
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
import jaxticket as jt
from jaxticket.engine import checkpoint

folder, address, index = sys.argv[1:]
jax.distributed.initialize(address, 2, int(index))
mesh = jax.sharding.Mesh(np.array(jax.devices()), ("x",))
cut = NamedSharding(mesh, PartitionSpec("x"))
drawn = np.load(f"{folder}/drawn.npy")
weights = {"w": jax.make_array_from_callback(drawn.shape, cut, drawn.__getitem__)}
ticket = jt.Ticket(weights, jax.jit(jt.masks.full)(weights))
ticket = jax.jit(lambda t: jt.prune(t, "magnitude", 0.25))(ticket)
jt.files.save_ticket(f"{folder}/ticket.npz", ticket)
with checkpoint.Folder(f"{folder}/checkpoint") as kept:
    kept.save(1, ticket, {})
"""
# Goes on in the processes of the above: each reads for its own two of four lanes.
READ = """
import optax
from jaxticket.data import streams
from jaxticket.engine import hosts, lanes, programs

class Numbers:
    def __init__(self):
        self.read = []
    def __len__(self):
        return 12
    def __getitem__(self, row):
        self.read.append(row)
        return np.float32(row)

def loss(params, seen, batch, key):
    return ((batch[:, None] * params["w"].sum(0) - 1) ** 2).mean(), batch

layout, keys = lanes.layout(1), jax.random.split(jax.random.key(0), 4)
ones = np.ones((4, 2, 2), np.float32)
tickets = jt.Ticket({"w": ones}, {"w": ones > 0}, np.zeros((4, 3), np.float32))
found = []
for stream in (False, True):
    made = programs.program(
        lambda _: jt.fixed(optax.sgd(1e-3)), loss, lambda *_: {}, (), layout,
        batch_size=3, streams=stream,
    )
    train = np.arange(12, dtype=np.float32)
    if stream:
        source = Numbers()
        train = streams.stream(streams.Rows(source), workers=1)
        assert train.reader.like.shape == (), "what is read once, and by all"
        source.read.clear()
    data = lanes.everywhere(layout, programs.Data(train, None))
    round_keys, *start = lanes.spread(layout, (keys, keys, tickets, ()))
    steps = np.array([1, 6, 0], np.int32)
    after = made.stretch(made.start(*start), round_keys, data, *steps)
    found.append(hosts.gathered(after))
jax.tree.map(np.testing.assert_array_equal, *found)
assert len(np.unique(found[0][0][1].model, axis=0)) == 4, "orders of their own"
assert len(source.read) == 2 * 5 * 3, len(source.read)  # lanes, steps, batch
"""
FLAGS = (
    *studies.FLAGS,
    "--seeds=3",
    "--methods=imp",
    "--rounds=2",
    "--controls=shuffle",
    "--save_seconds=0",
)
SECONDS = 240  # after which one that hangs is killed


def program(folder, devices, fault=NEVER, flags=()):
    """A process of a study, which has so many devices."""
    command = [studies.__file__, "ticket_search", fault, f"--output_dir={folder}"]
    return started([*command, *FLAGS, *flags], devices)


def started(command, devices):
    """A process of Python's, which has so many devices."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(studies.ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "PJRT_NPROC": "2",  # sums are divided among as many threads in all of them
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "STUDIES_DEVICES": "all",
    }
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=studies.ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def address():
    """A free port of this host."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


def two(folder, *, faults=(NEVER, NEVER), flags=()):
    """Two processes of two devices each; what both have returned, and said."""
    joined = (*flags, "--distributed", f"--coordinator={address()}", "--processes=2")
    return ended(
        [
            program(folder, 2, fault, (*joined, f"--process={i}"))
            for i, fault in enumerate(faults)
        ]
    )


def ended(running):
    """Exit codes and errors of processes."""
    with contextlib.ExitStack() as stack:
        for each in running:
            stack.callback(each.kill)
        said = [each.communicate(timeout=SECONDS)[1] for each in running]
    return [each.returncode for each in running], said


def error(text):
    [line] = (x for x in text.splitlines() if x.startswith("error: "))
    assert "Traceback" not in text
    return line


def test_processes_that_die_and_come_again_in_other_numbers_change_nothing(tmp_path):
    """Two are stopped by a signal to one; two lose one; one is stopped; two end it.

    Their data stream, where Grain is; those of the one that they are held to do not.
    """
    [code], [said] = ended([program(tmp_path / "one", 1)])
    assert code == 0, said
    folder = tmp_path / "several"
    flags = ("--stream",) if GRAIN else ()
    codes, said = two(folder, faults=(NEVER, "SIGTERM:2"), flags=flags)
    assert codes == [128 + signal.SIGINT, 128 + signal.SIGTERM], said
    codes, said = two(folder, faults=(NEVER, "SIGKILL:2"), flags=flags)
    # Python is told of it where it waits for the other; else JAX ends the process.
    assert codes[0] in (1, -signal.SIGABRT), said
    assert codes[1] == -signal.SIGKILL
    assert error(said[0]) == last_words.lost("process 0 of 2")
    assert error(said[1]).startswith("error: process 1 of 2 was killed")
    [code], said = ended([program(folder, 2, "SIGTERM:2", flags)])
    assert code == 128 + signal.SIGTERM, said
    codes, said = two(folder, flags=flags)
    assert codes == [0, 0], said
    assert not said[1], "but the first they are silent"
    ours, theirs = (pd.read_csv(x / "results.csv") for x in (folder, tmp_path / "one"))
    studies.assert_same(ours, theirs)
    studies.assert_same_tickets(folder, tmp_path / "one")


def test_weights_cut_over_processes_are_one_ticket_and_one_checkpoint(tmp_path):
    """That of one device, in a file, and restored where all devices are of one.

    What the same processes read of data that stream is what their lanes need.
    """
    drawn = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
    np.save(tmp_path / "drawn.npy", drawn)
    command = ["-c", SHARDED + READ if GRAIN else SHARDED, str(tmp_path), address()]
    codes, said = ended([started([*command, str(i)], 2) for i in range(2)])
    assert codes == [0, 0], said
    whole = Ticket({"w": jnp.asarray(drawn)}, {"w": jnp.ones(drawn.shape, bool)})
    expected = prune(whole, "magnitude", 0.25)
    found, _ = files.load_ticket(tmp_path / "ticket.npz", whole)
    np.testing.assert_array_equal(found.mask["w"], expected.mask["w"])
    kept = np.asarray(expected.mask["w"])
    np.testing.assert_array_equal(found.weights["w"][kept], drawn[kept])
    with checkpoint.Folder(tmp_path / "checkpoint") as folder:
        step, state = folder.restore(lambda step: whole, [{}])
    assert step == 1
    assert checkpoint.digest(state) == checkpoint.digest(expected)


def test_in_a_single_process_all_agree(monkeypatch):
    def process_count():
        raise AssertionError("no device is asked for")

    monkeypatch.setattr(jax, "process_count", process_count)
    assert hosts.first()
    assert not hosts.several()
    assert hosts.agreed(0.1) == 0.1
    assert hosts.agreed(True) is True
    assert hosts.anyone(True)
    assert not hosts.anyone(False)
    assert hosts.least(3 * 2**40) == 3 * 2**40
    assert hosts.least(None) is None
    tree = {"key": jax.random.key(1), "x": np.arange(3)}
    found = hosts.gathered(tree)
    assert isinstance(found["x"], np.ndarray)
    assert (jax.random.key_data(found["key"]) == jax.random.key_data(tree["key"])).all()


PAGES = b"Terminating process because the JAX distributed coordination service ..."


@pytest.mark.parametrize(
    ("told", "written", "says"),
    [
        ("joining\nend", PAGES, ""),
        ("joining\nprocess 1 of 2\nend", PAGES, ""),
        ("joining\n", PAGES, f"error: {last_words.APART}\n"),
        ("joining\nprocess 1 of 2\n", PAGES, f"{last_words.lost('process 1 of 2')}\n"),
        ("joining\nprocess 1 of 2\n", b"", "error: process 1 of 2 was killed, or has"),
    ],
)
def test_what_is_said_of_a_process_that_has_ended(tmp_path, told, written, says):
    with open(tmp_path / "written", "w+b") as file:
        file.write(written)
        file.flush()
        done = subprocess.run(
            [sys.executable, "-S", last_words.__file__, str(file.fileno())],
            input=told, capture_output=True, text=True, check=True,
            pass_fds=[file.fileno()],
        )  # fmt: skip
    assert done.stderr.startswith(says)
    assert bool(says) == bool(done.stderr)
