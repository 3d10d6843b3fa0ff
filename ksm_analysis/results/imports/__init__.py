"""Runs that other programs recorded: logs, tables, dumps and answers of Prometheus."""
