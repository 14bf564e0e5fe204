"""A fake Clerk instance: keys, a server for them that can be made to fail, and tokens signed with them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import RSAAlgorithm

Claims = dict[str, Any]


@cache
def signing_key(key_id: str) -> RSAPrivateKey:
    return generate_private_key(65537, 2048)


def public_pem(key_id: str) -> str:
    return signing_key(key_id).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def public_jwk(key_id: str) -> Claims:
    return RSAAlgorithm.to_jwk(signing_key(key_id).public_key(), as_dict=True) | {"kid": key_id, "use": "sig", "alg": "RS256"}


class ClerkInstance:
    """Serves its key set at `issuer`, counts the requests for it, and signs tokens."""

    def __init__(self) -> None:
        self.keys = ["ins_first"]
        self.requests = 0
        self.status = 200
        self.delay = 0.0
        self.body: bytes | None = None
        self.issuer = ""

    def key_set(self) -> bytes:
        return self.body if self.body is not None else json.dumps({"keys": [public_jwk(key_id) for key_id in self.keys]}).encode()

    def claims(self, **changes: Any) -> Claims:
        """The claims of a session without an organization; a change to None removes the claim."""
        now = int(time.time())
        claims: Claims = {"iss": self.issuer, "sub": "user_1", "sid": "sess_1", "exp": now + 60, "nbf": now - 10, "iat": now} | changes
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, key_id: str = "ins_first", header: Claims | None = None, **changes: Any) -> str:
        return jwt.encode(self.claims(**changes), signing_key(key_id), "RS256", {"kid": key_id} | (header or {}))


@contextmanager
def clerk_instance() -> Iterator[ClerkInstance]:
    instance = ClerkInstance()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            instance.requests += 1
            time.sleep(instance.delay)
            body = instance.key_set() if urlsplit(self.path).path == "/.well-known/jwks.json" else b"{}"
            self.send_response(instance.status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    instance.issuer = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield instance
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
