from __future__ import annotations

import pytest
import torch
from torch import nn

from carousel_models.cells import GRUResetBefore


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_it_is_shaped_and_named_as_torchs_gru(bias: bool, bidirectional: bool) -> None:
    ours = GRUResetBefore(3, 4, 2, bias=bias, bidirectional=bidirectional)
    torchs = nn.GRU(3, 4, 2, bias=bias, bidirectional=bidirectional)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: v.shape for k, v in torchs.state_dict().items()
    }
    x = torch.randn(5, 2, 3)
    for found, wanted in zip(ours(x), torchs(x), strict=True):
        assert found.shape == wanted.shape


def test_without_a_reset_gate_both_forms_agree() -> None:
    """With r = 1 and the update gate mirrored (torch's z is the textbook's 1−z) they are one equation."""
    torch.manual_seed(0)
    torchs = nn.GRU(3, 4)
    ours = GRUResetBefore(3, 4)
    with torch.no_grad():
        torchs.get_parameter("bias_ih_l0")[:4] = 1e4
    mirrored = {name: value.clone() for name, value in torchs.state_dict().items()}
    for value in mirrored.values():
        value[4:8] *= -1
    ours.load_state_dict(mirrored)
    x = torch.randn(6, 2, 3)
    torch.testing.assert_close(ours(x)[0], torchs(x)[0])


def test_state_carries_on_and_batch_first_only_swaps_axes() -> None:
    torch.manual_seed(0)
    module = GRUResetBefore(3, 4, 2)
    x = torch.randn(6, 2, 3)
    y, end = module(x)
    _, middle = module(x[:4])
    torch.testing.assert_close(module(x[4:], middle), (y[4:], end))
    first = GRUResetBefore(3, 4, 2, batch_first=True)
    first.load_state_dict(module.state_dict())
    torch.testing.assert_close(first(x.transpose(0, 1))[0].transpose(0, 1), y)


def test_it_learns() -> None:
    """Remembering the first input for five steps: the loss falls by more than half."""
    torch.manual_seed(0)
    module, head = GRUResetBefore(1, 8), nn.Linear(8, 1)
    optimizer = torch.optim.Adam([*module.parameters(), *head.parameters()], 0.02)
    x = torch.randn(5, 64, 1)
    losses = []
    for _ in range(60):
        loss = (head(module(x)[0][-1]) - x[0]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
