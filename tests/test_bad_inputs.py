"""Bad inputs: each is refused before any work, with one message that says why."""

import collections
import os
import subprocess
import sys

import bad_commands
import bad_inputs
import jax
import pytest
import studies

from experiments import benchmark
from jaxticket.engine import programs


class Begun(BaseException):
    """A run has got as far as its work."""


def verdict(said, says):
    """What came of a bad input: clear, obscure or, where nothing is said, accepted."""
    if said is None:
        return "accepted"
    clear = "\n" not in said and all(words in said for words in says)
    return "clear" if clear else "obscure"


def summed_up(outcomes):
    """Prints how many there are of each, and fails for those that are not clear."""
    counts = collections.Counter(found for found, *_ in outcomes)
    print({name: counts[name] for name in ("clear", "obscure", "accepted")})
    wrong = [about for found, *about in outcomes if found != "clear"]
    assert not wrong, "\n".join(map(str, wrong))
    return counts["clear"]


def test_the_library_says_what_is_wrong():
    outcomes = []
    for row in bad_inputs.API:
        said = None
        try:
            row.call()
        except (ValueError, TypeError) as error:
            said = str(error)
        outcomes.append((verdict(said, row.says), row.name, row.says, said))
    assert summed_up(outcomes) >= 125


def typed(line, patch, capsys, folder):
    """The line that a command prints, if it stops as it should; nothing is begun."""
    name, *flags = line.format(folder=folder).split(" ")
    flags = [flag for flag in flags if flag]
    if not any(flag.startswith("--output_dir") for flag in flags):
        flags.append(f"--output_dir={folder}/run")
    if name in ("benchmark", "tickets"):
        flags.pop()
    try:
        studies.shell(patch, name, *flags)
    except Begun:
        return None
    except SystemExit as stopped:
        said = capsys.readouterr().err
        if (stopped.code, said.count("\n"), said[:7]) == (1, 1, "error: "):
            return said.removeprefix("error: ").rstrip("\n")
        return f"exit {stopped.code}:\n{said}"
    return None


@pytest.fixture
def idle(monkeypatch):
    """Whatever takes long is not begun."""

    def begin(*_, **__):
        raise Begun

    def traced(program, *like):
        jax.eval_shape(program.start, *like[:3])
        raise Begun

    monkeypatch.setattr(programs, "compiled", traced)
    nothing = dict.fromkeys(benchmark.SECTIONS, begin)
    monkeypatch.setattr(benchmark, "SECTIONS", nothing)
    return monkeypatch


def test_commands_say_what_is_wrong(idle, capsys, tmp_path):
    outcomes = []
    for i, row in enumerate(bad_commands.COMMANDS):
        folder = tmp_path / str(i)
        folder.mkdir()
        (folder / "file").touch()
        with idle.context() as patch:
            said = typed(row.typed, patch, capsys, folder)
        assert [path.name for path in folder.iterdir()] == ["file"], row.typed
        outcomes.append((verdict(said, row.says), row.typed, row.says, said))
    assert summed_up(outcomes) >= 125


@pytest.mark.parametrize(
    "flags",
    [
        "--seeds=1 --first_seed=4294967295",
        "--validation=10 --lanes=auto --output_dir={folder}/run/",
        "--output_dir={folder}/r\N{LATIN SMALL LETTER U WITH DIAERESIS}n/deep",
    ],
)
def test_what_can_be_is_begun(idle, capsys, tmp_path, flags):
    with pytest.raises(Begun):
        studies.shell(
            idle, "ticket_search", "--dataset=digits",
            f"--output_dir={tmp_path}/run", *flags.format(folder=tmp_path).split(),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "variables", "says"),
    [
        (["--rounds=0"], {}, "error: --rounds must be a whole number from 1"),
        (["--output_dir="], {}, "error: --output_dir must be a folder"),
        (["--sedes=4"], {}, "error: Unknown command line flag 'sedes'"),
        ([], {"JAX_PLATFORMS": "foo"}, "error: JAX has no device: "),
    ],
)
def test_a_program_says_one_line(tmp_path, flags, variables, says):
    done = subprocess.run(
        [sys.executable, "-m", "experiments.ticket_search", *flags],
        cwd=studies.ROOT, env={**os.environ, "JAX_PLATFORMS": "cpu", **variables},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert done.stderr.startswith(says)
