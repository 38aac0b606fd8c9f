//! The first steps of docs/reading.md, run as they stand there, with the files and settings of
//! `docker-compose.yml`. A script stands for `docker compose`: it runs the built binary, in folders
//! that stand for the containers'.

#![allow(clippy::unwrap_used, reason = "a test ends here")]

#[path = "support/compose.rs"]
mod compose;
#[path = "../keys/tests/support/ports.rs"]
mod ports;

use std::fs;

use compose::{Containers, scripts};

/// `up` runs what `keys` and `serve` run; `exec` runs in the folder of the volume; `cp` copies from
/// it. Paths of the containers are those of the sandbox.
const DOCKER: &str = r#"#!/bin/bash
set -eu
[ "$1" = compose ]; shift
here() { local text=${1//\/var\/lib\/veilstream/$LIB}; echo "${text//\/etc\/veilstream/$ETC}"; }
case $1 in
  up) cd "$LIB"; bash -eu -c "$KEYS_COMMAND"
      bash -c "exec veilstream $SERVE_COMMAND" 2> "$SANDBOX/serve.log" > /dev/null & echo $! >> "$SANDBOX/pids" ;;
  exec) [ "$2 $3" = "-T serve" ]; shift 3; words=(); for word; do words+=("$(here "$word")"); done
      cd "$LIB"; exec "${words[@]}" ;;
  cp) cp "$(here "${2#serve:}")" "$3" ;;
  *) echo "docker compose $1 is not known here" >&2; exit 1 ;;
esac
"#;

fn sandbox() -> Containers {
    let sandbox = Containers::new(&["keys", "serve"]);
    sandbox.listen();
    sandbox.docker(DOCKER);
    sandbox
}

fn run(sandbox: &Containers, name: &str, script: &str) -> String {
    let output = sandbox.bash(script).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let log = fs::read_to_string(sandbox.path("serve.log")).unwrap_or_default();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {said}\n{errors}\n{log}");
    said
}

#[test]
fn the_first_steps_work_as_they_stand() {
    let sandbox = sandbox();
    // In the order of the document; what each must show.
    let expected: [(&str, &[&str]); 6] = [
        ("first-field", &[]),
        ("first-record", &["\"email\":\"vs1.", "\"phone\":\"vs1."]),
        (
            "first-answer",
            &[
                "\"phone\":\"********0101\"",
                "\"email\":null",
                "\"email\":{\"status\":\"denied\"}",
                "\"phone\":{\"status\":\"masked\"}",
            ],
        ),
        ("first-search", &["\"values\":[\"1~", "\"recheck\":true"]),
        ("first-value", &["\"email\":\"ada@example.com\"", "\"phone\":\"+1 415 555 0101\""]),
        ("first-audit", &["\"actor\":\"key:me\"", "\"reason\":\"case 17\"", "the log is whole"]),
    ];
    let mut books = scripts("docs/reading.md").into_iter();
    for (name, parts) in expected {
        let (named, script) = books.next().unwrap();
        assert_eq!(named, name);
        let said = run(&sandbox, name, &script);
        for part in parts {
            assert!(said.contains(part), "{name} does not say {part:?}:\n{said}");
        }
    }
    assert!(books.next().is_none());
}

/// The sidecar's container mounts the same configuration, and no policies.
#[test]
fn the_sidecar_starts_with_the_same_configuration() {
    let sandbox = sandbox();
    let etc = sandbox.path("etc");
    fs::remove_dir_all(etc.join("policies")).unwrap();
    run(&sandbox, "setup", "cd \"$LIB\"; bash -eu -c \"$KEYS_COMMAND\"");
    let said = run(&sandbox, "check", "veilstream check --config \"$ETC/veilstream.toml\" 2>&1");
    assert!(said.contains("ok") || said.is_empty(), "{said}");
    // A second start finds everything, and changes nothing.
    let before = fs::read(sandbox.path("lib/tls/server.pem")).unwrap();
    run(&sandbox, "setup again", "cd \"$LIB\"; bash -eu -c \"$KEYS_COMMAND\"");
    assert_eq!(fs::read(sandbox.path("lib/tls/server.pem")).unwrap(), before);
}
