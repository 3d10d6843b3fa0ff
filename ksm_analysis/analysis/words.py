"""Words that findings and figures share."""


def join(*names: str) -> str:
    """Put names side by side; empty ones take no room."""
    return " · ".join(filter(None, names))


def guest_word(count: int) -> str:
    """Write `1 guest`, `2 guests`; nothing without guests."""
    return {0: "", 1: "1 guest"}.get(count, f"{count} guests")
