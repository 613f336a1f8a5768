"""The Triton door: NVIDIA Triton's gRPC protocol, in front of the same sessions as carousel.v1.

A Triton sequence is a session: opened by its START, stepped by its requests, closed by its END.
"""

from .methods import TritonMethods
from .service import SERVICE, triton_handler

__all__ = ["SERVICE", "TritonMethods", "triton_handler"]
