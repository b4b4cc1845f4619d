"""A real Kubernetes control plane on loopback: for tests, the demo, and whoever develops."""
