"""The formulas of figures, to be shown beside them; those of proto/desk/v1."""

FORMULAS = {
    "service_level": "answered_within / (answered + abandoned - short_abandons)",
    "abandonment_rate": "(abandoned - short_abandons) / (answered + abandoned - short_abandons)",
    "raw_abandonment_rate": "abandoned / offered",
    "offered": "waiting + answered + abandoned + sent_back + ended_otherwise",
    "transfer_rate": "forwarded / answered",
    "average_handle_time": "handle_time / handled",
    "concurrency": "session_time / busy_time",
    "containment": "contained / over",
    "csat": "satisfied / ratings",
    "first_contact_resolution": "1 - repeat_contacts / resolvable",
}
"""By field. Each is a line of the field's comment in its .proto file."""
