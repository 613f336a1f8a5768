"""Runs a whole file through a bidirectional model: the lexical class of each byte of a Python program.

python examples/tag_file.py [host:port [file]]
"""

from __future__ import annotations

import sys
from itertools import groupby
from pathlib import Path

import carousel


def main(target: str, path: str = __file__) -> None:
    source = Path(path).read_bytes()
    with carousel.Client(target) as client:
        model = client.model("pytag-bilstm")
        labels = client.infer("pytag-bilstm", source)
        names = model.label_names(labels)
        for name, group in groupby(zip(names, source, strict=True), key=lambda pair: pair[0]):
            text = bytes(byte for _, byte in group).decode(errors="replace")
            if text.strip():
                print(f"{name:>12}  {text!r}")


if __name__ == "__main__":
    main(*(sys.argv[1:3] or ["localhost:50051"]))
