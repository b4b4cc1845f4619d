"""The client for Python: a proof of identity goes in, a cluster token comes out, and is renewed where asked for.

Imports grpc and the contract, nothing of the daemon, and the `kubernetes` package only for who asks for it.
"""

from exchanged.client.asynchronous import AsyncCredential, AsyncExchange
from exchanged.client.blocking import Credential, Exchange
from exchanged.client.errors import ExchangeFailed, Reason, Refused, Unavailable
from exchanged.client.model import Certificate, Detail, Grant, Introspection

__all__ = [
    "AsyncCredential",
    "AsyncExchange",
    "Certificate",
    "Credential",
    "Detail",
    "Exchange",
    "ExchangeFailed",
    "Grant",
    "Introspection",
    "Reason",
    "Refused",
    "Unavailable",
]
