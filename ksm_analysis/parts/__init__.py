"""The parts of a run, one file each."""
