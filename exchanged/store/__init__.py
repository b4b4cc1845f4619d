"""Grants, single use and records, in transactions."""
