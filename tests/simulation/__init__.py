"""A deterministic simulation: real clients and servers on a simulated network, clock, disk and scheduler.

One seed is one schedule: world.py turns it, faults.py spoils it, oracle.py judges it, runner.py runs many.
"""
