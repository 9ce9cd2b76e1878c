"""Every metric: its name, its labels, its meaning.

`desk_` is ours; other names are those of Prometheus's and OpenTelemetry's conventions. A label has
few values, and none that a caller chose before it was authenticated. The page adds `process`.
"""

from metrics.instruments import Counter, Gauge, Group, Histogram

OTHER = "other"
"""The label `app` of a request that names none of the configured apps."""

FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.5)
"""Seconds: from a commit on a fast disk to an answer that is too late for Desk."""

# ---- Every process ----

BUILD_INFO = Gauge(
    "desk_build_info",
    "The versions, as labels of the constant 1. `fingerprint` is that of the view, empty in the "
    "gateway.",
    "version", "python", "grpcio", "sqlite", "fingerprint",
)  # fmt: skip
LOG_RECORDS_DROPPED = Counter(
    "desk_log_records_dropped",
    "Lines of the log that were dropped because nobody read stderr.",
)
PROCESS: Group = (BUILD_INFO, LOG_RECORDS_DROPPED)

# ---- The gateway ----

CALLBACKS = Counter(
    "desk_callbacks",
    "Requests to the callback URL and to unknown ones, by their outcome. `kept`, `duplicate` and "
    "`malformed` are in the journal.",
    "app", "outcome",
)  # fmt: skip
CALLBACK_OUTCOMES = (
    "kept", "duplicate", "malformed",
    "refused_app", "refused_signature", "stale",
    "wrong_command", "wrong_path", "wrong_method", "too_large", "encoded",
    "overloaded", "timed_out", "unavailable",
)  # fmt: skip
REQUEST_DURATION = Histogram(
    "http_server_request_duration_seconds",
    "Seconds from the last byte of a request to its answer. Other methods than HTTP's own are "
    "`_OTHER`, unknown paths an empty route.",
    "http_request_method", "http_route", "http_response_status_code",
    bounds=FAST,
)  # fmt: skip
TOKEN_LAST_USED = Gauge(
    "desk_callback_token_last_used_timestamp_seconds",
    "Unix time of the last request that was signed with a callback token; 0: none since the "
    "gateway's start. `token` is its place among the valid ones of its app: 1, 2, ...",
    "app", "token",
)  # fmt: skip
DISK_FREE = Gauge(
    "desk_disk_free_bytes",
    "Bytes that are free on the file system of the data directory.",
)
DISK_SIZE = Gauge("desk_disk_size_bytes", "Bytes of the file system of the data directory.")
GATEWAY: Group = (CALLBACKS, REQUEST_DURATION, TOKEN_LAST_USED, DISK_FREE, DISK_SIZE)

# ---- The journal's writer, in the gateway ----

APPEND_DURATION = Histogram(
    "desk_journal_append_duration_seconds",
    "Seconds that an append took, until its entry was durable or the attempt failed.",
    bounds=FAST,
)
COMMIT_DURATION = Histogram(
    "desk_journal_commit_duration_seconds",
    "Seconds that a commit of a batch of entries took, failed ones included.",
    bounds=FAST,
)
COMMIT_ENTRIES = Histogram(
    "desk_journal_commit_entries",
    "Entries that one commit made durable together.",
    bounds=(1, 2, 4, 8, 16, 32, 64, 128, 256),
)
WAITING_APPENDS = Gauge(
    "desk_journal_waiting_appends",
    "Appends that wait for their commit, those in a commit included.",
)
HEAD_REVISION = Gauge("desk_journal_head_revision", "Revision of the newest entry; 0: none.")
OLDEST_REVISION = Gauge("desk_journal_oldest_revision", "Oldest revision that may be there.")
JOURNAL_SIZE = Gauge("desk_journal_size_bytes", "Bytes of the journal's files on disk.")
DUPLICATES = Counter(
    "desk_journal_duplicates",
    "Repeated entries, by where they were recognised: `append`: not kept again; `fold`: kept, and "
    "left out of the view. Those of `fold` are counted from the beginning of the journal.",
    "found",
)
SPOOL_ENTRIES = Gauge(
    "desk_spool_entries",
    "Callbacks on the gateway's disk that are not forwarded to NATS; absent without a spool.",
)
SPOOL_OLDEST = Gauge(
    "desk_spool_oldest_seconds",
    "Seconds since the oldest of them was received; 0: there is none; absent without a spool.",
)
SPOOL_REFUSED = Counter(
    "desk_spool_refused",
    "Acknowledged callbacks that NATS refuses for ever, and that are kept in a file for repair.",
)
JOURNAL: Group = (
    APPEND_DURATION, COMMIT_DURATION, COMMIT_ENTRIES, WAITING_APPENDS,
    HEAD_REVISION, OLDEST_REVISION, JOURNAL_SIZE, DUPLICATES,
    SPOOL_ENTRIES, SPOOL_OLDEST, SPOOL_REFUSED,
)  # fmt: skip

# ---- The follower ----

APPLIED_REVISION = Gauge("desk_follower_applied_revision", "The last revision in the view.")
LAG_ENTRIES = Gauge("desk_follower_lag_entries", "Revisions from the view to the journal's head.")
LAG_SECONDS = Gauge(
    "desk_follower_lag_seconds",
    "Seconds since the oldest callback that is not in the view was received; 0: caught up; +Inf: "
    "the journal cannot be read.",
)
BUILD_PROGRESS = Gauge(
    "desk_view_build_progress_ratio",
    "Part of the journal that a new view contains, from 0 to 1; 1 once it has caught up.",
)
RECORDS = Counter(
    "desk_records",
    "Callbacks taken into the view since the start, by their first verdict. A new view takes all "
    "of the journal again.",
    "app", "verdict", "reason",
)  # fmt: skip
RECORDS_REVISED = Counter(
    "desk_records_revised",
    "Verdicts published again because a late callback changed them.",
)
LATE = Histogram(
    "desk_late_seconds",
    "Seconds by the clock of Desk from a late callback's event to the session's newest event.",
    bounds=(0.1, 0.5, 1, 5, 10, 30, 60, 300, 3600, 86400),
)
DAMAGED_ENTRIES = Gauge(
    "desk_journal_damaged_entries",
    "Entries in the view that were no longer as they were appended when the follower read them.",
)
SCRUB_REVISION = Gauge(
    "desk_scrub_revision",
    "The last revision at which this pass of the scrub has compared view and journal; absent "
    "without a scrub.",
)
SCRUB_DIFFERENCES = Gauge(
    "desk_scrub_differences",
    "Entries that are damaged, or of which view and journal differ, as the scrub has found them in "
    "its last pass, or in this one if those are more; absent without a scrub.",
)
RETENTION_FORGOTTEN = Counter(
    "desk_retention_forgotten",
    "What this replica's daily runs have forgotten: sessions and malformed callbacks.",
    "what",
)
RETENTION_COMPLETED = Gauge(
    "desk_retention_completed_timestamp_seconds",
    "Unix time of the end of the last daily run that went through; 0: none has; absent without "
    "DESK_RETENTION.",
)
FORGOTTEN_ENTRIES = Gauge(
    "desk_forgotten_entries",
    "Entries that are forgotten, and whose bytes may still be in files of journal and view. At "
    "most 1,000,000 are counted.",
)
FORGOTTEN_OLDEST = Gauge(
    "desk_forgotten_oldest_seconds",
    "Seconds since the oldest of them was forgotten; 0: there is none.",
)
SESSIONS = Gauge(
    "desk_sessions",
    "Sessions in the view, ended ones included. Absent while a new view is being built.",
    "app", "state",
)  # fmt: skip
LONGEST_WAIT = Gauge(
    "desk_queue_longest_wait_seconds",
    "Seconds since the session that waits longest for an agent was queued, by the clock of Desk; "
    "0: none waits. Absent while a new view is being built.",
    "app",
)
FOLLOWER: Group = (
    APPLIED_REVISION, LAG_ENTRIES, LAG_SECONDS, BUILD_PROGRESS, RECORDS, RECORDS_REVISED, LATE,
    DUPLICATES, DAMAGED_ENTRIES, SCRUB_REVISION, SCRUB_DIFFERENCES,
    RETENTION_FORGOTTEN, RETENTION_COMPLETED, FORGOTTEN_ENTRIES, FORGOTTEN_OLDEST,
    SESSIONS, LONGEST_WAIT,
)  # fmt: skip

# ---- The process that publishes snapshots of the view, with the journal on NATS ----

SNAPSHOT_STORED = Gauge(
    "desk_snapshot_timestamp_seconds",
    "Unix time at which the newest snapshot of this version's view was stored, by any replica; "
    "absent if there is none.",
)
SNAPSHOT_REVISION = Gauge(
    "desk_snapshot_revision",
    "Revision of that snapshot: a new replica reads the journal from there on.",
)
SNAPSHOT_FAILURES = Counter(
    "desk_snapshot_failures",
    "Attempts of this replica to look for snapshots, or to publish one, that failed.",
)
SNAPSHOTS: Group = (SNAPSHOT_STORED, SNAPSHOT_REVISION, SNAPSHOT_FAILURES)

# ---- The rpc workers ----

GRPC_STARTED = Counter(
    "grpc_server_started",
    "Calls that were started.",
    "grpc_type", "grpc_service", "grpc_method",
)  # fmt: skip
GRPC_HANDLED = Counter(
    "grpc_server_handled",
    "Calls that ended, by their status.",
    "grpc_type", "grpc_service", "grpc_method", "grpc_code",
)  # fmt: skip
GRPC_SENT = Counter(
    "grpc_server_msg_sent",
    "Messages that were sent.",
    "grpc_type", "grpc_service", "grpc_method",
)  # fmt: skip
GRPC_HANDLING = Histogram(
    "grpc_server_handling_seconds",
    "Seconds from the start of a call to its end.",
    "grpc_type", "grpc_service", "grpc_method",
    bounds=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600),
)  # fmt: skip
SERVING = Gauge(
    "desk_rpc_serving",
    "1: health is SERVING; 0: NOT_SERVING, for the reason that `desk status` shows. Absent until "
    "there is a complete view.",
)
STREAMS_OPEN = Gauge("desk_streams_open", "Open streams: Subscribe and WatchBoard.")
FELL_BEHIND = Counter(
    "desk_streams_fell_behind",
    "Live streams that fell behind what is in memory, and went back to the view.",
)
STREAM_DELAY = Histogram(
    "desk_stream_delay_seconds",
    "Seconds from the receipt of a callback to its record's sending on a live stream.",
    bounds=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60),
)
AUTH_DENIED = Counter(
    "desk_auth_denied",
    "Calls that were denied, by `ErrorInfo.reason` in small letters.",
    "reason",
)
CERTIFICATE_NOT_AFTER = Gauge(
    "desk_certificate_not_after_timestamp_seconds",
    "Unix time at which the certificate of the gRPC port ends; absent without TLS.",
)
RPC: Group = (
    GRPC_STARTED, GRPC_HANDLED, GRPC_SENT, GRPC_HANDLING,
    SERVING, STREAMS_OPEN, FELL_BEHIND, STREAM_DELAY, AUTH_DENIED, CERTIFICATE_NOT_AFTER,
)  # fmt: skip
