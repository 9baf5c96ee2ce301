"""`llama-server` for tests: llama.cpp's own HTTP server out of the wheel `xllamacpp`, by the same options.

It runs in an environment of its own (`make engines`), without anything of the product.
"""

from __future__ import annotations

import argparse
import os
import signal

import xllamacpp  # type: ignore[import-not-found]  # not in the product's environment, by intent


def main() -> None:
    parser = argparse.ArgumentParser(prog="llama-server")
    parser.add_argument("--model", required=True)
    parser.add_argument("--alias", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--metrics", action="store_true")
    parser.add_argument("--ctx-size", type=int, default=4096)
    parser.add_argument("--parallel", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})  # also in the server's own threads
    parameters = xllamacpp.CommonParams()
    parameters.model.path = options.model
    parameters.model_alias = {options.alias}
    parameters.hostnames = [options.host]
    parameters.port = options.port
    parameters.endpoint_metrics = options.metrics
    parameters.n_ctx = options.ctx_size
    parameters.n_parallel = options.parallel
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = options.threads
    if key := os.environ.get("LLAMA_API_KEY"):
        parameters.api_keys = [key]
    server = xllamacpp.Server(parameters)  # returns when the model is loaded; it listens before that
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    del server


if __name__ == "__main__":
    main()
