//! Programs the redirect rules of a network namespace.

fn main() {}
