//! A process that is given its standard input whole.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

/// Runs a command to its end. It may end without reading its input, or write more than a pipe holds
/// before it reads all of it.
pub(crate) fn feed(mut command: Command, input: impl AsRef<[u8]>) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.as_ref().to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    let _ = writer.join().unwrap();
    output
}
