"""Every SQL text that reads the view. Positions are inclusive ends, exclusive beginnings.

`{columns}`, `{where}`, `{index}`, `{order}` … are filled in by `service.view.selection` and
`service.view.reader` from fixed words; values are always bound.
"""

from service.positions import ORDINAL_BITS

# Changes with each commit of another process.
DATA_VERSION = "PRAGMA data_version"

# One session as it is now.
SESSION = """
SELECT session FROM sessions WHERE number = (
    SELECT number FROM session_keys WHERE sdk_app_id = ? AND session_id = ?)
"""

# The same together with the applied revision. One statement is a snapshot of its own, cheaper than
# a transaction. A subquery is cheaper than a join.
SESSION_NOW = f"SELECT journal_id, applied_revision, ({SESSION}) FROM progress"  # noqa: S608

# One session as it was after a position; the feed keeps a copy for each of its callbacks.
SESSION_AS_OF = """
WITH found AS MATERIALIZED (
    SELECT first_revision FROM session_keys WHERE session_id = ?1 AND sdk_app_id = ?2)
SELECT session FROM feed WHERE position = max(
    ifnull((SELECT max(position) FROM feed INDEXED BY feed_by_session
            WHERE first_revision = (SELECT first_revision FROM found)
              AND revised = 0 AND position <= ?3), 0),
    ifnull((SELECT max(position) FROM feed INDEXED BY feed_by_session
            WHERE first_revision = (SELECT first_revision FROM found)
              AND revised = 2 AND position <= ?3), 0))
"""

# One session as it was after the last callback of its history that had been received at a time.
SESSION_AT_TIME = """
SELECT event_revision, session FROM feed INDEXED BY feed_by_session
WHERE first_revision = (
    SELECT first_revision FROM session_keys WHERE session_id = ? AND sdk_app_id = ?)
  AND revised = 0 AND received_at <= ?
ORDER BY position DESC LIMIT 1
"""

# The last FORGET entry that names a session.
FORGOTTEN_AT = """
SELECT max(revision) FROM forgotten_sessions WHERE session_id = ? AND sdk_app_id = ?
"""

# The position of the newest FORGET entry.
LAST_FORGOTTEN = """
SELECT max(position) FROM feed INDEXED BY feed_by_session WHERE first_revision = 0 AND revised = 3
"""

# The receipt (ms) of the newest callback that has a record.
LAST_RECEIVED = """
SELECT received_at FROM feed WHERE revised != 3 ORDER BY position DESC LIMIT 1
"""

# Entries whose bytes are to be deleted, the newest first: what repeats an entry goes before it. If
# only a part is deleted, a view that is built then still finds the owner of each repetition.
ENTRIES_TO_DELETE = """
SELECT revision FROM entries_to_delete NOT INDEXED
WHERE revision < ? AND forget_revision <= ? ORDER BY revision DESC LIMIT ?
"""

# The FORGET entry, up to one, with which a number of entries is listed; the last one if it is less.
LISTED_UNTIL = """
SELECT max(forget_revision) FROM (
    SELECT forget_revision FROM entries_to_delete WHERE forget_revision <= ?
    ORDER BY forget_revision LIMIT ?)
"""

# The number of entries to delete, up to a limit, and the receipt of their oldest FORGET entry.
LEFT_TO_DELETE = f"""
SELECT (SELECT count(*) FROM (SELECT 1 FROM entries_to_delete LIMIT ?)), (
    SELECT received_at FROM feed WHERE position = (
        SELECT min(forget_revision) FROM entries_to_delete) << {ORDINAL_BITS})
"""  # noqa: S608

# The number of callbacks that have named a session, up to a limit; no row if none has.
CALLBACKS_OF_SESSION = """
SELECT session_id, (SELECT count(*) FROM (
    SELECT 1 FROM feed INDEXED BY feed_by_session
    WHERE feed.first_revision = session_keys.first_revision AND revised IN (0, 2) LIMIT ?3))
FROM session_keys WHERE session_id = ?2 AND sdk_app_id = ?1
"""

# The first revision of a session and the position of its last callback.
SESSION_SPAN = """
SELECT first_revision, (
    SELECT max(position) FROM feed INDEXED BY feed_by_session
    WHERE feed.first_revision = session_keys.first_revision AND revised IN (0, 2))
FROM session_keys WHERE sdk_app_id = ? AND session_id = ?
"""

# Sessions that have not begun, in the order of their first callbacks.
NOT_BEGUN = """
SELECT sdk_app_id, session_id, first_revision
FROM session_keys INDEXED BY session_keys_not_begun
WHERE number IS NULL AND session_id != '' AND first_revision > ?
ORDER BY first_revision LIMIT ?
"""

# The revisions of the malformed callbacks that name a session.
MALFORMED_OF_SESSION = """
SELECT revision FROM malformed_callbacks INDEXED BY malformed_by_session
WHERE sdk_app_id = ? AND session_id = ?
"""

# 1 if a callback of a session has a value in a column.
IS_NAMED = """
SELECT EXISTS (SELECT 1 FROM feed INDEXED BY feed_by_session
    WHERE first_revision = ? AND revised IN (0, 2) AND {column} = ?)
"""

# What belongs to no session, in order: malformed callbacks (2), or FORGET entries (3).
WITHOUT_SESSION = """
SELECT position, record, sdk_app_id FROM feed INDEXED BY feed_by_session
WHERE first_revision = 0 AND revised = ? AND position > ? {where} ORDER BY position LIMIT ?
"""

# A part of the feed, in order.
FEED = """
SELECT {columns} FROM feed
WHERE position > ? AND position <= ? {where}
ORDER BY position
"""

# The positions of some sessions' records, and of the FORGET entries that name them; bare positions
# are cheap to sort. What is malformed shares its key with all FORGET entries.
FEED_OF_SESSIONS = f"""
SELECT position FROM feed INDEXED BY feed_by_session
WHERE position > ?1 AND position <= ?2 AND revised IN (0, 1, 2, 3) AND first_revision IN (
    SELECT first_revision FROM session_keys WHERE session_id IN (SELECT value FROM json_each(?3)))
UNION
SELECT revision << {ORDINAL_BITS} FROM forgotten_sessions
WHERE session_id IN (SELECT value FROM json_each(?3))
  AND revision << {ORDINAL_BITS} > ?1 AND revision << {ORDINAL_BITS} <= ?2
ORDER BY position LIMIT ?4
"""  # noqa: S608 -- a number of ours

# One record, if it is selected.
FEED_AT = "SELECT {columns} FROM feed WHERE position = ? {where}"

_ORDINAL = (1 << ORDINAL_BITS) - 1

# An event stands in its own row; rows that revise its verdict borrow it from there.
RECORD_COLUMN = f"""
CASE feed.revised WHEN 1 THEN CAST(feed.record || (
    SELECT substr(own.record, own.event_at + 1) FROM feed AS own
    WHERE own.position = feed.event_revision << {ORDINAL_BITS}) AS BLOB)
ELSE feed.record END
"""  # noqa: S608 -- a number of ours

# The session of a revision stands with its first record; the others borrow it from there.
SESSION_COLUMN = f"""
CASE feed.revised WHEN 1 THEN (
    SELECT first.session FROM feed AS first WHERE first.position = feed.position & ~{_ORDINAL})
ELSE feed.session END
"""  # noqa: S608 -- a number of ours

RECORD_COLUMNS = f"position, {RECORD_COLUMN}"
RECORD_AND_SESSION_COLUMNS = f"{RECORD_COLUMNS}, {SESSION_COLUMN}"

# The same, with the columns that a live subscriber's filter may ask about.
LIVE_COLUMNS = f"""
{RECORD_AND_SESSION_COLUMNS}, sdk_app_id, session_id, type, verdicts, agent_id,
client_user_id, channel_type
"""

# The callbacks of a session's history (0), or the revisions of their verdicts (1).
HISTORY_OF_SESSION = """
SELECT position, event_revision, record FROM feed INDEXED BY feed_by_session
WHERE first_revision = (
    SELECT first_revision FROM session_keys WHERE session_id = ? AND sdk_app_id = ?)
  AND revised = ? AND position <= ?
ORDER BY position
"""

# One record of the feed.
RECORD_AT = f"SELECT {RECORD_COLUMNS} FROM feed WHERE position = ?"  # noqa: S608

# Rejections that stand, newest first.
REJECTIONS = f"""
SELECT feed.position, {RECORD_COLUMN}
FROM rejections CROSS JOIN feed ON feed.position = rejections.position
WHERE rejections.position < ? AND rejections.position > ? {{where}}
ORDER BY rejections.position DESC LIMIT ?
"""  # noqa: S608

# The end of a page of rejections: the n-th next one.
REJECTIONS_HORIZON = """
SELECT position FROM rejections WHERE position < ? ORDER BY position DESC LIMIT 1 OFFSET ?
"""

# Keys of sessions in the order of one index, between two keys, exclusive.
SESSIONS_SCAN = """
SELECT {order}, number FROM sessions INDEXED BY {index}
WHERE ({order}, number) > (?, ?) AND ({order}, number) < (?, ?) {where}
ORDER BY {order} {direction}, number {direction} LIMIT ?
"""

# The end of a scan of one index: the n-th next key.
SESSIONS_HORIZON = """
SELECT {order}, number FROM sessions INDEXED BY {index}
WHERE ({order}, number) > (?, ?) AND ({order}, number) < (?, ?) {where}
ORDER BY {order} {direction}, number {direction} LIMIT 1 OFFSET ?
"""

# One session by its number.
SESSION_BY_NUMBER = "SELECT session FROM sessions WHERE number = ?"

# The sessions that had begun by a revision, in the order in which they were first seen. The filter
# does not apply to those that changed later: the caller applies it to their older state.
SESSIONS_SNAPSHOT = """
SELECT number, session FROM sessions
WHERE number > ? AND number <= ? AND ((TRUE {where}) OR EXISTS (
    SELECT 1 FROM feed INDEXED BY feed_by_session
    WHERE feed.first_revision = sessions.first_revision AND feed.revised IN (0, 2)
      AND feed.position > ?))
ORDER BY number
"""

# The end of a part of a snapshot: the n-th next session.
SNAPSHOT_HORIZON = """
SELECT number FROM sessions WHERE number > ? AND number <= ? ORDER BY number LIMIT 1 OFFSET ?
"""

# Counts of all sessions by app and state, and since when the app's longest waiting one waits.
SESSION_COUNTS = """
SELECT sdk_app_id, state, sessions, (
    SELECT min(state_since) FROM sessions INDEXED BY sessions_by_queue
    WHERE sessions.sdk_app_id = session_counts.sdk_app_id AND sessions.state = 3)
FROM session_counts
"""

# Counts of all callbacks, by what was made of them.
EVENT_COUNTS = """
SELECT type, state, verdict, reason, sum(events) FROM event_counts WHERE TRUE {where}
GROUP BY type, state, verdict, reason HAVING sum(events) > 0
ORDER BY type, state, verdict, reason
"""

# What sessions are counted by.
COUNT_KEYS = {
    "": "''",
    "state": "state",
    "agent_id": "agent_id",
    "channel_type": "channel_type",
    "end_reason": "end_reason",
    "sdk_app_id": "CAST(sdk_app_id AS TEXT)",
}

# Counts and figures by group. Means are rounded down: SQLite divides integers.
COUNT = """
SELECT {key} AS key, count(*) AS sessions,
       count(queue_wait), sum(queue_wait) / count(queue_wait), max(queue_wait),
       count(first_response), sum(first_response) / count(first_response), max(first_response),
       count(handle_time), sum(handle_time) / count(handle_time), max(handle_time),
       count(nullif(satisfaction, 0)), ifnull(avg(nullif(satisfaction, 0)), 0.0),
       sum(count(*)) OVER ()
FROM sessions
WHERE TRUE {where}
GROUP BY key
ORDER BY sessions DESC, key
LIMIT ?
"""

# Sessions that the board shows: with an event since the start of the day, or open and not silent
# for much longer.
BOARD_SESSIONS = """
SELECT sdk_app_id, session_id, fold FROM sessions
WHERE last_event_at >= ?1 OR (state IN (1, 2, 3, 4, 5, 6) AND last_event_at >= ?2)
"""

# Sessions that callbacks after a position have named; without a fold: it has not begun.
CHANGED_SESSIONS = """
SELECT named.sdk_app_id, named.session_id, fold
FROM (SELECT DISTINCT sdk_app_id, session_id FROM feed
      WHERE position > ? AND session_id != '') AS named
LEFT JOIN session_keys USING (session_id, sdk_app_id)
LEFT JOIN sessions ON sessions.number = session_keys.number
"""

# Rows of FORGET entries after a position.
FORGOTTEN_AFTER = """
SELECT sdk_app_id, record FROM feed INDEXED BY feed_by_session
WHERE first_revision = 0 AND revised = 3 AND position > ?
"""

# The first revision at which a session had begun and was known to be of its user.
_KNOWN_SINCE = """
max(number, (SELECT event_revision FROM feed INDEXED BY feed_by_session
             WHERE feed.first_revision = later.first_revision AND revised = 0
               AND feed.client_user_id = later.client_user_id
             ORDER BY position LIMIT 1))
"""

# Of an ended session: the first one that its user began later, in the same app, up to 7 days after.
_REPEATED = f"""
CASE WHEN client_user_id != '' AND ended_at IS NOT NULL THEN (
    SELECT {_KNOWN_SINCE} FROM sessions AS later INDEXED BY sessions_by_user
    WHERE later.client_user_id = sessions.client_user_id AND later.begun_at > sessions.begun_at
      AND later.begun_at <= sessions.ended_at + 604800000
      AND later.sdk_app_id = sessions.sdk_app_id
    ORDER BY later.begun_at LIMIT 1)
END
"""  # noqa: S608 -- a subquery of ours

_LAST_REVISION = f"""
max(ifnull((SELECT max(position) FROM feed INDEXED BY feed_by_session
            WHERE feed.first_revision = sessions.first_revision AND revised = 0), 0),
    ifnull((SELECT max(position) FROM feed INDEXED BY feed_by_session
            WHERE feed.first_revision = sessions.first_revision AND revised = 2), 0))
    >> {ORDINAL_BITS}
"""  # noqa: S608 -- a number of ours

_REPORTED = f"sdk_app_id, fold, {_LAST_REVISION}, {_REPEATED}, begun_at, last_event_at"

# Sessions that lie between two times, also partly. An event may be 5 s older than the begin.
REPORT_SESSIONS = f"""
SELECT {_REPORTED} FROM sessions INDEXED BY sessions_by_begun
WHERE begun_at >= ?1 - 21600000 AND begun_at < ?2 + 5000 AND last_event_at >= ?1 {{where}}
UNION ALL
SELECT {_REPORTED} FROM sessions INDEXED BY sessions_that_last
WHERE last_event_at - begun_at > 21600000 AND last_event_at >= ?1 AND begun_at < ?1 - 21600000
  {{where}}
"""  # noqa: S608 -- columns of ours

# Records after a position whose verdict a late callback has changed: their event, and since when to
# when their session lies now.
REVISED_AFTER = f"""
SELECT feed.sdk_app_id, own.record, begun_at, last_event_at
FROM feed JOIN feed AS own ON own.position = feed.event_revision << {ORDINAL_BITS}
LEFT JOIN sessions ON sessions.number = (
    SELECT number FROM session_keys
    WHERE session_id = feed.session_id AND sdk_app_id = feed.sdk_app_id)
WHERE feed.position > ? AND feed.revised = 1
"""  # noqa: S608 -- a number of ours

# Apps with sessions that may have had another user at a position: an earlier callback names one,
# and a later one names the present user, or a verdict has changed since.
USERS_CHANGED = """
SELECT DISTINCT sessions.sdk_app_id
FROM (SELECT DISTINCT sdk_app_id, session_id, first_revision, client_user_id, revised FROM feed
      WHERE position > ?1 AND revised IN (0, 1)) AS recent
JOIN session_keys USING (session_id, sdk_app_id)
JOIN sessions ON sessions.number = session_keys.number
WHERE (recent.revised = 1 OR recent.client_user_id = sessions.client_user_id)
  AND EXISTS (SELECT 1 FROM feed INDEXED BY feed_by_session
              WHERE feed.first_revision = recent.first_revision AND feed.revised = 0
                AND feed.position <= ?1
                AND feed.client_user_id NOT IN ('', sessions.client_user_id))
"""
