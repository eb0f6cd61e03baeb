"""Memory: what a program is said to take, and what a device is said to have."""

import jax
import jax.numpy as jnp
import pytest

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


@pytest.mark.parametrize(
    ("limit", "used", "expected"), [("5000", "2000", 3000), ("max", "2000", None)]
)
def test_a_container_may_have_less_than_the_system(
    tmp_path, monkeypatch, limit, used, expected
):
    (tmp_path / "memory.max").write_text(limit + "\n")
    (tmp_path / "memory.current").write_text(used + "\n")
    monkeypatch.setattr(memory, "GROUP", tmp_path)
    everything = memory.available(jax.devices()[:1])
    assert everything == expected if expected else everything > 2**20


def test_a_system_that_tells_nothing_is_not_guessed(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "SYSTEM", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "GROUP", tmp_path)
    assert memory.available(jax.devices()) is None


def test_devices_of_their_own_memory_tell_their_limit():
    class Accelerator:
        platform = "gpu"

        def memory_stats(self):
            return {"bytes_limit": 80, "bytes_in_use": 3}

    assert memory.available([Accelerator()] * 8) == 80
