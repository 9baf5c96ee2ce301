"""Log probabilities of tokens in the shape of OpenAI's completions; with `echo` also of the prompt's own."""

from collections.abc import Mapping, Sequence
from typing import Any

from examples.textgen.corpus import needs_space, spans
from examples.textgen.model import NgramModel


def told(
    model: NgramModel, prompt: str, drawn: Sequence[str], text: str, *, echo: bool, likeliest: int
) -> Mapping[str, Any]:
    """Of the tokens that are in the answer: those after a stop string are not. The first of all has none before it,
    so it has no probability."""
    asked = spans(prompt)
    words = [token for token, _ in asked] + list(drawn)
    pieces = [piece for _, piece in asked] + _pieces(words[len(asked) - 1] if asked else None, drawn)
    logs: list[float | None] = [None, *model.log_probabilities(words)[1:]] if words else []
    shown: list[tuple[str, float | None, dict[str, float] | None, int]] = []
    offset, end = (0 if echo else -len(prompt)), (len(prompt) if echo else 0) + len(text)
    for place, (piece, log) in enumerate(zip(pieces, logs, strict=True)):
        if place == len(asked):
            offset = len(prompt) if echo else 0
        if offset >= 0 and (place < len(asked) or offset < end):
            tops = model.likeliest(words[:place], likeliest) if likeliest and log is not None else None
            shown.append((piece, log, tops, offset))
        offset += len(piece)
    return {
        "tokens": [piece for piece, _, _, _ in shown],
        "token_logprobs": [log for _, log, _, _ in shown],
        "top_logprobs": [tops for _, _, tops, _ in shown] if likeliest else None,
        "text_offset": [place for _, _, _, place in shown],
    }


def _pieces(previous: str | None, drawn: Sequence[str]) -> list[str]:
    found: list[str] = []
    for token in drawn:
        found.append(f" {token}" if needs_space(previous, token) else token)
        previous = token
    return found
