"""Layouts: what fits, what is fastest, and what an earlier call has recorded."""

import pytest

from jaxticket.engine import layouts

DEVICES = 4  # of the tests, see conftest.py


class Work:
    """Lanes of 10 bytes beside 5 of data, and steps of some cost."""

    def __init__(self, layout, cost=lambda lanes: lanes):
        self.layout = layout
        self.cost = cost

    def compile(self):
        return 5 + 10 * self.layout.per_device

    def trial(self):
        return self.cost(self.layout.per_device)


@pytest.fixture
def memory(monkeypatch):
    """`memory(total)`: so many bytes, on every device or among them."""

    def share(total, *, shared=True):
        def available(devices):
            return total // len(devices) if shared else total

        monkeypatch.setattr(layouts.memory, "available", available)

    share(10**6)
    return share


def shape(decided):
    layout = decided[0].layout
    return layout.mesh.size, layout.turns, layout.per_device


def test_no_more_devices_than_the_searches_fill(memory):
    for searches, turns, expected in (
        (1, 1, (1, 1, 1)),
        (3, 1, (3, 1, 1)),
        (64, 1, (DEVICES, 1, 1)),
        (6, 2, (3, 2, 1)),
    ):
        assert shape(layouts.decide(None, searches, turns, Work)) == expected


def test_what_is_asked_for_is_what_one_gets(memory):
    assert shape(layouts.decide(3, 100, 1, Work)) == (DEVICES, 1, 3)


def test_devices_that_share_their_memory_are_fewer_when_it_is_short(memory):
    memory(3 * 15)
    assert shape(layouts.decide(None, 100, 1, Work)) == (3, 1, 1)


def test_what_does_not_fit_is_refused_with_the_numbers(memory):
    memory(20)
    with pytest.raises(ValueError, match="2 lanes on a device: .* MB; give fewer"):
        layouts.decide(2, 100, 1, Work)
    memory(10)
    with pytest.raises(ValueError, match="1 lane on a device: .* lower --batch_size"):
        layouts.decide(None, 100, 1, Work)


def test_elsewhere_the_usual_lanes_are_halved_until_they_fit(memory, monkeypatch):
    monkeypatch.setattr(layouts.jax, "default_backend", lambda: "gpu")
    assert shape(layouts.decide(None, 1000, 1, Work)) == (DEVICES, 1, 16)
    memory(90, shared=False)  # 85 for 8 lanes
    assert shape(layouts.decide(None, 1000, 1, Work)) == (DEVICES, 1, 8)


@pytest.mark.parametrize(
    ("cost", "searches", "expected"),
    [
        (lambda lanes: lanes, 64, 1),  # twice the lanes, twice the time
        (lambda lanes: 1.0, 64, 16),  # lanes cost nothing
        (lambda lanes: 1.0 if lanes < 8 else 3.0, 64, 4),
        (lambda lanes: 0.98**lanes * lanes, 64, 1),  # 2% is no reason
        (lambda lanes: 1.0, 4, 1),  # one on each device already
    ],
)
def test_auto_doubles_the_lanes_while_that_is_faster(memory, cost, searches, expected):
    decided = layouts.decide("auto", searches, 1, lambda layout: Work(layout, cost))
    assert decided[0].layout.per_device == expected


def test_auto_stops_where_memory_ends(memory):
    memory(4 * 30)
    decided = layouts.decide("auto", 64, 1, lambda layout: Work(layout, lambda _: 1.0))
    assert decided[0].layout.per_device == 2
    memory(1)
    with pytest.raises(ValueError, match="out of memory: 1 lane"):
        layouts.decide("auto", 64, 1, Work)


def test_an_earlier_layout_comes_again_on_other_devices():
    for there, expected in ((4, (4, 3)), (3, (3, 4)), (1, (1, 12))):
        layout = layouts.again({"lanes": 2, "width": 24}, Work, there).layout
        assert (layout.mesh.size, layout.turns) == expected
        assert (layout.per_device, layout.width) == (2, 24)


def test_every_process_has_as_many_devices_of_a_layout(memory, monkeypatch):
    monkeypatch.setattr(layouts.jax, "process_count", lambda: 2)
    for searches, expected in ((1, 2), (3, 4), (64, 4)):
        assert shape(layouts.decide(None, searches, 1, Work)) == (expected, 1, 1)
    memory(3 * 15)  # not for 4 devices, and 3 are of one process more than of another
    assert shape(layouts.decide(None, 64, 1, Work)) == (2, 1, 1)
    layout = layouts.again({"lanes": 1, "width": 6}, Work, 4).layout
    assert (layout.mesh.size, layout.turns) == (2, 3)


def test_processes_that_cannot_share_the_lanes_of_a_run_are_refused(monkeypatch):
    monkeypatch.setattr(layouts.jax, "process_count", lambda: 3)
    says = "3 processes cannot share the 4 searches .* 2 on a device: .* divide 2, or"
    with pytest.raises(ValueError, match=says):
        layouts.again({"lanes": 2, "width": 4}, Work, 3)


def test_a_run_is_laid_out_as_an_earlier_call_has_recorded_it(memory, capsys):
    recorded = {"lanes": 2, "width": 8}
    work = layouts.laid_out(None, 100, 1, recorded, Work, devices=DEVICES)
    assert shape([work]) == (DEVICES, 1, 2)
    assert not capsys.readouterr().err
    work = layouts.laid_out(3, 100, 2, None, Work, devices=DEVICES)
    assert shape([work]) == (DEVICES, 2, 3)
    assert capsys.readouterr().err.startswith("4 devices, 2 turns, 3 lanes on a device")
