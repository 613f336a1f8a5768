"""Benchmarks: what Carousel costs, beside its bounds, in one run.

`python -m bench` measures everything and writes one JSON file with the machine's facts. Each figure is
taken several times, alternately with the others, so that a noisy minute hits all of them; a figure is
the median of its rounds, with the smallest and the largest beside it. Nothing here is a test: a slow
machine is no failure.
"""
