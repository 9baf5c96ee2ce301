"""Ways in which Deep Tree Echo is wrong; "+" sets several, the part that the engine has and what is wrong with it."""

from __future__ import annotations

DTESN, TOPOLOGY, AAR = "integration.dtesn", "integration.membrane_topology", "integration.aar_core"

FAULTS: list[tuple[str, str, str]] = [
    ("dtesn+dtesn unavailable", DTESN, "GET /v1/dtesn/status does not say dtesn_available"),
    ("dtesn+dtesn not initialised", DTESN, "GET /v1/dtesn/status answered 503"),
    ("dtesn+dtesn passed by", DTESN, "answered with X-DTESN-Processed false"),
    ("dtesn+dtesn error inside 200", DTESN, "answered 200 without a choice that has text"),
    ("dtesn+dtesn says nothing", DTESN, "answered 200 without a choice that has text"),
    ("tree+tree out of service", DTESN, "GET /deep_tree_echo/status answered 503"),
    ("tree+tree breaks", DTESN, "POST /deep_tree_echo/process answered 500"),
    ("tree+tree degraded", DTESN, "answered 200 with degraded_mode true"),
    ("tree+tree falls back", DTESN, "answered 200 with fallback_used true"),
    ("tree+tree without layers", DTESN, "used 0 membrane layers, at least 1 is expected"),
    ("tree+tree without output", DTESN, "answered 200 without an output"),
    ("tree+tree constant", DTESN, "answered two different inputs with the same output"),
    ("tree+tree breaker open", DTESN, "reports that its circuit breaker is open"),
    ("tree+membranes miscounted", TOPOLOGY, "level 4 of the membranes has 5, A000081 gives 4"),
    ("tree+membranes of another sequence", TOPOLOGY, "names the sequence A000108; A000081 is expected"),
    ("tree+membranes unreadable", TOPOLOGY, "GET /deep_tree_echo/membrane_info answered 500"),
    ("aar+aar broken", AAR, "GET /agents answered 500"),
    ("aar+aar in prose", AAR, "GET /agents answered 200 without a JSON list"),
    ("aar+aar invokes anything", AAR, "a function that does not exist was invoked"),
]
