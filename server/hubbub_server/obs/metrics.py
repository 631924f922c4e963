"""Names of all metrics. Labels are bounded: reasons, roles and shards, never users or conversations."""

from prometheus_client import Counter, Gauge, Histogram

commits = Counter("hubbub_commits", "Records committed by this node.")
committed_events = Counter("hubbub_committed_events", "Events in the records committed by this node.")
conflicts = Counter("hubbub_commit_conflicts", "Appends refused because the head had moved.")
unknown_outcomes = Counter(
    "hubbub_unknown_outcomes",
    "Appends without an answer, by how they were settled: found, never, appended.",
    ["settled"],
)
commit_seconds = Histogram(
    "hubbub_commit_seconds",
    "From append to its answer.",
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5, 15),
)
live_gaps_repaired = Counter("hubbub_live_gaps_repaired", "Holes in live delivery that were fetched from the log.")
head_mismatches = Counter("hubbub_head_mismatches", "Topics that a head check found behind.")
id_lookups = Counter("hubbub_id_lookups", "Client ids looked up in the store.")
goodbyes = Counter("hubbub_goodbyes", "Streams ended by the server, by reason.", ["reason"])
refused_streams = Counter("hubbub_refused_streams", "Streams refused because too many were being opened.")
streams = Gauge("hubbub_streams", "Open streams.")
stream_buffer_bytes = Gauge("hubbub_stream_buffer_bytes", "Bytes that wait in buffers of streams.")
active_topics = Gauge("hubbub_active_topics", "Topics in memory.")
delivered_events = Counter("hubbub_delivered_events", "Events put into buffers of streams.")
signals = Counter("hubbub_signals", "Signals put into buffers of streams.")
dropped_signals = Counter(
    "hubbub_dropped_signals",
    "Signals dropped by this node: lost (no NATS), full, busy (a conversation has too many), slow (a stream).",
    ["reason"],
)
rpcs = Counter("hubbub_rpcs", "Finished RPCs.", ["method", "code"])
worker_lag_records = Gauge("hubbub_worker_lag_records", "Records that a worker has not applied yet.", ["role", "shard"])
worker_applied_records = Counter("hubbub_worker_applied_records", "Records applied by a worker.", ["role"])
worker_stopped = Gauge("hubbub_worker_stopped", "1 while a shard is stopped and needs a person.", ["role", "shard"])
worker_dead_topics = Gauge("hubbub_worker_dead_topics", "Topics with dead letters.", ["role", "shard"])
worker_dead_letters = Counter("hubbub_worker_dead_letters", "Records put into the dead letters.", ["role"])
worker_units = Gauge("hubbub_worker_units", "Shards that this worker holds.", ["role"])
snapshots = Counter("hubbub_snapshots", "States of topics written beside the log.")
trimmed_records = Counter("hubbub_trimmed_records", "Records removed from the log.", ["shard"])
refused_shards = Gauge(
    "hubbub_refused_shards", "1 while this process commits nothing to a shard: see its log.", ["shard"]
)
registered_nodes = Gauge("hubbub_registered_nodes", "Nodes that live, as this one sees it; 0 while it cannot see.")
registry_failures = Counter("hubbub_registry_failures", "Renewals of the lease and looks at the registry that failed.")
presence_users = Gauge("hubbub_presence_users", "Users with a session on this node.")
presence_watched = Gauge("hubbub_presence_watched", "Users whose presence somebody watches on this node.")
presence_reports = Counter("hubbub_presence_reports", "Presences put into frames of watchers.")
presence_known = Gauge(
    "hubbub_presence_known", "1 while this node knows who is there: the registry answers, and has for 10 s."
)
edge_connections = Gauge("hubbub_edge_connections", "Open connections of the stream edge.")
edge_writes = Counter("hubbub_edge_writes", "Writes to sockets of the stream edge.")
edge_ended_connections = Counter(
    "hubbub_edge_ended_connections", "Connections that the stream edge ended, by reason.", ["reason"]
)
gc_pause_seconds = Histogram(
    "hubbub_gc_pause_seconds",
    "How long all threads of this process stood still for a garbage collection.",
    ["generation"],
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
)
