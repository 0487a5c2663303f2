"""The command serve: answer requests over HTTP."""

from __future__ import annotations

from pathlib import Path

import click

from resq_onnx.cli.console import print_line
from resq_onnx.cli.options import session_options
from resq_onnx.errors import ResqError


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
              metavar="SECONDS", help="Time limit of a request, including waiting.")  # fmt: skip
@click.option("--api-key", "api_keys", multiple=True, metavar="KEY", envvar="RESQ_API_KEYS",
              help="Answer only requests with this key; may be repeated. RESQ_API_KEYS names keys "
              "that no list of processes shows.  [default: everybody is answered]",
              show_default=False)  # fmt: skip
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
    api_keys: tuple[str, ...],
    threads: int | None,
    no_kernels: bool,
    provider: str,
) -> None:
    """Answer requests as OpenAI's API does, with an exported model.

    FOLDER is one that export wrote, or the .onnx file in it. There are POST /v1/chat/completions
    and /v1/completions, GET /v1/models, /health and /metrics.
    """
    try:
        from resq_onnx.serving.server import Address, listen, run
    except ModuleNotFoundError as error:
        if (error.name or "resq_onnx").startswith("resq_onnx"):
            raise
        raise ResqError(
            f"serving a model needs {error.name}, which is not installed; "
            f'run `pip install "resq-onnx[serve]"`'
        ) from None
    from resq_onnx.files import find_model
    from resq_onnx.serving.app import Service
    from resq_onnx.serving.engine import Engine
    from resq_onnx.serving.scheduling import Scheduler

    if not all(api_keys):
        raise ResqError("--api-key is empty; give a key, or omit the option to answer everybody")
    path = find_model(model)
    name = name or path.resolve().parent.name
    listening, url = listen(Address(host, port))
    with listening:
        kernels = not no_kernels
        engine = Engine(path, name, max_concurrent, max_length, threads, kernels, provider)
        scheduler = Scheduler(engine, engine.batch, max_concurrent, max_waiting)
        service = Service(engine, scheduler, timeout, api_keys)

        def ready() -> None:
            print_line(f"Serving {name} ({engine.max_length} tokens) at {url}/v1")

        run(service, listening, ready)
