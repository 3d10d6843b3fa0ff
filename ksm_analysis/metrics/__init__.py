"""The metrics and their values for a run."""
