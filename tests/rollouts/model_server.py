"""A model server of a few lines for the tests of targets: behaves, or misbehaves in the one way it is told to."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Health(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        if self.path == "/crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        self.send_response(self.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--status", type=int, default=200)
    parser.add_argument("--exit", type=int)
    parser.add_argument("--silent", action="store_true", help="take connections and never answer")
    parser.add_argument("--stubborn", action="store_true", help="do not end when asked to")
    parser.add_argument("--helper", action="store_true", help="start a process that does not end when asked to")
    options = parser.parse_args()
    if options.exit is not None:
        sys.stderr.write("loading the weights\nthere is no such file: weights.bin\n")
        sys.exit(options.exit)
    if options.stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if options.helper:
        nap = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
        helper = subprocess.Popen([sys.executable, "-S", "-c", nap])
        sys.stderr.write(f"helper {helper.pid}\n")
    if options.silent:
        with socket.create_server((options.host, options.port)):
            threading.Event().wait()
    Health.status = options.status
    descriptors = sorted(int(entry) for entry in os.listdir("/proc/self/fd"))
    sys.stderr.write(f"descriptors {descriptors}\nsecret known: {'MODEL_KEY' in os.environ}\n")
    sys.stderr.write(f"ours leaked: {'DJANGO_SECRET' in os.environ}\n")
    ThreadingHTTPServer((options.host, options.port), Health).serve_forever()


if __name__ == "__main__":
    main()
