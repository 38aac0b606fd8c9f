//! The `veilstream` binary.
fn main() {}
