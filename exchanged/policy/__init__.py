"""Policies and the decision: pure, no I/O but the loading of files."""
