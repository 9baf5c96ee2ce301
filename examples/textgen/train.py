"""Train one of the models and write it as an artifact."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from examples.textgen import corpus
from examples.textgen.model import CONFIG_FILE, MODEL_FILE, NgramModel
from examples.textgen.smoothing import kneser_ney_trigram, witten_bell_bigram

MAX_MODEL_LEN = 512


@dataclass(frozen=True, slots=True)
class Kind:
    architecture: str
    smoothing: str
    estimate: Callable[[Sequence[corpus.Tokens]], NgramModel]


KINDS = {
    "bigram": Kind("BigramForCausalLM", "Witten-Bell", witten_bell_bigram),
    "trigram": Kind("TrigramForCausalLM", "interpolated modified Kneser-Ney", kneser_ney_trigram),
}


@dataclass(frozen=True, slots=True)
class Trained:
    folder: Path
    kind: str
    held_out_perplexity: float
    vocabulary_size: int


def train(kind: str, folder: Path, *, seed: int = 0) -> Trained:
    """Write `model.json` and `config.json`. The same corpus, kind and seed give the same bytes."""
    text = corpus.load()
    recipe = KINDS[kind]
    model = recipe.estimate(text.training)
    perplexity = model.perplexity(text.held_out)
    config = {
        "architectures": [recipe.architecture],
        "corpus": {
            "held_out_paragraphs": len(text.held_out),
            "name": "pydoc_data.topics",
            "sha256": text.sha256,
            "training_paragraphs": len(text.training),
            "training_tokens": sum(map(len, text.training)),
        },
        "held_out_perplexity": round(perplexity, 3),
        "max_position_embeddings": MAX_MODEL_LEN,
        "model_type": "word-ngram",
        "order": model.order,
        "seed": seed,
        "smoothing": recipe.smoothing,
        "vocab_size": len(model.vocabulary),
    }
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / MODEL_FILE, model.dumps())
    _write(folder / CONFIG_FILE, json.dumps(config, indent=2, sort_keys=True) + "\n")
    return Trained(folder, kind, perplexity, len(model.vocabulary))


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.textgen.train", description=__doc__)
    parser.add_argument("--kind", required=True, choices=sorted(KINDS))
    parser.add_argument("--output", required=True, type=Path, metavar="DIR")
    parser.add_argument("--seed", type=int, default=0, help="default seed of the served model, kept in config.json")
    options = parser.parse_args(arguments)
    trained = train(options.kind, options.output, seed=options.seed)
    print(
        f"{trained.kind}: held-out perplexity {trained.held_out_perplexity:.1f}, "
        f"{trained.vocabulary_size} words, written to {trained.folder}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
