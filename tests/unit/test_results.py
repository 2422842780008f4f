"""Results as the JSON that clients get."""

from __future__ import annotations

import json

import pytest

from runpod_flash.gateway.results import NotJsonError, to_json
from runpod_flash.wire.codec import Payload


def empty(shape: list[int]) -> Payload:
    return Payload(json.dumps({"$": "ndarray", "d": "<f8", "s": shape, "v": ""}).encode())


@pytest.mark.parametrize(
    "shape", [[20_000_000, 0], [0, 20_000_000], [1000, 1000, 0], [1000, 0, 1000], [1] * 100 + [0]]
)
def test_an_array_whose_shape_is_all_that_is_large_is_no_json(shape: list[int]) -> None:
    with pytest.raises(NotJsonError, match="cannot be read"):
        to_json(empty(shape))


@pytest.mark.parametrize(("shape", "shown"), [([0], b"[]"), ([2, 0], b"[[], []]"), ([0, 3], b"[]")])
def test_an_array_without_values_is_empty_lists(shape: list[int], shown: bytes) -> None:
    assert to_json(empty(shape)) == shown
