"""Examples: all cases are counted, and the first different ones are shown."""

from adaptdock.tasks.common.examples import Examples


def test_the_first_different_cases_are_shown_and_all_are_counted() -> None:
    few = Examples(["a:1", "a:1", "a:2"], most=2)
    assert (few.count, few.different, str(few), few.with_rest()) == (3, 2, "a:1, a:2", "a:1, a:2")
    many = Examples((f"a:{number}" for number in range(9)), most=2)
    assert (many.count, str(many), many.with_rest()) == (9, "a:0, a:1, ...", "a:0, a:1 and 7 more")
    assert not Examples()
