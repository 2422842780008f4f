"""What `workers=` accepts, and the names of scalers and endpoint types."""

from __future__ import annotations

import pytest

from runpod_flash.errors import ConfigurationError
from runpod_flash.scaling import (
    DEFAULT_WORKERS_MAX,
    DEFAULT_WORKERS_MIN,
    ServerlessScalerType,
    ServerlessType,
    parse_workers,
)


def test_the_default_is_no_worker_at_rest_and_one_at_most() -> None:
    assert (DEFAULT_WORKERS_MIN, DEFAULT_WORKERS_MAX) == (0, 1)
    assert parse_workers(None) == (0, 1)


def test_scalers_and_types_have_their_name_as_value() -> None:
    assert [(s.name, s.value) for s in ServerlessScalerType] == [
        ("QUEUE_DELAY", "QUEUE_DELAY"),
        ("REQUEST_COUNT", "REQUEST_COUNT"),
    ]
    assert [(t.name, t.value) for t in ServerlessType] == [("QB", "QB"), ("LB", "LB")]


def test_an_unknown_scaler_is_refused_with_the_near_one() -> None:
    with pytest.raises(ValueError, match="Did you mean 'REQUEST_COUNT'"):
        ServerlessScalerType("REQUESTS_COUNT")


@pytest.mark.parametrize(
    ("declared", "bounds"),
    [
        (5, (0, 5)),
        (0, (0, 0)),
        ((1, 3), (1, 3)),
        ([1, 3], (1, 3)),
        ((2, 2), (2, 2)),
        ((0, 0), (0, 0)),
        (True, (0, 1)),
        ((False, True), (0, 1)),
    ],
)
def test_an_int_is_the_maximum_and_a_pair_is_both_bounds(
    declared: object, bounds: tuple[int, int]
) -> None:
    parsed = parse_workers(declared)
    assert parsed == bounds
    assert [type(bound) for bound in parsed] == [int, int]


@pytest.mark.parametrize(
    "declared",
    ["3", "13", 1.0, (1,), (1, 2, 3), (), [], {1, 2}, {0: 1, 1: 2}, (1, "2"), (0.0, 1), (None, 1)],
)
def test_any_other_shape_is_refused_with_the_value_and_what_is_allowed(declared: object) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_workers(declared)
    message = str(caught.value)
    assert message.startswith("workers must be an int or a (min, max) tuple")
    assert repr(declared) in message
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("declared", [-1, (-1, 3), (0, -1), [-2, -1]])
def test_a_negative_bound_is_refused(declared: object) -> None:
    with pytest.raises(ConfigurationError, match="workers cannot be negative") as caught:
        parse_workers(declared)
    assert repr(declared) in str(caught.value)


@pytest.mark.parametrize("declared", [(3, 1), [1, 0]])
def test_a_minimum_above_the_maximum_is_refused(declared: object) -> None:
    with pytest.raises(ConfigurationError, match="min cannot exceed max") as caught:
        parse_workers(declared)
    assert repr(declared) in str(caught.value)
