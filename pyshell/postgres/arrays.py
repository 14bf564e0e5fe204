"""Ids, texts and arrays that cross Python untouched, in PostgreSQL's binary format.

Ids are 16 bytes, texts are UTF-8 bytes: at thousands of items a second, making `UUID` and `str` objects only to unmake them costs
more than the lookups themselves.
"""

import struct
from collections.abc import Iterable
from typing import Any, Final

from psycopg import AsyncConnection, AsyncCursor, postgres
from psycopg.abc import Buffer
from psycopg.adapt import Dumper, Loader
from psycopg.pq import Format
from psycopg.rows import tuple_row

FLOAT8: Final = struct.Struct("!d")
INT4: Final = struct.Struct("!i")
ARRAY_HEADER: Final = struct.Struct("!iiIii")  # dimensions, may hold nulls, element type, length, lower bound
EMPTY_ARRAY_HEADER: Final = struct.Struct("!iiI")
NULL: Final = INT4.pack(-1)


class Binary(bytes):
    """A parameter in binary format; where it stands gives it its type."""


def uuids(values: Iterable[bytes]) -> Binary:
    return array("uuid", values)


def texts(values: Iterable[bytes | None]) -> Binary:
    return array("text", values)


def integers(values: Iterable[int | None]) -> Binary:
    return array("int4", (None if value is None else INT4.pack(value) for value in values))


def floats(values: Iterable[float | None]) -> Binary:
    return array("float8", (None if value is None else FLOAT8.pack(value) for value in values))


def array(element_type: str, elements: Iterable[bytes | None]) -> Binary:
    packed = [NULL if element is None else INT4.pack(len(element)) + element for element in elements]
    oid = postgres.types[element_type].oid
    if not packed:
        return Binary(EMPTY_ARRAY_HEADER.pack(0, 0, oid))
    return Binary(ARRAY_HEADER.pack(1, 1, oid, len(packed), 1) + b"".join(packed))


class BinaryDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: Binary) -> Buffer:
        return obj


class BytesLoader(Loader):
    format = Format.BINARY

    def load(self, data: Buffer) -> bytes:
        return bytes(data)


def binary_cursor(connection: AsyncConnection[Any]) -> AsyncCursor[tuple[Any, ...]]:
    """A cursor that takes `Binary` parameters, and gives uuid and text values as bytes."""
    cursor = connection.cursor(binary=True, row_factory=tuple_row)
    cursor.adapters.register_dumper(Binary, BinaryDumper)
    cursor.adapters.register_loader("uuid", BytesLoader)
    cursor.adapters.register_loader("text", BytesLoader)
    return cursor
