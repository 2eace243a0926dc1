"""Dropout by member: masks independent of other rows and of padding, with the rate and the mean of torch's dropout."""

import torch
from torch.nn import functional

from adaptdock.engine.training.members.member_dropout import DropoutSeed, MemberDropout


def masks(owners: list[int], length: int, step: int = 0, seeds: tuple[int, ...] = (1, 2)) -> MemberDropout:
    members = [DropoutSeed(seed, backbone=True) for seed in seeds]
    return MemberDropout(
        members, owners, (step, 0, 0), {"input_ids": torch.zeros(len(owners), length, dtype=torch.long)}
    )


def test_a_member_drops_beside_others_what_it_drops_alone() -> None:
    x = torch.ones(4, 9, 32)
    with masks([0, 1, 0, 1], 9):
        together = [functional.dropout(x, 0.3), functional.dropout(x.reshape(36, 32), 0.3)]
    with masks([0, 0], 6, seeds=(2,)):
        alone = [functional.dropout(x[:2, :6], 0.3), functional.dropout(x[:2, :6].reshape(12, 32), 0.3)]
    assert torch.equal(together[0][[1, 3], :6], alone[0])
    assert torch.equal(together[1].reshape(4, 9, 32)[[1, 3], :6], alone[1].reshape(2, 6, 32))
    assert not torch.equal(*together[:1], together[1].reshape(4, 9, 32))


def test_positions_in_front_of_a_text_do_not_move_its_mask() -> None:
    with masks([0, 0], 6, seeds=(2,)):
        plain = functional.dropout(torch.ones(2, 6, 32), 0.3)
    with masks([0, 0], 6, seeds=(2,)):
        prompted = functional.dropout(torch.ones(2, 9, 32), 0.3)
    assert torch.equal(prompted[:, 3:], plain)


def test_other_members_rows_are_spared_and_do_not_advance_the_masks() -> None:
    x = torch.ones(3, 5, 64)
    with masks([0, 1, 0], 5) as both:
        with both.of([0]):
            of_first = functional.dropout(x, 0.5)
        second = functional.dropout(x, 0.5)
    with masks([0], 5, seeds=(2,)):
        alone = functional.dropout(x[:1], 0.5)
    assert torch.equal(of_first[1], x[1])
    assert (of_first[[0, 2]] == 0).any()
    assert torch.equal(second[1], alone[0])


def test_the_rate_is_kept_and_the_mean_too_and_places_are_independent() -> None:
    with masks([0] * 64, 32, seeds=(3,)):
        out = functional.dropout(torch.ones(64, 32, 96), 0.25)
    assert set(out.unique().tolist()) == {0.0, float(torch.tensor(1.0) * torch.tensor(1 / 0.75))}
    assert abs(out.mean().item() - 1) < 0.005
    dropped = (out == 0).float()
    for axis in range(3):
        size = dropped.shape[axis]
        pair = dropped.narrow(axis, 1, size - 1).flatten(), dropped.narrow(axis, 0, size - 1).flatten()
        assert abs(torch.corrcoef(torch.stack(pair))[0, 1].item()) < 0.01


def test_steps_and_seeds_have_other_masks() -> None:
    x, drawn = torch.ones(1, 8, 64), []
    for step, seed in ((0, 1), (1, 1), (0, 2)):
        with masks([0], 8, step, seeds=(seed,)):
            drawn.append(functional.dropout(x, 0.5))
    agreement = [(drawn[0] == other).float().mean().item() for other in drawn[1:]]
    assert all(0.4 < share < 0.6 for share in agreement)


def test_attention_without_dropout_is_torch_s_and_with_it_has_masks_by_member() -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, 6, 8, generator=generator)
    key, value = torch.randn(2, 2, 2, 6, 8, generator=generator)
    mask = torch.ones(2, 1, 6, 6, dtype=torch.bool)
    mask[1, :, :, 4:] = False
    attention = functional.scaled_dot_product_attention
    for options in (
        {"is_causal": True},
        {"attn_mask": mask},
        {"attn_mask": torch.zeros(6, 6).masked_fill(~mask, -1e9)},
    ):
        expected = attention(query, key, value, enable_gqa=True, **options)  # type: ignore[arg-type]
        with masks([0, 1], 6):
            hardly = attention(query, key, value, enable_gqa=True, dropout_p=1e-9, **options)  # type: ignore[arg-type]
        torch.testing.assert_close(hardly, expected, atol=1e-5, rtol=0)
    with masks([0, 1], 6):
        together = attention(query, key, value, mask, 0.4, enable_gqa=True)
    with masks([0, 1], 6):
        dropped = attention(query, key, value, mask, dropout_p=0.4, enable_gqa=True)
    with masks([0], 4, seeds=(2,)):
        short = [tensor[1:, :, :4] for tensor in (query, key, value)]
        alone = attention(*short, dropout_p=0.4, enable_gqa=True)
    torch.testing.assert_close(dropped[1:, :, :4], alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(together, dropped)
