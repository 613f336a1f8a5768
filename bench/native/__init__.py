"""The echo in C++ (N2): its source, and how it becomes a program where Debian's toolchain is there."""

from .compiling import NativeEchoError, compiled, missing, program

__all__ = ["NativeEchoError", "compiled", "missing", "program"]
