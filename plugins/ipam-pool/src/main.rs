//! The program `ipam-pool`.

fn main() {}
