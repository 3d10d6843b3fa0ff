"""ksmd as a model: memory of known contents in, counters and run directories out."""
