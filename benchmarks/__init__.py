"""The benchmarks: how much CPU time and memory stargate and its peers need for the same work."""
