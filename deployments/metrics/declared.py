"""The metrics of the product: all of them, once. The README's table says the same (a test looks).

Prometheus's conventions: base units, in the name. A label has few values: none is a prompt, or the
id of a request or trace, and tenants are bounded (`instruments.tenant_label`). Sums of histograms
are Ray's approximations, so what must be exact is a counter.
"""

from __future__ import annotations

from deployments.metrics.instruments import Counter, Gauge, Histogram, Metric

_INGRESS = "Ingress"
_STAGES = "stages"
_DENOISER = "Denoiser"

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5)
_SHORT = (*_SECONDS, 1.0, 2.5, 5.0, 10.0, 30.0)
_LONG = (*_SECONDS[4:], 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_TOKENS = tuple(float(2**power) for power in range(5, 18))
_SEGMENTS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0)

REQUESTS = Counter(
    name="sluice_requests",
    labels=("outcome",),
    where=_INGRESS,
    help="Generations that ended: ok, an error's code, client_gone or cancelled.",
)
REQUEST_SECONDS = Histogram(
    name="sluice_request_seconds",
    where=_INGRESS,
    help="From a generation's arrival to its answer, of those that are ok.",
    boundaries=_LONG,
)
IMAGES = Counter(
    name="sluice_images",
    labels=("source", "tenant"),
    where=_INGRESS,
    help="Images answered: drawn for the request, shared with an equal one, or a hit in the cache.",
)
DEADLINES = Counter(
    name="sluice_deadlines",
    labels=("result", "kind", "tenant"),
    where=_INGRESS,
    help="Deadlines met, missed (late, or failed here) or refused; asked for, or the default.",
)
ADMISSION_REFUSALS = Counter(
    name="sluice_admission_refusals",
    labels=("reason",),
    where=_INGRESS,
    help="Generations refused because the places of the server, or of the tenant, were taken.",
)
SAFETY_REFUSALS = Counter(
    name="sluice_safety_refusals",
    labels=("stage", "category"),
    where=_INGRESS,
    help="Generations refused by a prompt rule, or for an image, by category.",
)
PREFLIGHTS = Counter(
    name="sluice_preflights", where=_INGRESS, help="Preflights that were answered."
)
RETURNED_BYTES = Counter(
    name="sluice_returned_bytes",
    labels=("route",),
    where=_INGRESS,
    help="Bytes of images sent to clients: base64 in generations, files as they are.",
)
COLD_STARTS = Counter(
    name="sluice_cold_starts",
    labels=("stage",),
    where=_INGRESS,
    help="Times that a request found a stage asleep, and woke it.",
)
COLD_START_SECONDS = Histogram(
    name="sluice_cold_start_seconds",
    where=_INGRESS,
    help="What a generation waited for stages that slept, of those that did.",
    boundaries=_LONG,
)
LOST_CALLS = Counter(
    name="sluice_lost_calls",
    labels=("stage",),
    where=_INGRESS,
    help="Calls whose replica was lost; they are made again, a few times.",
)
MOVED_IMAGES = Counter(
    name="sluice_moved_images",
    where=_INGRESS,
    help="Images that a denoiser gave away, because it goes or has more to do than others.",
)
SHED_IMAGES = Counter(
    name="sluice_shed_images",
    where=_INGRESS,
    help="Those of the moved that were asked for, to keep replicas even.",
)
RESUMED_IMAGES = Counter(
    name="sluice_resumed_images",
    where=_INGRESS,
    help="Times that an image went on from a checkpoint on another replica.",
)
WEBHOOK_ATTEMPTS = Counter(
    name="sluice_webhook_attempts",
    labels=("outcome",),
    where=_INGRESS,
    help="Attempts to send a webhook: delivered, waiting (it is sent again) or dead (given up).",
)
WEBHOOK_SECONDS = Histogram(
    name="sluice_webhook_seconds",
    where=_INGRESS,
    help="What an attempt to send a webhook took, until the receiver's answer or its failure.",
    boundaries=_LONG,
)

STAGE_SECONDS = Histogram(
    name="sluice_stage_seconds",
    labels=("stage", "phase"),
    where=_STAGES,
    help="What an item waited and ran in a stage (phases wait, run, of files also store).",
    boundaries=_LONG,
)
STAGE_QUEUE_SECONDS = Gauge(
    name="sluice_stage_queue_seconds",
    labels=("stage",),
    where=_STAGES,
    help="Seconds of work that a replica has still to do: what stages scale by.",
)
STAGE_BUSY_SECONDS = Counter(
    name="sluice_stage_busy_seconds",
    labels=("stage",),
    where=_STAGES,
    help="Seconds in which a replica was at work.",
)
STAGE_FAILURES = Counter(
    name="sluice_stage_failures",
    labels=("stage",),
    where=_STAGES,
    help="Calls that failed for a reason that nobody foresaw; the log has each.",
)
PROMPTS = Counter(
    name="sluice_prompts",
    labels=("result",),
    where="TextEncoder",
    help="Prompts asked for: encoded, shared with an equal one under way, or cached.",
)
PICTURES = Counter(
    name="sluice_pictures",
    labels=("result",),
    where="ImageEncoder",
    help="Pictures to be encoded: encoded, shared with an equal one under way, or cached.",
)
CLASSIFIED_IMAGES = Counter(
    name="sluice_classified_images",
    labels=("verdict",),
    where="SafetyClassifier",
    help="Images that were classified, drawn or brought along: passed or flagged.",
)
STORED_BYTES = Counter(
    name="sluice_stored_bytes", where="Finisher", help="Bytes of files put into storage."
)
EVICTED_FILES = Counter(
    name="sluice_evicted_files",
    where="Finisher",
    help="Files removed before their time, as the local folder was full.",
)
UNSTORED_FILES = Counter(
    name="sluice_unstored_files",
    where="Finisher",
    help="Files that could not be stored, and were answered as base64 instead of a link.",
)

TICKS = Counter(name="sluice_ticks", where=_DENOISER, help="Ticks of the engine.")
TICK_SECONDS = Histogram(
    name="sluice_tick_seconds",
    where=_DENOISER,
    help="Seconds of a tick's forward.",
    boundaries=_SHORT,
)
TICK_TOKENS = Histogram(
    name="sluice_tick_tokens",
    where=_DENOISER,
    help="Tokens packed into a tick.",
    boundaries=_TOKENS,
)
TICK_SEGMENTS = Histogram(
    name="sluice_tick_segments",
    where=_DENOISER,
    help="Segments packed into a tick: one for each image, two with true guidance.",
    boundaries=_SEGMENTS,
)
TOKENS = Counter(name="sluice_tokens", where=_DENOISER, help="Tokens of all ticks, exactly.")
STEPS = Counter(name="sluice_steps", where=_DENOISER, help="Steps of images that were run.")
KNEE_SECONDS = Gauge(
    name="sluice_knee_seconds",
    where=_DENOISER,
    help="Seconds of a tick past which packing more only makes everybody wait.",
)
KNEE_TOKENS = Gauge(
    name="sluice_knee_tokens",
    where=_DENOISER,
    help="The same in tokens, for images of the model's own size.",
)
WORKS = Gauge(name="sluice_works", where=_DENOISER, help="Images that wait or run.")
PREEMPTIONS = Counter(
    name="sluice_preemptions",
    where=_DENOISER,
    help="Times that an image which had begun paused for others.",
)
CANCELLED_IMAGES = Counter(
    name="sluice_cancelled_images",
    where=_DENOISER,
    help="Images that were dropped before their last step, as nobody waits for them.",
)
SAVED_STEPS = Counter(
    name="sluice_saved_steps",
    labels=("reason",),
    where=_DENOISER,
    help="Steps not run: cancelled, cut to keep a deadline (min_steps), kept (the image was good"
    " enough), or skipped (quality low).",
)
DEVICE_SECONDS = Counter(
    name="sluice_device_seconds",
    labels=("tenant", "device"),
    where=_DENOISER,
    help="Seconds of GPUs (or of a replica without one) that a tenant's images took of ticks.",
)

METRICS: tuple[Metric, ...] = tuple(
    value for value in list(globals().values()) if isinstance(value, Metric)
)
"""All of them, in the order of this file."""
