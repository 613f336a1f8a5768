"""Which GPU a thread uses."""

from __future__ import annotations

import pytest
import torch

from carousel_models import devices


@pytest.mark.parametrize(
    ("device", "used"),
    [("cpu", []), ("cuda", []), ("cuda:0", ["cuda:0"]), ("cuda:3", ["cuda:3"])],
)
def test_only_a_device_with_an_index_is_set(
    monkeypatch: pytest.MonkeyPatch, device: str, used: list[str]
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda one: seen.append(str(one)))
    devices.use(torch.device(device))
    assert seen == used
