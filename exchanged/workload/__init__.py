"""The SPIFFE Workload API, as the daemon uses it. `api_pb2` is generated from proto/ and never edited."""
