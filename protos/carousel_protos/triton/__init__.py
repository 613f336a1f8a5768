"""The part of Triton's protocol that the server's door speaks; see inference.proto."""
