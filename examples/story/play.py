"""Play the story on a running product: train, register, examine, approve, roll out, with real traffic all the while.

Everything goes over the REST API, as ana, bo and cy. It may be stopped and started again at any point: each request has
a key of its own, so that what was done is found and not done twice.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from examples.story.cast import CANARY, ENVIRONMENT, MODEL, STORY, Part
from examples.story.client import Api, Json, Refused, wait
from examples.textgen import held_out, train
from examples.textgen.faults import LONG_PROMPT_TOKENS

EXAMINATION_SECONDS = 120.0
ROLLOUT_SECONDS = 240.0
HELD_OUT = "held-out.jsonl"
MOST_PERPLEXITY = 150.0
QUALITY_WEIGHT = 10.0
ENDED = ("succeeded", "rolled_back", "cancelled")


@dataclass(frozen=True)
class Outcome:
    number: int
    title: str
    stage: str
    score: float | None
    rollout: str
    """How its rollout ended, or an empty string."""
    why: str
    decisions: list[str]
    """What each judge or experiment of its rollout said, with the step's title."""
    as_expected: bool
    faults: list[str]


class Player:
    def __init__(self, api: Api, work: Path, files: Path, gateway: str, rate: float) -> None:
        self.api = api
        self.work = work
        self.files = files
        self.gateway = gateway
        self.rate = rate
        self.traffic: subprocess.Popen[bytes] | None = None

    def play(self) -> list[Outcome]:
        self._model()
        self._policy()
        outcomes = []
        for part in STORY:
            outcome = self._act(part)
            ended = ", ".join(filter(None, (outcome.stage, outcome.rollout)))
            say(f"v{part.number}: {_mark(outcome)} {ended}: {outcome.why}")
            outcomes.append(outcome)
        return outcomes

    def _model(self) -> None:
        try:
            self.api.post(
                "models/", "ana", {"name": MODEL, "description": "Word n-gram models of the language reference."}
            )
        except Refused as refusal:
            if not str(refusal).startswith("409"):
                raise

    def _policy(self) -> None:
        """bo has it that a version is judged by what it writes, too: on texts that none of them was trained on."""
        held_out.write(self.files / HELD_OUT, most_tokens=LONG_PROMPT_TOKENS)  # version 5 is wrong on longer ones only
        by_texts = {"file": HELD_OUT, "most_perplexity": MOST_PERPLEXITY}
        values = {"weights": {"quality": QUALITY_WEIGHT}, "parameters": {"quality.held_out": by_texts}}
        note = "Also judged by what it writes."
        self.api.post("policies/", "bo", {"model": MODEL, "values": values, "note": note})

    def _act(self, part: Part) -> Outcome:
        say(f"v{part.number}: {part.title}")
        version = self._registered(part)
        version = self._examined(version)
        rollout: Json = {}
        if version["stage"] == "approved" or (
            version["stage"] == "awaiting_approval" and not version["needs_override"]  # bo would not, in this story
        ):
            version = self._approved(version, part)
            rollout = self._rolled_out(version, part)
            self.start_traffic()
        return judge(part, version, rollout)

    def _registered(self, part: Part) -> Json:
        folder = self.work / "artifacts" / f"v{part.number}"
        if not (folder / "config.json").exists():
            trained = train.train(part.kind, folder)
            say(f"v{part.number}: trained, perplexity on held-out text {trained.held_out_perplexity:.1f}")
        version = self.api.post(
            f"models/{MODEL}/versions/",
            "ana",
            {
                "artifact_uri": folder.resolve().as_uri(),
                "engine": "textgen",
                "engine_arguments": ["--fault", part.fault] if part.fault else [],
                "description": part.title,
                "parameters": json.loads((folder / "config.json").read_text()),
            },
            key=f"story-{part.number}",
        )
        if part.tampered and version["stage"] == "registered":
            _tamper(folder / "model.json")
        return version

    def _examined(self, version: Json) -> Json:
        path = f"versions/{version['id']}/"
        if version["stage"] == "registered":
            self.api.post(f"{path}examine/", "ana")
        return wait(
            lambda: self.api.get(path),
            lambda seen: seen["stage"] not in ("registered", "examining"),
            seconds=EXAMINATION_SECONDS,
            what=f"The examination of v{version['number']}",
        )

    def _approved(self, version: Json, part: Part) -> Json:
        path = f"versions/{version['id']}/"
        if version["stage"] == "awaiting_approval":
            report = self.api.get(f"{path}report/")
            note = f"Score {version['score']:g}; {part.title}."
            self.api.post(f"{path}approve/", "bo", {"note": note, "seen_run": report["id"]})
        return wait(
            lambda: self.api.get(path), lambda seen: seen["stage"] == "approved", seconds=10, what="The approval"
        )

    def _rolled_out(self, version: Json, part: Part) -> Json:
        rollout = self.api.post(
            "rollouts/",
            "cy",
            {"model": MODEL, "version": version["number"], "environment": ENVIRONMENT, "steps": part.steps or CANARY},
            key=f"story-{part.number}-{ENVIRONMENT}",
        )
        return wait(
            lambda: self.api.get(f"rollouts/{rollout['id']}/"),
            lambda seen: seen["status"] in ENDED,
            seconds=ROLLOUT_SECONDS,
            what=f"The rollout of v{version['number']}",
        )

    def start_traffic(self) -> None:
        """Users, once there is something that answers them."""
        if self.traffic is not None and self.traffic.poll() is None:
            return
        self.traffic = subprocess.Popen(
            [
                *(sys.executable, "-m", "examples.textgen.traffic"),
                *("--base-url", f"{self.gateway}/{ENVIRONMENT}/{MODEL}", "--model", MODEL),
                *("--rate", str(self.rate), "--report", str(self.work / "traffic.json"), "--retry-transport"),
                *("--feedback-url", self.api.url("feedback/")),
            ],
            env={**os.environ, "TEXTGEN_FEEDBACK_TOKEN": self.api.key_of("ana")},
            start_new_session=True,
            stdout=subprocess.DEVNULL,
        )

    def end_traffic(self) -> Json:
        """What the users saw."""
        if self.traffic is None:
            return {}
        self.traffic.send_signal(signal.SIGTERM)
        self.traffic.wait(60)
        report: Json = json.loads((self.work / "traffic.json").read_text())
        return report


def judge(part: Part, version: Json, rollout: Json) -> Outcome:
    """Whether what happened is what must happen, by the product's own words."""
    why = rollout.get("reason") or version["qa_sentence"]
    decisions = [
        f"{step['title']}: {step['sentence']}"
        for step in rollout.get("steps", [])
        if step["kind"] in ("analysis", "experiment") and step["status"] == "done"
    ]
    if rollout.get("status") == "succeeded":
        why = decisions[-1] if decisions else rollout["sentence"]
    faults = [
        f"{name} is {is_!r}, must be {must!r}"
        for name, is_, must in (
            ("stage", version["stage"], part.stage),
            ("rollout", rollout.get("status", ""), part.status),
            ("cause", rollout.get("cause", ""), part.cause),
        )
        if is_ != must
    ]
    if part.why not in why:
        faults.append(f"the reason does not say {part.why!r}")
    faults += [
        f"step {step['index']} ({step['kind']}) is {step['status']}"
        for step in rollout.get("steps", [])
        if part.status == "succeeded" and step["status"] != "done"
    ]
    return Outcome(
        number=part.number,
        title=part.title,
        stage=version["stage"],
        score=version["score"],
        rollout=rollout.get("status", ""),
        why=why,
        decisions=decisions,
        as_expected=not faults,
        faults=faults,
    )


def table(outcomes: list[Outcome]) -> str:
    return "\n".join("\n".join(_lines(outcome)) for outcome in outcomes)


def _lines(o: Outcome) -> list[str]:
    score = f", score {o.score:g}" if o.score is not None else ""
    reached = f"{o.stage}{f' → {o.rollout}' if o.rollout else ''}{score}"
    return [
        f"{_mark(o)} v{o.number}  {o.title}",
        *([f"      {reached}"] if o.decisions else [f"      {reached}: {o.why}"]),
        *(f"      {decision}" for decision in o.decisions),
        *([f"      {o.why}"] if o.decisions and o.why not in o.decisions else []),
        *(f"      NOT AS EXPECTED: {fault}" for fault in o.faults),
    ]


def _mark(outcome: Outcome) -> str:
    return "✓" if outcome.as_expected else "✗"


def _tamper(file: Path) -> None:
    """One byte, as a broken disk or a stranger would."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def say(text: str) -> None:
    print(f"[story] {text}", flush=True)


def parser() -> argparse.ArgumentParser:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--url", default="http://127.0.0.1:8000")
    words.add_argument("--gateway", default="http://127.0.0.1:8080")
    words.add_argument(
        "--tokens", type=Path, required=True, help="file of access tokens, made by manage.py demo_accounts"
    )
    words.add_argument("--work", type=Path, required=True, help="folder for trained models and the traffic's report")
    words.add_argument(
        "--files", type=Path, required=True, help="folder of the files that policies name: DEPLOYPIPE_QA_FILES"
    )
    words.add_argument("--rate", type=float, default=60.0, help="requests a second")
    words.add_argument("--keep-traffic", action="store_true", help="go on sending traffic until a signal ends it")
    return words


def main(arguments: list[str] | None = None) -> int:
    given = parser().parse_args(arguments)
    given.work.mkdir(parents=True, exist_ok=True)
    player = Player(Api(given.url, given.tokens), given.work, given.files, given.gateway, given.rate)
    signal.signal(signal.SIGTERM, _stop)
    outcomes: list[Outcome] = []
    try:
        if _live(player):
            player.start_traffic()
        outcomes = player.play()
        say("The story is told:\n" + table(outcomes))
        if given.keep_traffic:
            say("Traffic goes on until the product is stopped.")
            signal.pause()
    except KeyboardInterrupt:
        pass
    except (Refused, TimeoutError) as error:
        say(f"cannot go on: {error}")
        return 1
    finally:
        report = player.end_traffic()
        (given.work / "outcomes.json").write_text(json.dumps([asdict(o) for o in outcomes], indent=2))
        if report:
            say(f"users: {report['sent']} requests, {report['answered_ok']} answered well")
    return 0 if all(outcome.as_expected for outcome in outcomes) else 1


def _live(player: Player) -> bool:
    rollouts: Any = player.api.get("rollouts/", environment=ENVIRONMENT, model=MODEL, status="succeeded")
    return bool(rollouts["results"])


def _stop(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
