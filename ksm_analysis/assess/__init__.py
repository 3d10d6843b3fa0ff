"""What KSM would do on a host that does not run it: read-only, from what is in memory there."""
