"""One file per command, with HELP, DETAILS, `add_arguments` and `run`.

Heavy imports are delayed until `run`.
"""
