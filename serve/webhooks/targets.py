"""WebhookTargets: which URLs a job may name, by the operator's list. Resolves nothing."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.errors import InvalidRequest, UnsupportedFeature
from serve.webhooks.reach import refusal
from serve.webhooks.target import OriginPattern, Target
from serve.webhooks.webhooks_config import WebhooksConfig

PARAM = "webhook_url"


class AllowedOrigins:
    """An operator's list of origins. `purpose` is what is not done with an address that may not be
    reached. What a name resolves to is looked at each time that it is asked."""

    def __init__(self, allow: Sequence[str], *, allow_private: bool, purpose: str) -> None:
        self._patterns: Sequence[OriginPattern] = [OriginPattern.parse(p) for p in allow]
        self._allow_private = allow_private
        self._purpose = purpose

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def find(self, url: str) -> Target:
        """The target that `url` names. Raises ValueError if it is none or not allowed (any more),
        saying what is."""
        target = Target.parse(url)
        if not any(pattern.allows(target) for pattern in self._patterns):
            raise ValueError(f"{target.origin} is not allowed here; allowed: {self._allowed()}")
        address = target.address
        why = None
        if address is not None:
            why = refusal(address, allow_private=self._allow_private)
        if why is not None:
            raise ValueError(f"{why}; {self._purpose}")
        return target

    def _allowed(self) -> str:
        return ", ".join(pattern.text for pattern in self._patterns) or "nothing"


class WebhookTargets:
    """The allow-list. What a name resolves to is looked at each time that it is sent to."""

    def __init__(self, config: WebhooksConfig) -> None:
        self._origins = AllowedOrigins(
            config.allow,
            allow_private=config.allow_private,
            purpose="nothing is sent there",
        )

    def check(self, url: str, *, param: str = PARAM) -> None:
        """Raises UnsupportedFeature where no webhooks are sent at all, and InvalidRequest for a URL
        that is none, or that is not allowed. `param` is the field as the client wrote it."""
        if not self._origins:
            raise UnsupportedFeature(
                f"{param}: this server sends no webhooks; its operator can allow targets in"
                " `webhooks.allow`. Leave it out, and ask for the job or its events",
                param=param,
            )
        try:
            self.find(url)
        except ValueError as error:
            raise InvalidRequest(f"{param}: {error}", param=param) from None

    def find(self, url: str) -> Target:
        """As `AllowedOrigins.find`."""
        return self._origins.find(url)
