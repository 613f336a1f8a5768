"""Sends one step to every causal model of a server. test_image.sh runs it inside the image."""

from __future__ import annotations

import sys

import numpy as np

import carousel


def main(target: str) -> None:
    """Opens a session of each model and advances it by one row of zeros."""
    with carousel.Client(target) as client:
        for model in (model for model in client.models() if model.causal):
            row = np.zeros(model.input.shape, np.int32 if model.vocabulary else np.float32)
            with client.session(model.name) as session:
                output = session.step(row)
            sys.stdout.write(f"{model.name}: step 1 answered: {output!s:.60}\n")


main(sys.argv[1])
