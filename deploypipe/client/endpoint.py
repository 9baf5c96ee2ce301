"""What stands at an address: is anybody there, which model, which engine, which process."""

from __future__ import annotations

import ipaddress
import json
import re
import socket
from typing import Any
from urllib.parse import urlsplit

import psutil

from deploypipe.client.problems import CannotExamine
from deploypipe.core import plain
from deploypipe.core.errors import EngineError
from registry.engines import ENGINES, EngineClient
from registry.qa.base import RunningServer

PLAIN = "openai"
"""An engine of which no more is known than the API that it speaks."""
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 10.0
REFUSED = (401, 403)
FORWARDERS = frozenset({"docker-proxy", "rootlessport", "ssh", "sshd", "socat", "kubectl", "envoy", "nginx", "haproxy"})
"""Programs that listen in a model server's place and only pass on."""


def address(given: str) -> str:
    """The server's base address, as checks want it. Raises CannotExamine."""
    url = given if "://" in given else f"http://{given}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise CannotExamine(f"{_shown(given)} is not an address: give http://host:port or https://host.") from None
    if parts.username is not None or parts.password is not None:
        raise CannotExamine("The address holds a user or password; give the key by an environment variable.")
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise CannotExamine(f"{_shown(given)} is not an address: give http://host:port or https://host.")
    if parts.query or parts.fragment:
        raise CannotExamine(f"{_shown(given)} holds more than an address: leave out what comes after the path.")
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def found(url: str, key: str, model: str, *, option: str = "--model", key_from: str = "") -> tuple[RunningServer, str]:
    """The server and the name of its engine. Raises CannotExamine where nothing can be said of it.

    `option` names the model on the command line, `key_from` where the key came from: for the sentences.
    """
    _connect(url)
    try:
        with EngineClient(url, key, timeout=ANSWER_SECONDS) as client:
            listed = _models(client, url, key, model, option, key_from)
            engine = _engine(client, listed)
    except EngineError as error:
        raise CannotExamine(error.message) from error
    names = [name for name in (plain.text(str(one.get("id", ""))) for one in listed) if name]
    return RunningServer(url, model or _only(names, url, option), key, _pid(url)), engine


def _connect(url: str) -> None:
    host, port = _host_and_port(url)
    try:
        socket.create_connection((host, port), CONNECT_SECONDS).close()
    except TimeoutError:
        raise CannotExamine(f"{url} took no connection within {CONNECT_SECONDS:g} s.") from None
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CannotExamine(
            f"{url} takes no connection: {reason}. Is the server running, and the address right?"
        ) from None


def _host_and_port(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _models(client: EngineClient, url: str, key: str, model: str, option: str, key_from: str) -> list[dict[str, Any]]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        answer = client.raw("GET", "/v1/models", headers=headers)
    except EngineError as error:
        if model:
            return []  # a server that does not list its models is for the checks to judge
        raise CannotExamine(
            f"{url} does not say which model it serves: {error.message} Name it with {option}."
        ) from error
    if answer.status_code in REFUSED:
        which = f"refuses the key from {key_from}" if key else "asks for a key"
        hint = "" if key else " Put it into the environment variable DEPLOYPIPE_API_KEY."
        raise CannotExamine(f"{url} {which}: /v1/models answered {answer.status_code}.{hint}")
    try:
        listed = json.loads(answer.content)["data"] if answer.is_success else []
    except (ValueError, LookupError, TypeError, RecursionError):
        listed = []
    if not listed and not model:
        said = f"/v1/models answered {answer.status_code}" + (" and names none" if answer.is_success else "")
        raise CannotExamine(f"{url} does not say which model it serves: {said}. Name it with {option}.")
    return [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []


def _only(names: list[str], url: str, option: str) -> str:
    if len(names) == 1:
        return names[0]
    which = ", ".join(map(_cut, names[:10])) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
    raise CannotExamine(f"{url} serves {which or 'no model'}: name one with {option}.")


def _engine(client: EngineClient, listed: list[dict[str, Any]]) -> str:
    owners = [str(one.get("owned_by", "")).lower() for one in listed]
    known = next((owner for owner in owners if owner in ENGINES), None)
    return known or _engine_by_metrics(client)


def _engine_by_metrics(client: EngineClient) -> str:
    try:
        answer = client.raw("GET", "/metrics")
    except EngineError:
        return PLAIN
    text = answer.text if answer.is_success else ""
    named = re.search(r"^(?:# (?:HELP|TYPE) )?(aphrodite|vllm):", text, re.MULTILINE)
    return named[1] if named else PLAIN


def is_here(url: str) -> bool:
    """Whether the server runs on this machine."""
    host, _ = _host_and_port(url)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _pid(url: str) -> int | None:
    """The process that listens there, where it is one of this machine that we may see."""
    if not is_here(url):
        return None
    _, port = _host_and_port(url)
    try:
        listening = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    except (psutil.Error, OSError):
        return None
    pids = {c.pid for c in listening if c.laddr and c.laddr.port == port and c.pid}
    return pids.pop() if len(pids) == 1 and not _forwards(*pids) else None


def _forwards(pid: int) -> bool:
    """Its memory would be taken for the model's."""
    try:
        return psutil.Process(pid).name() in FORWARDERS
    except psutil.Error:
        return True


def _shown(text: str) -> str:
    return repr(_cut(text))


def _cut(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:199]}…"
