"""The examples run, find tickets, and do what they say."""

import jax
import numpy as np
import pytest

import jaxticket as jt
from experiments.examples import own_engine, own_loop

pytestmark = pytest.mark.usefixtures("unoptimised")


def test_a_loop_of_ones_own_over_a_generator_of_batches():
    ticket, losses = own_loop.main()
    assert float(jt.masks.density(ticket.mask)) == 0.25
    assert losses[0] < 0.05
    assert all(np.isfinite(losses))


def test_a_run_of_many_seeds_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    whole = own_engine.main(tmp_path / "whole")
    assert whole["density"].shape == (9, 4)
    assert whole["density"][[2, 5, 8]].tolist() == [[1.0] * 4, [0.5] * 4, [0.25] * 4]
    assert (whole["error"][2] < whole["error"][0]).all()

    class Killed(Exception):
        pass

    calls = []
    save = jt.engine.checkpoint.Folder.save

    def saves_and_dies(self, step, state, config):
        save(self, step, state, config)
        calls.append(step)
        if len(calls) == 4:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(jt.engine.checkpoint.Folder, "save", saves_and_dies)
        with pytest.raises(Killed):
            own_engine.main(tmp_path / "killed", save_seconds=0)
    found = own_engine.main(tmp_path / "killed")
    for name, values in whole.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    like = jax.eval_shape(own_engine.ticket, jax.random.key(0))
    tickets = [
        jt.files.load_ticket(tmp_path / folder / "seed-3-round-2.npz", like)[0]
        for folder in ("whole", "killed")
    ]
    for one, other in zip(*map(jax.tree.leaves, tickets), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_run_whose_data_stream_is_one_in_memory(tmp_path):
    pytest.importorskip("grain")
    from experiments.examples import streaming  # it needs Grain

    ours, whole = (
        streaming.main(tmp_path / f"{in_memory}", in_memory=in_memory)
        for in_memory in (False, True)
    )
    assert whole["error"].shape == (6, 2)
    assert (whole["error"][2] < whole["error"][0]).all()
    for name, values in whole.items():
        np.testing.assert_array_equal(ours[name], values, err_msg=name)
