import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

from examples.textgen import corpus
from examples.textgen.model import load
from tests.examples.conftest import ROOT


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_training_again_gives_the_same_bytes(models: dict[str, Path], tmp_path: Path) -> None:
    for kind, folder in models.items():
        done = subprocess.run(
            [sys.executable, "-m", "examples.textgen.train", "--kind", kind, "--output", str(tmp_path / kind)],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": "12345"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert f"{kind}: held-out perplexity" in done.stdout
        assert digests(tmp_path / kind) == digests(folder)
        assert set(digests(folder)) == {"config.json", "model.json"}


def test_trigram_is_truly_better_on_held_out_text(models: dict[str, Path]) -> None:
    held_out = corpus.load().held_out
    perplexity = {kind: load(folder)[0].perplexity(held_out) for kind, folder in models.items()}
    assert perplexity["trigram"] < 0.8 * perplexity["bigram"]
    for kind, folder in models.items():
        config = json.loads((folder / "config.json").read_text())
        assert abs(config["held_out_perplexity"] - perplexity[kind]) < 0.001
        assert config["order"] == {"bigram": 2, "trigram": 3}[kind]
