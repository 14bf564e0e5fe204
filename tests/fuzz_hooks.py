"""Tells schemathesis how to serialize an NDJSON body."""

import json
from typing import Any

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def ndjson(ctx: schemathesis.SerializationContext, value: Any) -> bytes:
    lines = value if isinstance(value, list) else [value]
    return "".join(line if isinstance(line, str) else f"{json.dumps(line)}\n" for line in lines).encode()
