"""The table of a ticket's layers."""

import numpy as np
import pandas as pd
import toy

import jaxticket as jt


def test_rows_and_text():
    ticket = toy.ticket(lost=6)  # of 30 and of 24 weights
    found = jt.summary(ticket)
    table = pd.DataFrame(found.layers)
    assert [*table["name"]] == ["dense/kernel", "head/kernel"]
    assert [*table["kept"]] == [24, 18]
    np.testing.assert_allclose(table["density"], [0.8, 0.75])
    np.testing.assert_allclose(table["share"], [24 / 42, 18 / 42])
    assert found.others == 6 + 4
    assert str(found).splitlines() == [
        "layer         shape  weights  kept  density  share of kept",
        "dense/kernel    5x6       30    24   80.00%         57.14%",
        "head/kernel     6x4       24    18   75.00%         42.86%",
        "all                       54    42   77.78%",
        "10 other parameters, never pruned",
    ]


def test_a_ticket_that_keeps_nothing():
    ticket = toy.ticket(lost=30)
    found = jt.summary(ticket)
    assert [layer.kept for layer in found.layers] == [0, 0]
    assert [layer.share for layer in found.layers] == [0.0, 0.0]
    assert "0.00%" in str(found)
