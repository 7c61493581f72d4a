"""A request whose mask covers nothing: its images are the one that it brought along."""

from __future__ import annotations

import time
from dataclasses import replace

from ray.serve.handle import DeploymentHandle

from deployments.graph.attempts import retried
from deployments.graph.calls import Calls
from deployments.graph.image import NO_PROMPT, Drawn, Image, finish_spec
from deployments.graph.listening.events import Phase
from deployments.graph.pictures import Pictures
from deployments.graph.request_log import RequestLog
from deployments.names import StageName
from pipelines.contracts import FinishedImage
from pipelines.tracing.open_spans import OpenSpan
from pipelines.tracing.spans import TRANSFER


async def returned_input(
    image: Image, pictures: Pictures, finish: DeploymentHandle, log: OpenSpan
) -> Drawn:
    """Its file, of no step, once the classifier has seen the picture. Raises as `Calls.result`."""
    began, job = time.perf_counter(), image.job
    about, spec = RequestLog.of(job), finish_spec(job, image.index, steps_run=0, cuts=())

    async def attempt(_: int) -> FinishedImage:
        with Calls(about) as calls:
            return await calls.result(StageName.FINISHER, finish, pictures.image(calls), spec)

    await pictures.passed()
    image.progress.enters(Phase.FINISH)
    with log.part("image", gaps=TRANSFER, image=image.index) as part:
        file = await retried(about, part, attempt)
        part.add(file.spans)
    file = replace(file, steps_run=0, spans=())
    image.progress.drawn(file, NO_PROMPT)
    return Drawn(file, NO_PROMPT, time.perf_counter() - began, (), ())
