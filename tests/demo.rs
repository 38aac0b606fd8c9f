//! `veilstream demo`, as a user runs it.
#![cfg(feature = "demo")]
#![allow(clippy::unwrap_used)]

use std::process::Command;

#[test]
fn the_demo_shows_everything_and_ends() {
    let output = Command::new(env!("CARGO_BIN_EXE_veilstream")).arg("demo").output().unwrap();
    let (out, err) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(0), "{out}{err}");
    for part in [
        "raw  ",
        "sanitized  ",
        "found  ",
        "revealed  ",
        "dead  ",
        "opened  ",
        "receipt  ",
        "erased  ",
    ] {
        assert!(out.lines().any(|line| line.starts_with(part)), "no {part:?} in {out}");
    }
    for line in out.lines().filter(|l| {
        ["sanitized", "dead", "receipt", "erased"].iter().any(|label| l.starts_with(label))
    }) {
        assert!(!line.contains("@example.com") && !line.contains("078-05-1120"), "{line}");
    }
    assert!(!out.contains('\x1b'), "colour, though this is no terminal");
}
