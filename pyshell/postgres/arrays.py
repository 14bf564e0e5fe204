"""Array parameters and raw values in PostgreSQL's binary format.

Ids are 16 bytes, texts are UTF-8 bytes. At thousands of items a second, converting them to `UUID` and `str` and back would cost more
than the lookups themselves.
"""

import struct
from collections.abc import Iterable
from typing import Any, Final

from psycopg import AsyncConnection, AsyncCursor, postgres
from psycopg.abc import Buffer
from psycopg.adapt import Dumper
from psycopg.pq import Format
from psycopg.rows import tuple_row
from psycopg.types.string import ByteaBinaryLoader

ARRAY_HEADER: Final = struct.Struct("!iiIii")  # dimensions, may hold nulls, element type, length, lower bound
EMPTY_ARRAY_HEADER: Final = struct.Struct("!iiI")
# Each element is preceded by its length.
LENGTH: Final = struct.Struct("!i")
UUID_LENGTH: Final = LENGTH.pack(16)
INT4: Final = struct.Struct("!ii")
FLOAT8: Final = struct.Struct("!id")
NULL: Final = LENGTH.pack(-1)


def uuids(values: Iterable[bytes]) -> bytes:
    """A `uuid[]` of ids of 16 bytes each."""
    return array("uuid", [UUID_LENGTH + value for value in values])


def texts(values: Iterable[bytes | None]) -> bytes:
    """A `text[]` of texts in UTF-8; None is null."""
    return array("text", [NULL if value is None else LENGTH.pack(len(value)) + value for value in values])


def integers(values: Iterable[int | None]) -> bytes:
    """An `integer[]`; None is null. Raises `struct.error` for a number of more than 32 bits."""
    return array("int4", [NULL if value is None else INT4.pack(4, value) for value in values])


def floats(values: Iterable[float | None]) -> bytes:
    """A `double precision[]`; None is null."""
    return array("float8", [NULL if value is None else FLOAT8.pack(8, value) for value in values])


def array(element_type: str, elements: list[bytes]) -> bytes:
    """A one-dimensional array; `elements` are in the type's own binary format, preceded by their lengths."""
    oid = postgres.types[element_type].oid
    if not elements:
        return EMPTY_ARRAY_HEADER.pack(0, 0, oid)
    return b"".join([ARRAY_HEADER.pack(1, 1, oid, len(elements), 1), *elements])


class BinaryDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: bytes) -> Buffer:
        return obj


def binary_cursor(connection: AsyncConnection[Any]) -> AsyncCursor[tuple[Any, ...]]:
    """A cursor that returns uuid and text values as bytes, and accepts bytes that are already in the binary format of a parameter's type.

    PostgreSQL infers the type from the parameter's position in the statement.
    """
    cursor = connection.cursor(binary=True, row_factory=tuple_row)
    cursor.adapters.register_dumper(bytes, BinaryDumper)
    cursor.adapters.register_loader("uuid", ByteaBinaryLoader)
    cursor.adapters.register_loader("text", ByteaBinaryLoader)
    return cursor
