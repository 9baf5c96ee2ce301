"""The file of held-out texts, and that an examination reads the model's own perplexity from it over HTTP."""

import json
import math
from pathlib import Path

import pytest

from examples.textgen import corpus, held_out
from examples.textgen.model import load
from registry.qa.base import Context, RunningServer
from registry.qa.builtin.quality import AgainstLive, HeldOutTexts
from registry.qa.policy import Policy
from registry.qa.runner import examine
from registry.scoring import Status
from tests.examples.conftest import KEY, MODEL, TextgenServer, serving


def test_texts_are_of_the_held_out_part_and_always_the_same(tmp_path: Path) -> None:
    first, second = tmp_path / "a" / "texts.jsonl", tmp_path / "b.jsonl"
    assert held_out.write(first) == held_out.write(second) == 60
    assert first.read_bytes() == second.read_bytes()
    texts = [json.loads(line)["text"] for line in first.read_text().splitlines()]
    known = {corpus.join(tokens) for tokens in corpus.load().held_out}
    assert len(set(texts)) == 60
    assert set(texts) <= known


def test_command_writes_as_many_as_were_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert held_out.main(["--output", str(tmp_path / "t.jsonl"), "--texts", "7"]) == 0
    assert len((tmp_path / "t.jsonl").read_text().splitlines()) == 7
    assert capsys.readouterr().out.startswith("7 texts, written to ")


def test_examination_reads_the_models_own_perplexity(
    tmp_path: Path, models: dict[str, Path], server: TextgenServer
) -> None:
    held_out.write(tmp_path / "texts.jsonl")
    texts = [json.loads(line)["text"] for line in (tmp_path / "texts.jsonl").read_text().splitlines()]
    logs = [log for text in texts for log in load(models["trigram"])[0].log_probabilities(corpus.tokenize(text))[1:]]
    policy = Policy(parameters={"quality.held_out": {"file": "texts.jsonl", "most_perplexity": 60.0}})
    trigram = RunningServer(server.url, MODEL, KEY)
    with serving(models["bigram"]) as other:
        bigram = RunningServer(other.url, MODEL, KEY)
        first, second = (
            {
                result.name: result.outcome
                for result in examine(
                    Context(None, None, "textgen", policy, mine, live=live, files=tmp_path), [HeldOutTexts, AgainstLive]
                )
            }
            for mine, live in ((trigram, bigram), (bigram, trigram))
        )
    assert first["quality.held_out"].value == pytest.approx(math.exp(-math.fsum(logs) / len(logs)), abs=1e-3)
    assert first["quality.against_live"].status is Status.PASSED
    assert second["quality.held_out"].status is Status.FAILED
    assert second["quality.against_live"].status is Status.FAILED
    assert "and it is not chance (p below 0.001)" in second["quality.against_live"].reason
