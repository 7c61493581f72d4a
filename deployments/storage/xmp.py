"""XMP around a receipt: the one place for text that JPEG and WebP have in common, and that is not
the EXIF comment which other tools read.

A JPEG's segment holds 64 kB, so a longer receipt is in its extension, as Adobe's specification (XMP
part 3, 1.1.3.1) has it. Pure functions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import NamedTuple
from xml.parsers import expat
from xml.sax.saxutils import escape

from pipelines.errors import InvalidRequest

NAMESPACE = "urn:sluice:receipt:1#"
"""Of the property `receipt`, whose value is the receipt's JSON."""

EXTENSION_MARKER = b"http://ns.adobe.com/xmp/extension/\x00"
"""With which the payload of a segment of extended XMP begins."""

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_NOTE = "http://ns.adobe.com/xmp/note/"
_MAX_PACKET = 65_000
_PORTION = 65_000
_GUID_BYTES = 32


class Properties(NamedTuple):
    """What of a packet is ours: the `receipt`, and the GUID of the `extension` that may have it."""

    receipt: str | None
    extension: str | None


class ExtendedXmp(NamedTuple):
    """A JPEG's XMP: the packet, and the payloads of further segments."""

    packet: bytes
    portions: tuple[bytes, ...]


def packet(receipt: str) -> bytes:
    """An XMP packet that holds `receipt`, escaped, in this module's namespace; UTF-8."""
    return _packet(
        f' xmlns:sluice="{NAMESPACE}"', f"<sluice:receipt>{escape(receipt)}</sluice:receipt>"
    )


def jpeg_packet(receipt: str) -> ExtendedXmp:
    """XMP with the receipt, in portions that fit a JPEG's segments."""
    whole = packet(receipt)
    if len(whole) <= _MAX_PACKET:
        return ExtendedXmp(whole, ())
    guid = _guid(whole)
    note = f' xmlns:xmpNote="{_NOTE}" xmpNote:HasExtendedXMP="{guid}"'
    return ExtendedXmp(_packet(note, ""), tuple(_portions(whole, guid)))


def read_packet(data: bytes) -> Properties:
    """The properties, however the packet is written. Raises InvalidRequest for what is no XML, or
    has a document type, which XMP has not."""
    found = _Found()
    parser = expat.ParserCreate("utf-8", namespace_separator="|")
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = _refuse_doctype
    parser.StartElementHandler = found.start
    parser.EndElementHandler = found.end
    parser.CharacterDataHandler = found.text
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise InvalidRequest(f"the file's XMP is damaged: {error}") from error
    return Properties(found.receipt, found.extension)


def joined_portions(payloads: list[bytes], guid: str, *, max_bytes: int) -> bytes:
    """The extension called `guid`, out of the `payloads` of segments in any order.

    Raises InvalidRequest unless it is whole and of `max_bytes` at most.
    """
    pieces: dict[int, bytes] = {}
    length = 0
    for payload in payloads:
        body = payload[len(EXTENSION_MARKER) :]
        if body[:_GUID_BYTES] == guid.encode():
            length = int.from_bytes(body[_GUID_BYTES : _GUID_BYTES + 4])
            offset = int.from_bytes(body[_GUID_BYTES + 4 : _GUID_BYTES + 8])
            pieces[offset] = body[_GUID_BYTES + 8 :]
    if length > max_bytes:
        raise InvalidRequest(f"the file's extended XMP is over {max_bytes} bytes, the limit")
    whole = b"".join(pieces[offset] for offset in sorted(pieces))
    if len(whole) != length or _guid(whole) != guid:
        raise InvalidRequest("the file's extended XMP is not whole")
    return whole


class _Found:
    """What a parser has met so far."""

    def __init__(self) -> None:
        self.receipt: str | None = None
        self.extension: str | None = None
        self._pieces: list[str] | None = None

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == _RECEIPT:
            self._pieces = []
        # A property may be an attribute of its description as well.
        self.receipt = attributes.get(_RECEIPT, self.receipt)
        self.extension = attributes.get(_EXTENSION, self.extension)
        if name == _EXTENSION:
            self._pieces = []

    def text(self, text: str) -> None:
        if self._pieces is not None:
            self._pieces.append(text)

    def end(self, name: str) -> None:
        if self._pieces is None:
            return
        if name == _RECEIPT:
            self.receipt = "".join(self._pieces)
        if name == _EXTENSION:
            self.extension = "".join(self._pieces)
        if name in (_RECEIPT, _EXTENSION):
            self._pieces = None


_RECEIPT = f"{NAMESPACE}|receipt"
_EXTENSION = f"{_NOTE}|HasExtendedXMP"


def _packet(attributes: str, content: str) -> bytes:
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        f'<rdf:RDF xmlns:rdf="{_RDF}"><rdf:Description rdf:about=""{attributes}>'
        f"{content}</rdf:Description></rdf:RDF></x:xmpmeta>"
        '<?xpacket end="r"?>'
    ).encode()


def _portions(whole: bytes, guid: str) -> Iterator[bytes]:
    for start in range(0, len(whole), _PORTION):
        head = EXTENSION_MARKER + guid.encode() + len(whole).to_bytes(4) + start.to_bytes(4)
        yield head + whole[start : start + _PORTION]


def _guid(whole: bytes) -> str:
    return hashlib.md5(whole, usedforsecurity=False).hexdigest().upper()


def _refuse_doctype(*_: object) -> None:
    raise InvalidRequest("the file's XMP is damaged: it has a document type")
