"""The client for threads: gRPC's blocking API, and one reader thread per stream."""
