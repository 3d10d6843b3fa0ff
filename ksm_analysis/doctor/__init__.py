"""Facts and rules that explain why a host does not merge."""
