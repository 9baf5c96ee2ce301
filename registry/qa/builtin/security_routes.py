"""The routes that engines are known to have, and those that a server's own OpenAPI document shows. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from registry.qa.base import Severity
from registry.qa.builtin.exchange import CHAT, COMPLETIONS, PROMPT

DOCUMENT = "/openapi.json"
MOST_ROUTES = 60
DEEPEST = 8

# Routes that do work for whoever asks, each with a body that it would accept: a malformed one is refused without a
# key, too, and shows nothing. A guard that looks at a few path prefixes only has been seen to leave out any of them.
_TEXT = {"input": PROMPT}
_PAIR = {"query": PROMPT, "documents": ["a statement"]}
_TWO = {"text_1": PROMPT, "text_2": PROMPT}
_MESSAGES = {"messages": [{"role": "user", "content": PROMPT}]}
_KOBOLD = {"prompt": PROMPT, "max_length": 4}
INFERENCE: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/invocations", {**_MESSAGES, "max_tokens": 4, "temperature": 0}),
    ("/api/v1/generate", _KOBOLD),
    ("/api/latest/generate", _KOBOLD),
    ("/api/extra/generate/stream", _KOBOLD),
    ("/api/extra/generate/check", {}),
    ("/api/extra/tokencount", {"prompt": PROMPT}),
    ("/inference/v1/generate", {"token_ids": [1], "sampling_params": {"max_tokens": 4}}),
    ("/generative_scoring", {**_PAIR, "items": ["a statement"], "label_token_ids": [1]}),
    ("/cohere/v2/chat", _MESSAGES),
    ("/v2/embed", {"texts": [PROMPT], "input_type": "search_query"}),
    ("/tokenize", {"prompt": PROMPT}),
    ("/detokenize", {"tokens": [1]}),
    ("/pooling", _TEXT),
    ("/classify", _TEXT),
    ("/score", _TWO),
    ("/rerank", _PAIR),
    ("/v2/rerank", _PAIR),
    ("/v1/embeddings", _TEXT),
    ("/v1/responses", {**_TEXT, "max_output_tokens": 4}),
    ("/v1/messages", {**_MESSAGES, "max_tokens": 4}),
    ("/v1/messages/count_tokens", _MESSAGES),
    ("/v1/tokenize", {"prompt": PROMPT}),
    ("/v1/detokenize", {"tokens": [1]}),
    ("/v1/score", _TWO),
    ("/v1/rerank", _PAIR),
    ("/v1/completions/render", {"prompt": PROMPT}),
    ("/v1/chat/completions/render", _MESSAGES),
    ("/v1/chat/completions/batch", {"messages": [_MESSAGES["messages"]], "max_tokens": 4}),
    ("/v1/chat/completions/dtesn", {**_MESSAGES, "max_tokens": 4}),
    ("/deep_tree_echo/process", {"input_data": PROMPT}),
    ("/v1/audio/transcriptions", {}),
    ("/v1/audio/translations", {}),
    ("/generate", {"prompt": PROMPT, "text": PROMPT, "max_tokens": 4}),
    ("/completion", {"prompt": PROMPT, "n_predict": 4}),
    ("/embedding", {"content": PROMPT}),
)

# What a request with a sound body would set going is not tried out on a server.
_CHANGES = re.compile(
    r"sleep|wake|pause|resume|reset|flush|update|upload|load|scale|shutdown|stop|restart|abort|cancel|kill|profile"
    r"|delete|remove|collective|weight|soft_prompt|lora|adapter|admin|config|slots|release|cache|elastic|fault|debug",
    re.IGNORECASE,
)


def changes_something(path: str) -> bool:
    return bool(_CHANGES.search(path))


class Way(StrEnum):
    """How to ask whether a route is open without setting it going."""

    READ = "read"
    """GET: it only tells."""
    OTHER_METHOD = "GET on a POST route"
    """405 comes from behind the guard. For routes that would act on a POST whatever its body is."""
    BROKEN = "POST with broken JSON"
    """For routes that need a body: 400 comes from behind the guard."""
    OPTIONS = "OPTIONS"
    """For routes that would act on a GET, too."""


@dataclass(frozen=True)
class Exposed:
    path: str
    way: Way
    severity: Severity
    allows: str
    """What whoever reaches it may do, to stand after "anybody can"."""


DEVELOPMENT: tuple[Exposed, ...] = (
    Exposed("/collective_rpc", Way.BROKEN, Severity.CRITICAL, "call methods inside the engine"),
    Exposed("/update_weights", Way.BROKEN, Severity.CRITICAL, "replace the weights"),
    Exposed("/v1/load_lora_adapter", Way.BROKEN, Severity.CRITICAL, "load an adapter"),
    Exposed("/v1/unload_lora_adapter", Way.BROKEN, Severity.CRITICAL, "take an adapter away"),
    Exposed("/v1/model/load", Way.BROKEN, Severity.CRITICAL, "load another model"),
    Exposed("/v1/lora/load", Way.BROKEN, Severity.CRITICAL, "load an adapter"),
    Exposed("/scale_elastic_ep", Way.BROKEN, Severity.HIGH, "change the number of engines"),
    Exposed("/sleep", Way.OTHER_METHOD, Severity.HIGH, "put the engine to sleep"),
    Exposed("/wake_up", Way.OTHER_METHOD, Severity.HIGH, "wake the engine"),
    Exposed("/pause", Way.OTHER_METHOD, Severity.HIGH, "pause the engine"),
    Exposed("/resume", Way.OTHER_METHOD, Severity.HIGH, "resume the engine"),
    Exposed("/reset_prefix_cache", Way.OTHER_METHOD, Severity.HIGH, "drop the cache"),
    Exposed("/reset_mm_cache", Way.OTHER_METHOD, Severity.HIGH, "drop the cache"),
    Exposed("/start_profile", Way.OPTIONS, Severity.HIGH, "start the profiler"),
    Exposed("/flush_cache", Way.OPTIONS, Severity.HIGH, "drop the cache"),
    Exposed("/shutdown", Way.OPTIONS, Severity.HIGH, "stop the server"),
    Exposed("/server_info", Way.READ, Severity.HIGH, "read the server's whole configuration"),
    Exposed("/get_server_info", Way.READ, Severity.HIGH, "read the server's whole configuration"),
    Exposed("/slots", Way.READ, Severity.HIGH, "read what others ask"),
    Exposed("/props", Way.READ, Severity.MEDIUM, "read the server's settings"),
    Exposed("/is_sleeping", Way.READ, Severity.HIGH, "see that development routes are on"),
    Exposed("/is_paused", Way.READ, Severity.HIGH, "see that development routes are on"),
    Exposed("/weight_info", Way.READ, Severity.HIGH, "read the layout of the weights"),
)
DOCUMENTS: tuple[str, ...] = ("/docs", "/redoc", DOCUMENT)
FIGURES: tuple[str, ...] = ("/metrics", "/version", "/load", "/v1/capacity")


@dataclass(frozen=True)
class Route:
    path: str
    body: dict[str, Any]


def routes_of(document: Mapping[str, Any], model: str) -> list[Route]:
    """The POST routes that take JSON and set nothing going but a generation, each with the least body that fits."""
    found: list[Route] = []
    for path, item in _mapping(document.get("paths")).items():
        operation = _mapping(_mapping(item).get("post"))
        schema = _json_schema(document, operation)
        if schema is not None and path.startswith("/") and not changes_something(path) and len(found) < MOST_ROUTES:
            filled = re.sub(r"\{[^}/]*\}", "deploypipe", path)
            body = _Least(document, model).of(schema)
            found.append(Route(filled, body if isinstance(body, dict) else {}))
    return found


def _json_schema(document: Mapping[str, Any], operation: Mapping[str, Any]) -> Mapping[str, Any] | None:
    body = _resolved(document, operation.get("requestBody"))
    for kind, content in _mapping(body.get("content")).items():
        if kind.partition(";")[0].strip() in ("application/json", "*/*"):
            return _mapping(_mapping(content).get("schema"))
    return None


_QUESTIONS = ("prompt", "messages", "input", "text")


@dataclass
class _Least:
    """The least value that fits a JSON schema, as far as it goes: what is demanded, and few tokens."""

    document: Mapping[str, Any]
    model: str
    left: int = 500
    """Values that may still be made: the server wrote the schema, and it may be without end."""

    def of(self, schema: Any, name: str = "", depth: int = 0) -> Any:
        self.left -= 1
        schema = _resolved(self.document, schema)
        if name == "model":
            return self.model
        for given in ("const", "default", "example"):
            if schema.get(given) is not None:
                return schema[given]
        for several in ("enum", "examples"):
            if items := _list(schema.get(several)):
                return items[0]
        if depth > DEEPEST or self.left < 0:
            return None
        for word in ("anyOf", "oneOf", "allOf"):
            for choice in _list(schema.get(word)):
                if _mapping(choice).get("type") != "null":
                    return self.of(choice, name, depth + 1)
        return self._of_type(schema, name, depth)

    def _of_type(self, schema: Mapping[str, Any], name: str, depth: int) -> Any:
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = next((one for one in kind if one != "null"), None)
        if kind == "array":
            return [self.of(schema.get("items"), name, depth + 1)] * _count(schema.get("minItems"), 4)
        if kind in ("integer", "number"):
            return 4 if "token" in name or "length" in name else _count(schema.get("minimum"), 10_000)
        if kind == "boolean":
            return False
        if kind == "object" or "properties" in schema:
            return self._object(schema, depth)
        return "user" if name == "role" else PROMPT

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        properties = _mapping(schema.get("properties"))
        wanted = [name for name in _list(schema.get("required")) if isinstance(name, str)]
        wanted += [name for name in ("model", "max_tokens") if name in properties and name not in wanted]
        if not depth and not {*wanted} & {*_QUESTIONS}:  # engines declare either of these optional, and demand one
            wanted += [name for name in _QUESTIONS if name in properties][:1]
        body = {name: self.of(properties.get(name), name, depth + 1) for name in wanted}
        return {**body, "max_tokens": 4} if "max_tokens" in body else body


def _resolved(document: Mapping[str, Any], schema: Any) -> Mapping[str, Any]:
    """Follows references inside the document only."""
    for _ in range(DEEPEST):
        reference = _mapping(schema).get("$ref")
        if not isinstance(reference, str) or not reference.startswith("#/"):
            return _mapping(schema)
        schema = document
        for step in reference[2:].split("/"):
            schema = _mapping(schema).get(step.replace("~1", "/").replace("~0", "~"))
    return {}


def _count(value: Any, most: int) -> int:
    return min(max(1, int(value)), most) if isinstance(value, int | float) and math.isfinite(value) else 1


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def foreign_references(value: Any, depth: int = 0) -> list[str]:
    """References out of the document. They are never followed: the server would choose what this machine asks."""
    if depth > 100:
        return []
    if isinstance(value, Mapping):
        here = value.get("$ref")
        out = [here] if isinstance(here, str) and not here.startswith("#") else []
        return out + [one for item in value.values() for one in foreign_references(item, depth + 1)]
    if isinstance(value, list):
        return [one for item in value for one in foreign_references(item, depth + 1)]
    return []


KNOWN_PATHS = frozenset({COMPLETIONS, CHAT, *(path for path, _ in INFERENCE)})
