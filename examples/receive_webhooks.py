#!/usr/bin/env python3
"""Receives webhooks, verifies their signatures, and prints them.

    WEBHOOK_SECRET=whsec_... python3 receive_webhooks.py [PORT]

Needs nothing but Python; the libraries of https://www.standardwebhooks.com do the same in many languages. Put a server with HTTPS in front
of it. For development, WEBHOOKS_ALLOW_PRIVATE_NETWORKS=true lets the API send to http://127.0.0.1:PORT/.
"""

import hmac
import json
import os
import sys
import time
from base64 import b64decode, b64encode
from collections import OrderedDict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

port = sys.argv[1] if sys.argv[1:] else "9000"
if not os.environ.get("WEBHOOK_SECRET") or not port.isdecimal():
    sys.exit("usage: WEBHOOK_SECRET=whsec_... python3 receive_webhooks.py [PORT]")
try:
    SECRET = b64decode(os.environ["WEBHOOK_SECRET"].strip().removeprefix("whsec_"), validate=True)
except ValueError:
    sys.exit("WEBHOOK_SECRET is not a signing secret: one begins with whsec_, then base64")
SECONDS_OFF = 300
MAX_BYTES = 8 * 1024 * 1024
seen = OrderedDict()  # a table in production: a message may come more than once, always with the same webhook-id
MAX_SEEN = 100_000


def is_genuine(headers, body: bytes) -> bool:
    message_id, timestamp = headers["webhook-id"] or "", headers["webhook-timestamp"] or ""
    if not timestamp.isdecimal() or abs(time.time() - int(timestamp)) > SECONDS_OFF:
        return False
    signature = hmac.digest(SECRET, f"{message_id}.{timestamp}.".encode() + body, "sha256")
    expected = "v1," + b64encode(signature).decode()
    signatures = (headers["webhook-signature"] or "").split(" ")
    return any(hmac.compare_digest(expected.encode(), given.encode()) for given in signatures)


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        length = self.headers["content-length"] or ""
        if not length.isdecimal() or int(length) > MAX_BYTES:
            self.answer(413)
            self.close_connection = True
            return
        body = self.rfile.read(int(length))
        genuine = is_genuine(self.headers, body)
        # Respond first, within 15 seconds; work afterwards.
        self.answer(204 if genuine else 401)
        if not genuine:
            print("refused a message that is not signed with WEBHOOK_SECRET, or too old", file=sys.stderr, flush=True)
        if genuine and self.headers["webhook-id"] not in seen:
            seen[self.headers["webhook-id"]] = True
            if len(seen) > MAX_SEEN:
                seen.popitem(last=False)
            tell(json.loads(body))

    def answer(self, status):
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def tell(message):
    data = message["data"]
    if message["type"].startswith("lookup."):
        for lookup in data.get("items", [data]):
            amount = ((lookup["result"] or {}).get("incentives") or {}).get("total_incentive_amount")
            print(
                message["type"],
                lookup["reference_id"],
                lookup["error_message"] or f"${amount}",
                lookup["webhook_custom_fields"],
                flush=True,
            )
    else:
        print(message["type"], data.get("id") or data.get("message"), flush=True)


if __name__ == "__main__":
    try:
        server = ThreadingHTTPServer(("127.0.0.1", int(port)), Receiver)
    except (OSError, OverflowError) as error:
        sys.exit(f"Port {port} cannot be used: {error}")
    print(f"listening on http://127.0.0.1:{server.server_port}/", flush=True)
    server.serve_forever()
