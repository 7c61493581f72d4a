"""Cursors of lists: where a page ended, signed, so that nobody can make one up."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import struct

from pipelines.errors import InvalidRequest
from serve.jobs.job import Job, Owner

_SIGNATURE_BYTES = 16
_TIME = struct.Struct(">d")

Position = tuple[float, str]
"""`created_at` and `id` of the last job of a page."""


class Cursors:
    """Makes and reads cursors, with a key derived from `secret`, which all replicas know.

    A cursor is its owner's alone.
    """

    def __init__(self, secret: bytes) -> None:
        self._key = hmac.digest(secret, b"sluice jobs cursor", hashlib.sha256)

    def after(self, job: Job, owner: Owner) -> str:
        """The cursor that leads to what is older than `job`."""
        position = _TIME.pack(job.created_at) + job.id.encode("ascii")
        signed = self._signature(position, owner) + position
        return base64.urlsafe_b64encode(signed).rstrip(b"=").decode("ascii")

    def read(self, cursor: str, owner: Owner) -> Position:
        """Where the cursor leads. Raises InvalidRequest for one that was not made here for
        `owner`."""
        try:
            signed = base64.b64decode(
                cursor.encode("ascii") + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True
            )
        except (UnicodeEncodeError, binascii.Error):
            raise _refused() from None
        signature, position = signed[:_SIGNATURE_BYTES], signed[_SIGNATURE_BYTES:]
        if not hmac.compare_digest(signature, self._signature(position, owner)):
            raise _refused()
        (created_at,) = _TIME.unpack_from(position)
        return created_at, position[_TIME.size :].decode("ascii")

    def _signature(self, position: bytes, owner: Owner) -> bytes:
        about = hashlib.sha256(owner.tenant.encode("utf-8", "surrogatepass")).digest() + position
        return hmac.digest(self._key, about, hashlib.sha256)[:_SIGNATURE_BYTES]


def _refused() -> InvalidRequest:
    return InvalidRequest(
        "cursor: not one that this server has given you; take `next_cursor` of a page as it is, or"
        " leave it out to begin anew",
        param="cursor",
    )
