"""The product's REST API as a program uses it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

Json = dict[str, Any]


class Refused(Exception):
    """The product said no; the text is its sentence."""


class Api:
    def __init__(self, url: str, tokens: Path) -> None:
        self._keys: dict[str, str] = json.loads(tokens.read_text())
        # Retried once connected anew: the product may be restarted while the story is told.
        self._http = httpx.Client(base_url=f"{url}/api/v1/", timeout=30, transport=httpx.HTTPTransport(retries=3))

    def close(self) -> None:
        self._http.close()

    def url(self, path: str) -> str:
        return str(self._http.base_url.join(path))

    def key_of(self, who: str) -> str:
        return self._keys[who]

    def get(self, path: str, **params: Any) -> Any:
        return self._ask("GET", path, "dee", params=params)

    def post(self, path: str, who: str, body: Json | None = None, *, key: str = "") -> Json:
        answer: Json = self._ask("POST", path, who, json=body or {}, headers={"Idempotency-Key": key} if key else {})
        return answer

    def _ask(self, method: str, path: str, who: str, **more: Any) -> Any:
        headers = {"Authorization": f"Bearer {self._keys[who]}", **more.pop("headers", {})}
        answer = self._http.request(method, path, headers=headers, **more)
        if answer.is_error:
            said = answer.json() if "json" in answer.headers.get("content-type", "") else {}
            fields = " ".join(f"{k}: {v}" for k, v in said.get("fields", {}).items())
            raise Refused(f"{answer.status_code} {said.get('message', answer.text[:200])} {fields}".strip())
        return answer.json()


def wait(ask: Callable[[], Json], done: Callable[[Json], bool], *, seconds: float, what: str) -> Json:
    deadline = time.monotonic() + seconds
    while True:
        seen = ask()
        if done(seen):
            return seen
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} took longer than {seconds:g} s; last seen: {seen.get('sentence') or seen}")
        time.sleep(0.25)
