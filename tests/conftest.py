"""One set of JAX settings for all tests: strict, on CPU, with a persistent cache.

Files are spread over two to four processes, see `setup.cfg`; `-n 0` takes one.
"""

import os
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).resolve().parent.parent
TFDS = ROOT.parent / "shared" / "tfds"

jax.config.update("jax_platforms", os.environ.get("JAX_PLATFORMS", "cpu"))
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")
for name, value in {
    "jax_compilation_cache_dir": os.environ.get(
        "JAX_COMPILATION_CACHE_DIR", str(ROOT / ".jax_cache")
    ),
    "jax_persistent_cache_min_compile_time_secs": 0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}.items():
    jax.config.update(name, value)
    os.environ[name.upper()] = str(value)  # for the programs that tests start

SLOW = (
    "test_ticket_search",
    "test_gated_experiments",
    "test_contract",
    "test_jackpots",
    "test_supermasks",
    "test_lanes",
)


def pytest_collection_modifyitems(items):
    """Files that take long come first: none is left to one process at the end."""
    items.sort(key=lambda item: item.path.stem not in SLOW)


@pytest.fixture(scope="module")
def unoptimised():
    """Compiles in a hurry for a file that compares no bits."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()


@pytest.fixture
def x64():
    """Double precision for one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def tfds_dir():
    """The folder of prepared TFDS data, where there is one."""
    if not TFDS.is_dir():
        pytest.skip(f"no prepared TFDS data in {TFDS}")
    return str(TFDS)
