"""Runs checks: those on files, those on the server together, then each that must be alone, then comparisons with the
live version, and last what may bring the server down.

A check that hangs or raises becomes an error and stops nothing: each runs in a daemon thread of its own. All that
wait for the server share `SERVER_SECONDS`, so that an examination ends whatever the server does. How long the new
version may take to start is for whoever starts it to say.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue

from registry.qa.base import Check, Context, Outcome, RunningServer
from registry.qa.opening import Opening
from registry.qa.outcomes import HIDDEN, failed_with, sound
from registry.qa.policy import Load, Policy
from registry.scoring import Scored, Status

AT_ONCE = 4
SERVER_SECONDS = 200.0
"""For all checks that wait for the server, from the first one's beginning. Starting a server is not counted, and a
policy whose load is longer than the usual one has so much more. With what runs before, five minutes altogether.
"""
LIVE_START_SECONDS = 30.0
LIVE_START_TIMES = 3.0
"""The copy of the live version may take so many times as long to start as the new version did, and 30 s at least: a
large model takes minutes to load, and one that does not come up must not hold the examination for ever.
"""
WARM_UP_SECONDS = 30.0
"""For what an engine prepares at its first request, out of `SERVER_SECONDS`."""
STRAY_SECONDS = 2.0
"""How long what was given up may take to notice it, before something measures the server's speed."""
__all__ = ["AT_ONCE", "HIDDEN", "SERVER_SECONDS", "Result", "examine", "ignore", "stop_reason", "to_scored"]


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
OnStart = Callable[[type[Check]], None]
Clock = Callable[[], float]
StartServer = Callable[[], AbstractContextManager[RunningServer]]
WarmUp = Callable[[RunningServer, float], None]
NO_LIVE = "No other version is live, so there is nothing to compare with."
NOT_COMPARED = "The policy does not ask for a comparison with the live version."


def ignore(what: object) -> None:
    return None


def not_at_all(server: RunningServer, seconds: float) -> None:
    return None


def examine(
    context: Context,
    checks: Sequence[type[Check]],
    *,
    on_result: OnResult = ignore,
    on_start: OnStart = ignore,
    clock: Clock = time.monotonic,
    start_server: StartServer | None = None,
    start_live: StartServer | None = None,
    warm_up: WarmUp = not_at_all,
    server_seconds: float = SERVER_SECONDS,
    live_start_seconds: float = LIVE_START_SECONDS,
) -> list[Result]:
    """Every check's result, in the order of `checks`; `on_result` gets each as it comes, in the caller's thread, and
    `on_start` each check that is really begun.

    `start_server` is called only when no required check of the files stands against it, and left at the end; what it
    raises becomes the reason why the server's checks were not made. Without it the context's own server is examined.
    `start_live` starts a copy of the live version for the checks that compare with it, and only while nothing blocks.
    It is entered in a thread of its own, and left by that thread if it comes too late.
    `warm_up` is given each server before its first check, and how many seconds it may take.
    """
    server_seconds += max(0.0, context.policy.load.seconds - Load().seconds)
    running = _Examination(context, on_result, on_start, clock, warm_up, server_seconds, live_start_seconds)
    possible = running.possible(checks)
    running.files([c for c in possible if not c.needs_server])
    asking = [c for c in possible if c.needs_server]
    with ExitStack() as stack:
        running.begin_server(stack, start_server)
        if asking and running.context.server:
            running.warmed_up(running.context.server)
        running.together([c for c in asking if not (c.alone or c.needs_live or c.last)])
        running.one_by_one([c for c in asking if c.alone and not (c.needs_live or c.last)])
        running.compare([c for c in asking if c.needs_live], start_live)
        running.one_by_one([c for c in asking if c.last and not c.needs_live])
    place = {check.name: index for index, check in enumerate(checks)}
    return sorted(running.results, key=lambda result: place[result.name])


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


@dataclass
class _Examination:
    context: Context
    on_result: OnResult
    on_start: OnStart
    clock: Clock
    warm_up: WarmUp
    server_seconds: float
    live_start_seconds: float
    results: list[Result] = field(default_factory=list)
    ends: float = math.inf
    """When the server's time is up, by `clock`."""
    start_took: float = 0.0
    strays: list[threading.Thread] = field(default_factory=list)
    """Of checks that were given up and may still be asking the server."""

    def possible(self, checks: Sequence[type[Check]]) -> list[type[Check]]:
        without = [c for c in checks if c.needs_artifact and self.context.artifact is None]
        self._skip(without, "No files were given, only a running server.", Status.NOT_APPLICABLE)
        return [c for c in checks if c not in without]

    def files(self, checks: Sequence[type[Check]]) -> None:
        self._run([c for c in checks if not c.alone], AT_ONCE)
        self._run([c for c in checks if c.alone], 1)

    def begin_server(self, stack: ExitStack, start: StartServer | None) -> None:
        began = self.clock()
        if problem := stop_reason(self.results):
            self.context = replace(self.context, server=None, server_problem=problem)
        elif start is not None:
            try:
                self.context = replace(self.context, server=stack.enter_context(start()), server_problem="")
            except Exception as error:
                self.context = replace(self.context, server=None, server_problem=str(error) or type(error).__name__)
        self.start_took = self.clock() - began
        self.ends = self.clock() + self.server_seconds

    def warmed_up(self, server: RunningServer) -> None:
        self.warm_up(server, min(WARM_UP_SECONDS, self.ends - self.clock()))

    def together(self, checks: Sequence[type[Check]]) -> None:
        self._ask(checks, AT_ONCE)

    def one_by_one(self, checks: Sequence[type[Check]]) -> None:
        self._ask(checks, 1)

    def compare(self, checks: Sequence[type[Check]], start_live: StartServer | None) -> None:
        if not checks or self.context.server is None:
            return self.one_by_one(checks)  # each says why there is no server
        wanted = start_live is not None and self.context.policy.compare_with_live
        if wanted and (stops := [r for r in self.results if r.stops]):
            return self._skip(checks, f"The live version was not started for it: {stops[0].label} blocks already.")
        with ExitStack() as stack:
            live = self.context.live
            if wanted and start_live is not None:
                try:
                    live = self._open_live(stack, start_live)
                except Exception as error:
                    why = str(error) or type(error).__name__
                    return self._skip(checks, f"A copy of the live version could not be started: {why}")
            if live is None or not self.context.policy.compare_with_live:
                why = NO_LIVE if live is None and self.context.policy.compare_with_live else NOT_COMPARED
                return self._skip(checks, why, Status.NOT_APPLICABLE)
            self.warmed_up(live)
            before, self.context = self.context, replace(self.context, live=live)
            self._ask(checks, 1)
            self.context = before
        return None

    def _open_live(self, stack: ExitStack, start: StartServer) -> RunningServer:
        began = self.clock()
        try:
            longest = max(self.live_start_seconds, LIVE_START_TIMES * self.start_took)
            return stack.enter_context(Opening(start, longest))
        finally:
            self.ends += self.clock() - began

    def _ask(self, checks: Sequence[type[Check]], at_once: int) -> None:
        if self.context.server is None:
            self._skip(checks, self.context.server_problem or "There is no server.")
        else:
            self._run(checks, at_once)

    def _run(self, checks: Sequence[type[Check]], at_once: int) -> None:
        if checks and at_once == 1:
            self._settle()
        running = _Running(self.context, self._found, self.on_start, self.clock, self.ends, self.server_seconds)
        try:
            running.run(checks, at_once)
        finally:
            self.strays += running.leave()

    def _settle(self) -> None:
        """Once for each: one that never ends is not waited for again."""
        until = min(self.clock() + STRAY_SECONDS, self.ends)
        for thread in self.strays:
            thread.join(max(0.0, until - self.clock()))
        self.strays.clear()

    def _skip(self, checks: Sequence[type[Check]], why: str, status: Status = Status.NOT_CHECKED) -> None:
        for check in checks:
            self._found(_result(check, sound(Outcome(status, why), ()), 0.0, self.context.policy))

    def _found(self, result: Result) -> None:
        self.results.append(result)
        self.on_result(result)


@dataclass
class _Running:
    context: Context
    found: OnResult
    begun: OnStart
    clock: Clock
    ends: float
    whole: float
    answers: SimpleQueue[tuple[str, Outcome, float]] = field(default_factory=SimpleQueue)
    started: dict[str, tuple[type[Check], float]] = field(default_factory=dict)
    threads: dict[str, tuple[threading.Thread, threading.Event]] = field(default_factory=dict)

    def run(self, checks: Sequence[type[Check]], at_once: int) -> None:
        waiting = deque(checks)
        while waiting or self.started:
            while waiting and len(self.started) < at_once:
                self._start(waiting.popleft())
            if not self.started:
                continue
            nearest = min(self._until(check, at) for check, at in self.started.values())
            try:
                name, outcome, ended = self.answers.get(timeout=max(0.0, nearest - self.clock()))
            except Empty:
                self._give_up()
                continue
            if name in self.started:  # else it was given up already
                self._finish(name, outcome, ended)

    def _until(self, check: type[Check], at: float) -> float:
        return min(at + check.timeout, self.ends)

    def _start(self, check: type[Check]) -> None:
        now = self.clock()
        self.started[check.name] = (check, now)
        if now >= self.ends:
            return self._finish(check.name, Outcome.not_checked(f"It was not begun: {self._used_up}"), now)
        self.begun(check)
        self.started[check.name] = (check, self.clock())  # what is told of it is not its time
        context = replace(self.context, given_up=threading.Event())
        thread = threading.Thread(target=self._answer, args=(check, context), name=f"check {check.name}", daemon=True)
        self.threads[check.name] = thread, context.given_up
        thread.start()
        return None

    def leave(self) -> list[threading.Thread]:
        """Tell all that still run that nobody waits for them."""
        alive = [(thread, given_up) for thread, given_up in self.threads.values() if thread.is_alive()]
        for _, given_up in alive:
            given_up.set()
        return [thread for thread, _ in alive]

    @property
    def _used_up(self) -> str:
        return f"the {self.whole:g} s for all checks of the server were used up."

    def _answer(self, check: type[Check], context: Context) -> None:
        secrets = [server.api_key for server in (context.server, context.live) if server]
        try:
            outcome = sound(check().run(context), secrets)
        except BaseException as error:  # also SystemExit: a check cannot end the examination
            outcome = failed_with(error, secrets)
        self.answers.put((check.name, outcome, self.clock()))

    def _give_up(self) -> None:
        now = self.clock()
        for name, (check, at) in list(self.started.items()):
            if now < self._until(check, at):
                continue
            self.threads[name][1].set()
            late = now >= at + check.timeout
            why = f"The check gave no answer within {check.timeout:g} s."
            self._finish(name, Outcome.error(why if late else f"The check was ended: {self._used_up}"), now)

    def _finish(self, name: str, outcome: Outcome, ended: float) -> None:
        check, at = self.started.pop(name)
        self.found(_result(check, outcome, ended - at, self.context.policy))


def _result(check: type[Check], outcome: Outcome, seconds: float, policy: Policy) -> Result:
    required = check.required and check.category not in policy.advisory
    return Result(check.name, check.label, check.category, check.weight, required, outcome, max(0.0, seconds))
