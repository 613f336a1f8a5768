"""A deterministic simulation of clients, network, servers and store; see README of the folder: `runner`."""
