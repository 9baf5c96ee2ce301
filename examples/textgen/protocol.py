"""The OpenAI-compatible API as vLLM and Aphrodite speak it: what a request may say, and the shape of each answer."""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii
from typing import Any, NoReturn

from examples.textgen.corpus import Tokens, tokenize
from examples.textgen.model import Sampling

DEFAULT_MAX_TOKENS = 16
LARGEST_MAX_TOKENS = 2**31 - 1
MAX_CHOICES = 128
MAX_STOPS = 16
MAX_LOGPROBS = 20
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
_SURROGATES = re.compile("[\ud800-\udfff]")
_MEDIA_TYPE = "application/json"

_KINDS = {400: "BadRequestError", 404: "NotFoundError", 405: "BadRequestError", 429: "RateLimitError"}
DONE = b"data: [DONE]\n\n"


class ApiError(Exception):
    def __init__(self, status: int, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param

    def body(self) -> dict[str, Any]:
        kind = _KINDS.get(self.status, "InternalServerError")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.status}}


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    chat: bool
    prompts: tuple[Tokens, ...]
    max_tokens: int
    sampling: Sampling
    n: int
    seed: int | None
    stop: tuple[str, ...]
    stream: bool
    include_usage: bool
    echo: bool = False
    logprobs: int | None = None
    """How many of the likeliest words are told with each token; None: no log probabilities at all."""
    texts: tuple[str, ...] = ()
    """The prompts as they were sent, for `echo`."""

    @property
    def prompt_tokens(self) -> int:
        return sum(map(len, self.prompts))


def parse_body(content_type: str, body: bytes) -> dict[str, Any]:
    if content_type.partition(";")[0].strip().lower() != _MEDIA_TYPE:
        raise ApiError(400, f"Unsupported Media Type: Only '{_MEDIA_TYPE}' is allowed")
    try:
        fields = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"The body is not valid JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ApiError(400, "The body must be a JSON object.")
    return fields


def parse_request(
    fields: Mapping[str, Any], *, chat: bool, served_model_name: str, max_model_len: int
) -> GenerationRequest:
    model = fields.get("model")
    if model is not None and not isinstance(model, str):
        raise ApiError(400, "model must be a string.", param="model")
    if model is not None and model != served_model_name:
        raise ApiError(404, f"The model `{model}` does not exist.", param="model")
    texts = () if chat else _texts(fields)
    prompts = (_chat_prompt(fields),) if chat else tuple(map(tokenize, texts))
    stream = _flag(fields, "stream")
    echo, logprobs = (False, None) if chat else (_flag(fields, "echo"), _logprobs(fields))
    if stream and (echo or logprobs is not None):
        raise ApiError(400, "echo and logprobs cannot be streamed.", param="echo" if echo else "logprobs")
    _refuse_what_is_not_there(fields, chat=chat)
    longest = max(map(len, prompts))
    asked = _integer(fields, "max_completion_tokens", None, 1, LARGEST_MAX_TOKENS) if chat else None
    if asked is None:
        asked = _integer(fields, "max_tokens", None, 0 if echo else 1, LARGEST_MAX_TOKENS)
    default = max_model_len - longest if chat else min(DEFAULT_MAX_TOKENS, max_model_len - longest)
    max_tokens = default if asked is None else asked
    if (longest >= max_model_len and asked != 0) or longest + max_tokens > max_model_len:
        raise ApiError(
            400,
            f"This model's maximum context length is {max_model_len} tokens. However, you requested "
            f"{longest + max(max_tokens, 1)} tokens ({longest} in the prompt, {max(max_tokens, 1)} in the completion). "
            "Please reduce the length of the prompt or completion.",
            param="max_tokens" if longest < max_model_len else "prompt",
        )
    temperature = _number(fields, "temperature", 1.0, "at least 0", lambda value: value >= 0.0)
    n = _integer(fields, "n", 1, 1, MAX_CHOICES) or 1
    if temperature == 0.0 and n > 1:
        raise ApiError(400, "n must be 1 when using greedy sampling.", param="n")
    options = fields.get("stream_options")
    if options is not None and not (isinstance(options, dict) and stream):
        raise ApiError(400, "stream_options must be an object, and only with stream.", param="stream_options")
    return GenerationRequest(
        chat=chat,
        prompts=prompts,
        max_tokens=max_tokens,
        sampling=Sampling(
            temperature,
            _number(fields, "top_p", 1.0, "above 0 and at most 1", lambda value: 0.0 < value <= 1.0),
            allow_end=not _flag(fields, "ignore_eos"),
            top_k=max(0, _integer(fields, "top_k", 0, -1, LARGEST_MAX_TOKENS) or 0),
            min_p=_number(fields, "min_p", 0.0, "between 0 and 1", lambda value: 0.0 <= value <= 1.0),
        ),
        n=n,
        seed=_integer(fields, "seed", None, -(2**63), 2**63 - 1),
        stop=_stop(fields),
        stream=stream,
        include_usage=options is not None and _flag(options, "include_usage"),
        echo=echo,
        logprobs=logprobs,
        texts=texts,
    )


# Fields that the interface has and this model cannot do. To ignore them would be to answer another question.
_WITHOUT_EFFECT: Mapping[str, tuple[float, str, Callable[[float], bool]]] = {
    "presence_penalty": (0.0, "between -2 and 2", lambda value: -2.0 <= value <= 2.0),
    "frequency_penalty": (0.0, "between -2 and 2", lambda value: -2.0 <= value <= 2.0),
    "repetition_penalty": (1.0, "above 0", lambda value: value > 0.0),
}


def _refuse_what_is_not_there(fields: Mapping[str, Any], *, chat: bool) -> None:
    for name, (neutral, limits, is_allowed) in _WITHOUT_EFFECT.items():
        if _number(fields, name, neutral, limits, is_allowed) != neutral:
            raise ApiError(400, f"This model has no {name}: leave it at {neutral:g}.", param=name)
    if chat and fields.get("logprobs"):
        raise ApiError(400, "Only /v1/completions tells log probabilities.", param="logprobs")
    if fields.get("prompt_logprobs") is not None:
        raise ApiError(400, "Ask for echo and logprobs instead of prompt_logprobs.", param="prompt_logprobs")


def _logprobs(fields: Mapping[str, Any]) -> int | None:
    return _integer(fields, "logprobs", None, 0, MAX_LOGPROBS)


def _texts(fields: Mapping[str, Any]) -> tuple[str, ...]:
    prompt = fields.get("prompt")
    texts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise ApiError(400, "prompt must be a string or a list of strings that is not empty.", param="prompt")
    if len(texts) > MAX_CHOICES:
        raise ApiError(400, f"prompt may hold at most {MAX_CHOICES} texts.", param="prompt")
    return tuple(texts)


def _chat_prompt(fields: Mapping[str, Any]) -> Tokens:
    """The template of this model: the contents, one after the other. It continues text and knows no dialogue."""
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ApiError(400, "messages must be a list that is not empty.", param="messages")
    return tokenize("\n".join(_content(message) for message in messages))


def _content(message: object) -> str:
    if isinstance(message, dict) and message.get("role") in _ROLES:
        content = message.get("content")
        if isinstance(content, str):
            return content
        if isinstance(content, list) and all(
            isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
            for part in content
        ):
            return "\n".join(part["text"] for part in content)
    raise ApiError(400, "Each message must have a known role and a text as content.", param="messages")


def _stop(fields: Mapping[str, Any]) -> tuple[str, ...]:
    stop = fields.get("stop")
    stops = [] if stop is None else [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or not all(isinstance(text, str) and text for text in stops):
        raise ApiError(400, "stop must be a string or a list of strings, none of them empty.", param="stop")
    if len(stops) > MAX_STOPS:
        raise ApiError(400, f"stop may hold at most {MAX_STOPS} strings.", param="stop")
    return tuple(stops)


def _integer(
    fields: Mapping[str, Any], name: str, default: int | None, least: int, most: int | None = None
) -> int | None:
    value = fields.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int):
        raise ApiError(400, f"{name} must be an integer, got {_shown(value)}.", param=name)
    if value < least or (most is not None and value > most):
        limits = f"at least {least}" if most is None else f"between {least} and {most}"
        raise ApiError(400, f"{name} must be {limits}, got {_shown(value)}.", param=name)
    return value


def _number(
    fields: Mapping[str, Any], name: str, default: float, limits: str, is_allowed: Callable[[float], bool]
) -> float:
    value = fields.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ApiError(400, f"{name} must be a number, got {_shown(value)}.", param=name)
    if not is_allowed(value) or value > 1e300 or not math.isfinite(value):
        raise ApiError(400, f"{name} must be {limits}, got {_shown(value)}.", param=name)
    return float(value)


def _flag(fields: Mapping[str, Any], name: str) -> bool:
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise ApiError(400, f"{name} must be true or false, got {_shown(value)}.", param=name)
    return bool(value)


def _shown(value: object) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**40 else "a huge number"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")


def dump(document: object) -> bytes:
    """ASCII, because a client may have sent half a surrogate pair that an error message repeats."""
    return json.dumps(document, separators=(",", ":")).encode()


def error_event(error: ApiError) -> bytes:
    return b"data: " + dump(error.body()) + b"\n\n"


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "completion_tokens": completion_tokens,
    }


class StreamFormat:
    """Server-sent events of one answer. What stays the same in each event is written once: this is the hot path."""

    def __init__(self, *, chat: bool, answer_id: str, created: int, model: str) -> None:
        kind = "chat.completion.chunk" if chat else "text_completion"
        self._head = (
            f'data: {{"id":"{answer_id}","object":"{kind}","created":{created},"model":{json.dumps(model)},"choices":['
        )
        self._chat = chat

    def opening(self, choices: int) -> bytes:
        """Chat streams begin with the role of each choice; completions begin with text."""
        if not self._chat:
            return b""
        return "".join(
            f'{self._head}{{"index":{index},"delta":{{"role":"assistant","content":""}},'
            '"logprobs":null,"finish_reason":null}]}\n\n'
            for index in range(choices)
        ).encode()

    def piece(self, index: int, text: str, finish_reason: str | None) -> bytes:
        quoted = encode_basestring_ascii(text)
        content = f'"delta":{{"content":{quoted}}}' if self._chat else f'"text":{quoted}'
        finish = f'"{finish_reason}"' if finish_reason else "null"
        return f'{self._head}{{"index":{index},{content},"logprobs":null,"finish_reason":{finish}}}]}}\n\n'.encode()

    def usage(self, prompt_tokens: int, completion_tokens: int) -> bytes:
        counts = json.dumps(usage(prompt_tokens, completion_tokens), separators=(",", ":"))
        return f'{self._head}],"usage":{counts}}}\n\n'.encode()


@dataclass(frozen=True, slots=True)
class Written:
    """One choice of an answer that does not stream."""

    text: str
    finish_reason: str
    logprobs: Mapping[str, Any] | None = None


def answer(
    *,
    chat: bool,
    answer_id: str,
    created: int,
    model: str,
    choices: Sequence[Written],
    prompt_tokens: int,
    completion_tokens: int,
) -> bytes:
    """The whole answer of a request that does not stream."""
    shaped = [
        {
            "index": index,
            **({"message": {"role": "assistant", "content": said.text}} if chat else {"text": said.text}),
            "logprobs": said.logprobs,
            "finish_reason": said.finish_reason,
            "stop_reason": None,
        }
        for index, said in enumerate(choices)
    ]
    return dump(
        {
            "id": answer_id,
            "object": "chat.completion" if chat else "text_completion",
            "created": created,
            "model": model,
            "choices": shaped,
            "usage": usage(prompt_tokens, completion_tokens),
        }
    )
