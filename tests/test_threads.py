import pytest

from common.threads import in_threads


def test_results_come_in_the_order_of_the_items():
    assert list(in_threads(lambda item: item * item, range(100), "squaring", at_once=7)) == [i * i for i in range(100)]
    assert list(in_threads(str, [], "nothing")) == []


def test_no_more_items_are_begun_than_may_be_in_memory_together():
    begun = []
    results = in_threads(begun.append, range(10_000), "reading", at_once=16)
    for taken in range(40):
        next(results)
        assert len(begun) <= 16 * (taken // 16 + 1)
    results.close()


def test_an_error_ends_the_reading():
    def fail(item):
        if item == 20:
            raise ValueError("20")
        return item

    with pytest.raises(ValueError, match="20"):
        list(in_threads(fail, range(1000), "reading", at_once=8))
