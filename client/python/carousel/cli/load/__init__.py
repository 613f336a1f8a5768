"""The load of `carousel bench`: streams at their own pace, and the latency of each step."""
