"""What stands open beside the API: development routes, documents and figures. Asked in ways that change nothing."""

from __future__ import annotations

from registry.qa.base import Context, Finding, Outcome, Severity
from registry.qa.builtin.exchange import REFUSED, Exchange, VisitingCheck, Visitor, listed
from registry.qa.builtin.security_asking import CATEGORY, NO_SUCH_ROUTE, Asking, GivenUp, judged, shown
from registry.qa.builtin.security_routes import DEVELOPMENT, DOCUMENTS, FIGURES, Exposed, Way
from registry.qa.catalogue import check
from registry.qa.parameters import Parameter

_DEVELOPMENT_OFF = (
    "Start the engine without its development mode and without run-time loading of adapters, or let the proxy in "
    "front pass only the routes that are used."
)
_DOCUMENTS_OFF = "Start the engine with --disable-fastapi-docs, or close the paths in the proxy."
_FIGURES_OFF = "Let only the monitoring's own network reach them."
_BEHIND_THE_GUARD = (400, 405, 411, 415, 422)


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
        asking = Asking(visitor)
        open_routes: list[Exposed] = []
        findings: list[Finding] = []
        try:
            unknown = {way: _try(asking, NO_SUCH_ROUTE, way) for way in Way}
            for exposed in DEVELOPMENT:
                answer = _try(asking, exposed.path, exposed.way)
                if _is_open(exposed.way, answer, unknown[exposed.way]):
                    open_routes.append(exposed)
            findings += self._lesser(context, asking, unknown[Way.READ])
        except GivenUp:
            if not open_routes:
                silent = [f"{e.route} ({e.sent})" for e in asking.exchanges if not e.status]
                return Outcome.not_checked(
                    f"The server left {listed(silent)} without an answer, so what stands open is not known.",
                    evidence={"exchanges": shown(asking.exchanges)},
                )
        findings += [
            Finding(one.severity, f"Without a key anybody can {one.allows}: {one.path} is open.", _DEVELOPMENT_OFF)
            for one in open_routes
        ]
        return judged(
            findings,
            f"None of {len(DEVELOPMENT)} development routes is open without a key.",
            {"exchanges": shown([e for e in asking.exchanges if e.status not in (404, 0)])},
        )

    def _lesser(self, context: Context, asking: Asking, unknown: Exchange) -> list[Finding]:
        found: list[Finding] = []
        for parameter, paths, action in (
            ("documents_closed", DOCUMENTS, _DOCUMENTS_OFF),
            ("figures_closed", FIGURES, _FIGURES_OFF),
        ):
            answers = [_try(asking, path, Way.READ) for path in paths]
            if readable := [e.path for e in answers if _is_open(Way.READ, e, unknown)]:
                severity = Severity.HIGH if context.parameter(self, parameter) else Severity.LOW
                found.append(Finding(severity, f"Without a key anybody can read {listed(readable)}.", action))
        return found


def _try(asking: Asking, path: str, way: Way) -> Exchange:
    """Without a key. Nothing that is sent here does anything, whatever the engine."""
    if way is Way.BROKEN:
        headers = {"Content-Type": "application/json"}
        return asking.ask("POST", path, content=b"{", headers=headers, sent=f"no key, {way}")
    method = "OPTIONS" if way is Way.OPTIONS else "GET"
    return asking.ask(method, path, sent=f"no key, {way}")


def _is_open(way: Way, answer: Exchange, unknown: Exchange) -> bool:
    """`unknown` is what the server answers to a path that no engine has: some answer the same to all."""
    if not answer.status or answer.status in (*REFUSED, 404) or answer.status == unknown.status:
        return False
    if way is Way.READ:
        return 200 <= answer.status < 300
    return 200 <= answer.status < 300 or answer.status in _BEHIND_THE_GUARD
