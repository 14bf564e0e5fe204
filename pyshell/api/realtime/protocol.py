"""The frames of Phoenix channels in both serializations that Realtime's clients speak.

https://supabase.com/docs/guides/realtime/protocol; vsn 2.0.0 is the array [join_ref, ref, topic, event, payload], vsn 1.0.0 an
object with those keys.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

Version = Literal["1.0.0", "2.0.0"]

MAX_TOPIC_LENGTH = 255
# Every reply repeats them; clients use counters.
MAX_REFERENCE_LENGTH = 255


class ProtocolError(Exception):
    """The client sent something that is not a frame."""


@dataclass(frozen=True, slots=True)
class Frame:
    join_ref: str | None
    ref: str | None
    topic: str
    event: str
    payload: dict[str, Any]


def version_of(text: str | None) -> Version:
    """The serialization for the query parameter `vsn`. Raises ProtocolError."""
    match text or "1.0.0":
        case "1.0.0":
            return "1.0.0"
        case "2.0.0":
            return "2.0.0"
    raise ProtocolError(f"vsn must be 1.0.0 or 2.0.0, not {text!r}")


def decode(text: str, version: Version) -> Frame:
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("not JSON") from error
    if version == "2.0.0":
        if not isinstance(message, list) or len(message) != 5:
            raise ProtocolError("not [join_ref, ref, topic, event, payload]")
        join_ref, ref, topic, event, payload = message
    else:
        if not isinstance(message, dict):
            raise ProtocolError("not an object")
        join_ref, ref, topic, event, payload = (message.get(name) for name in ("join_ref", "ref", "topic", "event", "payload"))
    if not isinstance(topic, str) or not isinstance(event, str) or not 0 < len(topic) <= MAX_TOPIC_LENGTH:
        raise ProtocolError("topic or event is missing")
    return Frame(_reference(join_ref), _reference(ref), topic, event, payload if isinstance(payload, dict) else {})


# By first byte (push, broadcast): how many lengths follow it, and which one is that of the event, if any.
_BINARY_KINDS = {0: (4, True), 3: (6, False)}


def decode_binary(data: bytes) -> Frame | None:
    """A binary frame of vsn 2.0.0 without its payload, such as the broadcasts of supabase-js; None when it is no such frame."""
    if not data or data[0] not in _BINARY_KINDS:
        return None
    count, names_event = _BINARY_KINDS[data[0]]
    lengths, at = data[1 : 1 + count], 1 + count
    texts = []
    for length in lengths[:4]:
        texts.append(data[at : at + length].decode(errors="replace"))
        at += length
    if len(lengths) < count or at > len(data) or not texts[2]:
        return None
    join_ref, ref, topic, event = texts
    return Frame(join_ref or None, ref or None, topic, event if names_event else "broadcast", {})


def encode(version: Version, join_ref: str | None, ref: str | None, topic: str, event: str, payload: str) -> str:
    """A frame as text; `payload` is JSON."""
    if version == "2.0.0":
        return f"[{json.dumps(join_ref)},{json.dumps(ref)},{json.dumps(topic)},{json.dumps(event)},{payload}]"
    return (
        f'{{"topic":{json.dumps(topic)},"event":{json.dumps(event)},"payload":{payload},'
        f'"ref":{json.dumps(ref)},"join_ref":{json.dumps(join_ref)}}}'
    )


def _reference(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str | int):
        raise ProtocolError("a reference is neither text nor a number")
    reference = str(value)
    if len(reference) > MAX_REFERENCE_LENGTH:
        raise ProtocolError(f"a reference is longer than {MAX_REFERENCE_LENGTH} characters")
    return reference
