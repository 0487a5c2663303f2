"""The command serve: answer requests over HTTP."""

from __future__ import annotations

import math
import os
from pathlib import Path

import click

from resq_onnx.cli.console import print_line
from resq_onnx.cli.options import session_options
from resq_onnx.cli.speculation import guesses_at_a_time, speculation_options
from resq_onnx.errors import ResqError

KILLED_AFTER_SECONDS = 30.0
"""After SIGTERM, by Kubernetes; the drain has to leave some time for the rest."""


def _number(_context: click.Context, _option: click.Parameter, value: float) -> float:
    """Refuse NaN, which is in no range and outside of none."""
    if math.isnan(value):
        raise click.BadParameter("nan is not a number.")
    return value


@click.command(context_settings={"show_default": True})
@click.argument("model", metavar="FOLDER", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", help="0.0.0.0 lets all other machines connect.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, help="0 picks a free one.")
@click.option("--name", help="What clients call the model.  [default: the folder's name]")
@click.option("--max-length", type=click.IntRange(min=2), metavar="TOKENS",
              help="Of a prompt and its answer.  [default: the model's positions]")  # fmt: skip
@click.option("--max-concurrent", type=click.IntRange(min=1), default=8,
              help="Requests that run at once, together.")  # fmt: skip
@click.option("--max-waiting", type=click.IntRange(min=0), default=16,
              help="Requests that wait for one to end; any more get status 429.")  # fmt: skip
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), default=600.0,
              callback=_number, metavar="SECONDS",
              help="Time limit of a request, including waiting.")  # fmt: skip
@speculation_options
@click.option("--api-key", "api_keys", multiple=True, metavar="KEY",
              help="Answer only requests with this key; may be repeated. Without it, the "
              "environment variable RESQ_API_KEYS names keys that no list of processes shows.  "
              "[default: everybody is answered]",
              show_default=False)  # fmt: skip
@click.option("--cors-origin", "origins", multiple=True, metavar="ORIGIN",
              help="Pages of this origin, such as https://chat.example, may read answers in a "
              "browser; may be repeated; * for all pages.  [default: none]",
              show_default=False)  # fmt: skip
@click.option("--tls-certificate", type=click.Path(path_type=Path), metavar="FILE",
              help="Serve HTTPS with this certificate (PEM); needs --tls-key.")  # fmt: skip
@click.option("--tls-key", type=click.Path(path_type=Path), metavar="FILE",
              help="The certificate's private key.")  # fmt: skip
@click.option("--drain", type=click.FloatRange(min=0), default=KILLED_AFTER_SECONDS - 10,
              callback=_number, metavar="SECONDS",
              help="How long requests may run on after SIGTERM; new ones are refused.")  # fmt: skip
@session_options
def serve(
    model: Path,
    host: str,
    port: int,
    name: str | None,
    max_length: int | None,
    max_concurrent: int,
    max_waiting: int,
    timeout: float,
    speculate: int | None,
    draft: Path | None,
    api_keys: tuple[str, ...],
    origins: tuple[str, ...],
    tls_certificate: Path | None,
    tls_key: Path | None,
    drain: float,
    threads: int | None,
    no_kernels: bool,
    provider: str,
) -> None:
    """Answer requests as OpenAI's API does, with an exported model.

    FOLDER is one that export wrote, or the .onnx file in it. There are POST /v1/chat/completions
    and /v1/completions, GET /v1/models, /health and /metrics, and a chat page at /.
    """
    _check_packages()
    from resq_onnx.files import find_model
    from resq_onnx.serving.api_keys import keys_of
    from resq_onnx.serving.app import Service
    from resq_onnx.serving.cross_origin import check_origins
    from resq_onnx.serving.engine import Engine
    from resq_onnx.serving.scheduling import Scheduler
    from resq_onnx.serving.server import Address, listen, run
    from resq_onnx.serving.tls import Tls

    if not all(api_keys):
        raise ResqError("--api-key is empty; give a key, or omit the option to answer everybody")
    keys = api_keys or keys_of(os.environ)
    check_origins(origins)
    tls = Tls.of(tls_certificate, tls_key)
    guesses = guesses_at_a_time(speculate, draft)
    path = find_model(model)
    name = name or path.resolve().parent.name
    listening, url = listen(Address(host, port), "https" if tls else "http")
    with listening:
        kernels = not no_kernels
        engine = Engine(
            path, name, max_concurrent, max_length, threads, kernels, provider, guesses,
            None if draft is None else find_model(draft),
        )  # fmt: skip
        scheduler = Scheduler(engine, engine.batch, max_concurrent, max_waiting)
        service = Service(engine, scheduler, timeout, keys, origins)

        def ready() -> None:
            print_line(f"Serving {name} ({engine.max_length} tokens) at {url}/v1")

        run(service, listening, ready, tls, drain)


def _check_packages() -> None:
    """Check that the packages of the extra `serve` are there."""
    try:
        import resq_onnx.serving.server  # noqa: F401
    except ModuleNotFoundError as error:
        if (error.name or "resq_onnx").startswith("resq_onnx"):
            raise
        raise ResqError(
            f"serving a model needs {error.name}, which is not installed; "
            f'run `pip install "resq-onnx[serve]"`'
        ) from None
