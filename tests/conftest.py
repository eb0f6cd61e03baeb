"""One set of JAX settings for all tests: strict, on CPU, with a persistent cache."""

import os
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).resolve().parent.parent
TFDS = ROOT.parent / "shared" / "tfds"

jax.config.update("jax_platforms", os.environ.get("JAX_PLATFORMS", "cpu"))
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update(
    "jax_compilation_cache_dir",
    os.environ.get("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".jax_cache")),
)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


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
