"""One file per command, with `add_to(commands)`. Heavy imports are delayed until it runs."""
