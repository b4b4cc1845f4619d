"""gRPC servers of tests' own, for answers that no daemon gives."""

from typing import Any

import grpc

from tests.lab.pki import Authority


def listening(server: Any, authority: Authority) -> str:
    """The address at which a server that is not started yet will be heard, over TLS by this authority."""
    pair = authority.server()
    credentials = grpc.ssl_server_credentials([(pair.key, pair.certificate)])
    return f"127.0.0.1:{server.add_secure_port('127.0.0.1:0', credentials)}"
