"""The GPU that a thread uses."""

from __future__ import annotations

import torch


def use(device: torch.device) -> None:
    """Makes a GPU the current one of this thread. Nothing happens for a device without an index.

    Streams, graphs and Triton's programs run on the current GPU, whatever the GPU of their tensors is.
    """
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
