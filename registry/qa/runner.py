"""Runs checks: those on files, then those on the server together, then each that must be alone.

A check that hangs or raises becomes an error and stops nothing: each runs in a daemon thread of its own.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue
from typing import Any

from registry.qa.base import Check, Context, Outcome, RunningServer
from registry.scoring import Scored, Status

AT_ONCE = 4
HIDDEN = "•••"


@dataclass(frozen=True)
class Result:
    """What one check found, with the facts of the check at that time: it reads well after the check is gone."""

    name: str
    label: str
    category: str
    weight: float
    required: bool
    outcome: Outcome
    seconds: float

    @property
    def stops(self) -> bool:
        """It blocks the version, whatever the rest says."""
        return self.required and self.outcome.status not in (Status.PASSED, Status.NOT_APPLICABLE)


OnResult = Callable[[Result], None]
Clock = Callable[[], float]
StartServer = Callable[[], AbstractContextManager[RunningServer]]


def ignore(result: Result) -> None:
    return None


def examine(
    context: Context,
    checks: Sequence[type[Check]],
    *,
    on_result: OnResult = ignore,
    clock: Clock = time.monotonic,
    start_server: StartServer | None = None,
) -> list[Result]:
    """Every check's result, in the order of `checks`; `on_result` gets each as it comes, in the caller's thread.

    `start_server` is called only when no required check of the files stands against it, and left at the end; what it
    raises becomes the reason why the server's checks were not made. Without it the context's own server is examined.
    """
    results = files_phase(context, checks, on_result=on_result, clock=clock)
    with ExitStack() as stack:
        if problem := stop_reason(results):
            context = replace(context, server=None, server_problem=problem)
        elif start_server is not None:
            try:
                context = replace(context, server=stack.enter_context(start_server()), server_problem="")
            except Exception as error:
                context = replace(context, server=None, server_problem=str(error) or type(error).__name__)
        results += server_phase(context, checks, on_result=on_result, clock=clock)
    place = {check.name: index for index, check in enumerate(checks)}
    return sorted(results, key=lambda result: place[result.name])


def files_phase(
    context: Context, checks: Sequence[type[Check]], *, on_result: OnResult = ignore, clock: Clock = time.monotonic
) -> list[Result]:
    """The checks that need no server."""
    return _run([c for c in checks if not c.needs_server], context, on_result, clock)


def server_phase(
    context: Context, checks: Sequence[type[Check]], *, on_result: OnResult = ignore, clock: Clock = time.monotonic
) -> list[Result]:
    """The checks that need the server. Without one, each is "not checked" with `context.server_problem` as reason."""
    asking = [c for c in checks if c.needs_server]
    if context.server is not None:
        return _run(asking, context, on_result, clock)
    results = [_result(c, Outcome.not_checked(context.server_problem or "There is no server."), 0.0) for c in asking]
    for result in results:
        on_result(result)
    return results


def stop_reason(results: Sequence[Result]) -> str | None:
    """Why no server need be started after the files phase; None when it may."""
    return next((f"The server was not started: {r.outcome.reason}" for r in results if r.stops), None)


def to_scored(result: Result) -> Scored:
    return Scored(
        name=result.name,
        label=result.label,
        category=result.category,
        status=result.outcome.status,
        weight=result.weight,
        required=result.required,
        reason=result.outcome.reason,
    )


def _run(checks: Sequence[type[Check]], context: Context, on_result: OnResult, clock: Clock) -> list[Result]:
    together = [c for c in checks if not c.alone]
    results = _Running(context, on_result, clock).run(together, AT_ONCE)
    for check in checks:
        if check.alone:
            results += _Running(context, on_result, clock).run([check], 1)
    return results


@dataclass
class _Running:
    context: Context
    on_result: OnResult
    clock: Clock
    answers: SimpleQueue[tuple[str, Outcome, float]] = field(default_factory=SimpleQueue)
    started: dict[str, tuple[type[Check], float]] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)

    def run(self, checks: Sequence[type[Check]], at_once: int) -> list[Result]:
        waiting = deque(checks)
        while waiting or self.started:
            while waiting and len(self.started) < at_once:
                self._start(waiting.popleft())
            nearest = min(at + check.timeout for check, at in self.started.values())
            try:
                name, outcome, ended = self.answers.get(timeout=max(0.0, nearest - self.clock()))
            except Empty:
                self._give_up()
                continue
            if name in self.started:  # else it was given up already
                self._finish(name, outcome, ended)
        return self.results

    def _start(self, check: type[Check]) -> None:
        self.started[check.name] = (check, self.clock())
        threading.Thread(target=self._answer, args=(check,), name=f"check {check.name}", daemon=True).start()

    def _answer(self, check: type[Check]) -> None:
        try:
            outcome: object = check().run(self.context)
            if not isinstance(outcome, Outcome):
                outcome = Outcome(Status.ERROR, f"The check returned {type(outcome).__name__} instead of an Outcome.")
        except BaseException as error:  # also SystemExit: a check cannot end the examination
            text = str(error) or "no text"
            outcome = Outcome(Status.ERROR, f"The check failed with {type(error).__name__}: {text}")
        self.answers.put((check.name, outcome, self.clock()))

    def _give_up(self) -> None:
        now = self.clock()
        for name, (check, at) in list(self.started.items()):
            if now >= at + check.timeout:
                self._finish(name, Outcome(Status.ERROR, f"The check gave no answer within {check.timeout:g} s."), now)

    def _finish(self, name: str, outcome: Outcome, ended: float) -> None:
        check, at = self.started.pop(name)
        result = _result(check, _without_secrets(outcome, self.context.server), ended - at)
        self.results.append(result)
        self.on_result(result)


def _result(check: type[Check], outcome: Outcome, seconds: float) -> Result:
    return Result(check.name, check.label, check.category, check.weight, check.required, outcome, max(0.0, seconds))


def _without_secrets(outcome: Outcome, server: RunningServer | None) -> Outcome:
    secret = server.api_key if server else ""
    return replace(
        outcome,
        reason=_clean(outcome.reason, secret),
        value=_clean(outcome.value, secret),
        limit=_clean(outcome.limit, secret),
        evidence=_clean(outcome.evidence, secret),
    )


def _clean(value: Any, secret: str) -> Any:
    """What JSON and a database can hold: no secret, no NaN, no zero character, no half of a surrogate pair."""
    if isinstance(value, str):
        shown = value.replace(secret, HIDDEN) if secret else value
        return shown.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
    if isinstance(value, Mapping):
        return {_clean(str(key), secret): _clean(item, secret) for key, item in value.items()}
    if isinstance(value, Sequence | Set) and not isinstance(value, bytes | bytearray):
        return [_clean(item, secret) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int):
        return value
    return _clean(str(value), secret)
