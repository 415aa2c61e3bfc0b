"""From the bytes of a response body to whole lines of text. A broken body raises; it never looks like a short one.

Each step is a generator over the one before, so a large report is never held in memory.
`where` names the request in error messages.
"""

from __future__ import annotations

import codecs
import zlib
from collections.abc import Iterable, Iterator

from crawlfleet.core.errors import PermanentError, TransientError

PIECE_BYTES = 64 * 1024
MAX_LINE_CHARS = 4 * 1024 * 1024  # far above any row of a report; bounds the memory of a body without line ends


def inflate(chunks: Iterable[bytes], encoding: str, where: str) -> Iterator[bytes]:
    """The body without its Content-Encoding: identity, gzip (also of several members) or deflate.

    Raises TransientError when the compressed stream is damaged or ends early: the lengths that HTTP checks
    say nothing about a stream that the server itself cut short.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        yield from chunks
        return
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise PermanentError(f"{where}: the body has a Content-Encoding other than gzip and deflate")
    inflater = None
    try:
        for chunk in chunks:
            pending = chunk
            while pending:
                if inflater is None or inflater.eof:
                    inflater = zlib.decompressobj(_window_bits(encoding, pending))
                piece = inflater.decompress(pending, PIECE_BYTES)
                pending = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
                if piece:
                    yield piece
                while len(piece) == PIECE_BYTES and not pending and not inflater.eof:
                    piece = inflater.decompress(b"", PIECE_BYTES)
                    if piece:
                        yield piece
    except zlib.error:
        raise TransientError(f"{where}: the compressed body is damaged") from None
    if inflater is None or not inflater.eof:
        raise TransientError(f"{where}: the compressed body breaks off")


def _keep_bad_bytes(error: UnicodeError) -> tuple[str | bytes, int]:
    """As surrogateescape, but a body that ends inside a character breaks off."""
    if isinstance(error, UnicodeDecodeError) and error.reason == "unexpected end of data":
        raise error
    return codecs.lookup_error("surrogateescape")(error)


KEEP_BAD_BYTES = "crawlfleet.keep_bad_bytes"
codecs.register_error(KEEP_BAD_BYTES, _keep_bad_bytes)


def decode(chunks: Iterable[bytes], where: str, keep_bad_bytes: bool = False) -> Iterator[str]:
    """The body as text: strict UTF-8, a byte order mark is dropped; with `keep_bad_bytes` those come as surrogates.

    Raises PermanentError for bytes that are no UTF-8, TransientError when the body ends inside a character.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")(errors=KEEP_BAD_BYTES if keep_bad_bytes else "strict")
    try:
        for chunk in chunks:
            yield decoder.decode(chunk)
        yield decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data":
            raise TransientError(f"{where}: the body breaks off inside a character") from None
        bad_byte = error.object[error.start]
        raise PermanentError(f"{where}: the body is not UTF-8 (byte 0x{bad_byte:02x}: {error.reason})") from None


def split_lines(pieces: Iterable[str], where: str, length_known: bool) -> Iterator[str]:
    """Lines with their line ends. Only "\\n" ends a line: a campaign name may hold any other separator.

    When neither a length nor chunks frame the body (`length_known` false), an end of connection looks like an
    end of body; a last line without line end then raises TransientError.
    """
    rest = ""
    for piece in pieces:
        *lines, rest = (rest + piece).split("\n")
        for line in lines:
            yield line + "\n"
        if len(rest) > MAX_LINE_CHARS:
            raise PermanentError(f"{where}: a line is longer than {MAX_LINE_CHARS} characters")
    if rest:
        if not length_known:
            raise TransientError(f"{where}: the connection ended inside a line, and no length was announced")
        yield rest


def _window_bits(encoding: str, start: bytes) -> int:
    """What zlib needs to know; `deflate` comes with the zlib header of RFC 9110 or, from some servers, without."""
    if encoding != "deflate":
        return 16 + zlib.MAX_WBITS
    return zlib.MAX_WBITS if start[0] & 0x0F == 8 else -zlib.MAX_WBITS
