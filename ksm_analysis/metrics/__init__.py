"""Tables of metrics and what is measured of a run."""
