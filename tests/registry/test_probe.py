"""The load probe against a server whose delays and failures are known."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from registry.qa.policy import Load
from registry.qa.probe.measured import Failure, Measured, Request, Spec
from registry.qa.probe.press import arrivals
from registry.qa.probe.prompts import PROMPTS
from registry.qa.probe.run import ProbeError, figure, percentile_ranks, report, run_probe
from tests.registry.faulty_engine import KEY, Engine, running_engine

LOAD = Load(requests_per_second=40, seconds=1.0, warm_up_requests=3, max_tokens=20)


@pytest.fixture(scope="module")
def one_engine() -> Iterator[Engine]:
    with running_engine() as engine:
        yield engine


@pytest.fixture
def engine(one_engine: Engine) -> Engine:
    one_engine.reset()
    return one_engine


def test_first_token_gap_and_whole_are_those_of_the_server(engine: Engine) -> None:
    engine.first_delay, engine.gap_delay = 0.1, 0.01
    found = run_probe(engine.running, LOAD)
    assert found.streamed
    assert found.failures == {}
    first, gap, whole = found.first_token_ms, found.gap_ms, found.whole_ms
    assert first is not None
    assert gap is not None
    assert whole is not None
    assert 100 <= first.p50 < 180
    assert 9 <= gap.p50 < 25
    assert whole.p50 >= first.p50 + 19 * 9
    assert gap.n == 19 * first.n == 19 * found.requests
    assert found.tokens == 20 * found.requests
    assert found.tokens_from == "usage"
    assert found.tokens_per_second == pytest.approx(found.tokens / found.seconds, rel=0.01)


def test_warm_up_is_not_measured(engine: Engine) -> None:
    engine.cycle = ("http", "http", "http", "http") + ("fine",) * 1000  # one to see how to ask, three to warm up
    found = run_probe(engine.running, LOAD)
    assert found.failures == {}
    assert found.requests == engine.met["fine"] == len(arrivals(40, 1.0, seed=1))


def test_every_failure_is_counted_in_its_class(engine: Engine) -> None:
    engine.cycle = ("fine", "stream_error", "http", "empty", "incomplete", "transport")
    found = run_probe(engine.running, replace(LOAD, warm_up_requests=0))
    engine.met["fine"] -= 1  # the first request only looks how to ask
    assert found.failures == {name: count for name, count in engine.met.items() if name != "fine"}
    assert found.failed + engine.met["fine"] == found.requests
    assert found.error_rate_percent == pytest.approx(100 * found.failed / found.requests)
    assert "the engine failed" in found.examples["stream_error"]


def test_standstill_is_seen_by_all_requests_that_arrived_meanwhile(engine: Engine) -> None:
    """A closed loop would have sent one request in that second and reported one slow answer."""
    engine.stall_at = 20
    found = run_probe(engine.running, replace(LOAD, requests_per_second=50, seconds=1.5))
    whole = found.whole_ms
    assert whole is not None
    assert found.failures == {}
    assert whole.p99 >= 900
    assert whole.p95 >= 700
    assert whole.mean >= 200


def test_server_that_cannot_stream_is_measured_plain(engine: Engine) -> None:
    engine.faults = {"no streams"}
    engine.first_delay = 0.05
    found = run_probe(engine.running, replace(LOAD, seconds=0.5))
    assert not found.streamed
    assert found.failures == {}
    assert found.gap_ms is None
    assert found.first_token_ms is not None
    assert found.first_token_ms.p50 >= 50


def test_tokens_are_counted_by_events_where_the_server_does_not_count(engine: Engine) -> None:
    engine.faults = {"no stream options"}
    found = run_probe(engine.running, replace(LOAD, seconds=0.5))
    assert found.streamed
    assert found.tokens_from == "events"
    assert found.tokens == 20 * found.requests


def test_probe_that_hangs_is_ended_and_never_shows_the_key(engine: Engine) -> None:
    engine.faults = {"hangs"}
    failed: list[ProbeError] = []

    def probe() -> None:
        try:
            run_probe(engine.running, LOAD, 3.0)
        except ProbeError as error:
            failed.append(error)

    thread = threading.Thread(target=probe)
    thread.start()
    assert engine.asked.wait(30)
    probes = [p for p in psutil.Process().children() if "registry.qa.probe" in p.cmdline()]
    assert len(probes) == 1
    assert KEY not in " ".join([*probes[0].cmdline(), *probes[0].environ().values()])
    thread.join(30)
    assert str(failed[0]) == "The load probe did not end within 3 s."
    assert not probes[0].is_running()


def test_nobody_listening_is_counted_as_transport_failures() -> None:
    with running_engine() as engine:
        gone = engine.running
    found = run_probe(gone, replace(LOAD, seconds=0.3))
    assert found.failures == {"transport": found.requests}
    assert found.first_token_ms is None


def test_load_that_makes_no_sense_is_refused(engine: Engine) -> None:
    with pytest.raises(ProbeError, match="requests_per_second is 0: give more than 0"):
        run_probe(engine.running, replace(LOAD, requests_per_second=0))


def test_arrivals_are_the_same_for_a_seed_and_poisson() -> None:
    times = arrivals(50, 100, seed=3)
    assert times == arrivals(50, 100, seed=3) != arrivals(50, 100, seed=4)
    gaps = [b - a for a, b in pairwise(times)]
    assert stats.kstest(gaps, stats.expon(scale=1 / 50).cdf).pvalue > 0.001
    assert abs(len(times) - 5000) < 5 * 5000**0.5


def test_prompts_are_short_and_differ() -> None:
    assert len(set(PROMPTS)) == len(PROMPTS) >= 24
    assert all(0 < len(prompt.split()) <= 24 for prompt in PROMPTS)


@pytest.mark.parametrize(("n", "ranks"), [(10, (2, 9)), (20, (6, 15)), (5, (None, None))])
def test_interval_of_a_median_has_the_published_ranks(n: int, ranks: tuple[int | None, int | None]) -> None:
    """Conover, Practical Nonparametric Statistics, confidence interval for a quantile; n = 5 allows none at 95 %."""
    assert percentile_ranks(n, 0.5) == ranks


@given(st.integers(1, 2000), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_interval_of_a_percentile_covers_it(n: int, share: float) -> None:
    low, high = percentile_ranks(n, share)
    below = stats.binom(n, share)
    covered = below.cdf(high - 1 if high else n) - below.cdf(low - 1 if low else -1)
    assert covered >= 0.95 - 1e-9


@given(st.lists(st.floats(0, 100), min_size=1, max_size=300))
def test_percentiles_are_measured_values_in_order(values: list[float]) -> None:
    found = figure(values)
    assert found is not None
    rounded = {round(1000 * value, 2) for value in values}
    assert {found.p50, found.p95, found.p99, found.highest} <= rounded
    assert found.p50 <= found.p95 <= found.p99 <= found.highest
    assert found.p95_low is None or found.p95_low <= found.p95
    assert found.p95_high is None or found.p95_high >= found.p95


requests = st.builds(
    Request,
    lag=st.floats(0, 10),
    first=st.none() | st.floats(0, 10),
    whole=st.none() | st.floats(0, 10),
    gaps=st.lists(st.floats(0, 1), max_size=4).map(tuple),
    pieces=st.integers(0, 50),
    tokens=st.none() | st.integers(0, 50),
    failure=st.none() | st.sampled_from(Failure),
    detail=st.text(max_size=20),
)


@given(st.lists(requests, min_size=1, max_size=20))
def test_what_was_measured_survives_json_and_every_request_is_accounted_for(measured: list[Request]) -> None:
    whole = Measured("/v1/completions", True, 2.0, tuple(measured))
    assert Measured.from_json(whole.to_json()) == whole
    found = report(whole)
    assert found.failures == dict(Counter(r.failure.value for r in measured if r.failure))
    assert 0 <= found.error_rate_percent <= 100


def test_timed_out_request_counts_with_the_time_waited() -> None:
    slow = Request(lag=0, first=10.0, whole=10.0, failure=Failure.TIMEOUT)
    found = report(Measured("/v1/completions", True, 12.0, (slow,) * 20))
    assert found.first_token_ms is not None
    assert found.first_token_ms.p95 == 10_000


def test_spec_survives_json_and_hides_its_key() -> None:
    spec = Spec("http://127.0.0.1:1", "words", KEY, LOAD)
    assert Spec.from_json(spec.to_json()) == spec
    assert KEY not in repr(spec)
