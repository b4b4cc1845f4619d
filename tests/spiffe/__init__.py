"""SPIFFE for tests: trust domains that issue, the Workload API and bundle endpoints that hand out."""
