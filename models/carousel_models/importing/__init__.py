"""Reads models of other libraries from their files, and writes them as packages.

`readers.READERS` lists the kinds of files. A reader is a function of a path that gives an `Imported`: parts
of a manifest and tensors. It runs none of the file's code.
"""

from __future__ import annotations

from .files import import_file
from .imported import Imported, NoOriginalError
from .readers import READERS, Reader

__all__ = ["READERS", "Imported", "NoOriginalError", "Reader", "import_file"]
