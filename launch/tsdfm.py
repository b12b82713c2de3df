"""`tsdfm`: lists the commands and runs them, `tsdfm NAME --help` says what NAME does."""

import ast
import importlib
import importlib.util
import pathlib
import re
import sys

from tsdfm_jax.config import command_line
from tsdfm_jax.runtime import signals

COMMANDS = {
    "run": "tsdfm_jax.main",
    "status": "tsdfm_jax.workspace.status_command",
    "sample": "tsdfm_jax.exchange.sample_command",
    "compare": "tsdfm_jax.experiments.compare.command",
    "sweep": "tsdfm_jax.experiments.sweep.command",
    "study": "tsdfm_jax.experiments.study.command",
    "export": "tsdfm_jax.exchange.export_command",
    "import_fsdfm": "tsdfm_jax.exchange.import_command",
    "benchmark": "tsdfm_jax.experiments.benchmark.command",
    "budget": "tsdfm_jax.experiments.planning.budget",
    "aot_compile": "tsdfm_jax.experiments.planning.aot_compile",
}


def summary(module):
    """The first sentence of a command's docstring, read without importing it."""
    source = pathlib.Path(importlib.util.find_spec(module).origin).read_text()
    return re.sub(r":? `python -m .*", "", ast.get_docstring(ast.parse(source)).split("\n")[0]).rstrip(".:")


def listing():
    """All commands, a line each."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {summary(module)}" for name, module in COMMANDS.items()]
    return "\n".join(["usage: tsdfm COMMAND [--help] [flags]", "", *lines])


def main():
    """The console command; leaves with the exit code of the command that it ran."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h", "help"):
        print(listing())
        sys.exit(0)
    if name not in COMMANDS:
        sys.exit(command_line.fail("tsdfm", f"{name!r} is not one of {', '.join(COMMANDS)}: `tsdfm` alone says what each does"))
    if name == "run":
        signals.begin()  # as main does where it is the program itself
    sys.argv = [f"tsdfm {name}", *rest]
    command_line.start(importlib.import_module(COMMANDS[name]))


if __name__ == "__main__":
    main()
