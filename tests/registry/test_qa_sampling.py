"""Sampling parameters by what they do: what the table of faults cannot show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from registry.qa.base import Check, Context
from registry.qa.builtin.answers import greedy, read
from registry.qa.builtin.compatibility import Repeatable
from registry.qa.builtin.exchange import Exchange, patience, visit
from registry.qa.builtin.samplers import SAMPLERS
from registry.qa.builtin.sampling import MaxTokens, Refuses, Seed, Several, stop_string
from registry.qa.catalogue import all_checks
from registry.qa.policy import Policy
from registry.qa.runner import Result, examine
from registry.scoring import Status
from tests.registry.faulty_engine import Engine, running_engine
from tests.registry.faulty_state import DIALECTS
from tests.registry.recorder import recording

GENERATIVE = ("generation", "repeatable", "seed", "stop", "max_tokens", "several", "refuses", "samplers")

Ask = Callable[..., dict[str, Result]]


@pytest.fixture
def ask(engine: Engine) -> Ask:
    def run(fault: str = "", name: str = "", only: tuple[str, ...] = GENERATIVE) -> dict[str, Result]:
        engine.be(fault)
        context = Context(None, None, name or engine.speaks.engine, Policy(), engine.running)
        wanted = {f"compatibility.{word}" for word in only}
        results = examine(context, [c for c in all_checks() if c.name in wanted])
        return {r.name.partition(".")[2]: r for r in results}

    return run


def statuses(results: dict[str, Result]) -> dict[str, Status]:
    return {name: result.outcome.status for name, result in results.items()}


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("form", ["", "+chat only", "+chat only+reasoning only", "+no stream options"])
def test_sound_engine_passes_in_every_dialect_and_form(ask: Ask, dialect: str, form: str) -> None:
    results = ask(dialect + form)
    assert statuses(results) == dict.fromkeys(GENERATIVE, Status.PASSED)
    words = results["samplers"].outcome.reason
    assert all(sampler.shown in words for sampler in SAMPLERS[DIALECTS[dialect].engine])
    assert "Not to be seen" not in words


def test_engine_of_unknown_kind_is_asked_for_the_standard_fields_only(ask: Ask) -> None:
    results = ask(name="openai", fault="top_k ignored+min_p ignored+accepts top_k -5+accepts top_p 0.0")
    assert statuses(results) == dict.fromkeys(GENERATIVE, Status.PASSED)
    assert results["samplers"].outcome.reason == "The samplers have their effect: top_p 1e-06."


def test_several_choices_are_not_applicable_where_an_engine_says_clearly_that_it_cannot(ask: Ask) -> None:
    outcome = ask("cannot do several", "llamacpp")["several"].outcome
    assert outcome.status is Status.NOT_APPLICABLE
    assert outcome.reason == "The server says that it cannot: POST /v1/completions with n 3 answered 501."
    assert ask("n ignored", "llamacpp")["several"].outcome.status is Status.FAILED


def test_hosted_model_may_name_its_edition(ask: Ask, engine: Engine) -> None:
    assert ask("dated edition in the answer", "openai")["generation"].outcome.status is Status.PASSED
    failed = ask("dated edition in the answer", "vllm")["generation"].outcome
    assert failed.status is Status.FAILED
    assert "the model 'words-2026-01-01'" in failed.reason


def test_ignored_temperature_is_seen_by_the_seed_and_leaves_the_samplers_unknown(ask: Ask) -> None:
    results = ask("always greedy")
    assert results["seed"].outcome.status is Status.FAILED
    assert "which is that of temperature 0: the seed has no effect" in results["seed"].outcome.reason
    assert results["samplers"].outcome.status is Status.NOT_CHECKED
    assert (
        "without it the text at temperature 2 is much like that of temperature 0" in results["samplers"].outcome.reason
    )
    fine = {name for name, status in statuses(results).items() if status is Status.PASSED}
    assert fine == set(GENERATIVE) - {"seed", "samplers"}


def test_sampler_that_needs_a_seed_is_not_blamed_for_a_seed_that_does_not_repeat(ask: Ask) -> None:
    outcome = ask("aphrodite-0.24+seed ignored+top_a ignored", only=("samplers",))["samplers"].outcome
    assert outcome.status is Status.PASSED
    assert "Not to be seen: top_a 0.9 (without it a seed does not repeat its text, either)" in outcome.reason


def test_word_that_differs_by_a_tie_does_not_make_a_sampler_ignored(ask: Ask) -> None:
    outcome = ask("top_k misses a word", only=("samplers",))["samplers"].outcome
    assert outcome.status is Status.PASSED
    assert "top_k 1" in outcome.reason


def test_sampler_that_does_nothing_has_a_finding_with_what_to_do(ask: Ask) -> None:
    outcome = ask("min_p ignored", only=("samplers",))["samplers"].outcome
    (finding,) = outcome.findings
    assert finding.sentence == "The sampler min_p does not do its work: it makes no difference."
    assert "do without it" in finding.action
    assert (outcome.value, outcome.limit, outcome.unit) == (1.0, 0.0, "samplers")


def test_server_without_text_fails_generation_and_leaves_the_others_unchecked(ask: Ask) -> None:
    results = ask("no text")
    generation = results.pop("generation").outcome
    assert generation.status is Status.FAILED
    assert "plain: there is no text; stream: there is no text" in generation.reason
    assert {result.outcome.status for result in results.values()} == {Status.NOT_CHECKED}
    why = "There is no text to try it on: POST /v1/completions: there is no text."
    assert {result.outcome.reason for result in results.values()} == {why}


def test_server_that_hangs_is_waited_for_once_by_all_of_them_together(ask: Ask, engine: Engine) -> None:
    results = ask("hangs")
    generation = results.pop("generation").outcome
    assert generation.status is Status.FAILED
    assert "/v1/completions did not end within 20.0 s" in generation.reason
    assert {result.outcome.status for result in results.values()} == {Status.NOT_CHECKED}
    assert next(engine.numbers) == 1  # the only request that reached it


def test_server_that_is_gone_is_asked_only_once(ask: Ask) -> None:
    with running_engine() as engine:
        gone = engine.running
    context = Context(None, None, "vllm", Policy(), gone)
    wanted = [c for c in all_checks() if c.name.partition(".")[2] in GENERATIVE and c.category == "compatibility"]
    results = {r.name.partition(".")[2]: r.outcome for r in examine(context, wanted)}
    assert results.pop("generation").status is Status.FAILED
    assert {outcome.status for outcome in results.values()} == {Status.NOT_CHECKED}
    assert all(len(outcome.evidence["exchanges"]) == 1 for outcome in results.values())


def test_server_that_is_busy_for_a_moment_is_asked_again(ask: Ask) -> None:
    assert statuses(ask("busy at first")) == dict.fromkeys(GENERATIVE, Status.PASSED)


@pytest.mark.parametrize("check", [Seed, MaxTokens, Several, Refuses, Repeatable])
def test_server_that_allows_too_few_requests_is_neither_blamed_nor_praised(check: type[Check]) -> None:
    """A 429 is no refusal of a wrong value, and no text that a seed did not repeat."""
    with recording() as recorder:
        context = Context(None, None, "openai", Policy(), recorder.running)
        with visit(context) as visitor:
            assert greedy(context, visitor).nothing is None
        recorder.status = 429
        outcome = check().run(context)
    assert outcome.status is Status.NOT_CHECKED
    assert outcome.reason == (
        "POST /v1/completions answered 429 (too many requests) again and again, so this could not be tried: "
        "give the key of the examination a higher rate limit."
    )


def test_slow_server_is_waited_for_as_long_as_it_was_seen_to_need(engine: Engine) -> None:
    engine.first_delay = 1.5
    context = Context(None, None, "vllm", Policy(), engine.running)
    with visit(context) as visitor:
        base = greedy(context, visitor)
    assert base.nothing is None
    assert 6.0 <= base.patience <= 20.0
    assert [patience(seconds) for seconds in (0.0, 1.0, 2.0, 5.0, 60.0)] == [5, 5, 8, 20, 20]


def test_check_that_a_slow_server_leaves_no_time_for_says_so_itself(engine: Engine) -> None:
    class Hurried(Seed):
        timeout = 2.2

    engine.first_delay = 0.03
    outcome = Hurried().run(Context(None, None, "vllm", Policy(), engine.running))
    assert outcome.status is Status.NOT_CHECKED
    assert outcome.reason.startswith("The server is too slow for it: after ")
    assert outcome.reason.endswith(" answers the check's time was used up.")


def test_broken_stream_is_the_fault_of_generation_and_the_others_say_that_they_judged_without(ask: Ask) -> None:
    results = ask("streams are cut")
    assert results["generation"].outcome.status is Status.FAILED
    assert "plain; a stream cannot be judged on this server" in results["stop"].outcome.reason


def test_prompt_that_gives_too_few_words_is_replaced_by_the_next(ask: Ask) -> None:
    results = ask("short answer to the first prompt")
    assert statuses(results) == dict.fromkeys(GENERATIVE, Status.PASSED)
    asked = [e["sent"] for e in results["seed"].outcome.evidence["exchanges"]]
    assert asked[:2] == ["temperature 1, seed 11"] * 2
    assert results["seed"].outcome.evidence["prompt"] == "When a function is called, the arguments are"


def test_evidence_is_short_and_holds_no_key(ask: Ask, engine: Engine) -> None:
    for result in ask().values():
        for exchange in result.outcome.evidence["exchanges"]:
            assert len(exchange["body"]) <= 300
            assert engine.running.api_key not in str(exchange)


@pytest.mark.parametrize(
    ("text", "stop"),
    [
        (" one two three four five six", "three"),
        ("one one one two", "two"),
        ("one one one one", ""),
        ("word", ""),
        (" a b c d", ""),  # too short to be a string that one would stop at
        ("\ufffd\ufffd \ufffd", ""),
        ("", ""),
    ],
)
def test_stop_string_is_a_word_from_the_middle_that_is_new_there(text: str, stop: str) -> None:
    assert stop_string(text) == stop


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"[1]", "the answer is no JSON object"),
        (b"{}", "the answer is no JSON object"),
        (b'{"choices": 7}', "there is no text"),
        (b'{"choices": [7, {"index": 0, "text": 3, "message": 4}]}', "there is no text"),
        (b'{"choices": [{"index": 0, "message": null, "text": "a"}]}', ""),
        (b'{"error": "it broke", "choices": []}', "an error came inside the 200 answer: it broke"),
        (b'{"object": "error", "message": "flat."}', "an error came inside the 200 answer: flat"),
    ],
)
def test_any_body_is_read_without_breaking(body: bytes, problem: str) -> None:
    assert read(Exchange("POST", "/v1/completions", 200, body=body)).problem == problem


def test_events_are_read_to_the_end_of_the_stream() -> None:
    head = {"content-type": "text/event-stream"}
    sound = b'data: {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
    answer = read(Exchange("POST", "/v1/chat/completions", 200, headers=head, body=sound + b"data: not looked at\n\n"))
    assert (answer.text, answer.first.finish_reason, answer.problem, answer.streamed) == ("a", "stop", "", True)
    cut = replace(answer.exchange, body=sound.removesuffix(b"data: [DONE]\n\n"))
    assert read(cut).problem == "it ends without [DONE]"
