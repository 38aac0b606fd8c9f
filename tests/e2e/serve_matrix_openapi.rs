//! The interface as its document says it: schemathesis asks the running service what the document
//! allows, and what it does not.

use std::process::Command;

use crate::instance::{Instance, Setup, shipped};
use crate::serve_matrix_roles::seed;

/// Requests of each kind and path.
const EXAMPLES: &str = "60";

#[test]
fn schemathesis_finds_nothing() {
    let program = shipped("target/schemathesis/bin/schemathesis");
    assert!(program.exists(), "no schemathesis in target; run `make setup`");
    let serve = "insecure = true\nitems_per_second = 10000000\n";
    let instance = Instance::of(&Setup { serve, ..Setup::default() });
    let (_, key) = instance.make_key("desk");
    let mut running = instance.start();
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(program)
        .current_dir(folder.path())
        .env("SCHEMATHESIS_HOOKS", shipped("tests/support/schemathesis_hooks.py"))
        .args(["run", &format!("http://{}/openapi.json", running.address)])
        .args(["--header", &format!("Authorization: Bearer {key}")])
        .args(["--checks", "all", "--max-examples", EXAMPLES, "--seed", &seed().to_string()])
        .args(["--workers", "1", "--no-color", "--continue-on-failure"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(running.stop(), 0);
    assert!(!running.log().contains("a request failed"), "{}", running.log());
    assert!(instance.verify().status.success());
}
