//! Blocks of docs/operations.md that need a running service, run as they stand there but for the
//! names that a test has of its own.

use std::path::Path;
use std::process::Command;

/// What the block after `<!-- served: NAME -->` prints in a folder. `named`: texts of the block, and
/// what they are here.
pub(crate) fn served(name: &str, folder: &Path, named: &[(&str, &str)]) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
    let text = std::fs::read_to_string(file).unwrap();
    let (_, rest) = text.split_once(&format!("<!-- served: {name} -->\n")).unwrap();
    let (_, script) = rest.split_once("```sh\n").unwrap();
    let (script, _) = script.split_once("```").unwrap();
    let here = |script: String, (there, here): &(&str, &str)| {
        assert!(script.contains(there), "{name} has no {there}: {script}");
        script.replace(there, here)
    };
    let script = named.iter().fold(script.to_owned(), here);
    let binary = Path::new(env!("CARGO_BIN_EXE_veilstream")).parent().unwrap();
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap());
    let mut bash = Command::new("bash");
    bash.args(["-euo", "pipefail", "-c", &script]).current_dir(folder).env("PATH", path);
    let output = bash.env_remove("VEILSTREAM_KEYS").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{name}: {said}{}", String::from_utf8_lossy(&output.stderr));
    said
}
