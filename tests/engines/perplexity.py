"""The perplexity of texts by `transformers` itself, to hold ours against: `python perplexity.py MODEL FILE.jsonl`."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path


def perplexity(model_folder: str, file: str) -> float:
    import torch  # type: ignore[import-not-found, unused-ignore]
    from transformers import AutoModelForCausalLM, AutoTokenizer  # type: ignore[import-not-found, unused-ignore]

    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    nats, tokens = 0.0, 0
    for line in Path(file).read_text().splitlines():
        ids = tokenizer(json.loads(line)["text"], return_tensors="pt").input_ids
        with torch.no_grad():
            loss = model(ids, labels=ids).loss  # the mean over all tokens but the first
        nats += float(loss) * (ids.shape[1] - 1)
        tokens += ids.shape[1] - 1
    return math.exp(nats / tokens)


if __name__ == "__main__":
    print(perplexity(sys.argv[1], sys.argv[2]))  # noqa: T201
