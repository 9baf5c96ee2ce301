from __future__ import annotations

import logging
import threading
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from deploypipe import embedded
from deploypipe.core.errors import DeploypipeError

logger = logging.getLogger(__name__)


class Command(BaseCommand):
    help = "Run the gateway (Envoy) and look after it, where web and workers are processes of their own."

    def handle(self, *args: Any, **options: Any) -> None:
        gateway = embedded.gateway_process()
        if gateway is None:
            raise CommandError("ROUTERS names no Envoy: there is no gateway to run on this machine.")
        try:
            with embedded.ended_by_signals():
                gateway.start()
                gateway.wait_ready()
                self.stdout.write(f"The gateway listens on http://{gateway.listen}.")
                while not threading.Event().wait(embedded.SUPERVISION_SECONDS):
                    try:
                        embedded.look_after_gateway(gateway)
                    except DeploypipeError as error:
                        logger.error("%s", error)
        except DeploypipeError as error:
            raise CommandError(str(error)) from None
        finally:
            embedded.hold_signals()
            gateway.stop()
