"""The probe's figures against those of another load generator, aiperf, on the same server.

`make test-peer` installs aiperf into an environment of its own and runs this.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from examples.textgen.train import train
from registry.qa.base import RunningServer
from registry.qa.policy import Load
from registry.qa.probe.prompts import PROMPTS
from registry.qa.probe.run import run_probe
from tests.examples.conftest import KEY, MODEL, TextgenServer, serving

AIPERF = os.environ.get("AIPERF", "")
pytestmark = [pytest.mark.peer, pytest.mark.skipif(not AIPERF, reason="`make test-peer` installs aiperf and runs this")]

DELAY_MS = 20.0
TOKENS = 24
OPEN = Load(requests_per_second=20, seconds=10, warm_up_requests=10, max_tokens=TOKENS)
CLOSED = Load(concurrency=8, seconds=10, warm_up_requests=8, max_tokens=TOKENS)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TextgenServer]:
    folder = train("bigram", tmp_path_factory.mktemp("model") / "bigram").folder
    with serving(folder, "--token-delay", str(DELAY_MS / 1000)) as textgen:
        yield textgen


@dataclass(frozen=True)
class Figures:
    """In ms and per second. Of two measurements, the less disturbed: whatever else the machine does makes it worse."""

    first: dict[str, float]
    whole: dict[str, float]
    pause: float
    tokens: float
    requests: float

    def or_better(self, other: Figures) -> Figures:
        return Figures(
            {name: min(value, other.first[name]) for name, value in self.first.items()},
            {name: min(value, other.whole[name]) for name, value in self.whole.items()},
            min(self.pause, other.pause),
            max(self.tokens, other.tokens),
            max(self.requests, other.requests),
        )


PERCENTILES = ("p50", "p90", "p95", "p99")


def ours(server: TextgenServer, load: Load) -> Figures:
    found = run_probe(RunningServer(server.url, MODEL, KEY), load)
    assert found.failures == {}
    assert found.first_token_ms is not None
    assert found.gap_ms is not None
    assert found.whole_ms is not None
    return Figures(
        {name: getattr(found.first_token_ms, name).value for name in PERCENTILES},
        {name: getattr(found.whole_ms, name).value for name in PERCENTILES},
        found.gap_ms.mean,
        found.tokens_per_second.value,
        found.requests_per_second.value,
    )


def both(server: TextgenServer, folder: Path, load: Load, *pressed: str) -> tuple[Figures, Figures]:
    """Ours, theirs, theirs, ours."""
    first = ours(server, load)
    other = theirs(server, folder / "1", *pressed).or_better(theirs(server, folder / "2", *pressed))
    mine = first.or_better(ours(server, load))
    print(shown(mine, other))  # noqa: T201 - `make test-peer` shows it
    return mine, other


def theirs(server: TextgenServer, folder: Path, *pressed: str) -> Figures:
    folder.mkdir()
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"text": prompt}) + "\n" for prompt in PROMPTS))
    tokenizer = words_as_tokens(folder / "tokenizer")
    command = [AIPERF, "profile", "-m", MODEL, "--url", server.url, "--api-key", KEY]
    command += ["--endpoint-type", "completions", "--streaming", "--use-server-token-count", "--ui", "simple"]
    command += ["--tokenizer", str(tokenizer), "--artifact-dir", str(folder / "out"), *pressed]
    command += ["--input-file", str(folder / "prompts.jsonl"), "--custom-dataset-type", "single_turn"]
    for field in (f"max_tokens:{TOKENS}", "ignore_eos:true", "temperature:0"):
        command += ["--extra-inputs", field]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads((folder / "out" / "profile_export_aiperf.json").read_text())
    assert found["request_error_rate"]["avg"] == 0
    return Figures(
        {name: found["time_to_first_token"][name] for name in PERCENTILES},
        {name: found["request_latency"][name] for name in PERCENTILES},
        found["inter_token_latency"]["avg"],
        found["output_token_throughput"]["avg"],
        found["request_throughput"]["avg"],
    )


def words_as_tokens(folder: Path) -> Path:
    """aiperf wants a tokenizer although the server counts the tokens; a real one would come from a hub."""
    folder.mkdir()
    words = ["<unk>", *sorted({word for prompt in PROMPTS for word in prompt.split()})]
    model = {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(words)}, "unk_token": "<unk>"}
    whole = {"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"}, "model": model}
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    return folder


def near(milliseconds: float, *, share: float = 0.1) -> Any:
    """Within so much and 3 ms: two clients, one after the other, agree no better on a machine that others use too."""
    return pytest.approx(milliseconds, rel=0, abs=3 + share * milliseconds)


def test_latencies_in_an_open_loop_are_those_that_aiperf_measures(server: TextgenServer, tmp_path: Path) -> None:
    poisson = ("--request-rate", "20", "--arrival-pattern", "poisson")
    mine, other = both(server, tmp_path, OPEN, *poisson, "--request-count", "200", "--warmup-request-count", "10")
    assert mine.first["p50"] == near(other.first["p50"])
    assert mine.first["p95"] == near(other.first["p95"], share=0.3)
    assert mine.whole["p50"] == near(other.whole["p50"], share=0.05)
    assert mine.whole["p95"] == near(other.whole["p95"])
    assert mine.pause == near(other.pause, share=0.05)
    assert mine.pause == pytest.approx(DELAY_MS, rel=0.2)


def test_throughput_in_a_closed_loop_is_the_one_that_aiperf_measures(server: TextgenServer, tmp_path: Path) -> None:
    mine, other = both(
        server, tmp_path, CLOSED, "--concurrency", "8", "--request-count", "160", "--warmup-request-count", "8"
    )
    assert mine.tokens == pytest.approx(other.tokens, rel=0.1)
    assert mine.requests == pytest.approx(other.requests, rel=0.1)


def shown(mine: Figures, other: Figures) -> str:
    rows = [("", "ours", "aiperf")]
    for name, a, b in (("first token", mine.first, other.first), ("whole", mine.whole, other.whole)):
        rows += [(f"{name} {one} ms", f"{a[one]:.1f}", f"{b[one]:.1f}") for one in PERCENTILES]
    rows.append(("pause mean ms", f"{mine.pause:.2f}", f"{other.pause:.2f}"))
    rows.append(("tokens/s", f"{mine.tokens:.0f}", f"{other.tokens:.0f}"))
    rows.append(("requests/s", f"{mine.requests:.2f}", f"{other.requests:.2f}"))
    return "\n" + "\n".join(f"{name:20} {a:>10} {b:>10}" for name, a, b in rows)
