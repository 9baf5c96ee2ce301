"""The probe's closed loop, its mixes and turns, and what the engine itself counted meanwhile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from examples.textgen.train import train
from registry.qa.base import RunningServer
from registry.qa.policy import Load
from registry.qa.probe.measured import Alternation, Question, Spec
from registry.qa.probe.run import longest_alternation, run_alternating, run_probe
from tests.examples.conftest import KEY, MODEL, serving
from tests.registry.recorder import Recorder, recording

LOAD = Load(requests_per_second=40, seconds=0.5, warm_up_requests=4, max_tokens=20)


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with recording() as recorder:
        yield recorder


@pytest.fixture
def other() -> Iterator[Recorder]:
    with recording() as recorder:
        yield recorder


def test_closed_loop_keeps_its_number_of_requests_under_way(recorder: Recorder) -> None:
    found = run_probe(recorder.running, replace(LOAD, concurrency=6, requests_per_second=0.001))
    assert recorder.most_at_once == 6
    assert found.failures == {}
    assert found.requests >= 6 * 3
    assert len(recorder.bodies) == 1 + LOAD.warm_up_requests + found.requests
    assert found.seconds >= 0.5


def test_closed_loop_does_not_hammer_a_server_that_fails_at_once(recorder: Recorder) -> None:
    recorder.status = 500
    found = run_probe(recorder.running, replace(LOAD, concurrency=2))
    assert found.failures == {"http": found.requests}
    assert 2 <= found.requests <= 2 * (0.5 / 0.05 + 1)


def test_both_mixes_and_the_seed_decide_what_is_sent(recorder: Recorder) -> None:
    load = replace(LOAD, prompt_words=((3, 1.0), (30, 1.0)), output_tokens=((5, 1.0), (9, 1.0)))
    run_probe(recorder.running, load, seed=3)
    first = recorder.bodies[1:]
    recorder.bodies.clear()
    run_probe(recorder.running, load, seed=3)
    again = recorder.bodies[1:]
    assert Counter(map(repr, first)) == Counter(map(repr, again))
    assert {len(body["prompt"].split()) for body in first} == {3, 30}
    assert {body["max_tokens"] for body in first} == {5, 9}


def test_team_s_own_prompts_are_put_to_the_plain_completions(recorder: Recorder) -> None:
    own = (Question("Where is my parcel?"), Question("Cancel it."))
    run_probe(recorder.running, LOAD, questions=own)
    assert set(recorder.paths) == {"/v1/completions"}
    assert set(recorder.prompts[1:]) == {"Where is my parcel?", "Cancel it."}


def test_team_s_own_messages_are_put_to_the_chat(recorder: Recorder) -> None:
    message = {"role": "user", "content": "Where is my parcel?"}
    found = run_probe(recorder.running, LOAD, questions=(Question(messages=(message,)),))
    assert found.path == "/v1/chat/completions"
    assert set(recorder.paths) == {"/v1/chat/completions"}
    assert recorder.prompts[1:] == [[message]] * len(recorder.bodies[1:])


def test_stream_that_is_held_open_after_its_end_is_not_waited_for(recorder: Recorder) -> None:
    recorder.holds_open = True
    found = run_probe(recorder.running, LOAD)
    assert found.failures == {}
    assert found.whole_ms is not None
    assert found.whole_ms.highest < 400
    assert found.seconds < 1.0  # the schedule's half second, not the half second more for each stream


def test_answer_without_an_end_is_cut_off(recorder: Recorder) -> None:
    recorder.endless = True
    found = run_probe(recorder.running, replace(LOAD, warm_up_requests=1, requests_per_second=5), request_timeout=5.0)
    assert found.gave_up
    assert set(found.failures) <= {"transport", "timeout"}


def test_turns_have_the_same_requests_and_alternate(recorder: Recorder, other: Recorder) -> None:
    found = run_alternating(recorder.running, other.running, LOAD, pairs=4, requests=5, most_seconds=30)
    assert found.problem == ""
    assert [turn.candidate for turn in found.slices] == [True, False, False, True, True, False, False, True]
    assert [turn.pair for turn in found.slices] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert {len(turn.requests) for turn in found.slices} == {5}
    assert recorder.prompts == other.prompts
    assert len(recorder.bodies) == 1 + LOAD.warm_up_requests + 4 * 5


def test_turns_end_when_one_of_the_two_answers_nothing(recorder: Recorder, other: Recorder) -> None:
    other.endless = True
    with recording() as gone:
        pass
    found = run_alternating(recorder.running, gone.running, LOAD, pairs=4, requests=5, most_seconds=30)
    assert found.silent == "live"
    assert found.problem == "The live version's copy answered none of its 4 warm-up requests."
    found = run_alternating(gone.running, recorder.running, LOAD, pairs=4, requests=5, most_seconds=30)
    assert found.silent == "candidate"
    assert found.problem == "This version answered none of its 4 warm-up requests."


def test_turns_end_when_their_time_is_up(recorder: Recorder, other: Recorder) -> None:
    found = run_alternating(recorder.running, other.running, LOAD, pairs=4, requests=5, most_seconds=0.001)
    assert len(found.slices) == 1
    assert found.problem == "The 0.001 s for it were used up."


def test_the_longest_a_comparison_may_take_counts_every_time_out() -> None:
    """Start 10, four tries at a form 40, warm-up 10.5, 60 s of turns, and a last one of 0.3 + 10."""
    spec = Spec("http://127.0.0.1:1", MODEL, KEY, Load())
    assert longest_alternation(Alternation(spec, spec, 8, 6, 60.0)) == pytest.approx(130.8)


def test_engine_counts_the_tokens_that_the_probe_counts(tmp_path: Path) -> None:
    with serving(train("bigram", tmp_path / "bigram").folder) as textgen:
        found = run_probe(RunningServer(textgen.url, MODEL, KEY), LOAD)
    assert found.failures == {}
    assert found.engine["generation_tokens"] == found.tokens == 20 * found.requests
    assert found.engine["requests_by_finish_reason"] == {"length": found.requests}
    assert found.engine["first_token_ms"]["n"] == found.requests
    assert found.first_token_ms is not None
    assert 0 < found.engine["first_token_ms"]["mean"] < found.first_token_ms.mean


def test_engine_whose_metrics_are_no_metrics_adds_nothing(recorder: Recorder) -> None:
    recorder.metrics_text = "these { are no metrics"
    assert run_probe(recorder.running, LOAD).engine == {}


@pytest.mark.parametrize(
    "text",
    ["vllm:generation_tokens_total +Inf\n", 'vllm:time_to_first_token_seconds_bucket{le="soon"} 1\n'],
    ids=["endless count", "limit that is no number"],
)
def test_engine_that_counts_nonsense_is_measured_all_the_same(recorder: Recorder, text: str) -> None:
    recorder.metrics_text = f"# TYPE x gauge\n{text}vllm:prompt_tokens_total 7\n"
    found = run_probe(recorder.running, LOAD)
    assert found.failures == {}
    assert "generation_tokens" not in found.engine
