"""What the engine writes down of a work whose spans are kept."""

from __future__ import annotations

from dataclasses import replace

from pipelines.contracts import Checkpoint, Latents
from pipelines.engine.engine import Engine
from pipelines.engine.entry import HandedOver
from pipelines.engine.journal import Journal, TickRecord
from pipelines.tracing.spans import Span, Spans
from tests.pipelines.engine.fakes import TEXT, FakeStage, job

MINE, OTHER = ("00-" + letter * 32 + "-" + letter * 16 + "-01" for letter in "ab")


def tick(number: int, *traces: str, tokens: int = 100) -> TickRecord:
    return TickRecord(number, number * 10, number * 10 + 8, tokens, len(traces), traces)


def names(spans: Spans) -> list[str]:
    return [span.name for span in spans]


def test_a_stretch_ends_where_a_tick_went_by_without_it() -> None:
    journal = Journal(5, trace=MINE, tick_every=1)
    for step, number in enumerate((3, 4, 7), start=1):
        journal.ticked(tick(number, MINE, OTHER), step=step)
    wait, first, paused, second = journal.spans()
    assert names((wait, first, paused, second)) == [
        "denoise.wait",
        "denoise.run",
        "denoise.paused",
        "denoise.run",
    ]
    assert (wait.start_ns, wait.end_ns) == (5, 30)
    assert (first.start_ns, first.end_ns) == (30, 48)
    assert (paused.start_ns, paused.end_ns) == (48, 70)
    assert first.attributes["sluice.step_last"] == 2
    assert second.attributes["sluice.step_first"] == 3
    assert first.attributes["sluice.images_per_tick"] == 2


def test_ticks_name_the_others_in_them_and_only_some_are_kept() -> None:
    journal = Journal(0, trace=MINE, tick_every=2)
    for number in range(1, 6):
        journal.ticked(tick(number, MINE, OTHER, OTHER, ""), step=number)
    (_, run) = journal.spans()
    assert [each.attributes["sluice.tick"] for each in run.children] == [2, 4]
    assert {each.links for each in run.children} == {(OTHER,)}
    assert run.children[0].attributes["sluice.tick_images"] == 4
    (_, bare) = journal.spans(with_ticks=False)
    assert bare.children == ()
    assert bare.attributes == run.attributes


def test_before_the_first_tick_there_is_nothing_to_tell() -> None:
    journal = Journal(0, trace=MINE, tick_every=1)
    journal.checkpointed(step=0, at_ns=1)
    assert journal.spans() == ()


def test_an_engine_keeps_spans_of_works_with_a_trace_alone(
    engine: Engine, stage: FakeStage
) -> None:
    checkpoints: list[Checkpoint] = []
    encoded = Span(name="encode.run", start_ns=1, end_ns=2)
    text = replace(TEXT, spans=(encoded,))
    stage.gate.clear()
    first = engine.submit(job("held", num_inference_steps=9), TEXT)
    assert stage.entered.wait(60)
    traced = engine.submit(
        replace(job("traced", num_inference_steps=5), trace=MINE),
        text,
        on_checkpoint=checkpoints.append,
    )
    stage.gate.set()
    latents: Latents = traced.result(60)
    assert first.result(60).spans == ()
    assert latents.spans[0] is encoded
    runs = [span for span in latents.spans if span.name == "denoise.run"]
    assert runs[0].attributes["sluice.step_first"] == 1
    assert runs[-1].attributes["sluice.step_last"] == 5
    steps = [event.attributes["sluice.step"] for run in runs for event in run.events]
    assert steps == [item.step for item in checkpoints] == [2, 4]
    assert "denoise.run" in names(checkpoints[0].spans)
    assert all(not span.children for span in checkpoints[0].spans)


def test_a_work_that_is_handed_over_tells_what_it_did(engine: Engine, stage: FakeStage) -> None:
    checkpoints: list[Checkpoint] = []
    stage.gate.clear()
    future = engine.submit(
        replace(job("traced", num_inference_steps=9), trace=MINE),
        TEXT,
        on_checkpoint=checkpoints.append,
    )
    assert stage.entered.wait(60)
    engine.hand_over()
    stage.gate.set()
    assert isinstance(future.exception(10), HandedOver)
    (last,) = checkpoints
    wait, run = last.spans
    assert (wait.name, run.name) == ("denoise.wait", "denoise.run")
    assert run.attributes["sluice.step_last"] == last.step == 1
