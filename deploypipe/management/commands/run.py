from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser

from deploypipe import embedded
from deploypipe.core.errors import DeploypipeError

STOP_SECONDS = 20.0


class Command(BaseCommand):
    help = "Everything in one process tree: web, worker, scheduler, gateway and model servers. Ctrl-C ends all of it."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--story", action="store_true", help="also play the demo story while one watches")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            with embedded.only_one(settings.VAR_DIR):
                self._run(story=options["story"])
        except DeploypipeError as error:
            raise CommandError(str(error)) from None

    def _run(self, *, story: bool) -> None:
        listening = embedded.web_socket()
        call_command("migrate", interactive=False, verbosity=0)
        if story:
            call_command("demo_accounts", verbosity=0)
        product = embedded.Product()
        ready = threading.Event()
        player: list[subprocess.Popen[bytes]] = []
        announcer = threading.Thread(target=self._announce, args=(ready, story, player), daemon=True)
        try:
            with embedded.ended_by_signals():
                product.start()
                announcer.start()
                embedded.serve(listening, ready)
        finally:
            embedded.hold_signals()
            listening.close()
            self.stdout.write("Stopping: the gateway and every model server end with us …")
            for process in player:
                _end(process)
            product.stop()
            logging.shutdown()
            self.stdout.write("Stopped.")

    def _announce(self, ready: threading.Event, story: bool, player: list[subprocess.Popen[bytes]]) -> None:
        ready.wait()
        web = f"http://{settings.WEB_HOST}:{settings.WEB_PORT}"
        gateway = f"http://{settings.GATEWAY_HOST}:{settings.GATEWAY_PORT}"
        self.stdout.write(f"deploypipe runs.  Web: {web}   Gateway: {gateway}/ENVIRONMENT/MODEL/v1/…")
        if settings.DEMO:
            self.stdout.write("Sign in as ana (engineer), bo (approver), cy (operator) or dee (viewer).")
            self.stdout.write(f"The password of each is {settings.DEMO_PASSWORD}")
        self.stdout.flush()
        if story:
            player.append(_play(web, gateway))


def _play(web: str, gateway: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "examples.story.play", "--keep-traffic", "--url", web, "--gateway", gateway]
    command += ["--tokens", str(settings.DEMO_TOKENS), "--work", str(settings.VAR_DIR / "story")]
    command += ["--files", str(settings.QA_FILES_DIR)]
    environment = {**os.environ, "TEXTGEN_API_KEY": settings.ENGINE_API_KEY}
    return subprocess.Popen(command, cwd=settings.BASE_DIR, env=environment, start_new_session=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
