"""HTTP by Django, WebSockets by Channels."""

from __future__ import annotations

import os

from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "deploypipe.settings")
django_application = get_asgi_application()

from django.urls import path  # noqa: E402  (Django must be set up before anything that imports models)

from deploypipe.core.live import LiveConsumer  # noqa: E402

live = URLRouter([path("ws/live/", LiveConsumer.as_asgi())])  # type: ignore[arg-type, list-item]  # stubs know views only
application = ProtocolTypeRouter(
    {"http": django_application, "websocket": AllowedHostsOriginValidator(AuthMiddlewareStack(live))}
)
