"""Soon."""


def add_to(commands):
    """Nothing yet."""
