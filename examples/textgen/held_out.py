"""Write texts that no model has seen as a file that an examination can measure perplexity on."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from examples.textgen import corpus

FEWEST_TOKENS, MOST_TOKENS = 12, 200
TEXTS = 60


def write(path: Path, *, texts: int = TEXTS, most_tokens: int = MOST_TOKENS) -> int:
    """JSONL, {"text": …} a line: paragraphs of the held-out part, spread over all of it. Returns how many there are.

    The same corpus gives the same bytes. Words outside the vocabulary stay: each is a surprise to the model.
    """
    fit = [tokens for tokens in corpus.load().held_out if FEWEST_TOKENS <= len(tokens) <= most_tokens]
    step = max(1, len(fit) // texts)
    chosen = fit[::step][:texts]
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"text": corpus.join(tokens)}) for tokens in chosen]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(chosen)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.textgen.held_out", description=__doc__)
    parser.add_argument("--output", required=True, type=Path, metavar="FILE")
    parser.add_argument("--texts", type=int, default=TEXTS, help=f"how many at most; default: {TEXTS}")
    options = parser.parse_args(arguments)
    if options.texts < 1:
        parser.error("--texts must be at least 1")
    print(f"{write(options.output, texts=options.texts)} texts, written to {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
