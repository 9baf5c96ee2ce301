"""What stands open beside the API: development routes, documents and figures. Asked in ways that change nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

from registry.qa.base import Context, Finding, Outcome, Severity
from registry.qa.builtin.exchange import REFUSED, Exchange, VisitingCheck, Visitor, listed
from registry.qa.builtin.security_asking import (
    CATEGORY,
    NO_SUCH_ROUTE,
    Asking,
    Request,
    asking_within,
    blamed,
    judged,
    left_untried,
    shown,
)
from registry.qa.builtin.security_routes import DEVELOPMENT, DOCUMENTS, FIGURES, Way
from registry.qa.catalogue import check
from registry.qa.parameters import Parameter

_DEVELOPMENT_OFF = (
    "Start the engine without its development mode and without run-time loading of adapters, or let the proxy in "
    "front pass only the routes that are used."
)
_DOCUMENTS_OFF = "Start the engine with --disable-fastapi-docs, or close the paths in the proxy."
_FIGURES_OFF = "Let only the monitoring's own network reach them."
_BEHIND_THE_GUARD = (400, 405, 411, 415, 422)
AT_ONCE = 6
SECONDS = 30.0


@check
class OpenRoutes(VisitingCheck):
    name = "security.open_routes"
    label = "Development routes are closed"
    category = CATEGORY
    weight = 2.0
    required = False
    timeout = 45.0
    parameters = (
        Parameter("documents_closed", bool, False, "Fail where /docs, /redoc or /openapi.json need no key."),
        Parameter("figures_closed", bool, False, "Fail where /metrics, /version or /load need no key."),
    )

    def ask(self, context: Context, visitor: Visitor) -> Outcome:
        with asking_within(context, visitor, SECONDS) as asking:
            looking = _Doors(asking)
            looking.look()
        findings = [
            Finding(one.severity, f"Without a key anybody can {one.allows}: {one.path} is open.", _DEVELOPMENT_OFF)
            for one in DEVELOPMENT
            if looking.is_open(one.path, one.way)
        ]
        for parameter, paths, action in (
            ("documents_closed", DOCUMENTS, _DOCUMENTS_OFF),
            ("figures_closed", FIGURES, _FIGURES_OFF),
        ):
            if readable := [path for path in paths if looking.is_open(path, Way.READ)]:
                severity = Severity.HIGH if context.parameter(self, parameter) else Severity.LOW
                findings.append(Finding(severity, f"Without a key anybody can read {listed(readable)}.", action))
        evidence = {"exchanges": shown([e for e in asking.exchanges if e.status != 404])}
        if looking.unknown and not blamed(findings):
            tried = len(WANTED) - looking.unknown
            return Outcome.not_checked(
                left_untried(asking, tried, len(WANTED), "routes", "what stands open"), evidence=evidence
            )
        return judged(findings, f"None of {len(DEVELOPMENT)} development routes is open without a key.", evidence)


WANTED: tuple[tuple[str, Way], ...] = (
    *((NO_SUCH_ROUTE, way) for way in Way),
    *((one.path, one.way) for one in DEVELOPMENT),
    *((path, Way.READ) for path in (*DOCUMENTS, *FIGURES)),
)


@dataclass
class _Doors:
    asking: Asking
    answers: dict[tuple[str, Way], Exchange] = field(default_factory=dict)

    def look(self) -> None:
        found = self.asking.every([_request(path, way) for path, way in WANTED], AT_ONCE)
        self.answers = {wanted: one for wanted, one in zip(WANTED, found, strict=True) if one and one.status}

    @property
    def unknown(self) -> int:
        """Routes that were left untried or did not answer."""
        return len(WANTED) - len(self.answers)

    def is_open(self, path: str, way: Way) -> bool:
        answer, nowhere = self.answers.get((path, way)), self.answers.get((NO_SUCH_ROUTE, way))
        return answer is not None and nowhere is not None and _is_open(way, answer, nowhere)


def _request(path: str, way: Way) -> Request:
    """Without a key. Nothing that is sent here does anything, whatever the engine."""
    sent = f"no key, {way}"
    if way is Way.BROKEN:
        return Request("POST", path, content=b"{", headers={"Content-Type": "application/json"}, sent=sent)
    return Request("OPTIONS" if way is Way.OPTIONS else "GET", path, sent=sent)


def _is_open(way: Way, answer: Exchange, unknown: Exchange) -> bool:
    """`unknown` is what the server answers to a path that no engine has: some answer the same to all."""
    if answer.status in (*REFUSED, 404) or answer.status == unknown.status:
        return False
    if way is Way.READ:
        return 200 <= answer.status < 300
    return 200 <= answer.status < 300 or answer.status in _BEHIND_THE_GUARD
