"""Bring what users said to the product's feedback endpoint: in batches, again when it was not there."""

import asyncio
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

BATCH = 200
EVERY_SECONDS = 1.0
MOST_WAITING = 20_000
_LAST_TRIES = 3


@dataclass
class RatingPost:
    url: str
    """Of the endpoint; its path ends in a slash."""
    token: str
    environment: str
    model: str
    timeout: float = 5.0
    given: Counter[int] = field(default_factory=Counter)
    """Stars → users."""
    delivered: int = 0
    lost: int = 0
    """Refused for good, or never delivered."""
    problem: str = ""
    """What the last failed delivery said."""
    _waiting: deque[tuple[str, int]] = field(default_factory=deque)

    def give(self, session: str, stars: int) -> None:
        self.given[stars] += 1
        if len(self._waiting) >= MOST_WAITING:
            self._waiting.popleft()
            self.lost += 1
        self._waiting.append((session, stars))

    async def deliver_until(self, ended: asyncio.Event) -> None:
        """And then, a few times, what is left: what still cannot be delivered is lost, and counted as that."""
        async with self._client() as http:
            while not ended.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(ended.wait(), EVERY_SECONDS)
                await self._deliver(http)
            for _ in range(_LAST_TRIES):
                if not self._waiting:
                    return
                await asyncio.sleep(EVERY_SECONDS)
                await self._deliver(http)
        self.lost += len(self._waiting)
        self._waiting.clear()

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(timeout=self.timeout, headers={"authorization": f"Bearer {self.token}"})

    async def _deliver(self, http: httpx.AsyncClient) -> None:
        """Until nothing waits, or until it does not get through: then what was not taken waits on."""
        while self._waiting:
            batch = list(self._waiting)[:BATCH]
            try:
                answer = await http.post(self.url, json=self._said(batch))
            except httpx.TransportError as error:
                self.problem = f"{type(error).__name__}: {error}"
                return
            if answer.status_code >= 500 or answer.status_code == 429:
                self.problem = f"HTTP {answer.status_code}"
                return
            if answer.is_error:
                self.problem = f"HTTP {answer.status_code}: {answer.text[:200]}"
                self.lost += len(batch)
            else:
                self._taken(batch, answer.json())
            for _ in batch:
                self._waiting.popleft()

    def _said(self, batch: list[tuple[str, int]]) -> dict[str, Any]:
        items = [{"session": session, "rating": stars} for session, stars in batch]
        return {"environment": self.environment, "model": self.model, "items": items}

    def _taken(self, batch: list[tuple[str, int]], receipt: dict[str, Any]) -> None:
        rejected = receipt["rejected"]
        self.delivered += len(batch) - len(rejected)
        self.lost += len(rejected)
        if rejected:
            self.problem = f"rejected: {rejected[0]}"
