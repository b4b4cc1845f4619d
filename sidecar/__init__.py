"""Fetches and refreshes cluster tokens for a workload, and hands them out as files, on a socket, or to kubectl."""

__version__ = "0.1.0"
