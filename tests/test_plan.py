"""Plans are sound, and the validator is not fooled."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilograd.plan import Buffer, Plan, PlanError, greedy, lower_bound, validate
from kilograd.plan.buffer import ALIGN


@st.composite
def problems(draw: st.DrawFn) -> list[Buffer]:
    """A few buffers with lives that overlap in every way; some of no size."""
    raw = draw(
        st.lists(st.tuples(st.integers(0, 80), st.integers(0, 12), st.integers(1, 6)), max_size=16)
    )
    return [Buffer(f"b{i}", size, first, first + n) for i, (size, first, n) in enumerate(raw)]


def bytes_in_use(buffers: list[Buffer], plan: Plan) -> int:
    """Mark every byte of every step: the slowest possible check."""
    steps = max((b.last for b in buffers), default=0)
    highest = 0
    for t in range(steps):
        owner: dict[int, str] = {}
        for b in buffers:
            if b.first <= t < b.last:
                for byte in range(plan.offsets[b.name], plan.offsets[b.name] + b.size):
                    assert byte not in owner, (
                        f"{owner.get(byte)} and {b.name} share byte {byte} at {t}"
                    )
                    owner[byte] = b.name
                    highest = max(highest, byte + 1)
    return highest


@settings(max_examples=300)
@given(problems())
def test_greedy_plans_are_sound(buffers: list[Buffer]) -> None:
    plan = validate(buffers, greedy(buffers))
    assert bytes_in_use(buffers, plan) <= plan.peak
    assert all(offset % ALIGN == 0 for offset in plan.offsets.values())
    assert plan.peak >= lower_bound(buffers)
    assert set(plan.offsets) == {b.name for b in buffers}


@given(problems())
def test_a_plan_does_not_depend_on_the_order_of_the_problem(buffers: list[Buffer]) -> None:
    assert greedy(buffers) == greedy(buffers[::-1])


@given(problems())
def test_the_lower_bound_is_the_most_bytes_alive(buffers: list[Buffer]) -> None:
    alive = [
        sum(-(-b.size // ALIGN) * ALIGN for b in buffers if b.first <= t < b.last)
        for t in range(20)
    ]
    assert lower_bound(buffers) == max(alive)


def test_an_empty_problem_needs_nothing() -> None:
    assert greedy([]).peak == lower_bound([]) == 0


def test_buffers_that_never_meet_share_their_bytes() -> None:
    plan = greedy([Buffer(f"b{i}", 64, i, i + 1) for i in range(9)])
    assert plan.peak == 64


# ---- planted faults ----

LIVE = [Buffer("a", 8, 0, 3), Buffer("b", 8, 2, 5), Buffer("c", 5, 4, 6)]
SOUND = Plan({"a": 0, "b": 8, "c": 0}, 16)


def test_the_validator_accepts_a_sound_plan() -> None:
    assert validate(LIVE, SOUND) is SOUND


@pytest.mark.parametrize(
    ("offsets", "peak"),
    [
        ({"b": 4}, 16),
        ({"b": 0}, 16),
        ({"c": 12}, 20),
        ({"c": 4}, 16),
        ({"a": 2}, 16),
        ({"c": 1}, 16),
        ({"c": -4}, 16),
        ({"b": 12}, 16),
        ({}, 12),
    ],
    ids=[
        "ends inside",
        "same place",
        "starts inside",
        "one byte over",
        "half word",
        "odd",
        "before the arena",
        "past the peak",
        "peak too low",
    ],
)
def test_the_validator_rejects(offsets: dict[str, int], peak: int) -> None:
    with pytest.raises(PlanError):
        validate(LIVE, Plan({**SOUND.offsets, **offsets}, peak))


@given(problems(), st.data())
def test_the_validator_rejects_any_overlap_planted_in_a_sound_plan(
    buffers: list[Buffer], data: st.DataObject
) -> None:
    meeting = [
        (a, b)
        for i, a in enumerate(buffers)
        for b in buffers[i + 1 :]
        if a.meets(b) and a.size and b.size
    ]
    if not meeting:
        return
    plan = greedy(buffers)
    a, b = data.draw(st.sampled_from(meeting))
    if data.draw(st.booleans()):
        a, b = b, a
    inside = data.draw(st.integers(0, (b.size - 1) // ALIGN)) * ALIGN
    at = plan.offsets[b.name] + inside
    planted = replace(plan, offsets={**plan.offsets, a.name: at}, peak=plan.peak + at + a.size)
    with pytest.raises(PlanError, match="overlap"):
        validate(buffers, planted)
