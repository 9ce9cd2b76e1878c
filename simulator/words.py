"""Numbers in sentences."""


def count_of(number: int, noun: str) -> str:
    """Return a number with its noun, such as `1 callback` or `2 callbacks`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
