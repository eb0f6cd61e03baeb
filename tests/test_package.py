"""What is installed, what is imported, and what a type checker says."""

import collections
import configparser
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NEEDED = {"jax", "optax", "numpy"}

# Pure functions at work while whatever is not needed for them is not there.
ALONE = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in %r:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
import jax, optax, jaxticket as jt
weights = {"kernel": jax.numpy.ones((4, 3))}
ticket = jt.prune(jt.Ticket(weights, jt.masks.full(weights)), "magnitude", 0.5)
search = jt.imp(optax.adam(1e-3), density=1.0)
state = search.init(jax.random.key(0), ticket)
print(jt.summary(search.ticket(search.advance(state))).layers[0].kept)
"""


def requirements(text):
    """Name -> what is asked of it."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    cut = ((line, min(line.find(c) % 99 for c in "<>=[")) for line in lines if line)
    return {line[:at]: line[at:] for line, at in cut}


def setup():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config


def test_a_name_is_that_of_one_module():
    """What a reader looks for by its name is in one place."""
    files = [
        p for of in ("jaxticket", "experiments") for p in (ROOT / of).rglob("*.py")
    ]
    counts = collections.Counter(p.stem for p in files if p.stem != "__init__")
    assert [name for name, times in counts.items() if times > 1] == []


def test_the_light_install_is_a_part_of_the_whole():
    light = requirements(setup()["options"]["install_requires"])
    whole = requirements((ROOT / "requirements.txt").read_text())
    assert {*light} == NEEDED
    assert {name: whole[name] for name in light} == light
    assert "pytest" not in whole
    pretrained = setup()["options.extras_require"]["pretrained"]
    for name, version in requirements(pretrained).items():
        assert whole[name] == version


def test_pure_functions_need_no_more_than_they_install():
    whole = {*requirements((ROOT / "requirements.txt").read_text())}
    modules = whole - NEEDED - {"absl-py", "scipy"}  # these two come with optax and jax
    modules |= {"orbax", "tensorflow_datasets", "PIL", "sklearn"}
    done = subprocess.run(
        [sys.executable, "-c", ALONE % modules],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "6"


def test_a_type_checker_sees_the_mistakes_of_a_caller():
    caller = Path(__file__).with_name("typed_caller.py")
    marked = [
        number
        for number, line in enumerate(caller.read_text().splitlines(), 1)
        if line.endswith("# error")
    ]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-incremental", "--follow-imports=silent",
         "--ignore-missing-imports", str(caller)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    lines = [x for x in done.stdout.splitlines() if ": error:" in x]
    assert sorted({int(line.split(":")[1]) for line in lines}) == marked, done.stdout
    assert len(marked) == 2
