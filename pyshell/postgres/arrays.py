"""Array parameters and raw values in PostgreSQL's binary format.

An id is 16 bytes and a text is UTF-8 bytes. At thousands of items a second, converting them to `UUID` and `str` and back would cost more
than the lookups themselves.
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
    """A parameter that is already in binary format. PostgreSQL takes its type from where it stands in the statement."""


def uuids(values: Iterable[bytes]) -> Binary:
    """A `uuid[]` of ids of 16 bytes each."""
    return array("uuid", values)


def texts(values: Iterable[bytes | None]) -> Binary:
    """A `text[]` of texts in UTF-8; None is null."""
    return array("text", values)


def integers(values: Iterable[int | None]) -> Binary:
    """An `integer[]`; None is null. Raises `struct.error` for a number of more than 32 bits."""
    return array("int4", (None if value is None else INT4.pack(value) for value in values))


def floats(values: Iterable[float | None]) -> Binary:
    """A `double precision[]`; None is null."""
    return array("float8", (None if value is None else FLOAT8.pack(value) for value in values))


def array(element_type: str, elements: Iterable[bytes | None]) -> Binary:
    """An array of one dimension; `elements` are in the type's own binary format, None is null."""
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
    """A cursor that takes `Binary` parameters and returns uuid and text values as bytes."""
    cursor = connection.cursor(binary=True, row_factory=tuple_row)
    cursor.adapters.register_dumper(Binary, BinaryDumper)
    cursor.adapters.register_loader("uuid", BytesLoader)
    cursor.adapters.register_loader("text", BytesLoader)
    return cursor
