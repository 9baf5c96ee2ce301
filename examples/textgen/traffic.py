"""Send streaming requests of many sessions at a set rate, and count what came of each.

Arrivals are a Poisson process that does not wait for answers (an open loop), so a slow server sees no mercy. One
request in twelve has a long prompt. The key comes from the environment variable TEXTGEN_API_KEY.
"""

import argparse
import asyncio
import json
import os
import random
import resource
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import uvloop

from examples.textgen import corpus
from examples.textgen.client import Answer, StreamClient, TransportFailure
from examples.textgen.faults import LONG_PROMPT_TOKENS

LONG_PROMPT_ONE_IN = 12
SHORT_TOKENS = (4, 24)
LONG_TOKENS = (LONG_PROMPT_TOKENS + 1, 120)
_DIFFERENT_PROMPTS = 600
_REPORT_SECONDS = 1.0
_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.05, 1.0
_DRAIN_SECONDS = 10.0
_LATENCIES_KEPT = 10_000


@dataclass(frozen=True, slots=True)
class Report:
    """What was sent and what came of it. Every request is in exactly one of the counts, or still in flight."""

    base_url: str
    started_at: str
    seconds: float
    is_finished: bool
    sent: int
    in_flight: int
    answered_ok: int
    stream_errors: int
    http_errors: Mapping[str, int]
    transport_errors: Mapping[str, int]
    empty: int
    retries: int
    long_prompts: int
    events: int
    first_event_p50_ms: float | None
    first_event_p95_ms: float | None

    @property
    def failed(self) -> int:
        return self.stream_errors + sum(self.http_errors.values()) + sum(self.transport_errors.values()) + self.empty

    def sentence(self) -> str:
        wrong = [
            *([f"{self.stream_errors} error events inside streams"] if self.stream_errors else []),
            *(f"{number} × HTTP {status}" for status, number in self.http_errors.items()),
            *(f"{number} × {kind}" for kind, number in self.transport_errors.items()),
            *([f"{self.empty} empty"] if self.empty else []),
        ]
        rate = self.sent / self.seconds if self.seconds else 0.0
        p95 = "unknown" if self.first_event_p95_ms is None else f"{self.first_event_p95_ms:.1f} ms"
        return (
            f"{self.sent} requests in {self.seconds:.1f} s ({rate:.1f}/s): {self.answered_ok} answered, "
            f"{self.failed} failed{f' ({chr(44).join(wrong)})' if wrong else ''}, {self.retries} retries, "
            f"first event p95 {p95}"
        )


class _Tally:
    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._started_at = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._started = time.perf_counter()
        self._first_events: deque[float] = deque(maxlen=_LATENCIES_KEPT)
        self._http: Counter[str] = Counter()
        self._transport: Counter[str] = Counter()
        self._ok = self._stream_errors = self._empty = self._events = 0
        self.sent = self.retries = self.long_prompts = 0

    def answered(self, answer: Answer) -> None:
        self._events += answer.events
        if answer.first_event_seconds is not None:
            self._first_events.append(answer.first_event_seconds)
        if answer.status != 200:
            self._http[str(answer.status)] += 1
        elif answer.has_error:
            self._stream_errors += 1
        elif answer.events == 0:
            self._empty += 1
        elif answer.is_done:
            self._ok += 1
        else:
            self._transport["incomplete"] += 1

    def failed(self, kind: str) -> None:
        self._transport[kind] += 1

    def report(self, *, is_finished: bool) -> Report:
        latencies = sorted(self._first_events)
        ended = self._ok + self._stream_errors + self._empty + self._http.total() + self._transport.total()
        return Report(
            base_url=self._base_url,
            started_at=self._started_at,
            seconds=round(time.perf_counter() - self._started, 3),
            is_finished=is_finished,
            sent=self.sent,
            in_flight=self.sent - ended,
            answered_ok=self._ok,
            stream_errors=self._stream_errors,
            http_errors=dict(sorted(self._http.items())),
            transport_errors=dict(sorted(self._transport.items())),
            empty=self._empty,
            retries=self.retries,
            long_prompts=self.long_prompts,
            events=self._events,
            first_event_p50_ms=_percentile_ms(latencies, 0.50),
            first_event_p95_ms=_percentile_ms(latencies, 0.95),
        )


async def run(
    *,
    base_url: str,
    model: str,
    rate: float,
    sessions: int,
    duration: float | None = None,
    requests: int | None = None,
    seed: int = 0,
    api_key: str | None = None,
    max_tokens: int = 12,
    timeout: float = 30.0,
    retry_transport: bool = False,
    retry_cut: bool = False,
    report_path: Path | None = None,
    stop: asyncio.Event | None = None,
) -> Report:
    """Send until `duration` seconds or `requests` are over or `stop` is set, then let what is in flight finish."""
    stop = asyncio.Event() if stop is None else stop
    rng = random.Random(seed)
    client = StreamClient(base_url, timeout=timeout)
    bodies = _bodies(model, max_tokens, rng)
    authorization = {"authorization": f"Bearer {api_key}"} if api_key else {}
    tally = _Tally(base_url)
    tasks: set[asyncio.Task[None]] = set()
    writer = asyncio.create_task(_write_often(tally, report_path)) if report_path else None
    started = due = time.perf_counter()
    for is_long in _long_in_turn(rng):
        due += rng.expovariate(rate)
        if (duration is not None and due - started > duration) or (requests is not None and tally.sent >= requests):
            break
        await _wait_until(due, stop)
        if stop.is_set():
            break
        session = f"session-{rng.randrange(sessions):05d}"
        request = client.request(
            "/v1/completions", rng.choice(bodies[is_long]), {"x-session-id": session, **authorization}
        )
        tally.sent += 1
        tally.long_prompts += is_long
        task = asyncio.create_task(_ask(client, request, tally, retry_transport=retry_transport, retry_cut=retry_cut))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=timeout + _DRAIN_SECONDS)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
    client.close()
    if writer is not None:
        writer.cancel()
    report = tally.report(is_finished=True)
    if report_path is not None:
        write_report(report, report_path)
    return report


async def _wait_until(due: float, stop: asyncio.Event) -> None:
    await asyncio.sleep(0)  # also when late: answers must be read
    while (wait := due - time.perf_counter()) > 0 and not stop.is_set():
        await asyncio.sleep(min(wait, 0.1))


async def _ask(client: StreamClient, request: bytes, tally: _Tally, *, retry_transport: bool, retry_cut: bool) -> None:
    backoff = _FIRST_BACKOFF
    while True:
        try:
            tally.answered(await client.ask(request))
        except TransportFailure as failure:
            if retry_transport and (failure.before_answer or retry_cut):
                tally.retries += 1
                await asyncio.sleep(backoff * random.uniform(0.5, 1.0))
                backoff = min(2 * backoff, _LONGEST_BACKOFF)
                continue
            tally.failed(failure.kind)
        except asyncio.CancelledError:
            tally.failed("abandoned")
            raise
        return


def _long_in_turn(rng: random.Random) -> Iterator[bool]:
    """One in twelve exactly, at a random place in each dozen, so that nothing else can beat in time with it."""
    for _ in count():
        place = rng.randrange(LONG_PROMPT_ONE_IN)
        yield from (number == place for number in range(LONG_PROMPT_ONE_IN))


def _bodies(model: str, max_tokens: int, rng: random.Random) -> dict[bool, list[bytes]]:
    paragraphs = corpus.paragraphs()
    return {
        is_long: [
            json.dumps(
                {
                    "model": model,
                    "prompt": prompt,
                    "max_tokens": max_tokens,
                    "temperature": 0.8,
                    "stream": True,
                }
            ).encode()
            for prompt in snippets(paragraphs, limits, _DIFFERENT_PROMPTS, rng)
        ]
        for is_long, limits in ((False, SHORT_TOKENS), (True, LONG_TOKENS))
    }


def snippets(
    paragraphs: Sequence[corpus.Tokens], limits: tuple[int, int], number: int, rng: random.Random
) -> list[str]:
    """Pieces of the corpus whose texts have between `limits` tokens. They stop before a paragraph's last words, where
    there would be nothing to continue."""
    least, most = limits
    usable = [tokens for tokens in paragraphs if len(tokens) > least + 4]
    found: list[str] = []
    while len(found) < number:
        tokens = rng.choice(usable)
        length = rng.randint(least, min(most, len(tokens) - 4))
        start = rng.randint(0, len(tokens) - 4 - length)
        text = corpus.join(tokens[start : start + length])
        if least <= corpus.count_tokens(text) <= most:
            found.append(text)
    return found


def write_report(report: Report, path: Path) -> None:
    """Whole or not at all, for whoever reads it meanwhile."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


async def _write_often(tally: _Tally, path: Path) -> None:
    has_complained = False
    while True:
        try:
            write_report(tally.report(is_finished=False), path)
        except OSError as error:
            if not has_complained:
                print(f"traffic: cannot write {path}: {error.strerror}", file=sys.stderr, flush=True)
            has_complained = True
        await asyncio.sleep(_REPORT_SECONDS)


def _percentile_ms(ordered: Sequence[float], share: float) -> float | None:
    if not ordered:
        return None
    return round(1000.0 * ordered[min(int(share * len(ordered)), len(ordered) - 1)], 3)


def _positive(text: str) -> float:
    value = float(text)
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m examples.textgen.traffic", description=__doc__)
    parser.add_argument("--base-url", required=True, metavar="URL", help="the part before /v1")
    parser.add_argument("--model", required=True, metavar="NAME")
    parser.add_argument("--rate", type=_positive, default=50.0, help="requests a second")
    parser.add_argument("--sessions", type=int, default=500)
    parser.add_argument("--duration", type=_positive, metavar="S", help="default: until a signal")
    parser.add_argument("--requests", type=int, metavar="N", help="stop after so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-tokens", type=int, default=12)
    parser.add_argument("--timeout", type=_positive, default=30.0, metavar="S", help="for one whole answer")
    parser.add_argument("--report", type=Path, metavar="FILE", help="JSON, rewritten every second and at the end")
    parser.add_argument(
        "--retry-transport",
        action="store_true",
        help="ask again when a connection failed before any byte of the answer, until there is one",
    )
    parser.add_argument(
        "--retry-cut",
        action="store_true",
        help="ask again also when an answer was cut off in the middle, as a client does that may ask twice",
    )
    return parser


async def _main(options: argparse.Namespace) -> Report:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return await run(
        base_url=options.base_url,
        model=options.model,
        rate=options.rate,
        sessions=options.sessions,
        duration=options.duration,
        requests=options.requests,
        seed=options.seed,
        api_key=os.environ.get("TEXTGEN_API_KEY") or None,
        max_tokens=options.max_tokens,
        timeout=options.timeout,
        retry_transport=options.retry_transport or options.retry_cut,
        retry_cut=options.retry_cut,
        report_path=options.report,
        stop=stop,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    _allow_many_connections()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            report = runner.run(_main(options))
    except (ValueError, OSError) as error:
        print(f"traffic: {error}", file=sys.stderr)
        return 2
    print(report.sentence(), flush=True)
    return 0


def _allow_many_connections() -> None:
    """An open loop against a server that hangs keeps rate × timeout connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 8192 if hard == resource.RLIM_INFINITY else min(8192, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    sys.exit(main())
