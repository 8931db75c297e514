"""The `herd` command: a small module a verb, loaded when it is called."""

import importlib
import os
import sys

import click

from herd.errors import HerdError

# Said here and not in the modules, so that `herd --help` imports none of them.
VERBS = {
    "up": "Start Herd: engine, API and pages on this machine.",
    "serve": "Start Herd as a service: no browser, logs to standard error.",
    "chat": "Talk to a model in the terminal.",
    "train": "Train a model as a recipe says.",
    "eval": "Measure a model: bits per byte, multiple choice, BLiMP.",
    "improve": "Make a better model out of the votes, and serve it if it is proven.",
    "arena": "Say which target is better, and how sure that is.",
    "data": "Turn corpora into token shards as a recipe says.",
    "batch": "Answer a file of requests in OpenAI's batch form.",
    "export": "Copy a model out as a Hugging Face directory.",
    "pull": "Fetch a model from the Hugging Face hub.",
    "models": "List the models.",
    "show": "Show one model: card, digest, shape, lineage.",
    "verify": "Re-hash models and lineage, and find a changed byte.",
    "routes": "List, show, check or change routes.",
    "keys": "List, make, show or revoke the keys of applications.",
    "logs": "Show, search, follow or export kept traffic.",
    "import": "Bring in what was logged elsewhere.",
    "runs": "List, show or cancel runs.",
    "probe": "Test a server: what of its dialect it honours, ignores or breaks.",
    "doctor": "Check this machine, and say how to mend what is wrong.",
}
MODULES = {"serve": "up", "import": "import_"}  # verbs that live in a module of another name


class Verbs(click.Group):
    """A group whose commands are imported on use: `herd.cli.<verb>:<verb>`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command:
        if name not in VERBS:
            from herd.nearest import nearest

            near = nearest(name, VERBS)
            hint = f"did you mean `herd {near}`?" if near else "see `herd --help`"
            raise HerdError(f"no command {name!r}; {hint}")
        module = importlib.import_module(f"herd.cli.{MODULES.get(name, name)}")
        # `eval` would hide a builtin, `import` is a word of Python: they are called `eval_` and `import_`.
        command: click.Command = getattr(module, name, None) or getattr(module, f"{name}_")
        command.name = name
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="openherd", message="herd %(version)s")
def herd() -> None:
    """Train, serve, rank and improve open language models."""


def run(args: list[str]) -> int:
    """Run one command. Returns the exit status; all errors end here, as one line on standard error."""
    try:
        status = herd.main(args, prog_name="herd", standalone_mode=False)
        return status if isinstance(status, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except HerdError as error:
        print(f"herd: {error}", file=sys.stderr)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if os.environ.get("HERD_DEBUG"):
            raise
        print(f"herd: {_describe(error)}", file=sys.stderr)
        return 1


def _describe(error: Exception) -> str:
    if isinstance(error, OSError):  # a full disk, a forbidden folder: the user's to mend
        return f"{error.filename}: " * bool(error.filename) + (error.strerror or str(error))
    if isinstance(error, ModuleNotFoundError):
        return f'this needs {error.name}, which is not installed: pip install "openherd[local]"'
    return f"{type(error).__name__}: {' '.join(str(error).split())}; set HERD_DEBUG=1 for the traceback"


def main() -> None:
    """Run the command that the process was called with."""
    sys.exit(run(sys.argv[1:]))
