"""Envoy's configuration: one port for gRPC, gRPC-Web and REST, in front of all nodes.

Streams and unary calls have ports of the nodes, clusters and time-outs of their own: ten thousand idle streams must not
use up the requests of the unary calls, and only streams may last. The order of the HTTP filters is: CORS (a preflight
has no token and no gRPC), gRPC-Web, the limit of a REST body, the transcoder for REST, the router. Tokens are checked
by the nodes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hubbub_server.supervisor import descriptors

Json = dict[str, Any]

_TYPES: Final = "type.googleapis.com/envoy"
_BUFFER: Final = "envoy.filters.http.buffer"
_LOOPBACK: Final = "127.0.0.1"
_KIB: Final = 1024
_REQUEST_MAX_BYTES: Final = 256 * _KIB
_RESPONSE_MAX_BYTES: Final = 4 * 1024 * _KIB
_UNARY_TIMEOUT: Final = "15s"
_STREAM_IDLE_TIMEOUT: Final = "90s"  # heartbeats come every 20 s
# What nobody outside may tell us: who they are, where they come from, and how Envoy has to treat them.
_UNTRUSTED_PREFIXES: Final = ("x-envoy-", "x-forwarded-", "x-hubbub-", "x-user-")
_UNTRUSTED_HEADERS: Final = ("forwarded", "x-real-ip", "x-request-id", "grpc-previous-rpc-attempts")


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvoyPlan:
    """What differs between one Envoy and another.

    Each node has one of `node_ports`, for all of gRPC, and one of `stream_ports`, for the streaming methods.
    `node_hosts` are names, one for each node, looked up again and again; without them all nodes are on the loopback.
    Without `access_log_path` requests are logged to the standard output.
    """

    port: int
    admin_port: int
    node_ports: Sequence[int]
    stream_ports: Sequence[int]
    cors_origins: Sequence[str]
    descriptor_path: Path
    access_log_path: Path | None = None
    listen_host: str = _LOOPBACK
    node_hosts: Sequence[str] = ()


def render(plan: EnvoyPlan) -> Json:
    """Returns the whole configuration; Envoy reads JSON."""
    return {
        "admin": {"address": _address(plan.admin_port)},
        "static_resources": {
            "listeners": [_listener(plan)],
            "clusters": [
                _cluster("unary", plan, plan.node_ports, max_requests=4_096),
                _cluster("streams", plan, plan.stream_ports, max_requests=20_000),
            ],
        },
        "overload_manager": {
            "resource_monitors": [
                _typed(
                    "envoy.resource_monitors.global_downstream_max_connections",
                    "extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                    max_active_downstream_connections=20_000,
                )
            ]
        },
    }


def _address(port: int, host: str = _LOOPBACK) -> Json:
    return {"socket_address": {"address": host, "port_value": port}}


def _typed(name: str, kind: str, **fields: Any) -> Json:
    return {"name": name, "typed_config": {"@type": f"{_TYPES}.{kind}", **fields}}


def _listener(plan: EnvoyPlan) -> Json:
    return {
        "name": "edge",
        "address": _address(plan.port, plan.listen_host),
        "per_connection_buffer_limit_bytes": 32 * _KIB,
        "filter_chains": [{"filters": [_connection_manager(plan)]}],
    }


def _connection_manager(plan: EnvoyPlan) -> Json:
    return _typed(
        "envoy.filters.network.http_connection_manager",
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="edge",
        codec_type="AUTO",
        server_name="hubbub",
        use_remote_address=True,
        early_header_mutation_extensions=[_drop_untrusted_headers()],
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action="REJECT_REQUEST",
        request_headers_timeout="10s",
        stream_idle_timeout=_STREAM_IDLE_TIMEOUT,
        drain_timeout="1s",
        common_http_protocol_options={
            "headers_with_underscores_action": "REJECT_REQUEST",
            "idle_timeout": "600s",
            "max_headers_count": 64,
        },
        max_request_headers_kb=16,
        http2_protocol_options={
            "max_concurrent_streams": 100,
            "initial_stream_window_size": 64 * _KIB,
            "initial_connection_window_size": 1024 * _KIB,
            "connection_keepalive": {"interval": "30s", "timeout": "10s"},
        },
        access_log=[_access_log(plan.access_log_path)],
        local_reply_config=_local_replies(),
        route_config=_routes(plan),
        http_filters=[
            _typed("envoy.filters.http.cors", "extensions.filters.http.cors.v3.Cors"),
            _typed("envoy.filters.http.grpc_web", "extensions.filters.http.grpc_web.v3.GrpcWeb"),
            _body_limit(),
            _transcoder(plan),
            _typed(
                "envoy.filters.http.router", "extensions.filters.http.router.v3.Router", suppress_envoy_headers=True
            ),
        ],
    )


def _drop_untrusted_headers() -> Json:
    mutations: list[Json] = [{"remove": name} for name in _UNTRUSTED_HEADERS]
    mutations += [
        {"remove_on_match": {"key_matcher": {"prefix": prefix, "ignore_case": True}}} for prefix in _UNTRUSTED_PREFIXES
    ]
    return _typed(
        "envoy.http.early_header_mutation.header_mutation",
        "extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
        mutations=mutations,
    )


def _access_log(path: Path | None) -> Json:
    """One JSON line a request: no authorization header, and no query, which may hold a name."""
    fields: Mapping[str, str] = {
        "time": "%START_TIME%",
        "method": "%REQ(:METHOD)%",
        "path": "%PATH(NQ:ORIG_OR_PATH)%",
        "protocol": "%PROTOCOL%",
        "code": "%RESPONSE_CODE%",
        "grpc_status": "%GRPC_STATUS_NUMBER%",
        "flags": "%RESPONSE_FLAGS%",
        "details": "%RESPONSE_CODE_DETAILS%",
        "duration_ms": "%DURATION%",
        "bytes_received": "%BYTES_RECEIVED%",
        "bytes_sent": "%BYTES_SENT%",
        "upstream": "%UPSTREAM_HOST%",
        "request_id": "%REQ(X-REQUEST-ID)%",
    }
    log_format = {"json_format": fields}
    if path is None:  # not the file /dev/stdout, which only its owner may open
        kind = "extensions.access_loggers.stream.v3.StdoutAccessLog"
        return _typed("envoy.access_loggers.stdout", kind, log_format=log_format)
    kind = "extensions.access_loggers.file.v3.FileAccessLog"
    return _typed("envoy.access_loggers.file", kind, path=str(path), log_format=log_format)


def _local_replies() -> Json:
    """What Envoy itself refuses, in the shape of our errors; a gRPC client gets its trailers and a plain message."""
    unavailable: list[Json] = [
        {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": "ERROR_REASON_BACKEND_UNAVAILABLE",
            "domain": "hubbub",
            "metadata": {},
        },
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "1s"},
    ]
    invalid: list[Json] = [
        {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": "ERROR_REASON_INVALID_FIELD",
            "domain": "hubbub",
            "metadata": {},
        }
    ]
    return {
        "mappers": [
            _local_reply(_at_least(504), code=4, details=unavailable),
            _local_reply(_at_least(500), code=14, details=unavailable),
            _local_reply(_at_least(429), code=8, details=unavailable),
            _local_reply(_exactly(404), code=5, details=[]),
            _local_reply(_at_least(400), code=3, details=invalid),
        ]
    }


def _exactly(status: int) -> Json:
    return _status_filter("EQ", status)


def _at_least(status: int) -> Json:
    return _status_filter("GE", status)


def _status_filter(operator: str, status: int) -> Json:
    comparison = {"op": operator, "value": {"default_value": status, "runtime_key": "edge.local_reply"}}
    return {"status_code_filter": {"comparison": comparison}}


def _local_reply(status: Json, *, code: int, details: Sequence[Json]) -> Json:
    return {
        "filter": {"and_filter": {"filters": [status, _is_rest()]}},
        "body_format_override": {
            "json_format": {"code": code, "message": "%LOCAL_REPLY_BODY%", "details": list(details)},
            "content_type": "application/json",
        },
    }


def _is_rest() -> Json:
    """No gRPC content type, or one that the transcoder has set: then it has noted the path that it replaced."""
    not_grpc = {
        "name": "content-type",
        "string_match": {"prefix": "application/grpc"},
        "treat_missing_header_as_empty": True,
        "invert_match": True,
    }
    transcoded = {"name": "x-envoy-original-path", "present_match": True}
    return {"or_filter": {"filters": [{"header_filter": {"header": header}} for header in (not_grpc, transcoded)]}}


def _routes(plan: EnvoyPlan) -> Json:
    streams = [_stream_route({"path": path}, "streams") for path in descriptors.streaming_paths()]
    others = ("/grpc.reflection.", "/grpc.health.v1.Health/Watch")
    streams += [_stream_route({"prefix": prefix}, "unary") for prefix in others]
    unary = [_unary_route({"prefix": prefix}) for prefix in ("/hubbub.", "/grpc.health.v1.Health/Check")]
    rest = _unary_route({"prefix": "/v1/"}) | {"typed_per_filter_config": {_BUFFER: _rest_body_limit()}}
    return {
        "name": "edge",
        "virtual_hosts": [
            {
                "name": "edge",
                "domains": ["*"],
                "routes": [*streams, *unary, rest],
                "retry_policy": {
                    # Nothing of these reached a node, so a message cannot be sent twice.
                    "retry_on": "connect-failure,refused-stream,reset-before-request",
                    "num_retries": 2,
                    "retry_host_predicate": [
                        _typed(
                            "envoy.retry_host_predicates.previous_hosts",
                            "extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
                        )
                    ],
                    "host_selection_retry_max_attempts": 3,
                },
                "typed_per_filter_config": {"envoy.filters.http.cors": _cors(plan.cors_origins)},
            }
        ],
    }


def _stream_route(match: Json, cluster: str) -> Json:
    return {
        "match": match,
        "route": {"cluster": cluster, "timeout": "0s", "idle_timeout": _STREAM_IDLE_TIMEOUT},
    }


def _unary_route(match: Json) -> Json:
    return {"match": match, "route": {"cluster": "unary", "timeout": _UNARY_TIMEOUT}}


def _cors(origins: Sequence[str]) -> Json:
    return {
        "@type": f"{_TYPES}.extensions.filters.http.cors.v3.CorsPolicy",
        "allow_origin_string_match": [{"exact": origin} for origin in origins],
        "allow_methods": "GET, POST, PUT, PATCH, DELETE, OPTIONS",
        "allow_headers": "authorization, content-type, grpc-timeout, hubbub-session-id, x-grpc-web, x-user-agent",
        "expose_headers": "grpc-status, grpc-message, grpc-status-details-bin",
        "max_age": "600",
    }


def _body_limit() -> Json:
    """Off but for REST: it holds a whole body, and gRPC streams have none. The nodes bound the messages of gRPC."""
    return _typed(_BUFFER, "extensions.filters.http.buffer.v3.Buffer", max_request_bytes=_REQUEST_MAX_BYTES) | {
        "disabled": True
    }


def _rest_body_limit() -> Json:
    return {
        "@type": f"{_TYPES}.extensions.filters.http.buffer.v3.BufferPerRoute",
        "buffer": {"max_request_bytes": _REQUEST_MAX_BYTES},
    }


def _transcoder(plan: EnvoyPlan) -> Json:
    return _typed(
        "envoy.filters.http.grpc_json_transcoder",
        "extensions.filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder",
        proto_descriptor=str(plan.descriptor_path),
        services=descriptors.service_names(),
        convert_grpc_status=True,
        request_validation_options={"reject_unknown_method": True, "reject_unknown_query_parameters": True},
        max_request_body_size=_REQUEST_MAX_BYTES,
        max_response_body_size=_RESPONSE_MAX_BYTES,
    )


def _cluster(name: str, plan: EnvoyPlan, ports: Sequence[int], *, max_requests: int) -> Json:
    hosts = plan.node_hosts or [_LOOPBACK] * len(ports)
    nodes = [_address(port, host) for host, port in zip(hosts, ports, strict=True)]
    return {
        "name": name,
        "type": "STRICT_DNS" if plan.node_hosts else "STATIC",
        "connect_timeout": "1s",
        "lb_policy": "LEAST_REQUEST",
        "per_connection_buffer_limit_bytes": 32 * _KIB,
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": node}} for node in nodes]}],
        },
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": _http2()},
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": 1_024,
                    "max_pending_requests": 1_024,
                    "max_requests": max_requests,
                    "retry_budget": {"budget_percent": {"value": 20}, "min_retry_concurrency": 10},
                }
            ]
        },
        "health_checks": [
            {
                "timeout": "2s",
                "interval": "1s",
                "no_traffic_interval": "1s",
                "unhealthy_interval": "0.25s",
                "unhealthy_threshold": 3,
                "healthy_threshold": 1,
                "grpc_health_check": {},
            }
        ],
        # A node that answers UNAVAILABLE is alive: only failures to reach it count.
        "outlier_detection": {
            "split_external_local_origin_errors": True,
            "consecutive_local_origin_failure": 3,
            "enforcing_consecutive_5xx": 0,
            "enforcing_consecutive_gateway_failure": 0,
            "enforcing_success_rate": 0,
            "enforcing_local_origin_success_rate": 0,
            "interval": "1s",
            "base_ejection_time": "1s",
            "max_ejection_time": "5s",
        },
        # When no node is ready at all (the log is away for every one of them) they still answer: history from the
        # store, and errors that say when to come again.
        "common_lb_config": {"healthy_panic_threshold": {"value": 1}},
    }


def _http2() -> Json:
    return {
        "@type": f"{_TYPES}.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {
            "http2_protocol_options": {
                # A connection that is full gets a second one beside it, not a refusal.
                "max_concurrent_streams": 500,
                "initial_stream_window_size": 256 * _KIB,
                "initial_connection_window_size": 1024 * _KIB,
                "connection_keepalive": {"interval": "30s", "timeout": "10s"},
            }
        },
    }
