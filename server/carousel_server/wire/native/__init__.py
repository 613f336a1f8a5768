"""The native transport: HTTP/2 and gRPC ended by a thread in C++, in the place of grpc.aio's server."""
