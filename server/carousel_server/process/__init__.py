"""The server as a process: settings, assembly, front ends, health watch, logs."""
