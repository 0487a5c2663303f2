"""A program: Ray on this machine, with the server as its application, until its input ends."""

from __future__ import annotations

import sys

import ray
from ray import serve

from resq_onnx.serving.ray import app


def main() -> None:
    """`python -m tests.serving.ray_cluster PORT NAME=VALUE…` prints `ready`, and waits."""
    port, *given = sys.argv[1:]
    # Logical CPUs, which a replica reserves: two must fit on any machine.
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
    serve.run(app(dict(one.split("=", 1) for one in given)))
    print("ready", flush=True)
    sys.stdin.read()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
