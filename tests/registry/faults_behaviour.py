"""Ways to be wrong in what is generated, each with the one check that must see it and words of its reason."""

from __future__ import annotations

_GENERATION = "compatibility.generation"
_STOP = "compatibility.stop"
_SEVERAL = "compatibility.several"
_SAMPLERS = "compatibility.samplers"
_REFUSES = "compatibility.refuses"

FAULTS: list[tuple[str, str, str]] = [
    ("unhealthy", "compatibility.engine_answers", "GET /health answered 503"),
    ("other model", "compatibility.model_name", "names 'letters'; 'words' is expected"),
    ("no finish_reason", _GENERATION, "plain: finish_reason is null, not stop or length; stream: finish_reason"),
    ("no usage", _GENERATION, "plain: usage does not count prompt_tokens, completion_tokens and total_tokens"),
    ("usage does not add up", _GENERATION, "usage says 5 + 16 = 28 tokens"),
    ("another model in the answer", _GENERATION, "it is from the model 'letters'; 'words' was asked"),
    ("streams are cut", _GENERATION, "stream: it ends without [DONE]"),
    ("streams are empty", _GENERATION, "stream: there is no text"),
    ("streams fail inside", _GENERATION, "stream: an error came inside the 200 answer: the engine failed"),
    ("aphrodite-0.9+streams fail inside", _GENERATION, "stream: an error came inside the 200 answer: the engine"),
    ("streams break off", _GENERATION, "stream: the server gave no answer (/v1/completions broke off"),
    ("streams hold no JSON", _GENERATION, "stream: event 3 is not JSON"),
    ("streams come plain", _GENERATION, "stream: the answer is application/json, not text/event-stream"),
    ("streams drip", _GENERATION, "stream: the server gave no answer (/v1/completions did not end within 5.0 s)"),
    ("not repeatable", "compatibility.repeatable", "gave two texts, different from character"),
    ("seed ignored", "compatibility.seed", "The seed 11 gave two texts at temperature 1, different from character"),
    ("seeds are alike", "compatibility.seed", "4 seeds gave the same text at temperature 1: the seed has no effect"),
    ("stop ignored", _STOP, "the plain answer goes on past it; the stream goes on past it"),
    ("stop ignored in streams", _STOP, "' the stream goes on past it."),
    ("stop is kept in the text", _STOP, "the plain answer ends with it instead of before it"),
    ("stop without its reason", _STOP, "the plain answer has the finish_reason 'length', not 'stop'"),
    ("max_tokens ignored", "compatibility.max_tokens", "with max_tokens 1 6 tokens came; with max_tokens 1 in a"),
    ("max_tokens ignored in streams", "compatibility.max_tokens", "with max_tokens 5 in a stream 10 pieces of text"),
    ("hangs at one token", "compatibility.max_tokens", "with max_tokens 1 in a stream the server gave no answer"),
    ("n ignored", _SEVERAL, "with n 3: the plain answer has 1 choice only"),
    ("n ignored in streams", _SEVERAL, "with n 3: the stream has 1 choice only"),
    ("cannot do several", _SEVERAL, "with n 3: the plain answer is not sound: the server answered 501"),
    ("indexes are all 0", _SEVERAL, "the plain answer has 2 choices without an index of their own"),
    ("choices are alike", _SEVERAL, "the 3 choices are one and the same text, while single requests differ"),
    ("hangs at several", _SEVERAL, "did not end within 5.0 s"),
    ("accepts temperature -1.0", _REFUSES, "1 were not refused with a 4xx error: temperature -1: the server"),
    ("accepts top_p 0.0", _REFUSES, "top_p 0: the server answered 200"),
    ("accepts top_p 1.5", _REFUSES, "top_p 1.5: the server answered 200"),
    ("accepts n 0", _REFUSES, "n 0: the server answered 200"),
    ("accepts max_tokens 0", _REFUSES, "max_tokens 0: the server answered 200"),
    ("accepts presence_penalty 3.0", _REFUSES, "presence_penalty 3: the server answered 200"),
    ("accepts top_k -5+accepts min_p 2.0", _REFUSES, "2 were not refused with a 4xx error: top_k -5: the server"),
    ("top_p ignored", _SAMPLERS, "Of 3 samplers 1 did not work: top_p 1e-06 (it makes no difference)"),
    ("top_k ignored", _SAMPLERS, "top_k 1 (it makes no difference)"),
    ("top_k is too many", _SAMPLERS, "top_k 1 (at temperature 2 the text is not that of temperature 0)"),
    ("hangs when hot", _SAMPLERS, "with temperature 2, seed 11: the server gave no answer (/v1/completions did"),
    ("min_p ignored", _SAMPLERS, "min_p 1 (it makes no difference)"),
    ("refuses min_p", _SAMPLERS, "min_p 1 (the server answered 400)"),
    ("aphrodite-0.24+nsigma ignored", _SAMPLERS, "Of 8 samplers 1 did not work: nsigma 0.0001 (it makes no"),
    ("aphrodite-0.24+top_a ignored", _SAMPLERS, "top_a 0.9 (it makes no difference)"),
    ("aphrodite-0.24+xtc_probability ignored", _SAMPLERS, "xtc_probability 1, xtc_threshold 0.05 (it makes no"),
    ("aphrodite-0.9+no_repeat_ngram_size ignored", _SAMPLERS, "no_repeat_ngram_size 1 (it makes no difference)"),
    ("aphrodite-0.9+dry_multiplier ignored", _SAMPLERS, "dry_multiplier 5, dry_base 1.75, dry_allowed_length 1 (it"),
    ("knows less", "quality.held_out", "at most 12 is allowed"),
]  # fmt: skip
