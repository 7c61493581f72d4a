"""Every error that Sluice raises on purpose, as one tree.

    SluiceError
    ├── InvalidRequest            the client can mend it; names the field and the allowed range
    │   ├── UnsupportedFeature    a known parameter or task that this server does not offer
    │   └── RequestTooLarge       the body is over the configured limit
    ├── ModelNotFound             no model of that name is served here
    ├── FileNotStored             no stored file of that id (or it has expired)
    ├── TraceNotKept              no trace of that id is kept (any more)
    ├── JobNotFound               no job of that id, or it is another's
    ├── DeliveryNotFound          no webhook delivery of that id, or it is another's
    ├── JobConflict               the job's state forbids what is asked of it
    ├── IdempotencyKeyReused      the key came before, with another body
    ├── StoreUnavailable          the store of jobs cannot be used now; carries when to come back
    ├── ContentPolicyViolation    refused by a prompt rule or by the image classifier
    ├── DegenerateImage           the result is not finite, or all one value
    ├── Overloaded                the queue is full; carries when to come back
    │   └── DeadlineUnreachable   it cannot be done in time; carries the earliest that can
    ├── NotReady                  a stage is still starting
    ├── RequestTimeout            the request ran past its time limit
    ├── BodyTimeout               its body did not come in time
    ├── HeadersTooLarge           its headers are over the configured limit
    ├── UriTooLong                its path and query are
    ├── StageFailed               a stage or its replica failed for a reason of its own
    │   └── StageLost             for good: what it had goes on elsewhere
    ├── CheckpointError           weights missing, damaged or of another family
    └── ConfigurationError        settings that cannot work

They cross process boundaries, so each rebuilds from its fields alone (`__reduce__`). This module
knows nothing of HTTP: the one table from error to status is `serve/errors.py`.
"""

from __future__ import annotations

from typing import Any


class SluiceError(Exception):
    """Base of all deliberate errors.

    Subclasses take keyword fields and set them as attributes; `fields` lists them, which is what
    travels between processes.
    """

    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.message = message
        self.fields = fields

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.fields)


def _rebuild(cls: type[SluiceError], message: str, fields: dict[str, Any]) -> SluiceError:
    return cls(message, **fields)


class InvalidRequest(SluiceError, ValueError):
    """A field of the request is missing, malformed or out of range.

    `param` is the field's name as the client wrote it, or None when no single field is at fault.
    """

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message, param=param)
        self.param = param


class UnsupportedFeature(InvalidRequest):
    """A parameter or task that exists elsewhere, but that this server cannot honour."""


class RequestTooLarge(InvalidRequest):
    """The request body exceeds the configured limit."""


class ModelNotFound(SluiceError):
    """No model called `model` is served here; `param` is the field that names models."""

    param = "model"

    def __init__(self, message: str, *, model: str) -> None:
        super().__init__(message, model=model)
        self.model = model


class FileNotStored(SluiceError):
    """No stored file has this id; files expire."""

    def __init__(self, message: str, *, file_id: str) -> None:
        super().__init__(message, file_id=file_id)
        self.file_id = file_id


class TraceNotKept(SluiceError):
    """No trace has this id; they are kept for a while, those that are recorded."""


class JobNotFound(SluiceError):
    """No job has this id, or it is another owner's, which nobody is told."""


class DeliveryNotFound(SluiceError):
    """No webhook delivery has this id, or it is another owner's, which nobody is told."""


class JobConflict(SluiceError):
    """What is asked of a job is not possible in the state that it is in."""


class IdempotencyKeyReused(SluiceError):
    """An idempotency key came again, with another body."""

    param = "Idempotency-Key"


class StoreUnavailable(SluiceError):
    """The store of jobs cannot be reached, or cannot write, now; `retry_after_s` says when to come
    back."""

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.retry_after_s = retry_after_s


class ContentPolicyViolation(SluiceError):
    """A prompt or an image was refused.

    `stage` is "prompt", "image" for one that was drawn, or "picture" for one that the request
    brought along, which `picture` names by its field; `category` is one of the policy's; `score`
    and `threshold` are in 0..1 (a matched prompt rule has score 1.0 and threshold 1.0);
    `image_index` is the image of the request that was refused, None for a prompt or a picture.
    """

    def __init__(
        self,
        message: str,
        *,
        stage: str,
        category: str,
        score: float,
        threshold: float,
        param: str | None = None,
        image_index: int | None = None,
        picture: str | None = None,
    ) -> None:
        super().__init__(
            message,
            stage=stage,
            category=category,
            score=score,
            threshold=threshold,
            param=param,
            image_index=image_index,
            picture=picture,
        )
        self.stage = stage
        self.category = category
        self.score = score
        self.threshold = threshold
        self.param = param
        self.image_index = image_index
        self.picture = picture


class DegenerateImage(SluiceError):
    """The model produced values that are not finite, or an image that is all one value."""


class Overloaded(SluiceError):
    """The server cannot take more work now; try again after `retry_after_s` seconds."""

    retry_after_s: float | None

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.retry_after_s = retry_after_s


class DeadlineUnreachable(Overloaded):
    """The request cannot be done by its deadline.

    `earliest_s` is the shortest time that could be promised now, in seconds from now. The same
    request could be promised its deadline after `retry_after_s`, or never if that is None: the
    deadline is shorter than the work.
    """

    param = "deadline_ms"

    def __init__(
        self, message: str, *, earliest_s: float, retry_after_s: float | None = None
    ) -> None:
        SluiceError.__init__(self, message, earliest_s=earliest_s, retry_after_s=retry_after_s)
        self.earliest_s = earliest_s
        self.retry_after_s = retry_after_s


class NotReady(SluiceError):
    """A stage has no healthy replica yet."""


class RequestTimeout(SluiceError):
    """The request ran past the server's time limit."""


class BodyTimeout(SluiceError):
    """The body of a request did not come within the server's time limit for bodies."""


class HeadersTooLarge(SluiceError):
    """The request's headers exceed the configured limit."""


class UriTooLong(SluiceError):
    """The request's path and query exceed the configured limit."""


class StageFailed(SluiceError):
    """A stage failed for a reason that the client cannot mend; `stage` names it."""

    def __init__(self, message: str, *, stage: str) -> None:
        super().__init__(message, stage=stage)
        self.stage = stage


class StageLost(StageFailed):
    """A stage can do nothing any more, such as one with a rank that died.

    Its works are not at fault: they go on elsewhere, from where they stand.
    """


class CheckpointError(SluiceError):
    """Weights are missing, damaged, or of a family that Sluice does not serve."""


class ConfigurationError(SluiceError):
    """Settings that cannot work; the message names the field and a value that would."""
