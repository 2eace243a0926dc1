"""Virtual embeddings stand directly before each row's text, whatever the other rows have."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from adaptdock.plugins.contracts import Virtual
from adaptdock.plugins.toolkit.virtual_tokens import lay_out, positions

FRONT, TEXT = 4, 5
ROW = st.tuples(
    st.lists(st.booleans(), min_size=FRONT, max_size=FRONT),
    st.integers(0, TEXT - 1),  # padding on the left
    st.integers(1, TEXT),  # tokens, as far as there is room
)


@given(st.lists(ROW, min_size=1, max_size=3), st.booleans())
def test_each_row_is_padding_then_what_is_in_front_then_the_text(rows, counted) -> None:
    there = torch.tensor([front for front, _, _ in rows]).float()
    mask = torch.tensor([[int(left <= n < left + size) for n in range(TEXT)] for _, left, size in rows])
    own = torch.arange(100.0, 100 + TEXT).expand(len(rows), TEXT).unsqueeze(-1)
    ahead = torch.arange(1.0, 1 + FRONT).expand(len(rows), FRONT).unsqueeze(-1)
    virtual = Virtual(ahead, there)
    found = lay_out({"attention_mask": mask, "token_type_ids": torch.ones_like(mask)}, own, virtual)
    numbers = positions(virtual, found["attention_mask"], counted)
    for row, (front, left, size) in enumerate(rows):
        tokens = min(size, TEXT - left)
        start, kept = FRONT + left, sum(front)
        seen = found["attention_mask"][row].bool()
        assert seen.tolist() == [start - kept <= place < start + tokens for place in range(FRONT + TEXT)]
        values = found["inputs_embeds"][row, seen, 0].tolist()
        assert values[:kept] == [1.0 + n for n in range(FRONT) if front[n]]
        assert values[kept:] == [100.0 + left + n for n in range(tokens)]
        assert found["token_type_ids"][row, seen].tolist() == [0] * kept + [1] * tokens
        first = 0 if counted else left
        assert numbers[row, seen].tolist() == list(range(first, first + kept + tokens))
