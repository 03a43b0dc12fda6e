//! Redirect rules of a network namespace: what takes a workload's traffic to its proxy.
