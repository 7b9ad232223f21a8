"""Work on several items at once."""

import threading
import time

import pytest
import torch

from glvid import parallel
from glvid.parallel import each


def test_results_come_in_order():
    def slow(k):
        time.sleep(0.01 * (k % 3))
        return k

    assert list(each(slow, range(20))) == list(range(20))
    assert list(each(slow, [])) == []


def test_items_are_taken_as_they_are_needed(monkeypatch):
    monkeypatch.setattr(parallel, "cores", lambda: 2)
    taken = []

    def items():
        for k in range(50):
            taken.append((k, threading.get_ident()))
            yield k

    results = each(lambda k: k, items())
    assert next(results) == 0
    assert len(taken) <= 4 and {who for _, who in taken} == {threading.get_ident()}
    results.close()


def test_what_the_work_raises_is_raised():
    def bad(k):
        if k == 3:
            raise OSError("disk full")
        return k

    with pytest.raises(OSError, match="disk full"):
        list(each(bad, range(10)))


def test_threads_of_the_caller_stay():
    before = torch.get_num_threads()
    assert set(each(lambda k: torch.get_num_threads(), range(8))) == {1}
    assert torch.get_num_threads() == before
