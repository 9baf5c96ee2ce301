"""Ways to let in whom one must not, or to break on what one must refuse, each with the one check that must see it and
words of its reason; "+" sets several, a part that the engine has and what is wrong with it."""

from __future__ import annotations

KEY, ECHO, OPEN = "security.key_required", "security.keys_not_echoed", "security.open_routes"
INPUT, ID, FUZZ, LIMIT = (
    "security.input_validation",
    "security.request_id",
    "security.fuzz",
    "security.rate_limit",
)

FAULTS: list[tuple[str, str, str]] = [
    ("open", KEY, "answers completions without a key: POST /v1/completions"),
    ("open invocations", KEY, "without a key: POST /invocations"),
    ("openapi+shown route open", KEY, "answers requests without a key: POST /words"),
    ("any key", KEY, "accepts a wrong key: GET /v1/models, POST /v1/completions"),
    ("x-api-key passes", KEY, "got round without the key by the header x-api-key: deploypipe-wrong-key"),
    ("forwarded passes", KEY, "got round without the key by the header X-Forwarded-For: 127.0.0.1: answered 200"),
    ("escapes pass", KEY, "got round without the key by escaped letters: answered 200 to POST /%76%31/completions"),
    ("HEAD passes", KEY, "got round without the key by the method HEAD: answered 200 to HEAD /v1/models"),
    ("double slash passes", KEY, "got round without the key by a double slash at the beginning"),
    ("dots pass", KEY, "got round without the key by dots from another route"),
    ("slash at the end passes", KEY, "got round without the key by a slash at the end"),
    ("capitals pass", KEY, "got round without the key by capitals: answered 200 to POST /V1/COMPLETIONS"),
    ("key echoed", ECHO, "GET /v1/models with a wrong key"),
    ("key in metrics", ECHO, "GET /metrics"),
    ("key in a header", ECHO, "GET /v1/models with the right key"),
    ("half a key", ECHO, "GET /v1/models with the right key"),
    ("server_info open", OPEN, "anybody can read the server's whole configuration: /server_info is open"),
    ("sleep open", OPEN, "anybody can put the engine to sleep: /sleep is open"),
    ("adapters open", OPEN, "anybody can load an adapter: /v1/load_lora_adapter is open"),
    ("profiler open", OPEN, "anybody can start the profiler: /start_profile is open"),
    ("ids split", ID, "An id with %0d%0a, the right key lets a header of the client's stand in the answer"),
    ("long id breaks", ID, "An id of 1,025 characters was answered with 500"),
    ("deep JSON breaks", INPUT, "20,000 nested lists: answered 500"),
    ("bad UTF-8 kills", INPUT, "after bytes that are no UTF-8 GET /health answered 503"),
    ("words as errors", INPUT, "max_tokens that is a word: answered 400 without a JSON error object"),
    ("surrogates break", INPUT, "half a surrogate pair: answered 500"),
    ("NaN breaks", INPUT, "temperature NaN: answered 500"),
    ("files by path", INPUT, "/etc/passwd: the answer holds the machine's list of users"),
    ("openapi+empty text breaks", FUZZ, 'POST /v1/words answered 500 to POST /v1/words {"text": ""}'),
    ("openapi+wrong text kills", FUZZ, "afterwards GET /health answered 503"),
    ("no limit", LIMIT, "was refused with 429: one client can take the whole server"),
    ("503 for too many", LIMIT, "the server answered 503 instead of 429"),
    ("limit for good", LIMIT, "the server still refused a single one and does not say for how long"),
]
