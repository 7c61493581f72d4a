"""From the pictures that a request names to their files: read, bounded and measured.

Of a file its head is read (`heads.py`) and nothing is decoded. Whose a file of this server is, its
id tells; another owner's is not there.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool

from deployments.storage.store import FileStore, is_owned_by, not_stored
from pipelines.errors import InvalidRequest
from pipelines.pictures.recipe import MaskMeaning, PictureSource
from serve.api.pictures.fetching import PictureFetcher
from serve.api.pictures.heads import PictureHead, read_head
from serve.api.pictures.picture import NO_PICTURES, Picture, Pictures
from serve.api.pictures.uploads import UPLOAD, decoded
from serve.api.problems import Problems
from serve.api.schemas import ImageGenerationRequest
from serve.settings.pictures import MAX_PICTURES, PicturesConfig

_FILE_ID = re.compile(r"[0-9a-f]{32}(?:[0-9a-f]{16})?")
_FILE_PATH = re.compile(r"/?v1/files/(?P<id>[0-9a-f]{32,48})")
_BARE = ("iVBORw0KGgo", "/9j/", "UklGR")
"""How PNG, JPEG and WebP begin in base64, without a data URL around it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureReader:
    """Reads the pictures of requests of `owner`, within `config`. `links_begin` is how links to
    files of this server begin."""

    store: FileStore
    fetcher: PictureFetcher
    config: PicturesConfig
    owner: str
    links_begin: str

    async def read(self, request: ImageGenerationRequest) -> Pictures:
        """All pictures of `request`. Raises FileNotStored for a file that is not there (any more),
        or is another owner's, StageFailed."""
        if not request.has_pictures:
            return NO_PICTURES
        problems = Problems()
        images = await self._all("image", request.image or (), request, problems)
        references = await self._all(
            "reference_image", request.reference_image or (), request, problems
        )
        maps = [entry.image for entry in request.control or ()]
        control = await self._all("control", maps, request, problems)
        mask, meaning = await self._mask(request, problems)
        count = sum(map(len, (request.image or (), request.reference_image or (), maps)))
        if count + (mask is not None) > MAX_PICTURES:
            problems.add(
                InvalidRequest(
                    f"image: at most {MAX_PICTURES} pictures in all, masks and maps included",
                    param="image",
                )
            )
        return Pictures(
            images=images,
            references=references,
            mask=mask,
            mask_meaning=meaning,
            control=control,
            problems=problems.found,
        )

    async def _mask(
        self, request: ImageGenerationRequest, problems: Problems
    ) -> tuple[Picture | None, MaskMeaning]:
        """The mask, and what of it is drawn anew: OpenAI's is transparent there, others' white."""
        if request.mask is not None and request.mask_image is not None:
            problems.add(
                InvalidRequest(
                    "mask_image: contradicts mask; leave one of them out", param="mask_image"
                )
            )
            return None, "white"
        if request.mask_image is not None:
            found = await self._all("mask_image", [request.mask_image], request, problems)
            return (found[0] if found else None), "white"
        found = await self._all("mask", [request.mask] if request.mask else [], request, problems)
        if not found:
            return None, "white"
        if not found[0].head.has_alpha:
            problems.add(
                InvalidRequest(
                    "mask: has no transparent part, which is what is drawn anew; send a black and"
                    " white one, whose white part is, as mask_image",
                    param="mask",
                )
            )
        return found[0], "transparent"

    async def _all(
        self,
        field: str,
        written: Iterable[str],
        request: ImageGenerationRequest,
        problems: Problems,
    ) -> tuple[Picture, ...]:
        uploads = request.uploads
        texts = list(written)
        found: list[Picture] = []
        for index, text in enumerate(texts):
            name = field if len(texts) == 1 else f"{field}[{index}]"
            try:
                data, file_id = await self._bytes(name, text, uploads.get(text))
                found.append(
                    await run_in_threadpool(measured, name, data, self.config, file_id=file_id)
                )
            except InvalidRequest as error:
                problems.add(error)
        return tuple(found)

    async def _bytes(self, name: str, text: str, upload: bytes | None) -> tuple[bytes, str | None]:
        """The file, and its id if it is one of this server's."""
        if upload is not None:
            return upload, None
        if (file_id := self._file_id(text)) is not None:
            if not is_owned_by(file_id, self.owner):
                raise not_stored(file_id)
            return (await run_in_threadpool(self.store.get, file_id)).data, file_id
        if text.startswith(("http://", "https://")):
            return await self.fetcher.fetch(text, name=name), None
        if text.startswith(_BARE) and (data := await run_in_threadpool(decoded, text)) is not None:
            return data, None
        param = name.partition("[")[0]
        if text[:5].lower() == "data:":
            raise InvalidRequest(
                f"{name}: is a data URL that is damaged; write data:image/png;base64, and base64",
                param=param,
            )
        upload_words = "; a file goes into the form, as a file" if text.startswith(UPLOAD) else ""
        raise InvalidRequest(
            f"{name}: must be a file, a data URL, the id of a file here or a URL{upload_words}",
            param=param,
        )

    def _file_id(self, text: str) -> str | None:
        """The id that is meant, by itself or in a link of this server's."""
        if _FILE_ID.fullmatch(text):
            return text
        found = _FILE_PATH.fullmatch(text.removeprefix(self.links_begin))
        return None if found is None else found["id"]


def measured(
    name: str, data: bytes, config: PicturesConfig, *, file_id: str | None = None
) -> Picture:
    """The picture in `data`, of the field `name`, if it is one and within `config`; the store may
    have it as `file_id`. Raises InvalidRequest."""
    try:
        if len(data) > config.max_bytes:
            raise ValueError(f"is a file of {len(data)} bytes; at most {config.max_bytes}")
        head = read_head(data)
        _check_bounds(head, config)
    except ValueError as error:
        raise InvalidRequest(f"{name}: {error}", param=name.partition("[")[0]) from error
    source = PictureSource(
        sha256=hashlib.sha256(data).hexdigest(),
        name=name,
        data=data if file_id is None else None,
        file_id=file_id,
    )
    return Picture(source=source, head=head)


def _check_bounds(head: PictureHead, config: PicturesConfig) -> None:
    """Raises ValueError for what would cost too much to decode, or shows nothing."""
    sides = (head.width, head.height)
    size = f"is {head.width}x{head.height} pixels"
    if head.frames > 1:
        raise ValueError("is an animation; send one still picture")
    if max(sides) > config.max_side:
        raise ValueError(f"{size}; at most {config.max_side} a side")
    if min(sides) < config.min_side:
        raise ValueError(f"{size}; at least {config.min_side} a side")
    if head.width * head.height > config.max_pixels:
        raise ValueError(f"{size}; at most {config.max_pixels} in all")
