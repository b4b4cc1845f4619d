"""Where requests come in; nothing of gRPC or HTTP goes further."""
