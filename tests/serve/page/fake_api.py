"""What the page needs of the API, told step by step how far each job is.

Jobs stand still until a test moves them. Everything public may be called from any thread.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import itertools
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from PIL import Image, ImageDraw
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route

from serve.page.page import content_security_policy, page_html
from serve.page.texts import preferred_language
from tests.cluster import free_port

NOW = 1_764_547_200.0
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
FORBIDDEN = "blood"
"""A prompt with this word is refused, as the prompt rules would."""

CARD: dict[str, Any] = {
    "id": "sluice-shapes",
    "name": "sluice-shapes",
    "tasks": ["text-to-image", "image-to-image", "inpaint", "edit", "edit-inpaint"],
    "defaults": {
        "size": "64x64",
        "guidance_scale": 3.5,
        "priority": 0,
        "quality_steps": {"low": 12, "medium": 12, "high": 18},
        "skipping_qualities": ["low"],
    },
    "limits": {
        "min_side": 64,
        "max_side": 512,
        "side_multiple": 16,
        "max_steps": 100,
        "max_images": 10,
        "max_pixels": 262_144,
        "max_prompt_chars": 2000,
    },
}

STORED_REQUEST: dict[str, Any] = {
    "model": "sluice-shapes",
    "prompt": "",
    "negative_prompt": None,
    "prompt_weighting": False,
    "n": 1,
    "size": "64x64",
    "num_inference_steps": 12,
    "min_steps": None,
    "step_cuts": [],
    "skip_steps": False,
    "guidance_scale": 3.5,
    "true_cfg_scale": 1.0,
    "seed": 7,
    "output_format": "png",
    "output_compression": None,
    "deadline_ms": None,
    "priority": 0,
}
"""A job's request has all of these."""

_COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white", "black", "navy")
_RGB = {"navy": "#0a146e", "red": "#e11e1e", "blue": "#2850e6", "yellow": "#fae628"}


@dataclass
class FakeApi:
    """Jobs in memory. While `is_down`, all that is answered is what Serve says by
    itself: 503, and 404 while an application is deployed."""

    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    events: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    """What was submitted."""
    resumed_from: list[str] = field(default_factory=list)
    """The `Last-Event-ID` of each stream that had one."""
    preflight: dict[str, Any] = field(
        default_factory=lambda: {
            "eta_ms": 1400,
            "queue_ms": 0,
            "cold_start_ms": 0,
            "warnings": [],
            "cost": {"device_seconds": 0.62, "megapixel_steps": 0.041},
        }
    )
    asked: list[dict[str, Any]] = field(default_factory=list)
    """What preflights were asked about."""
    tasks: Sequence[str] | None = None
    """Of the model, in place of the card's."""
    refuses_pictures: str | None = None
    """Why a picture is refused, if it is."""
    receipt: Any = None
    """The answer to a file; None: it has no receipt."""
    is_down: bool = False
    down_status: int = 503
    fails_lists: int = 0
    """Lists of jobs that are still to fail."""
    queue_full: bool = False
    full_for_ms: int = 12_000
    expires_at: float = field(default_factory=lambda: time.time() + 86_400)
    """Of files of jobs that end."""
    texts: Mapping[str, str] | None = None
    """In place of the page's own."""

    def __post_init__(self) -> None:
        self._count = itertools.count(1)
        self._listeners: set[Callable[[], None]] = set()
        self._lock = threading.RLock()

    # --- what tests do

    def runs(
        self,
        job_id: str,
        *,
        step: int = 0,
        total: int = 12,
        phase: str = "denoise",
        image: int | None = None,
    ) -> None:
        """An event that the job is under way, or goes on: all of its images, or one of them."""
        with self._lock:
            job = self.jobs[job_id]
            is_new = job["status"] == "queued"
            images = [
                {"image": i, "phase": phase, "step": step, "total": total}
                for i in range(job["request"]["n"])
            ]
            if image is not None:
                images = [*job["progress"]["images"]]
                images[image] = {"image": image, "phase": phase, "step": step, "total": total}
            done = sum(each["step"] for each in images)
            progress = {
                "phase": phase,
                "step": done,
                "total": total * len(images),
                "fraction": done / (total * len(images)),
                "images": images,
            }
            eta = {"ms": 180 * (total - step), "reason": f"step {step} of {total}"}
            eta["cause"] = "denoise"
            job |= {"status": "running", "progress": progress, "eta": eta, "queue": None}
            job |= {"started_at": NOW, "attempts": 1}
            if is_new:
                self._tell(job_id, "job.running", attempt=1, job=job)
            else:
                self._tell(job_id, "job.progress", progress=progress)

    def waits(
        self, job_id: str, *, position: int, reason: str = "it is next", cause: str = "next"
    ) -> None:
        """The job's place changes; no event says so."""
        with self._lock:
            eta = {"ms": 4200, "reason": reason, "cause": cause}
            self.jobs[job_id] |= {"queue": {"position": position}, "eta": eta}

    def previews(self, job_id: str, *, step: int, total: int = 12, image: int = 0) -> None:
        """What the picture would be now: blurred."""
        with self._lock:
            data = picture(self.jobs[job_id]["request"], blur=step / total)
            self._tell(
                job_id,
                "job.preview",
                stored=False,
                image=image,
                step=step,
                total=total,
                media_type="image/png",
                b64=base64.b64encode(data).decode(),
            )

    def draws(self, job_id: str, *, image: int = 0, steps: int = 12) -> None:
        """One of the job's images is finished."""
        with self._lock:
            output = self._output(self.jobs[job_id]["request"], image, steps)
            self.jobs[job_id]["outputs"].append(output)
            self._tell(job_id, "job.image", output=output)

    def finishes(self, job_id: str, *, steps: int = 12) -> None:
        with self._lock:
            job = self.jobs[job_id]
            for image in range(len(job["outputs"]), job["request"]["n"]):
                self.draws(job_id, image=image, steps=steps)
            job["usage"] = {
                "input_tokens": 12,
                "output_tokens": 16,
                "total_tokens": 28,
                "device_seconds": 0.62,
                "megapixel_steps": 0.041 * job["request"]["n"],
            }
            self._ends(job_id, "succeeded")

    def fails(self, job_id: str) -> None:
        error = {
            "message": "the denoiser lost its replica three times",
            "type": "server_error",
            "param": None,
            "code": "stage_failed",
        }
        with self._lock:
            self.jobs[job_id]["error"] = error
            self._ends(job_id, "failed")

    def cancels(self, job_id: str) -> None:
        with self._lock:
            self._ends(job_id, "cancelled")

    def forgets(self, job_id: str) -> None:
        """The job vanishes, and its streams with it."""
        with self._lock:
            del self.jobs[job_id]
            self._wake()

    def cuts_streams(self) -> None:
        """Every stream ends in the middle."""
        with self._lock:
            self._cuts += 1
            self._wake()

    @property
    def num_streams(self) -> int:
        return len(self._listeners)

    def goes_down(self) -> None:
        with self._lock:
            self.is_down = True
            self._wake()

    def adds(self, owner: str, prompt: str, *, status: str = "queued", **request: Any) -> str:
        """A job that was submitted before."""
        with self._lock:
            job_id = f"job_{next(self._count):032x}"
            quality = request.pop("quality", "medium")
            body = {**STORED_REQUEST, "prompt": prompt, "skip_steps": quality == "low", **request}
            self.owners[job_id] = owner
            self.events[job_id] = []
            self.jobs[job_id] = {
                "id": job_id,
                "object": "job",
                "kind": "generate",
                "status": "queued",
                "model": "sluice-shapes",
                "created_at": NOW + len(self.jobs),
                "started_at": None,
                "finished_at": None,
                "expires_at": None,
                "progress": {
                    "phase": "queued",
                    "step": 0,
                    "total": 12,
                    "fraction": 0.0,
                    "images": [],
                },
                "queue": {"position": 0},
                "eta": None,
                "request": body,
                "outputs": [],
                "usage": None,
                "safety": None,
                "warnings": [],
                "error": None,
                "trace_id": TRACE_ID,
                "pending_action": None,
                "attempts": 0,
                "last_event": 0,
            }
            self._tell(job_id, "job.queued", job=self.jobs[job_id])
            if status == "succeeded":
                self.finishes(job_id)
            elif status == "failed":
                self.fails(job_id)
            elif status == "cancelled":
                self._ends(job_id, "cancelled")
            return job_id

    @property
    def newest(self) -> str:
        with self._lock:
            return max(self.jobs, key=lambda each: self.jobs[each]["created_at"])

    # --- how it answers

    _cuts = 0

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/", self._page),
                Route("/v1/jobs", self._submit, methods=["POST"]),
                Route("/v1/jobs", self._list),
                Route("/v1/jobs/{id}", self._get),
                Route("/v1/jobs/{id}", self._delete, methods=["DELETE"]),
                Route("/v1/jobs/{id}/events", self._events),
                Route("/v1/jobs/{id}/{action}", self._act, methods=["POST"]),
                Route("/v1/images/preflight", self._preflight, methods=["POST"]),
                Route("/v1/receipts/read", self._read_receipt, methods=["POST"]),
                Route("/v1/files/{id}", self._file),
                Route("/v1/traces/{id}", lambda _: HTMLResponse("<title>waterfall</title>")),
            ]
        )

    async def _page(self, request: Request) -> Response:
        language = preferred_language(request.headers.get("accept-language", ""))
        language = request.query_params.get("lang", language)
        card = CARD if self.tasks is None else {**CARD, "tasks": self.tasks}
        html = page_html(card, language=language, lists_traces=True, texts=self.texts)
        return HTMLResponse(html, headers={"content-security-policy": content_security_policy()})

    async def _preflight(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(body)
        return self._down() or self._refusal(body) or JSONResponse(self.preflight)

    async def _submit(self, request: Request) -> Response:
        body = await request.json()
        key = request.headers["idempotency-key"]
        with self._lock:
            if (refused := self._down() or self._refusal(body)) is not None:
                return refused
            if self.queue_full:
                return _error(
                    429, "overloaded", "the queue is full", retry_after_ms=self.full_for_ms
                )
            if key in self.keys:
                return JSONResponse(self.jobs[self.keys[key]])
            self.bodies.append(body)
            fields = {name: value for name, value in body.items() if name not in ("user", "prompt")}
            fields.setdefault("seed", 2_654_435_769)
            self._keep_pictures(fields)
            self.keys[key] = job_id = self.adds(body["user"], body["prompt"], **fields)
            return JSONResponse(self.jobs[job_id], 202)

    def _keep_pictures(self, fields: dict[str, Any]) -> None:
        """Files of the job's own in place of its pictures, and its size, as a stored request has
        them."""
        fields.pop("kind", None)
        for name in ("image", "mask_image"):
            if name not in fields:
                continue
            said = fields[name]
            said = said[0] if isinstance(said, list) else said
            data = self.files[said] if said in self.files else base64.b64decode(said.split(",")[1])
            file_id = hashlib.sha256(data + name.encode()).hexdigest()[:32]
            self.files[file_id] = data
            fields[name] = [file_id] if name == "image" else file_id
        if fields.get("size") == "auto":
            width, height = Image.open(io.BytesIO(self.files[fields["image"][0]])).size
            border = {"left": 0, "top": 0, "right": 0, "bottom": 0} | fields.get("outpaint", {})
            width += border["left"] + border["right"]
            fields["size"] = f"{width}x{height + border['top'] + border['bottom']}"

    async def _list(self, request: Request) -> Response:
        with self._lock:
            if self.fails_lists:
                self.fails_lists -= 1
                return PlainTextResponse("Internal Server Error", 500)
            if (down := self._down()) is not None:
                return down
            query = request.query_params
            statuses = set(query["status"].split(",")) if "status" in query else None
            own = [
                job
                for job_id, job in reversed(self.jobs.items())
                if self.owners[job_id] == query["user"]
                and (statuses is None or job["status"] in statuses)
            ]
            first, limit = int(query.get("cursor", 0)), int(query["limit"])
            more = str(first + limit) if len(own) > first + limit else None
            data = own[first : first + limit]
            return JSONResponse({"object": "list", "data": data, "next_cursor": more})

    async def _get(self, request: Request) -> Response:
        with self._lock:
            return self._down() or self._missing(request) or JSONResponse(self._job(request))

    async def _delete(self, request: Request) -> Response:
        with self._lock:
            if (refused := self._down() or self._missing(request)) is not None:
                return refused
            del self.jobs[request.path_params["id"]]
            return Response(status_code=204)

    async def _act(self, request: Request) -> Response:
        with self._lock:
            if (refused := self._down() or self._missing(request)) is not None:
                return refused
            job, action = self._job(request), request.path_params["action"]
            if job["status"] == "queued":
                self._ends(job["id"], "cancelled")
            elif job["status"] == "running":
                job["pending_action"] = action
            return JSONResponse(job)

    async def _events(self, request: Request) -> Response:
        with self._lock:
            if (refused := self._down() or self._missing(request)) is not None:
                return refused
            after = request.headers.get("last-event-id")
            if after is not None:
                self.resumed_from.append(after)
        job_id = request.path_params["id"]
        return StreamingResponse(
            self._stream(job_id, int(after or 0)), media_type="text/event-stream"
        )

    async def _stream(self, job_id: str, after: int) -> AsyncIterator[str]:
        loop, woken = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            loop.call_soon_threadsafe(woken.set)

        with self._lock:
            self._listeners.add(wake)
            cuts = self._cuts
            stored = [each for each in self.events[job_id] if each["id"] is not None]
            sent = self.events[job_id].index(stored[after - 1]) + 1 if after else 0
        try:
            yield ": here\n\n"
            while True:
                woken.clear()
                with self._lock:
                    if self._cuts != cuts or self.is_down or job_id not in self.jobs:
                        return
                    fresh, sent = self.events[job_id][sent:], len(self.events[job_id])
                for event in fresh:
                    number = "" if event["id"] is None else f"id: {event['id']}\n"
                    yield f"{number}event: {event['type']}\ndata: {event['data']}\n\n"
                    if event["is_last"]:
                        return
                await woken.wait()
        finally:
            with self._lock:
                self._listeners.discard(wake)

    async def _read_receipt(self, request: Request) -> Response:
        assert await request.body()
        if self.receipt is None:
            return _error(400, "invalid_value", "the file holds no receipt", param="file")
        return JSONResponse(self.receipt)

    async def _file(self, request: Request) -> Response:
        data = self.files.get(request.path_params["id"])
        if data is None:
            return _error(404, "file_not_found", "no such file")
        return Response(data, media_type="image/png")

    def _job(self, request: Request) -> dict[str, Any]:
        return self.jobs[request.path_params["id"]]

    def _down(self) -> Response | None:
        return PlainTextResponse("not there", self.down_status) if self.is_down else None

    def _missing(self, request: Request) -> Response | None:
        job_id = request.path_params["id"]
        if job_id in self.jobs and self.owners[job_id] == request.query_params["user"]:
            return None
        return _error(404, "job_not_found", "no job of that id")

    def _refusal(self, body: dict[str, Any]) -> Response | None:
        if FORBIDDEN in body["prompt"]:
            message = "prompt: refused by the rule 'graphic_violence'"
            return _error(400, "content_policy_violation", message, param="prompt")
        if body.get("num_inference_steps", 1) > 100:
            message = "num_inference_steps: must be 1 to 100, got more; use 100"
            return _error(400, "invalid_value", message, param="num_inference_steps")
        if "image" in body and self.refuses_pictures is not None:
            return _error(400, "invalid_value", self.refuses_pictures, param="image")
        return None

    def _output(self, request: dict[str, Any], image: int, steps: int) -> dict[str, Any]:
        data = picture(request, seed=image)
        file_id = hashlib.sha256(data + str(len(self.files)).encode()).hexdigest()[:32]
        self.files[file_id] = data
        width, height = map(int, request["size"].split("x"))
        return {
            "image": image,
            "url": f"http://elsewhere.example/prefix/v1/files/{file_id}",
            "seed": request["seed"] + image,
            "width": width,
            "height": height,
            "sha256": hashlib.sha256(data).hexdigest(),
            "output_format": "png",
            "num_bytes": len(data),
            "steps": steps,
            "expires_at": None,
        }

    def _ends(self, job_id: str, status: str) -> None:
        job = self.jobs[job_id]
        job |= {"status": status, "finished_at": NOW + 3, "pending_action": None}
        job |= {"queue": None, "eta": None}
        job["progress"] |= {"phase": "done"}
        for output in job["outputs"]:
            output["expires_at"] = self.expires_at
        self._tell(job_id, f"job.{status}", is_last=True, job=job)

    def _tell(
        self, job_id: str, kind: str, *, stored: bool = True, is_last: bool = False, **data: Any
    ) -> None:
        numbered = [event for event in self.events[job_id] if event["id"] is not None]
        number = len(numbered) + 1 if stored else None
        self.jobs[job_id]["last_event"] = number or len(numbered)
        text = json.dumps({"type": kind, "job_id": job_id, "at": NOW, **data})
        self.events[job_id].append({"id": number, "type": kind, "is_last": is_last, "data": text})
        self._wake()

    def _wake(self) -> None:
        for wake in tuple(self._listeners):
            wake()


def _error(status: int, code: str, message: str, **extras: Any) -> Response:
    wait = extras.pop("retry_after_ms", None)
    body = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    headers = {} if wait is None else {"retry-after-ms": str(wait)}
    return JSONResponse({"error": body | extras}, status, headers=headers)


def picture(request: dict[str, Any], *, seed: int = 0, blur: float = 1.0) -> bytes:
    """A PNG, about as the carried model would draw it; `blur` below 1 is an early preview."""
    width, height = map(int, request.get("size", "64x64").split("x"))
    words = [word.strip(",.") for word in request["prompt"].split()]
    colours = [word for word in words if word in _COLOURS] or ["gray"]
    ground = colours.pop() if len(colours) > 1 and {"background", "on"} & set(words) else "white"
    image = Image.new("RGB", (width * 4, height * 4), _RGB.get(ground, ground))
    draw = ImageDraw.Draw(image)
    radius = min(width, height) * 4 / (3.2 if len(colours) == 1 else 5)
    for place, colour in enumerate(colours[:2]):
        x = width * 4 * (place + 1) / (min(len(colours), 2) + 1) + 6 * (seed % 5)
        y = height * 2 - 5 * (seed % 3)
        box = (x - radius, y - radius, x + radius, y + radius)
        fill = _RGB.get(colour, colour)
        if {"square", "diamond", "cross"} & set(words[words.index(colour) :][:2]):
            draw.rectangle(box, fill=fill)
        elif {"star", "triangle", "heart"} & set(words[words.index(colour) :][:2]):
            draw.regular_polygon((x, y, radius), 3, fill=fill)
        else:
            draw.ellipse(box, fill=fill)
    size = (max(2, int(width * blur)), max(2, int(height * blur)))
    small = image.resize(size, Image.Resampling.LANCZOS)
    if blur < 1:
        small = small.resize((width, height), Image.Resampling.BICUBIC)
    into = io.BytesIO()
    small.save(into, "PNG")
    return into.getvalue()


@contextmanager
def served(api: FakeApi) -> Generator[str]:
    """The API on a port, in a thread; its address."""
    port = free_port()
    config = uvicorn.Config(api.app(), port=port, log_level="error", lifespan="off")
    config.timeout_graceful_shutdown = 1
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
        yield f"http://localhost:{port}"
    finally:
        api.cuts_streams()
        server.should_exit = True
        thread.join()
