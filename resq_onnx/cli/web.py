"""The command web: run an exported model in a browser."""

from __future__ import annotations

import signal
import threading
import webbrowser
from pathlib import Path

import click

from resq_onnx.cli.console import log, print_line


@click.command(context_settings={"show_default": True})
@click.argument("model", metavar="FOLDER", type=click.Path(path_type=Path))
@click.option("--port", type=click.IntRange(0, 65535), default=8000, help="0 takes a free one.")
@click.option("--open", "open_page", is_flag=True, help="Open the page in your browser.")
@click.option(
    "--write",
    "target",
    type=click.Path(path_type=Path),
    metavar="SITE",
    help="Write the page and all it needs into a new folder instead, for your own web server.",
)
@click.option(
    "--packages",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Take the archives that `npm pack` wrote from here, instead of running npm.",
)
def web(
    model: Path, port: int, open_page: bool, target: Path | None, packages: Path | None
) -> None:
    """Chat with an exported model in the browser: FOLDER holds it and its tokenizer.

    The model runs in the browser itself, by onnxruntime-web; export it with --target web, which
    suits its kernels. The page, the model and everything else come from this machine, and only this
    machine is served. The first time, npm fetches what the page needs.
    """
    from resq_onnx.web import fetch_packages, make_server, make_site, write_site

    site = make_site(model, fetch_packages(packages))
    if target is not None:
        write_site(site, target)
        print_line(f"Wrote {target}")
        return
    with make_server(site, port) as server:
        address = f"http://localhost:{server.server_address[1]}/"
        print_line(f"Chat at {address} (Ctrl-C ends it)")
        if open_page:
            threading.Timer(0.2, webbrowser.open, [address]).start()
        # A shell starts background jobs with SIGINT ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print_line("Stopped.", to=log)
