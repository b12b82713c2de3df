"""Flags of every command: an error in them is one line on stderr, and an exit code."""

import os
import pathlib
import re
import sys
import traceback

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"  # of the clone, or beside the installed package


def start(command):
    """Run a command's module as this program; --help shows its docstring and its flags.

    `command` has `main(argv)`, which returns the exit code, `parse(argv)`, and `define()` where import does not define its flags.
    """
    sys.modules["__main__"].__doc__ = command.__doc__
    getattr(command, "define", lambda: None)()
    for flag in flags.FLAGS.get_flags_for_module(command.__name__):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    app.run(command.main, flags_parser=command.parse)


def with_shipped_config(argv):
    """Arguments in which a config file that is not there, but came with the package, has its full path.

    configs/ is installed beside the package, so that --config=configs/quickstart.py works in any folder. A file of that name in
    the current folder comes first. The default of --config counts as if it had been typed.
    """
    argv = list(argv)
    places = [i for i, word in enumerate(argv) if re.match(r"--?config(=|$)", word)]
    if not places and "config" in flags.FLAGS and flags.FLAGS["config"].default is not None:
        argv.append(f"--config={config_flags.get_config_filename(flags.FLAGS['config'])}")
        places = [len(argv) - 1]
    for i in places:
        flag, equals, file = argv[i].partition("=")
        place = i if equals else i + 1
        if place < len(argv):
            file = file if equals else argv[place]
            argv[place] = f"{flag}={_shipped_file(file)}" if equals else _shipped_file(file)
    return argv


def _shipped_file(file):
    path, colon, argument = os.path.expanduser(file).partition(":")
    shipped = CONFIGS.parent / path
    is_shipped = not pathlib.Path(path).is_file() and shipped.is_file() and CONFIGS in shipped.parents
    return f"{shipped}{colon}{argument}" if is_shipped else f"{path}{colon}{argument}"


def parse(name, argv):
    """Parse the flags and return the other arguments; a wrong flag exits with one line that begins with the command's `name`."""
    logging.set_verbosity(logging.ERROR)  # of the libraries; a run's messages go to its log
    try:
        sys.argv[:] = argv = with_shipped_config(argv)  # the library looks for overrides of --config there
        arguments = flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, FileNotFoundError) as error:
        sys.exit(fail(name, error))
    except Exception as error:  # the config file is a program, and may raise anything
        sys.exit(fail(name, _place(error)))
    logging.set_verbosity(logging.WARNING)
    return arguments


def _place(error):
    """An error of a config file with the file and the line."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: {error.msg}: mend the config file"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.filename}, line {frame.lineno}: {type(error).__name__}: {error}: mend the config file"


def run_name(file):
    """The name of a run of a config file: the file's name, and its argument if there is one: configs/sotu.py:x -> sotu_x."""
    path, _, argument = file.partition(":")
    stem = pathlib.Path(path).stem
    return f"{stem}_{re.sub(r'[^A-Za-z0-9_.+=-]', '-', argument)}" if argument else stem


def only_flags(argv, example="", **required):
    """Raise ValueError for an argument that is not a flag, or where one of the `required` is empty; `example` is the remedy."""
    if len(argv) > 1:
        raise ValueError(f"'{argv[1]}' is not a flag: options are written --name=value")
    for name, value in required.items():
        if not value:
            raise ValueError(f"--{name} is missing: {example}")


def config_file(argv, example):
    """The file that --config names, with its argument (FILE.py:ARGUMENT) if there is one.

    Raises ValueError where there is no such file, or for an argument that is not a flag; `example` is the remedy.
    """
    only_flags(argv)
    flag = flags.FLAGS["config"]
    if flag.value is None and not flag.present:
        raise ValueError(f"--config is missing: try --config={example}")
    file = config_flags.get_config_filename(flag)
    if not pathlib.Path(file.split(":")[0]).is_file():
        raise ValueError(f"no config file '{file}': try --config={example}")
    if not isinstance(flag.value, ConfigDict):
        kind = type(flag.value).__name__
        raise ValueError(f"{file}: get_config() returns {kind}, not a ConfigDict: begin with configs/base.py, as {example} does")
    return file


def fail(name, error, code=2):
    """Print the error in one line on stderr and return the exit code."""
    while isinstance(error, Exception) and error.args and isinstance(error.args[0], Exception):
        error = error.args[0]  # ml_collections wraps the KeyError of an unknown key in another error
    text = f"no such config key: {error.args[0]}" if isinstance(error, KeyError) and error.args else str(error)
    print(f"{name}: " + " ".join(_cause(text).split()), file=sys.stderr)
    return code


def _cause(text):
    """The error of a config file itself, out of the traceback that ml_collections puts into its message."""
    if re.fullmatch(r"module '.*' has no attribute 'get_config'", text):
        return "the file of --config has no get_config(): write one, or take a config file such as configs/quickstart.py"
    if "Traceback (most recent call last)" not in text:
        return text
    line = text.strip().splitlines()[-1]
    if re.match(r"TypeError: get_config\(\) takes (0|no) ", line) and (match := re.search(r"flag --config=(.*?):(.*?): ", text)):
        return f"{match[1]} takes no argument: leave out ':{match[2]}'"
    return line.removeprefix("ValueError: ")
