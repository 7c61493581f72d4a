"""XMP with a receipt, as it is written here and as other programs write it anew."""

from __future__ import annotations

import pytest

from deployments.storage.xmp import (
    NAMESPACE,
    joined_portions,
    jpeg_packet,
    packet,
    read_packet,
)
from pipelines.errors import InvalidRequest

TEXT = '{"prompt": "a <b> & \\"c\\" \u732b ]]>"}'
LONG = "\U0001f408 & " * 30_000


def described(content: str) -> bytes:
    return (
        f'<x xmlns:r="{NAMESPACE}" xmlns:n="http://ns.adobe.com/xmp/note/">{content}</x>'
    ).encode()


def test_a_packet_is_read_as_it_was_written():
    assert read_packet(packet(TEXT)) == (TEXT, None)
    assert jpeg_packet(TEXT) == (packet(TEXT), ())


def test_a_long_one_is_in_an_extension():
    xmp = jpeg_packet(LONG)
    found = read_packet(xmp.packet)
    assert found.receipt is None
    assert found.extension is not None
    assert len(xmp.portions) > 2
    assert max(len(each) for each in (xmp.packet, *xmp.portions)) < 65_400
    whole = joined_portions([*xmp.portions[::-1]], found.extension, max_bytes=10**6)
    assert read_packet(whole).receipt == LONG


def test_an_extension_that_is_not_whole():
    xmp = jpeg_packet(LONG)
    guid = read_packet(xmp.packet).extension or ""
    for portions in (xmp.portions[1:], xmp.portions[:-1], (xmp.portions[0][:-1],), ()):
        with pytest.raises(InvalidRequest, match="not whole"):
            joined_portions(list(portions), guid, max_bytes=10**6)
    with pytest.raises(InvalidRequest, match="over 1000 bytes"):
        joined_portions(list(xmp.portions), guid, max_bytes=1000)


def test_a_property_may_be_an_attribute():
    assert read_packet(described('<d r:receipt="a &quot;b&quot;"/>')).receipt == 'a "b"'
    assert read_packet(described("<n:HasExtendedXMP>AB</n:HasExtendedXMP>")).extension == "AB"
    assert read_packet(described("<receipt>of another</receipt>")) == (None, None)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<x",
        b"\xff\xfe\x00",
        b'<!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>',
        b'<!DOCTYPE x SYSTEM "http://example.com/"><x/>',
    ],
)
def test_what_is_no_packet(data: bytes):
    with pytest.raises(InvalidRequest, match="XMP is damaged"):
        read_packet(data)
