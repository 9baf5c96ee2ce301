"""The files are the registered ones, and the engine serves them as its interface promises."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from registry import artifacts
from registry.qa.base import Check, Context, Outcome
from registry.qa.builtin.exchange import Exchange, VisitingCheck, Visitor, events, listed
from registry.qa.catalogue import check

CATEGORY = "compatibility"
MAX_TOKENS = 6
FINISHED = ("stop", "length", "repetition", "tool_calls", "eos")


@check
class Digest(Check):
    name = "compatibility.digest"
    label = "The files are the registered ones"
    category = CATEGORY
    weight = 3.0
    required = True
    needs_artifact = True
    timeout = 600.0  # it reads every byte

    def run(self, context: Context) -> Outcome:
        folder, manifest = context.folder, context.manifest
        if manifest is None:
            now = artifacts.build(folder)
            return Outcome.not_applicable(
                f"Nothing is registered to compare with; the digest of these bytes is {now.digest}.",
                evidence={"digest": now.digest, "files": len(now.files), "bytes": now.size},
            )
        wrong = artifacts.verify(folder, manifest)
        count = len(manifest.files)
        if not wrong:
            files = "the one file" if count == 1 else f"all {count} files"
            return Outcome.passed(
                f"The SHA-256 of {files} ({manifest.size:,} bytes) is as registered.",
                evidence={"digest": manifest.digest, "files": count, "bytes": manifest.size},
            )
        return Outcome.failed(
            f"The files are not the registered ones: {listed([found.sentence for found in wrong])}.",
            value=float(len(wrong)),
            limit=0.0,
            unit="files",
            evidence={"digest": manifest.digest, "differences": [found.sentence for found in wrong[:100]]},
        )


@check
class EngineAnswers(VisitingCheck):
    name = "compatibility.engine_answers"
    label = "The engine answers"
    category = CATEGORY
    weight = 2.0
    required = True
    timeout = 20.0

    def ask(self, context: Context, visitor: Visitor) -> Outcome:
        key = visitor.server.api_key
        health = visitor.ask("GET", "/health")
        version = visitor.ask("GET", "/version", key=key)
        models = visitor.ask("GET", "/v1/models", key=key)
        evidence = {"exchanges": [one.evidence() for one in (health, version, models)]}
        if health.status != 200:
            return Outcome.failed(f"GET /health {health.said}; 200 is expected.", evidence=evidence)
        if 200 not in (version.status, models.status):
            return Outcome.failed(
                f"GET /health answers 200, but GET /version {version.said} and GET /v1/models {models.said}.",
                evidence=evidence,
            )
        told = version.json().get("version") if version.status == 200 else None
        name = f", version {told}" if told else ""
        return Outcome.passed(f"The engine ({context.engine}{name}) answers on /health.", evidence=evidence)


@check
class ModelName(VisitingCheck):
    name = "compatibility.model_name"
    label = "The expected model is served"
    category = CATEGORY
    weight = 1.0
    required = True
    timeout = 15.0

    def ask(self, context: Context, visitor: Visitor) -> Outcome:
        answer = visitor.ask("GET", "/v1/models", key=visitor.server.api_key)
        evidence = {"exchanges": [answer.evidence()]}
        if answer.status != 200:
            return Outcome.failed(f"GET /v1/models {answer.said}, so no model is named.", evidence=evidence)
        models = answer.json().get("data")
        names = [str(m.get("id")) for m in models if isinstance(m, dict)] if isinstance(models, list) else []
        expected = visitor.server.model
        if expected in names:
            return Outcome.passed(f"GET /v1/models names {expected!r}.", evidence=evidence)
        found = listed([repr(name) for name in names]) or "no model"
        return Outcome.failed(f"GET /v1/models names {found}; {expected!r} is expected.", evidence=evidence)


@check
class Generation(VisitingCheck):
    name = "compatibility.generation"
    label = "Text is generated, plain and streamed"
    category = CATEGORY
    weight = 3.0
    required = True
    timeout = 30.0

    def ask(self, context: Context, visitor: Visitor) -> Outcome:
        path = visitor.completions_path()
        plain = visitor.complete(path, max_tokens=MAX_TOKENS, sent=f"max_tokens {MAX_TOKENS}")
        streamed = visitor.complete(path, max_tokens=MAX_TOKENS, stream=True, sent=f"max_tokens {MAX_TOKENS}, streamed")
        evidence = {"exchanges": [plain.evidence(), streamed.evidence()]}
        problems = [f"plain: {p}" for p in _plain_problems(plain)] + [
            f"stream: {p}" for p in _stream_problems(streamed)
        ]
        if problems:
            return Outcome.failed(f"POST {path}: {'; '.join(problems)}.", evidence=evidence)
        return Outcome.passed(
            f"POST {path} generated text plain and streamed, and kept to max_tokens {MAX_TOKENS}.", evidence=evidence
        )


@check
class Repeatable(VisitingCheck):
    name = "compatibility.repeatable"
    label = "Greedy generation repeats itself"
    category = CATEGORY
    weight = 1.0
    required = False
    timeout = 30.0

    def ask(self, context: Context, visitor: Visitor) -> Outcome:
        path = visitor.completions_path()
        pair = [visitor.complete(path, max_tokens=16, sent="temperature 0") for _ in range(2)]
        evidence = {"exchanges": [one.evidence() for one in pair]}
        texts = [_reading(one.json()).text for one in pair]
        if not all(texts):
            unanswered = next(one for one, text in zip(pair, texts, strict=True) if not text)
            bare = " without text" if unanswered.status else ""
            return Outcome.failed(
                f"There is nothing to compare: POST {path} {unanswered.said}{bare}.", evidence=evidence
            )
        if texts[0] != texts[1]:
            place = next((i for i, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), min(map(len, texts)))
            return Outcome.failed(
                f"The same prompt at temperature 0 gave two texts, different from character {place + 1} on.",
                evidence={**evidence, "texts": texts},
            )
        return Outcome.passed("The same prompt at temperature 0 gave the same text twice.", evidence=evidence)


@dataclass
class _Reading:
    """What one or more events of an answer say."""

    text: str = ""
    pieces: int = 0
    finish_reason: str | None = None
    usage: dict[str, Any] = field(default_factory=dict)
    error: str = ""

    def add(self, event: dict[str, Any]) -> None:
        if "error" in event or event.get("object") == "error":
            error = event.get("error", event)
            self.error = str(error.get("message", error) if isinstance(error, dict) else error)
        usage = event.get("usage")
        self.usage = usage if isinstance(usage, dict) else self.usage
        choices = event.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if not isinstance(choice, dict):
                continue
            said = choice.get("delta") or choice.get("message") or {}
            piece = choice.get("text") or said.get("content") or said.get("reasoning") or said.get("reasoning_content")
            if isinstance(piece, str) and piece:
                self.text += piece
                self.pieces += 1
            self.finish_reason = choice.get("finish_reason") or self.finish_reason

    def problems(self) -> list[str]:
        if self.error:
            return [f"an error came inside the 200 answer: {self.error[:200].removesuffix('.')}"]
        found = [] if self.text else ["there is no text"]
        if self.finish_reason not in FINISHED:
            found.append(f"finish_reason is {json.dumps(self.finish_reason)}, not stop or length")
        return found


def _reading(event: dict[str, Any]) -> _Reading:
    reading = _Reading()
    reading.add(event)
    return reading


def _plain_problems(answer: Exchange) -> list[str]:
    if answer.status != 200:
        return [f"the server {answer.said}"]
    reading = _reading(answer.json())
    if found := reading.problems():
        return found
    counts = [reading.usage.get(name) for name in ("prompt_tokens", "completion_tokens", "total_tokens")]
    if not all(isinstance(count, int) for count in counts):
        return ["usage does not count prompt_tokens, completion_tokens and total_tokens"]
    prompt, completion, total = (int(count or 0) for count in counts)
    if completion > MAX_TOKENS:
        return [f"max_tokens was {MAX_TOKENS} and {completion} tokens came"]
    if completion < 1 or prompt < 1 or total != prompt + completion:
        return [f"usage says {prompt} + {completion} = {total} tokens for an answer with text"]
    return []


def _stream_problems(answer: Exchange) -> list[str]:
    if answer.status != 200:
        return [f"the server {answer.said}"]
    if not answer.headers.get("content-type", "").startswith("text/event-stream"):
        return [f"the answer is {answer.headers.get('content-type', 'of no type')}, not text/event-stream"]
    reading = _Reading()
    data = events(answer.body)
    for number, event in enumerate(data, start=1):
        if event == "[DONE]":
            break
        try:
            value = json.loads(event)
        except ValueError:
            return [f"event {number} is not JSON"]
        if isinstance(value, dict):
            reading.add(value)
    found = reading.problems()
    if "[DONE]" not in data and not reading.error:
        found.append("it ends without [DONE]")
    if reading.pieces > MAX_TOKENS:
        found.append(f"max_tokens was {MAX_TOKENS} and {reading.pieces} pieces of text came")
    return found
