"""Decodes files, whose encoding is declared or detected."""

from __future__ import annotations

import codecs
import io

from pyshell.api.errors import ApiError
from pyshell.api.uploads.tables import MAX_ROWS, Note

UTF_8 = "utf-8"
# As in browsers (https://encoding.spec.whatwg.org): text beyond ASCII that is declared as Latin-1 or ASCII is Windows-1252.
CHARSETS = {
    "utf-8": UTF_8,
    "utf8": UTF_8,
    "us-ascii": UTF_8,
    "ascii": UTF_8,
    "utf-16": "utf-16",
    "utf-16le": "utf-16-le",
    "utf-16be": "utf-16-be",
    "windows-1252": "cp1252",
    "cp1252": "cp1252",
    "iso-8859-1": "cp1252",
    "latin1": "cp1252",
    "latin-1": "cp1252",
    "iso-8859-15": "iso8859-15",
    "macintosh": "mac-roman",
}
BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
# The end-of-file mark of DOS, which some programs still write.
CONTROL_Z = "\x1a"


def decode(data: bytes, charset: str | None = None) -> tuple[str, list[Note]]:
    """The text of a file, and a note if its encoding was guessed.

    A byte order mark takes precedence over the declared charset; without either it is UTF-8, UTF-16 if every other byte is zero, or else
    Windows-1252, or Mac Roman if lines end as on old Macs. Of a file put together from several, in which most lines with text beyond
    ASCII are UTF-8, the other lines are read as Windows-1252. Raises ApiError: 415 unknown charset; 400 not valid in its encoding,
    naming the byte.
    """
    encoding = declared_encoding(charset)
    mark, marked = next(((mark, name) for mark, name in BYTE_ORDER_MARKS if data.startswith(mark)), (b"", None))
    if marked:
        encoding = marked
    guesses = [encoding] if encoding else [utf_16_without_mark(data) or UTF_8, "mac-roman" if has_lines_of_a_mac(data) else "cp1252"]
    for guess in guesses:
        try:
            text = data[len(mark) :].decode(guess)
            notes = [] if guess == guesses[0] else [Note("encoding_assumed", f"The file is not UTF-8 and was read as {name_of(guess)}")]
        except UnicodeDecodeError as error:
            failure = ApiError(
                400,
                "invalid_encoding",
                f"The file is not valid {name_of(guess)} at byte {len(mark) + error.start}",
                hint="Save the file as CSV UTF-8, or name its encoding: Content-Type: text/csv; charset=windows-1252.",
            )
            mixed = decode_mixed(data[len(mark) :]) if guess == UTF_8 and (marked or not encoding) else None
            if mixed is None:
                continue
            text, notes = mixed
        text = text.rstrip(CONTROL_Z)
        if "\0" in text:
            raise ApiError(
                400, "invalid_encoding", f"The file contains a NUL character (character {text.index(chr(0))}); text files have none"
            )
        return text, notes
    raise failure


def decode_mixed(data: bytes) -> tuple[str, list[Note]] | None:
    """The text of a file of which most lines beyond ASCII are UTF-8, and the others Windows-1252; None: it is none."""
    text = bytearray()
    valid = 0
    others: list[int] = []
    for number, line in enumerate(io.BytesIO(data), start=1):
        try:
            line.decode()
            valid += not line.isascii()
            text += line
        except UnicodeDecodeError:
            others.append(number)
            if len(others) > MAX_ROWS:
                return None
            try:
                text += line.decode("cp1252").encode()
            except UnicodeDecodeError:
                return None
    if len(others) >= valid:
        return None
    which = f"line {others[0]}, which was" if len(others) == 1 else f"{len(others):,} lines (the first is line {others[0]}), which were"
    return text.decode(), [Note("encoding_assumed", f"The file is UTF-8, except for {which} read as Windows-1252")]


def declared_encoding(charset: str | None) -> str | None:
    if charset is None:
        return None
    encoding = CHARSETS.get(charset.lower())
    if encoding is None:
        raise ApiError(
            415, "unsupported_charset", f"The charset {charset[:50]} is not supported", hint=f"Use one of {', '.join(sorted(CHARSETS))}."
        )
    return encoding


def utf_16_without_mark(data: bytes) -> str | None:
    """Whether every other byte is zero, as in UTF-16 of mostly Latin letters; other text has no zero bytes."""
    start = data[:200]
    if start[1::2].count(0) > len(start) // 4:
        return "utf-16-le"
    return "utf-16-be" if start[::2].count(0) > len(start) // 4 else None


def has_lines_of_a_mac(data: bytes) -> bool:
    """Whether lines end with carriage returns, as in Excel's CSV (Macintosh), which is in Mac Roman. Cells may contain line feeds."""
    return b"\r\n" not in data and data.count(b"\r") > data.count(b"\n")


def name_of(encoding: str) -> str:
    return {"cp1252": "Windows-1252", "mac-roman": "Mac Roman", "utf-16-le": "UTF-16", "utf-16-be": "UTF-16"}.get(
        encoding, encoding.upper()
    )
