"""A workload-identity token exchange daemon for Kubernetes."""

__version__ = "0.1.0"
