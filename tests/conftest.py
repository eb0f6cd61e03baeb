"""One set of JAX settings for all tests: strict, on CPU, with a persistent cache.

Files are spread over two processes, see `setup.cfg`; `-n 0` takes one. They share the
programs that they compile, on disk; in memory a process keeps those of one file.
"""

import ctypes
import functools
import gc
import os
from pathlib import Path

import jax
import pytest
import short_hash
from jax._src.interpreters import mlir

from jaxticket import order

ROOT = Path(__file__).resolve().parent.parent
LIBC = ctypes.CDLL(None)
TFDS = Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()

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
short_hash.hurry()

# XLA's older way to emit what it fuses: a third less to compile, and as quick to run at
# these sizes. Read when the first program is compiled, and by those that tests start.
HURRY = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
given = os.environ.get("XLA_FLAGS", "").removesuffix(HURRY).strip()
os.environ["XLA_FLAGS"] = f"{given} {HURRY}".strip()

# What programs are written down in takes as long to make as a small one to write.
mlir.make_ir_context = functools.cache(mlir.make_ir_context)

SLOW = (
    "test_processes",
    "test_faults",
    "test_unknown_values",
    "test_fuzz",
    "test_signals",
    "test_bad_inputs",
    "test_ticket_search",
    "test_gated_experiments",
    "test_contract",
    "test_jackpots",
    "test_supermasks",
    "test_lanes",
    "test_study",
    "test_own",
    "test_training",
)


def pytest_collection_modifyitems(items):
    """Files that take long come first: none is left to one process at the end."""
    items.sort(key=lambda item: item.path.stem not in SLOW)


def pytest_collection_finish():
    """What is imported stays: it is not looked through again when memory is freed.

    And it is looked for less often than by default: tracing makes much that stays.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


@pytest.fixture(scope="module", autouse=True)
def forgotten():
    """Lets go of compiled programs when a file is done: they take gigabytes in all."""
    yield
    jax.clear_caches()
    mlir.make_ir_context.cache_clear()  # it keeps the constants of all programs
    gc.collect()
    if hasattr(LIBC, "malloc_trim"):  # else glibc keeps what is free
        LIBC.malloc_trim(0)


@pytest.fixture(scope="module")
def unoptimised():
    """Compiles in a hurry for a file that compares no bits of two programs."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def toy_study(unoptimised):
    """Studies are tiny in a whole file, see `studies.tiny`; gives what patches them."""
    import studies  # here: most files need no experiments

    with studies.tiny() as patch:
        yield patch


@pytest.fixture(scope="module", autouse=True)
def short_shuffles():
    """Orders that are less random, in whose programs a third less is to compile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "ROUNDS", 2)
        yield


@pytest.fixture(scope="module")
def threefry():
    """JAX's own draws for a file, of which numbers are known."""
    with short_hash.without():
        yield


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
