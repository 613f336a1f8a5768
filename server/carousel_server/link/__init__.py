"""The link between front ends and engines, where they are processes of their own.

A front end is the wire in a process without engines; this room stands between the two, behind the same
ports (`core.ports`), so that neither side knows. `front` is the wire's end of a link, `back` the engines'.
"""

from .back import Back
from .front import Front
from .pipe import Pipe, connect

__all__ = ["Back", "Front", "Pipe", "connect"]
