"""What holds for every command: speed of help, one line for a mistake, exit codes."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import click
import pytest

import herd.cli
from herd.cli import VERBS, run
from herd.errors import HerdError


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    code = (
        "import sys, herd.cli; status = herd.cli.run(['--help'])\n"
        "heavy = {'torch', 'numpy', 'rich', 'fastapi', 'sqlalchemy', 'scipy'} & set(sys.modules)\n"
        "assert status == 0 and not heavy, heavy"
    )
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0, done.stderr
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert all(verb in done.stdout for verb in VERBS)
    assert min(times) < 0.2  # of processor time: the machine may be busy


def test_python_m_herd_is_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "herd", "--version"], capture_output=True, text=True)
    assert done.stdout.startswith("herd 0.") and done.returncode == 0


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([verb, "--help"]) == 0
    assert "Usage: herd " + verb in capsys.readouterr().out


def test_unknown_verb_offers_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["improv"]) == 1
    assert capsys.readouterr().err == "herd: no command 'improv'; did you mean `herd improve`?\n"


def test_unknown_option_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "--jsn"]) == 2
    assert "--json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (HerdError("the cup is empty; fill it"), 1, "herd: the cup is empty; fill it\n"),
        (KeyboardInterrupt(), 130, "\ninterrupted\n"),
        (
            RuntimeError("odd\nthing"),
            1,
            "herd: RuntimeError: odd thing; set HERD_DEBUG=1 for the traceback\n",
        ),
    ],
)
def test_errors_are_one_line(
    error: BaseException,
    status: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    @click.command()
    def failing() -> None:
        raise error

    monkeypatch.delenv("HERD_DEBUG", raising=False)
    monkeypatch.setattr(herd.cli.Verbs, "get_command", lambda self, ctx, name: failing)
    assert run(["models"]) == status
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("args", [["chat"], ["eval", "cria", "--text", __file__], ["improve", "cria"]])
def test_without_torch_a_command_says_what_to_install(args: list[str], tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; import herd.cli; sys.exit(herd.cli.run(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, *args],
        capture_output=True,
        text=True,
        env={**os.environ, "HERD_HOME": str(tmp_path), "HERD_PORT": "9"},  # nobody listens there
    )
    said = 'herd: this needs torch, which is not installed: pip install "openherd[local]"\n'
    assert (done.returncode, done.stderr) == (1, said) and not (tmp_path / "runs").exists()


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def failing() -> None:
        raise RuntimeError("odd")

    monkeypatch.setenv("HERD_DEBUG", "1")
    monkeypatch.setattr(herd.cli.Verbs, "get_command", lambda self, ctx, name: failing)
    with pytest.raises(RuntimeError, match="odd"):
        run(["models"])


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m herd show cria | head -c 1 >/dev/null; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=os.environ)
    assert "Traceback" not in done.stderr
