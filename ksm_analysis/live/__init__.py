"""The page of an experiment while its runs go, on the loopback interface."""
