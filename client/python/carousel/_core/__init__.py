"""What both clients decide alike, without I/O: events and answers in, messages and results out.

No grpc, no threads, no event loop, no clock. The clients around it only move messages and wait.
"""
