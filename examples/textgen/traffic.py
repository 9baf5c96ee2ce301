"""Send streaming requests of users who come and go, at a set rate, and count what came of each.

Users arrive as a Poisson process, ask a few questions each and leave; nobody waits for answers (an open loop), so a
slow server sees no mercy. One request in twelve has a long prompt. With `--feedback-url` some users rate, by what
happened to them. The key of the model server comes from the environment variable TEXTGEN_API_KEY, the token for the
feedback endpoint from TEXTGEN_FEEDBACK_TOKEN.
"""

import argparse
import asyncio
import json
import os
import random
import resource
import secrets
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import uvloop

from examples.textgen import corpus
from examples.textgen.client import StreamClient, TransportFailure
from examples.textgen.faults import LONG_PROMPT_TOKENS
from examples.textgen.ratings import RatingPost
from examples.textgen.tally import Report, Tally, write_often, write_report
from examples.textgen.users import Audience, Question, questions

LONG_PROMPT_ONE_IN = 12
SHORT_TOKENS = (4, 24)
LONG_TOKENS = (LONG_PROMPT_TOKENS + 1, 120)
_DIFFERENT_PROMPTS = 600
_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.05, 1.0
_DRAIN_SECONDS = 10.0


async def run(
    *,
    base_url: str,
    model: str,
    rate: float,
    mean_questions: float = 2.0,
    duration: float | None = None,
    requests: int | None = None,
    seed: int = 0,
    api_key: str | None = None,
    max_tokens: int = 12,
    timeout: float = 30.0,
    retry_transport: bool = False,
    retry_cut: bool = False,
    post: RatingPost | None = None,
    rating_share: float = 0.25,
    report_path: Path | None = None,
    stop: asyncio.Event | None = None,
) -> Report:
    """Send until `duration` seconds or `requests` are over or `stop` is set, then let what is in flight finish.

    `post`: where users say how it was; without it nobody is asked.
    """
    stop = asyncio.Event() if stop is None else stop
    rng = random.Random(seed)
    client = StreamClient(base_url, timeout=timeout)
    bodies = _bodies(model, max_tokens, rng)
    authorization = {"authorization": f"Bearer {api_key}"} if api_key else {}
    tally = Tally(base_url, post)
    audience = Audience(rating_share if post else 0.0, random.Random(seed + 1))
    visit = _Visit(client, tally, audience, post, retry_transport=retry_transport, retry_cut=retry_cut)
    tasks: set[asyncio.Task[None]] = set()
    writer = asyncio.create_task(write_often(tally, report_path)) if report_path else None
    everyone_answered = asyncio.Event()
    postman = asyncio.create_task(post.deliver_until(everyone_answered)) if post else None
    started = time.perf_counter()
    # A name of its own: the users of another run are others.
    users = questions(random.Random(seed + 2), rate=rate, mean=mean_questions, name=secrets.token_hex(3))
    for asked, is_long in zip(users, _long_in_turn(rng), strict=False):
        if (duration is not None and asked.due > duration) or (requests is not None and tally.sent >= requests):
            break
        await _wait_until(started + asked.due, stop)
        if stop.is_set():
            break
        request = client.request(
            "/v1/completions", rng.choice(bodies[is_long]), {"x-session-id": asked.session, **authorization}
        )
        tally.sent += 1
        tally.users += asked.number == 1
        tally.long_prompts += is_long
        task = asyncio.create_task(visit.ask(asked, request))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=timeout + _DRAIN_SECONDS)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
    client.close()
    everyone_answered.set()
    if postman is not None:
        await postman
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


@dataclass(frozen=True, slots=True)
class _Visit:
    """What every question needs until it is answered."""

    client: StreamClient
    tally: Tally
    audience: Audience
    post: RatingPost | None
    retry_transport: bool
    retry_cut: bool

    async def ask(self, asked: Question, request: bytes) -> None:
        backoff = _FIRST_BACKOFF
        while True:
            try:
                answer = await self.client.ask(request)
            except TransportFailure as failure:
                if self.retry_transport and (failure.before_answer or self.retry_cut):
                    self.tally.retries += 1
                    await asyncio.sleep(backoff * random.uniform(0.5, 1.0))
                    backoff = min(2 * backoff, _LONGEST_BACKOFF)
                    continue
                self.tally.failed(failure.kind)
                self._met(asked, failed=True, first_event_seconds=None)
            except asyncio.CancelledError:
                self.tally.failed("abandoned")
                raise
            else:
                well = self.tally.answered(answer)
                self._met(asked, failed=not well, first_event_seconds=answer.first_event_seconds)
            return

    def _met(self, asked: Question, *, failed: bool, first_event_seconds: float | None) -> None:
        stars = self.audience.answered(asked, failed=failed, first_event_seconds=first_event_seconds)
        if stars is not None and self.post is not None:
            self.post.give(asked.session, stars)


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


def _positive(text: str) -> float:
    value = float(text)
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def _at_least_one(text: str) -> float:
    value = _positive(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError("must lie between 0 and 1")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m examples.textgen.traffic", description=__doc__)
    parser.add_argument("--base-url", required=True, metavar="URL", help="the part before /v1")
    parser.add_argument("--model", required=True, metavar="NAME")
    parser.add_argument("--rate", type=_positive, default=50.0, help="requests a second")
    parser.add_argument("--questions", type=_at_least_one, default=2.0, metavar="N", help="of one user, on average")
    parser.add_argument("--duration", type=_positive, metavar="S", help="default: until a signal")
    parser.add_argument("--requests", type=int, metavar="N", help="stop after so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-tokens", type=int, default=12)
    parser.add_argument("--timeout", type=_positive, default=30.0, metavar="S", help="for one whole answer")
    parser.add_argument("--report", type=Path, metavar="FILE", help="JSON, rewritten every second and at the end")
    parser.add_argument(
        "--feedback-url", metavar="URL", help="where users' ratings go, such as http://…/api/v1/feedback/"
    )
    parser.add_argument("--rating-share", type=_share, default=0.25, metavar="SHARE", help="of users that rate")
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


def _post(options: argparse.Namespace) -> RatingPost:
    """Raises ValueError where it cannot be known whose users these are."""
    environment, slash, model = urlsplit(options.base_url).path.strip("/").rpartition("/")
    if not slash or "/" in environment:
        raise ValueError(f"with --feedback-url the base URL must end in /ENVIRONMENT/MODEL, got {options.base_url!r}")
    return RatingPost(options.feedback_url, os.environ.get("TEXTGEN_FEEDBACK_TOKEN", ""), environment, model)


async def _main(options: argparse.Namespace) -> Report:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return await run(
        base_url=options.base_url,
        model=options.model,
        rate=options.rate,
        mean_questions=options.questions,
        duration=options.duration,
        requests=options.requests,
        seed=options.seed,
        api_key=os.environ.get("TEXTGEN_API_KEY") or None,
        max_tokens=options.max_tokens,
        timeout=options.timeout,
        retry_transport=options.retry_transport or options.retry_cut,
        retry_cut=options.retry_cut,
        post=_post(options) if options.feedback_url else None,
        rating_share=options.rating_share,
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
