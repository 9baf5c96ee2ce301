"""Held-out texts through the API, alone and beside the live version."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry.qa.base import Context, Outcome
from registry.qa.builtin.exchange import Exchange, visit
from registry.qa.builtin.quality import AgainstLive, HeldOutTexts
from registry.qa.builtin.quality_compare import compared
from registry.qa.builtin.quality_measure import Loss, Match, Measured, TooSlow, Way, loss_of, measure
from registry.qa.held_out import HeldOut, Task, Text, load
from registry.qa.own_files import OwnFileError, inside
from registry.qa.policy import Policy
from registry.qa.runner import examine
from registry.scoring import Status
from tests.registry.faulty_engine import Engine, running_engine
from tests.registry.faulty_language import Drawing, log_probabilities, words_of, write
from tests.registry.recorder import recording

TEXTS = ["".join(write([], 14, Drawing(), random.Random(seed))) for seed in range(30)]
PROMPTS = ["The objects in their", " one class is made", " so on and"]

Ask = Callable[..., Outcome]


def greedy(prompt: str, count: int) -> str:
    return "".join(write(words_of(prompt), count, Drawing(0.0), random.Random(0)))


@pytest.fixture(scope="module")
def engines() -> Iterator[tuple[Engine, Engine]]:
    with running_engine() as candidate, running_engine() as live:
        yield candidate, live


@pytest.fixture
def engine(engines: tuple[Engine, Engine]) -> Engine:
    for each in engines:
        each.reset()
    return engines[0]


@pytest.fixture
def live(engine: Engine, engines: tuple[Engine, Engine]) -> Engine:
    return engines[1]


def lines(*values: object) -> str:
    return "\n".join(json.dumps(value) for value in values)


@pytest.fixture
def ask(engine: Engine, live: Engine, tmp_path: Path) -> Ask:
    (tmp_path / "texts.jsonl").write_text(lines(*({"text": text} for text in TEXTS)))
    sound = [{"prompt": prompt, "completion": greedy(prompt, 4)} for prompt in PROMPTS]
    (tmp_path / "prompts.jsonl").write_text(lines(*sound, {"prompt": PROMPTS[0], "completion": "another text"}))
    (tmp_path / "both.jsonl").write_text(lines({"text": TEXTS[0]}, sound[0]))

    def run(file: str = "texts.jsonl", *, against: bool = False, margins: Any = None, **parameters: Any) -> Outcome:
        policy = Policy(
            parameters={"quality.held_out": {"file": file, **parameters}, "quality.against_live": margins or {}}
        )
        context = Context(None, None, "vllm", policy, engine.running, live=live.running, files=tmp_path)
        (result,) = examine(context, [AgainstLive if against else HeldOutTexts])
        return result.outcome

    return run


def expected_perplexity(texts: list[str], knows: float = 1.0) -> float:
    logs = [log for text in texts for log in log_probabilities(words_of(text), knows) if log is not None]
    return math.exp(-math.fsum(logs) / len(logs))


@pytest.mark.parametrize(
    ("faults", "way"),
    [("", Way.ECHO), ("max_tokens 0 refused", Way.ECHO_OF_ONE), ("no echo", Way.PROMPT_LOGPROBS)],
)
def test_perplexity_is_that_of_the_model_however_the_server_tells_it(
    ask: Ask, engine: Engine, faults: str, way: Way
) -> None:
    engine.be(faults)
    outcome = ask()
    assert outcome.status is Status.PASSED
    assert outcome.evidence["way"] == way.value
    assert outcome.evidence["texts"]["tokens"] == 30 * 13
    assert outcome.value == pytest.approx(expected_perplexity(TEXTS), abs=1e-3)
    assert "of 30 held-out texts is" in outcome.reason
    assert "no limit is set" in outcome.reason


def test_perplexity_above_the_limit_fails_with_both_numbers(ask: Ask, engine: Engine) -> None:
    engine.be("knows less")
    outcome = ask(most_perplexity=9.5)
    assert outcome.status is Status.FAILED
    assert outcome.value == pytest.approx(expected_perplexity(TEXTS, 0.1), abs=1e-3)
    assert (outcome.limit, outcome.unit) == (9.5, "perplexity")
    assert "at most 9.5 is allowed" in outcome.reason


def test_server_without_probabilities_is_not_checked_and_says_what_it_answered(ask: Ask, engine: Engine) -> None:
    engine.be("no echo+no prompt_logprobs")
    outcome = ask()
    assert outcome.status is Status.NOT_CHECKED
    assert "(echo: it answered 400 (no log-probabilities of the prompt); echo, max_tokens 1: it" in outcome.reason
    both = ask("both.jsonl", most_perplexity=0.0)
    assert both.status is Status.PASSED
    assert "1 of 1 prompts (100.0 %) were continued word for word" in both.reason
    assert "does not tell the probabilities" in both.reason
    assert ask("both.jsonl", most_perplexity=9.0).status is Status.NOT_CHECKED


def test_prompts_are_continued_word_for_word_or_not(ask: Ask, engine: Engine) -> None:
    outcome = ask("prompts.jsonl", least_exact_match_percent=75.0)
    assert outcome.status is Status.PASSED
    assert (outcome.value, outcome.limit, outcome.unit) == (75.0, 75.0, "%")
    assert "3 of 4 prompts (75.0 %) were continued word for word; at least 75 % are demanded." in outcome.reason
    assert outcome.evidence["wrong"][0]["wanted"] == "another text"
    engine.be("not repeatable")
    outcome = ask("prompts.jsonl", least_exact_match_percent=75.0)
    assert outcome.status is Status.FAILED
    assert outcome.value == 0.0


def test_chat_is_asked_where_there_is_nothing_else(ask: Ask, engine: Engine) -> None:
    engine.be("chat only")
    assert ask("prompts.jsonl", least_exact_match_percent=75.0).status is Status.PASSED


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        (
            {"file": "texts.jsonl", "least_exact_match_percent": 5.0},
            "a limit for prompts with completions, and the fil",
        ),
        ({"file": "prompts.jsonl", "most_perplexity": 5.0}, "a limit for texts, and the file has none"),
        ({"file": "nowhere.jsonl"}, "There is no file 'nowhere.jsonl' in the folder"),
        ({"file": "../texts.jsonl"}, "is not a file inside the folder"),
    ],
)
def test_check_that_cannot_work_says_why_and_is_an_error(ask: Ask, parameters: dict[str, Any], words: str) -> None:
    outcome = ask(**parameters)
    assert outcome.status is Status.ERROR
    assert words in outcome.reason


def test_without_a_file_both_say_how_to_set_one(ask: Ask) -> None:
    for outcome in (ask(""), ask("", against=True)):
        assert outcome.status is Status.NOT_APPLICABLE
        assert "Set the parameter file of quality.held_out to a JSONL file" in outcome.reason


def test_more_lines_than_wanted_are_left_out_and_counted(ask: Ask) -> None:
    outcome = ask(most_lines=10)
    assert outcome.value == pytest.approx(expected_perplexity(TEXTS[:10]), abs=1e-3)
    assert outcome.reason.endswith("20 more lines were not asked.")


def test_server_that_stops_answering_fails_and_ends_soon(ask: Ask, engine: Engine) -> None:
    engine.be("hangs")
    outcome = ask()
    assert outcome.status is Status.FAILED
    assert "Line 1 has no answer: the server gave no answer (/v1/completions did not end within" in outcome.reason


# -- beside the live version -------------------------------------------------------------------------------------------


def test_same_model_is_not_worse_than_itself(ask: Ask) -> None:
    outcome = ask(against=True)
    assert outcome.status is Status.PASSED
    assert (outcome.value, outcome.limit, outcome.unit) == (0.0, 2.0, "%")
    assert ": 0.0 % worse; up to 2 % worse is allowed." in outcome.reason


def test_worse_model_fails_by_its_loss_on_the_same_texts(ask: Ask, engine: Engine, live: Engine) -> None:
    engine.be("knows less")
    outcome = ask(against=True)
    assert outcome.status is Status.FAILED
    mine, theirs = (math.log(expected_perplexity(TEXTS, knows)) for knows in (0.1, 1.0))
    assert outcome.value == pytest.approx(100 * (mine / theirs - 1), abs=1e-2)
    assert "and it is not chance (p below 0.001)" in outcome.reason
    engine.be("")
    live.be("knows less")
    better = ask(against=True)
    assert better.status is Status.PASSED
    assert "% better; up to 2 % worse is allowed." in better.reason


def test_few_prompts_cannot_show_that_it_is_worse(ask: Ask, engine: Engine) -> None:
    engine.be("not repeatable")
    outcome = ask("prompts.jsonl", against=True)
    assert outcome.status is Status.PASSED
    assert (
        "it continued 0 word for word and the live version 3 (3 only the live version, 0 only this one)"
        in outcome.reason
    )
    chance = "up to 2 percentage points worse is allowed, but it may be chance (p = 0.13)."
    assert outcome.reason.endswith(f": 75.0 percentage points worse; {chance}")


@pytest.mark.parametrize("silent", ["candidate", "live"])
def test_nothing_is_compared_where_one_side_does_not_answer(
    ask: Ask, engine: Engine, live: Engine, silent: str
) -> None:
    (engine if silent == "candidate" else live).be("fails")
    outcome = ask(against=True)
    assert outcome.status is Status.NOT_CHECKED
    assert "There is nothing to compare: Line 1 has no answer: the server answered 500." in outcome.reason


def test_live_version_without_probabilities_is_said_to_be_so(ask: Ask, live: Engine) -> None:
    live.be("no echo+no prompt_logprobs")
    outcome = ask(against=True)
    assert outcome.status is Status.NOT_CHECKED
    assert outcome.reason.startswith("Of the live version: This server does not tell the probabilities")


def measured(nats: list[float] | None = None, right: list[bool] | None = None) -> Measured:
    return Measured(
        [Loss(line, value, 10, 50) for line, value in enumerate(nats or [])],
        [Match(1000 + line, value, "", "") for line, value in enumerate(right or [])],
    )


def verdict(mine: Measured, live: Measured) -> Outcome:
    return compared(mine, live, most_worse_percent=2.0, most_worse_points=2.0)


def test_worse_than_allowed_is_not_enough_where_it_may_be_chance() -> None:
    outcome = verdict(measured([30.0, 20.0, 25.0]), measured([26.0, 20.0, 25.0]))
    assert outcome.status is Status.PASSED
    assert "5.6 % worse; up to 2 % worse is allowed, but it may be chance (p = 0.5)" in outcome.reason


def test_surely_worse_is_not_enough_where_it_is_allowed() -> None:
    live = [20.0 + i for i in range(20)]
    outcome = verdict(measured([value * 1.01 for value in live]), measured(live))
    assert outcome.status is Status.PASSED
    assert "1.0 % worse; up to 2 % worse is allowed." in outcome.reason


def test_two_comparisons_share_the_chance_of_a_false_alarm() -> None:
    """Five prompts that only the live version solved: p = 0.041 is below 0.05 and not below the half of it."""
    prompts = measured(right=[False] * 5), measured(right=[True] * 5)
    assert verdict(*prompts).status is Status.FAILED
    mine, live = (measured([20.0], [match.right for match in side.matches]) for side in prompts)
    assert verdict(mine, live).status is Status.PASSED


def test_equal_models_are_called_worse_no_more_often_than_promised() -> None:
    """600 pairs of models whose losses differ by noise that is as large as the margin, centred on the margin itself:
    the hardest case that is still allowed. 5 % may fail; 7.7 % lies beyond three standard deviations."""
    rng = np.random.default_rng(3)
    failed = 0
    for _ in range(600):
        live = rng.gamma(9.0, 4.0, size=30)
        mine = live * 1.02 + rng.normal(0.0, 1.0, size=30)
        failed += verdict(measured(mine.tolist()), measured(live.tolist())).status is Status.FAILED
    assert failed / 600 <= 0.077


def test_model_that_solves_exactly_as_many_prompts_less_as_it_may_is_seldom_called_worse() -> None:
    """1,000 prompts, of which 22 % only the live version solves and 20 % only this one: the margin of 2 points itself.
    Against chance alone, and the margin by what was seen, a third of 600 comparisons would fail."""
    rng = np.random.default_rng(6)
    failed = 0
    for _ in range(600):
        draws = rng.random(1000)
        live, mine = draws < 0.22, (draws >= 0.22) & (draws < 0.42)
        failed += verdict(measured(right=mine.tolist()), measured(right=live.tolist())).status is Status.FAILED
    assert failed / 600 <= 0.077


def test_much_worse_model_is_found_out() -> None:
    rng = np.random.default_rng(4)
    live = rng.gamma(9.0, 4.0, size=30)
    assert verdict(measured((live * 1.15).tolist()), measured(live.tolist())).status is Status.FAILED


# -- answers and files -------------------------------------------------------------------------------------------------

ECHOED = {"text": "a b", "logprobs": {"token_logprobs": [None, -1.0, -9.0], "text_offset": [0, 1, 3]}}


@pytest.mark.parametrize(
    ("way", "choice", "nats"),
    [
        (Way.ECHO, ECHOED, 1.0),  # what was generated after the text does not count
        (Way.ECHO, {**ECHOED, "text": "c"}, None),  # not echoed: the probabilities are of something else
        (Way.ECHO, {**ECHOED, "logprobs": None}, None),
        (Way.ECHO, {**ECHOED, "logprobs": {"token_logprobs": [None, "x"], "text_offset": [0, 1]}}, None),
        (Way.ECHO, {**ECHOED, "logprobs": {"token_logprobs": [None, 0.5], "text_offset": [0, 1]}}, None),
        (Way.ECHO, {**ECHOED, "logprobs": {"token_logprobs": [None], "text_offset": [0]}}, None),
        (Way.ECHO, {**ECHOED, "logprobs": {"token_logprobs": [-2.0, -1.0], "text_offset": [7, 8]}}, 3.0),
        (Way.PROMPT_LOGPROBS, {"text": "c", "prompt_logprobs": [None, {"5": {"logprob": -2.5}}]}, 2.5),
        (Way.PROMPT_LOGPROBS, {"text": "c", "prompt_logprobs": [None, {"5": 3}]}, None),
        (Way.PROMPT_LOGPROBS, {"text": "c", "prompt_logprobs": [None, None]}, None),
        (Way.PROMPT_LOGPROBS, {"text": "c", "prompt_logprobs": "x"}, None),
    ],
)
def test_only_probabilities_of_the_text_itself_are_taken(way: Way, choice: dict[str, Any], nats: float | None) -> None:
    body = json.dumps({"choices": [{"index": 0, **choice}]}).encode()
    loss = loss_of(Text(3, "a b"), way, Exchange("POST", "/v1/completions", 200, body=body))
    assert (loss.nats if loss else None) == nats
    if loss:
        assert (loss.line, loss.size) == (3, 3)


def test_too_many_lines_for_the_time_are_said_to_be_so(engine: Engine) -> None:
    context = Context(None, None, "vllm", Policy(), engine.running)
    held_out = HeldOut(tuple(Text(n, "a b") for n in range(5)))
    ticks = iter(range(0, 1000, 25))
    with visit(context) as visitor, pytest.raises(TooSlow) as caught:
        measure(visitor, held_out, clock=lambda: float(next(ticks)))
    assert str(caught.value).startswith("Only 2 of 5 lines were answered within 60 s; set most_lines")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "f.jsonl is empty."),
        ("\n \n", "f.jsonl is empty."),
        ('{"text": "a"}\nnot JSON\n', "f.jsonl, line 2: this is not JSON"),
        ('\n{"text": "a", "prompt": "b"}', 'f.jsonl, line 2: give {"text": …} or {"prompt": …, "completion": …}'),
        ('{"prompt": "b"}', "f.jsonl, line 1: give"),
        ("[1]", "f.jsonl, line 1: give"),
        ('{"text": " "}', "f.jsonl, line 1: text must be a text of 1 to 20,000 characters."),
        ('{"text": 5}', "f.jsonl, line 1: text must be a text"),
        (
            json.dumps({"prompt": "a", "completion": "b" * 1001}),
            "line 1: completion must be a text of 1 to 1,000 characters.",
        ),
        ('{"text": "a\\ud83d"}', "f.jsonl, line 1: text holds half of a surrogate pair, which no request can carry."),
        ('{"prompt": "a", "completion": ""}', "f.jsonl, line 1: completion must be a text"),
        (b'{"text": "\xff"}', "f.jsonl is not UTF-8 (byte 10)."),
    ],
)
def test_wrong_line_is_named(tmp_path: Path, content: str | bytes, words: str) -> None:
    (tmp_path / "f.jsonl").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(OwnFileError) as caught:
        load(tmp_path, "f.jsonl", 100)
    assert words in str(caught.value)


def test_lines_are_read_as_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    path.write_bytes('\ufeff{"text": "a\u2028b"}\r\n\r\n{"completion": "c", "prompt": "p"}'.encode())
    assert load(tmp_path, "f.jsonl", 9) == HeldOut((Text(1, "a\u2028b"),), (Task(3, "p", "c"),), 0)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../secret", "a/../../secret", "..", ".", "", "a\\b", "a\0b", "loop", "out"]
)
def test_file_outside_of_the_folder_is_never_read(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    (tmp_path / "secret").write_text("{}")
    (folder / "out").symlink_to(tmp_path / "secret")
    (folder / "loop").symlink_to(folder / "loop")
    with pytest.raises(OwnFileError):
        inside(folder, name)
    with pytest.raises(OwnFileError, match="There is no folder"):
        inside(None, name)


def test_link_inside_of_the_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{}")
    (tmp_path / "b.jsonl").symlink_to("a.jsonl")
    assert inside(tmp_path, "b.jsonl") == (tmp_path / "a.jsonl").resolve()


def test_word_that_goes_on_is_another_word(engine: Engine, tmp_path: Path) -> None:
    whole = greedy(PROMPTS[0], 4).strip()
    context = replace(Context(None, None, "vllm", Policy(), engine.running), files=tmp_path)
    tasks = tuple(Task(n, PROMPTS[0], wanted) for n, wanted in enumerate((whole, whole[:-1], whole.split()[0])))
    with visit(context) as visitor:
        found = measure(visitor, HeldOut((), tasks))
    assert [match.right for match in found.matches] == [True, False, True]


@pytest.mark.parametrize("wanted", ["1234567890", "今日は良い天気"])
def test_so_many_tokens_are_asked_for_that_the_wanted_text_can_come(wanted: str) -> None:
    """One for each digit, and up to three for a character of another script: some models cut no coarser."""
    with recording() as recorder:
        context = Context(None, None, "vllm", Policy(), recorder.running)
        with visit(context) as visitor:
            measure(visitor, HeldOut((), (Task(1, "a", wanted),)))
    assert recorder.bodies[-1]["max_tokens"] > len(wanted.encode())


def test_texts_that_a_model_finds_impossible_have_a_perplexity_all_the_same() -> None:
    """Engines write -9999 for a probability of 0."""
    assert math.isfinite(Measured([Loss(1, 9999.0 * 10, 10, 50)]).perplexity)


def test_comparison_that_was_given_up_asks_nothing_more(engine: Engine, live: Engine, tmp_path: Path) -> None:
    (tmp_path / "texts.jsonl").write_text(lines({"text": TEXTS[0]}))
    policy = Policy(parameters={"quality.held_out": {"file": "texts.jsonl"}})
    context = Context(None, None, "vllm", policy, engine.running, live=live.running, files=tmp_path)
    context.given_up.set()
    with pytest.raises(TimeoutError, match="Nobody waits for this check any more"):
        AgainstLive().run(context)
    assert not engine.asked.is_set()
