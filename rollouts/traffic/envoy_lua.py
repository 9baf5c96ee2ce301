"""What Envoy is started with: where it listens, the Lua filter that every request passes, and the record it writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from deploypipe.metrics.sessions import session_digest as session_digest

Json = dict[str, Any]
Socket = tuple[str, int]

LUA_FILTER = "envoy.filters.http.lua"
BUCKET_HEADER = "x-dp-bucket"
ARM_HEADER = "x-dp-arm"
STAT_PREFIX = "gateway"
STREAM_IDLE = "300s"
TABLE = "deploypipe"

_LUA = Path(__file__).with_name("envoy.lua")
_TYPE = "type.googleapis.com/envoy"
# One connection per stream; beyond this, new clients are refused and the running streams go on.
_CONNECTIONS = 20_000
# What we ask and what people look at; a web page that posts to loopback cannot end the gateway with /quitquitquit.
_ADMIN_PATHS = ("/ready", "/stats", "/config_dump", "/clusters", "/server_info", "/reopen_logs", "/drain_listeners")


def bootstrap(*, listen: Socket, admin: Socket, access_log: Path, routes: Path, clusters: Path) -> bytes:
    return json.dumps(
        {
            "node": {"id": "gateway", "cluster": "deploypipe"},
            "admin": {"address": _socket(admin), "allow_paths": [{"prefix": path} for path in _ADMIN_PATHS]},
            "static_resources": {"listeners": [_listener(listen, access_log, routes)]},
            "overload_manager": {"resource_monitors": [_connection_limit()]},
            "dynamic_resources": {"cds_config": _watched(clusters)},
        },
        indent=1,
    ).encode()


def _connection_limit() -> Json:
    return {
        "name": "envoy.resource_monitors.global_downstream_max_connections",
        "typed_config": {
            "@type": f"{_TYPE}.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
            "max_active_downstream_connections": _CONNECTIONS,
        },
    }


def _socket(address: Socket) -> Json:
    host, port = address
    return {"socket_address": {"address": host, "port_value": port}}


def _watched(file: Path) -> Json:
    source = {"path": str(file), "watched_directory": {"path": str(file.parent)}}
    return {"resource_api_version": "V3", "path_config_source": source}


def _listener(listen: Socket, access_log: Path, routes: Path) -> Json:
    return {
        "name": "gateway",
        "address": _socket(listen),
        # With SO_REUSEPORT a second gateway would start on the same port without a word and take half of the clients.
        "enable_reuse_port": False,
        "filter_chains": [
            {
                "filters": [
                    {"name": "envoy.filters.network.http_connection_manager", "typed_config": _http(access_log, routes)}
                ]
            }
        ],
    }


def _http(access_log: Path, routes: Path) -> Json:
    return {
        "@type": f"{_TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": STAT_PREFIX,
        "use_remote_address": True,
        # Nobody is internal: a client's x-envoy-* headers (retries, time-outs) would bend what the records say.
        "internal_address_config": {"cidr_ranges": [{"address_prefix": "255.255.255.255", "prefix_len": 32}]},
        "normalize_path": True,
        "stream_idle_timeout": STREAM_IDLE,
        "request_headers_timeout": "10s",
        "preserve_external_request_id": True,
        "always_set_request_id_in_response": True,
        "server_header_transformation": "PASS_THROUGH",
        "rds": {"route_config_name": TABLE, "config_source": _watched(routes)},
        "http_filters": [
            {
                "name": LUA_FILTER,
                "typed_config": {
                    "@type": f"{_TYPE}.extensions.filters.http.lua.v3.Lua",
                    "default_source_code": {"inline_string": _LUA.read_text()},
                },
            },
            {
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": f"{_TYPE}.extensions.filters.http.router.v3.Router",
                    "suppress_envoy_headers": True,
                },
            },
        ],
        "access_log": [
            {
                "name": "envoy.access_loggers.file",
                "typed_config": {
                    "@type": f"{_TYPE}.extensions.access_loggers.file.v3.FileAccessLog",
                    "path": str(access_log),
                    "log_format": {"json_format": RECORD},
                },
            }
        ],
    }


RECORD = {
    "start_ms": "%START_TIME(%s%3f)%",
    "request_id": "%REQ(X-REQUEST-ID):64%",
    "environment": f"%METADATA(ROUTE:{LUA_FILTER}:environment)%",
    "model": f"%METADATA(ROUTE:{LUA_FILTER}:model)%",
    "backend": "%UPSTREAM_CLUSTER%",
    "session": "%DYNAMIC_METADATA(deploypipe:request:session)%",
    "bucket": "%DYNAMIC_METADATA(deploypipe:request:bucket)%",
    "group": "%DYNAMIC_METADATA(deploypipe:request:group)%",
    "method": "%REQ(:METHOD)%",
    "path": "%PATH(NQ:ORIG_OR_PATH):256%",
    "status": "%RESPONSE_CODE%",
    "flags": "%RESPONSE_FLAGS%",
    "duration_us": "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%",
    "duration_ms": "%DURATION%",
    "headers_us": "%COMMON_DURATION(DS_RX_BEG:US_RX_BEG:us)%",
    "bytes": "%BYTES_SENT%",
    "first_ms": "%DYNAMIC_METADATA(deploypipe:stream:first_ms)%",
    "events": "%DYNAMIC_METADATA(deploypipe:stream:events)%",
    "stream_error": "%DYNAMIC_METADATA(deploypipe:stream:stream_error)%",
    "complete": "%DYNAMIC_METADATA(deploypipe:stream:complete)%",
}
"""One line of the access log; `deploypipe/metrics/records.py` reads it. Never a query string, never a session id."""
