"""Support for the tests of several rooms."""
