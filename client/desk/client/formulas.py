"""The formula of each figure of board and reports, to be shown beside its number.

A formula names other fields of the message, as the comments in proto/desk/v1 do.
"""

FORMULAS = {
    "service_level": "answered_within / (answered + abandoned - short_abandons)",
    "abandonment_rate": "(abandoned - short_abandons) / (answered + abandoned - short_abandons)",
    "raw_abandonment_rate": "abandoned / offered",
    "speed_of_answer": "answered_at - first request for an agent",
    "transfer_rate": "forwarded / answered",
    "average_handle_time": "handle_time / handled",
    "concurrency": "session_time / busy_time",
    "containment": "contained / over",
    "csat": "satisfied / ratings",
    "first_contact_resolution": "1 - repeat_contacts / resolvable",
}
"""By field of ServiceFigures, HandlingFigures and OutcomeFigures."""
