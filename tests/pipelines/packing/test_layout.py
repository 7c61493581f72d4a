"""Where tokens of packed segments stand."""

from __future__ import annotations

import torch

from pipelines.packing.layout import SegmentShape, make_places

CPU = torch.device("cpu")


def test_places_reorder_streams_into_segments() -> None:
    places = make_places([SegmentShape(2, 1), SegmentShape(1, 3)], CPU)
    assert places.to_segments is not None
    assert places.text_rows is not None
    assert places.image_rows is not None
    #                 stream order: text a a b, image a b b b
    stream = torch.tensor([10, 11, 20, 12, 21, 22, 23])
    segments = stream[places.to_segments]
    assert segments.tolist() == [10, 11, 12, 20, 21, 22, 23]
    assert segments[places.text_rows].tolist() == [10, 11, 20]
    assert segments[places.image_rows].tolist() == [12, 21, 22, 23]
    owners = (places.owner, places.text_owner, places.image_owner)
    assert [x.tolist() for x in owners if x is not None] == [
        [0, 0, 0, 1, 1, 1, 1],
        [0, 0, 1],
        [0, 1, 1, 1],
    ]
