"""Stubs of carousel.v1, made by protos/generate.py."""
