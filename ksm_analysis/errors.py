"""The one error that is the user's to mend: it is shown as text, never as a traceback."""


class InputError(Exception):
    """What was given cannot be used. The message says what is wrong, where, and what is allowed."""
