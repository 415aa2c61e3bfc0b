"""Text from outside (variables, options, files, standard input) without what editors and shells add to it."""

from __future__ import annotations

BYTE_ORDER_MARK = "\ufeff"
INVISIBLE = "\u200b\u200c\u200d\u200e\u200f\u2060" + BYTE_ORDER_MARK  # what copying from a page may bring along
QUOTES = {"'": "'", '"': '"', "`": "`", "\u2018": "\u2019", "\u201c": "\u201d", "\u300c": "\u300d"}
UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def clean(text: str) -> str:
    """The text without what nobody meant: blanks, line ends, byte order marks and invisible signs around it."""
    before = None
    while before != text:
        before, text = text, text.strip().strip(INVISIBLE)
    return text


def flaw(text: str) -> str:
    """What is still wrong with a cleaned text of one line, in words that do not show it; empty when nothing is."""
    if len(text) > 1 and QUOTES.get(text[0]) == text[-1]:
        return "it is in quotes: leave them out"
    if "\n" in text or "\r" in text:
        return "it has several lines"
    if not text.isprintable():
        return "it holds signs that cannot be seen"
    return ""


def decode(content: bytes) -> str:
    """The text of a file, cleaned; raises ValueError that says what to do when it is no UTF-8."""
    if content.startswith(UTF_16_MARKS):
        raise ValueError("it is UTF-16: save it as UTF-8")
    try:
        return clean(content.decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8: save it as UTF-8") from None
