"""Memory: what a program is said to take, and what a device is said to have."""

import jax
import jax.numpy as jnp
import pytest

from jaxticket import machine
from jaxticket.engine import lanes, memory

SIZE = 2**20  # bytes of an argument
X = jax.ShapeDtypeStruct((SIZE // 4,), jnp.float32)


def footprint(f, *args, **options):
    return memory.footprint(jax.jit(f, **options).lower(*args).compile())


def test_arguments_and_results_count_and_donated_memory_counts_once():
    assert footprint(lambda x: x + 1, X) == 2 * SIZE
    assert footprint(lambda x: x + 1, X, donate_argnums=0) == SIZE


def test_what_is_needed_in_between_counts():
    square = jax.ShapeDtypeStruct((512, 512), jnp.float32)  # a matrix is SIZE bytes
    product = footprint(lambda x: jnp.tanh(x @ x) @ x, square)
    assert product >= 3 * SIZE


def test_every_device_has_its_lanes_and_all_of_the_data():
    for devices, per_device in ((1, 4), (2, 2), (4, 1)):
        layout = lanes.layout(per_device, jax.devices()[:devices])
        f = lanes.mapped(layout, lambda x, data: x + data.sum(), (True, False))
        own = jax.ShapeDtypeStruct((layout.width, SIZE // 4), jnp.float32)
        found = memory.footprint(f.lower(own, X).compile())
        assert (2 * per_device + 1) * SIZE <= found < (2 * per_device + 1.1) * SIZE


def test_what_is_free_is_shared_by_devices_on_cpu():
    one, four = (memory.available(jax.devices()[:n]) for n in (1, 4))
    assert 2**20 < four < one / 2


SECOND = {"memory.max": "5000\n", "memory.current": "2000\n"}
FIRST = {"memory.limit_in_bytes": "5000\n", "memory.usage_in_bytes": "2000\n"}


@pytest.mark.parametrize(
    ("line", "folder", "files", "expected"),
    [
        ("0::/", "", SECOND, 3000),
        ("0::/outer/name", "", SECOND, 3000),
        ("0::/slurm/job", "slurm", SECOND, 3000),
        ("0::/slurm/job", "slurm/job", SECOND | {"memory.max": "max"}, None),
        ("0::/", "", SECOND | {"memory.stat": "anon 9\ninactive_file 500\n"}, 3500),
        ("4:cpu,memory:/job", "memory/job", FIRST, 3000),
        ("4:cpu:/job", "memory/job", FIRST, None),
    ],
)
def test_a_container_may_have_less_than_the_system(
    tmp_path, monkeypatch, line, folder, files, expected
):
    monkeypatch.setattr(machine, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(machine, "PROCESS", tmp_path)
    (tmp_path / "cgroup").write_text(f"{line}\n")
    group = tmp_path / "groups" / folder
    group.mkdir(parents=True)
    for name, text in files.items():
        (group / name).write_text(text)
    everything = memory.available(jax.devices()[:1])
    assert everything == expected if expected else everything > 2**20


def test_a_limited_address_space_is_what_is_left_of_it(monkeypatch):
    left = 10**7
    pages = int((machine.PROCESS / "statm").read_text().split()[0])
    limit = pages * machine.resource.getpagesize() + left
    monkeypatch.setattr(machine.resource, "getrlimit", lambda _: (limit, limit))
    assert 0 <= memory.available(jax.devices()[:1]) <= left


def test_a_system_that_tells_nothing_is_not_guessed(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "SYSTEM", tmp_path / "meminfo")
    monkeypatch.setattr(machine, "PROCESS", tmp_path)
    assert memory.available(jax.devices()) is None


def test_devices_of_their_own_memory_tell_their_limit():
    class Accelerator:
        platform = "gpu"

        def memory_stats(self):
            return {"bytes_limit": 80, "bytes_in_use": 3}

    assert memory.available([Accelerator()] * 8) == 80
