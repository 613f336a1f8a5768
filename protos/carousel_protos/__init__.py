"""What both sides share: the protocol's stubs, the error registry and the tensor codec."""
