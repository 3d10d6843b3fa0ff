"""One file a command. Each has `add_to(commands)`; heavy imports wait until the command runs."""
