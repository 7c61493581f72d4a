"""PictureFetcher: pictures behind URLs that an operator allows, as webhooks are sent to such."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from urllib.parse import urljoin

import httpx

from pipelines.errors import InvalidRequest, UnsupportedFeature
from serve.settings.pictures import PicturesConfig
from serve.webhooks.checked_addresses import (
    CheckedAddresses,
    NotReached,
    Resolve,
    asking,
    short,
)
from serve.webhooks.reach import Address
from serve.webhooks.target import Target
from serve.webhooks.targets import AllowedOrigins

MAX_REDIRECTS = 3
_AT_ONCE = 16
"""Pictures that an ingress replica fetches at the same time; others wait, within their time."""

_REDIRECTS = (301, 302, 303, 307, 308)


class PictureFetcher:
    """Fetches within `config`: from allowed origins, from addresses that were checked, in bounded
    time and of bounded size. A redirect may lead to another allowed origin, and nowhere else."""

    def __init__(
        self,
        config: PicturesConfig,
        *,
        resolve: Resolve | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._config = config
        self._origins = AllowedOrigins(
            config.allow, allow_private=config.allow_private, purpose="nothing is fetched there"
        )
        self._addresses = CheckedAddresses(allow_private=config.allow_private, resolve=resolve)
        self._context = context
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def fetch(self, url: str, *, name: str) -> bytes:
        """The file behind `url`, which the client wrote in the field `name`.

        Raises UnsupportedFeature where no URL is allowed, InvalidRequest for one that is not or
        that gives no file.
        """
        param = name.partition("[")[0]
        if not self._origins:
            raise UnsupportedFeature(
                f"{name}: this server fetches no pictures from elsewhere; send the file itself, a"
                " data URL, or the id of a file here (its operator can allow origins in"
                " `pictures.allow`)",
                param=param,
            )
        try:
            async with asyncio.timeout(self._config.timeout_s), self._slots:
                return await self._follow(url)
        except ValueError as error:
            raise InvalidRequest(f"{name}: {error}", param=param) from error
        except TimeoutError as error:
            raise InvalidRequest(
                f"{name}: did not come within {self._config.timeout_s:g} s; send the file itself",
                param=param,
            ) from error

    async def _follow(self, url: str) -> bytes:
        """Raises ValueError."""
        for _ in range(1 + MAX_REDIRECTS):
            target = self._origins.find(url)
            found = await self._get(target)
            if isinstance(found, bytes):
                return found
            url = urljoin(f"{target.origin}{target.path}", found)
        raise ValueError(f"is redirected more than {MAX_REDIRECTS} times")

    async def _get(self, target: Target) -> bytes | str:
        """The file, or where it has moved. Raises ValueError."""
        try:
            addresses = await self._addresses.of(target)
        except NotReached as error:
            raise ValueError(str(error)) from error
        trouble: httpx.TransportError | None = None
        for address in addresses:
            try:
                return await self._get_at(target, address, addresses)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                trouble = error
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise ValueError(f"{target.host}: the connection failed: {short(error)}") from error
        raise ValueError(f"{target.host}: cannot connect: {short(trouble)}") from trouble

    async def _get_at(
        self, target: Target, address: Address, addresses: Sequence[Address]
    ) -> bytes | str:
        seconds, most = self._config.timeout_s, self._config.max_bytes
        timeout = httpx.Timeout(seconds, connect=seconds / len(addresses))
        if self._context is None:
            self._context = httpx.create_ssl_context()
        async with asking("GET", target, address, context=self._context, timeout=timeout) as answer:
            if answer.status_code in _REDIRECTS and "location" in answer.headers:
                return answer.headers["location"]
            if answer.status_code != 200:
                raise ValueError(f"{target.host} answered {answer.status_code}, and no picture")
            announced = answer.headers.get("content-length", "")
            data = bytearray()
            if not (announced.isdecimal() and int(announced[:19]) > most):
                async for chunk in answer.aiter_raw():
                    data += chunk
                    if len(data) > most:
                        break
                else:
                    return bytes(data)
        raise ValueError(f"{target.host} sends a file of more than {most} bytes, the limit here")
