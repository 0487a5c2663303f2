"""Command line: one file per command, and the conversion of errors into messages and exit codes.

Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import io
import signal
import sys
import traceback
from contextlib import suppress
from types import FrameType
from typing import Any, Final

import click

from resq_onnx import __version__
from resq_onnx.cli.bench import bench
from resq_onnx.cli.calibrate import calibrate
from resq_onnx.cli.console import VERBOSE, log, print_line
from resq_onnx.cli.doctor import doctor
from resq_onnx.cli.evaluate import evaluate
from resq_onnx.cli.export import export
from resq_onnx.cli.generate import generate
from resq_onnx.cli.inspect import inspect
from resq_onnx.cli.report import report
from resq_onnx.cli.rewrite import rewrite
from resq_onnx.cli.serve import serve
from resq_onnx.cli.web import web
from resq_onnx.errors import ResqError, first_line

PACKAGE: Final = __name__.partition(".")[0]

EXTRAS: Final = {
    "cpu": ("onnxruntime",),
    "serve": ("prometheus_client", "starlette", "uvicorn"),
    "harness": ("lm_eval",),
}
"""Packages by the extra that installs them; the extra `export` installs all others."""

READING: Final = frozenset({"bench", "doctor", "evaluate", "generate", "inspect", "serve"})
"""Commands that write no files."""

INTERRUPTED = 130  # the exit status that shells report after Ctrl-C


class _Commands(click.Group):
    """Converts exceptions into one line and an exit code."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        given = kwargs.pop("args", None) or (args[0] if args else None) or sys.argv[1:]
        words = [word for word in given if word != "--verbose"]  # anywhere on the line
        verbose = len(words) < len(given)
        signal.signal(signal.SIGTERM, _interrupt)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as requested by nohup
            signal.signal(signal.SIGHUP, _interrupt)  # the terminal is gone
        for stream in (sys.stdout, sys.stderr):  # the name of a file need not be UTF-8
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            kwargs |= {"standalone_mode": False, "obj": VERBOSE if verbose else None}
            return super().main(words, *args[1:], **kwargs)
        except ResqError as error:
            _fail(str(error), verbose)
        except click.ClickException as error:
            error.show()
            sys.exit(error.exit_code)
        except (KeyboardInterrupt, click.Abort):
            with suppress(OSError):  # there may be no terminal any more
                command = next((word for word in words if not word.startswith("-")), "")
                rest = "" if command in READING else "; nothing was written"
                log.print(f"Interrupted{rest}.", style="red")
            sys.exit(INTERRUPTED)
        except Exception as error:
            hint = "" if verbose else " (--verbose shows where)"
            unexpected = f"unexpected {type(error).__name__}: {error}{hint}"
            _fail(_of_this_machine(error) or unexpected, verbose)


def _of_this_machine(error: Exception) -> str | None:
    """Remedy for an error of the environment, which is neither a bad input nor a defect."""
    match error:
        case ModuleNotFoundError(name=str(module)) if module.partition(".")[0] != PACKAGE:
            package = module.partition(".")[0]
            found = (extra for extra, packages in EXTRAS.items() if package in packages)
            extra = next(found, "export")
            return f'this needs {package}, which is absent: run pip install "resq-onnx[{extra}]"'
        case OSError(filename=str(path), strerror=str(why)):
            return f"{path}: {why}; name another file"
        case MemoryError():
            return f"out of memory ({first_line(error)}); ask for less, or free some"
    return None


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _fail(message: str, verbose: bool) -> None:
    if verbose:
        traceback.print_exc()
    line = " ".join(
        part.strip() for part in message.splitlines()
    )  # messages of some libraries have several lines
    line = line.encode(errors="backslashreplace").decode()  # a name need not be UTF-8
    print_line(f"Error: {line}", to=log, style="red")
    sys.exit(1)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="resq-onnx")
@click.option("--verbose", is_flag=True,
              help="Show what each step took, and the traceback of an error.")  # fmt: skip
def main(verbose: bool) -> None:
    """Quantise language models to 4 bits - weights, activations and KV cache - in ONNX."""
    del verbose  # taken off the command line by _Commands, and declared here for --help


COMMANDS: Final = (
    bench, calibrate, doctor, evaluate, export, generate, inspect, report, rewrite, serve, web,
)  # fmt: skip

for _command in COMMANDS:
    main.add_command(_command)
