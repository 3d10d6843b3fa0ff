"""Run directories: read, checked, cached, joined."""
