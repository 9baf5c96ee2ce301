"""The files are the registered ones, and the engine serves them as its interface promises."""

from __future__ import annotations

import json

from registry import artifacts
from registry.engines import ENGINES
from registry.qa.base import Check, Context, Outcome
from registry.qa.builtin.answers import FINISHED, FULL, MAX_TOKENS, Answer, greedy, limited, parting, read
from registry.qa.builtin.exchange import ABSENT, TOO_MANY, VisitingCheck, Visitor, listed
from registry.qa.catalogue import check

CATEGORY = "compatibility"


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
            try:
                now = artifacts.build(folder)
            except artifacts.ArtifactError as error:
                return Outcome.failed(f"These files cannot be registered: {error}.")
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
        if health.status in ABSENT and context.engine not in ENGINES and models.status == 200:
            # A server of a kind that we do not start promises the OpenAI API, of which /health is no part.
            return Outcome.passed("The server answers on /v1/models; it has no /health.", evidence=evidence)
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
    timeout = 60.0

    def ask(self, context: Context, visitor: Visitor) -> Outcome:
        found = greedy(context, visitor)
        plain, streamed = found.plain, found.streamed
        evidence = {"exchanges": [plain.exchange.evidence(), streamed.exchange.evidence()]}
        problems = _problems(context, visitor, plain)
        if plain.exchange is not streamed.exchange:  # else it did not even answer the first request
            problems = [f"plain: {problem}" for problem in problems]
            problems += [f"stream: {problem}" for problem in _stream_problems(context, visitor, streamed)]
        if problems:
            return Outcome.failed(f"POST {found.path}: {'; '.join(problems)}.", evidence=evidence)
        return Outcome.passed(
            f"POST {found.path} generated text plain and streamed: {plain.usage['completion_tokens']} tokens, "
            f"finish_reason {plain.first.finish_reason}.",
            evidence=evidence,
        )


@check
class Repeatable(VisitingCheck):
    name = "compatibility.repeatable"
    label = "Greedy generation repeats itself"
    category = CATEGORY
    weight = 1.0
    required = False
    alone = True  # what is computed beside other requests has other rounding errors
    timeout = 60.0

    def ask(self, context: Context, visitor: Visitor) -> Outcome:
        base = greedy(context, visitor)
        if base.nothing:
            return base.nothing
        pair = [
            read(
                visitor.complete(
                    base.path, base.prompt, max_tokens=MAX_TOKENS, sent="temperature 0", timeout=base.patience
                )
            )
            for _ in range(2)
        ]
        evidence = {"exchanges": [one.exchange.evidence() for one in pair]}
        if wrong := next((one for one in pair if one.problem), None):
            if wrong.exchange.status == TOO_MANY:
                return Outcome.not_checked(limited(base.path), evidence=evidence)
            return Outcome.failed(f"There is nothing to compare: POST {base.path}: {wrong.problem}.", evidence=evidence)
        texts = [one.text for one in pair]
        if texts[0] != texts[1]:
            return Outcome.failed(
                f"The same prompt at temperature 0 gave two texts, different from character {parting(*texts)} on.",
                evidence={**evidence, "texts": texts},
            )
        return Outcome.passed("The same prompt at temperature 0 gave the same text twice.", evidence=evidence)


def _problems(context: Context, visitor: Visitor, answer: Answer) -> list[str]:
    if answer.problem:
        return [answer.problem]
    return [*_form_problems(context, visitor, answer), *_usage_problems(answer)]


def _stream_problems(context: Context, visitor: Visitor, answer: Answer) -> list[str]:
    if answer.exchange.status == 200 and not answer.streamed:
        kind = answer.exchange.headers.get("content-type", "of no type")
        return [f"the answer is {kind}, not text/event-stream"]
    if answer.problem:
        return [answer.problem]
    # Whether a stream counts its usage at all is the server's choice; what it says must be right.
    return [*_form_problems(context, visitor, answer), *(_usage_problems(answer) if answer.usage else [])]


def _form_problems(context: Context, visitor: Visitor, answer: Answer) -> list[str]:
    found = []
    if answer.first.finish_reason not in FINISHED:
        found.append(f"finish_reason is {json.dumps(answer.first.finish_reason)}, not stop or length")
    expected = visitor.server.model
    # A hosted interface names the dated edition of a model.
    hosted = context.engine not in FULL
    others = sorted(
        name for name in answer.models if name != expected and not (hosted and name.startswith(f"{expected}-"))
    )
    if others:
        found.append(f"the answer says that it is from the model {others[0]!r}; {expected!r} was asked")
    return found


def _usage_problems(answer: Answer) -> list[str]:
    counts = [answer.usage.get(name) for name in ("prompt_tokens", "completion_tokens", "total_tokens")]
    if not all(isinstance(count, int) for count in counts):
        return ["usage does not count prompt_tokens, completion_tokens and total_tokens"]
    prompt, completion, total = (int(count or 0) for count in counts)
    if completion < 1 or prompt < 1 or total != prompt + completion:
        return [f"usage says {prompt} + {completion} = {total} tokens for an answer with text"]
    return []
