//! The first steps of docs/reading.md, run as they stand there, with the files and settings of
//! `docker-compose.yml`. A script stands for `docker compose`: it runs the built binary, in folders
//! that stand for the containers'.

#![allow(clippy::unwrap_used, reason = "a test ends here")]

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

/// `up` runs what `keys` and `serve` run; `exec` runs in the folder of the volume; `cp` copies from
/// it. Paths of the containers are those of the sandbox.
const DOCKER: &str = r#"#!/bin/bash
set -eu
[ "$1" = compose ]; shift
here() { local text=${1//\/var\/lib\/veilstream/$LIB}; echo "${text//\/etc\/veilstream/$ETC}"; }
case $1 in
  up) cd "$LIB"; bash -eu -c "$KEYS_COMMAND"
      bash -c "exec veilstream $SERVE_COMMAND" 2> "$SANDBOX/serve.log" > /dev/null & echo $! > "$SANDBOX/pid" ;;
  exec) [ "$2 $3" = "-T serve" ]; shift 3; words=(); for word; do words+=("$(here "$word")"); done
      cd "$LIB"; exec "${words[@]}" ;;
  cp) cp "$(here "${2#serve:}")" "$3" ;;
  *) echo "docker compose $1 is not known here" >&2; exit 1 ;;
esac
"#;

struct Sandbox {
    dir: tempfile::TempDir,
    compose: String,
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Ok(pid) = fs::read_to_string(self.dir.path().join("pid")) {
            let _ = Command::new("kill").arg(pid.trim()).status();
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The lines of a service of docker-compose.yml.
fn service<'c>(compose: &'c str, name: &str) -> &'c str {
    let (_, rest) = compose.split_once(&format!("\n  {name}:\n")).unwrap();
    let end = rest
        .match_indices("\n  ")
        .map(|(at, _)| at)
        .find(|at| !rest[at + 3..].starts_with([' ', '#']))
        .or_else(|| rest.find("\nvolumes:"));
    &rest[..end.unwrap_or(rest.len())]
}

/// The words of `command:` or `entrypoint:`.
fn words(service: &str, name: &str) -> Vec<String> {
    let line = service.lines().find_map(|line| line.trim().strip_prefix(&format!("{name}: ")));
    serde_json::from_str(line.unwrap()).unwrap()
}

impl Sandbox {
    fn new() -> Self {
        let compose = fs::read_to_string(root().join("docker-compose.yml")).unwrap();
        let dir = tempfile::tempdir().unwrap();
        for name in ["lib", "etc", "bin", "work"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let sandbox = Self { dir, compose };
        for name in ["keys", "serve"] {
            sandbox.mount(service(&sandbox.compose, name));
        }
        // The container has its own ports; here others may have them.
        let config = sandbox.path("etc/veilstream.toml");
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let text = fs::read_to_string(&config).unwrap();
        assert!(text.contains("\"0.0.0.0:8788\"") && text.contains("\"0.0.0.0:8787\""));
        let text = text
            .replace("0.0.0.0:8788", &format!("127.0.0.1:{port}"))
            .replace("0.0.0.0:8787", "127.0.0.1:0");
        fs::write(&config, sandbox.here(&text)).unwrap();
        let published = service(&sandbox.compose, "serve").contains("\"127.0.0.1:8788:8788\"");
        assert!(published, "docs/reading.md asks this port");
        let curl = format!("connect-to = \"localhost:8788:127.0.0.1:{port}\"\n");
        fs::write(sandbox.path("work/.curlrc"), curl).unwrap();
        let docker = sandbox.path("bin/docker");
        fs::write(&docker, DOCKER).unwrap();
        assert!(Command::new("chmod").arg("+x").arg(docker).status().unwrap().success());
        sandbox
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A text with the folders of the sandbox instead of the containers'.
    fn here(&self, text: &str) -> String {
        let of = |name: &str| self.path(name).display().to_string();
        text.replace("/var/lib/veilstream", &of("lib")).replace("/etc/veilstream", &of("etc"))
    }

    /// Copies what a service mounts of this repository.
    fn mount(&self, service: &str) {
        for line in service.lines().filter_map(|line| line.trim().strip_prefix("- ./")) {
            let (from, to) = line.trim_end_matches(":ro").split_once(':').unwrap();
            let to = PathBuf::from(self.here(to));
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            let copied =
                Command::new("cp").arg("-rT").arg(root().join(from)).arg(to).status().unwrap();
            assert!(copied.success(), "{from}");
        }
    }

    fn run(&self, name: &str, script: &str) -> String {
        let binary = Path::new(env!("CARGO_BIN_EXE_veilstream")).parent().unwrap();
        let (bin, path) = (self.path("bin"), std::env::var("PATH").unwrap());
        let keys = self.here(&words(service(&self.compose, "keys"), "entrypoint").join(" "));
        let serve = self.here(&words(service(&self.compose, "serve"), "command").join(" "));
        let output = Command::new("bash")
            .args(["-euo", "pipefail", "-c", script])
            .current_dir(self.path("work"))
            .env("PATH", format!("{}:{}:{path}", bin.display(), binary.display()))
            .env("CURL_HOME", self.path("work"))
            .env("SANDBOX", self.dir.path())
            .env("LIB", self.path("lib"))
            .env("ETC", self.path("etc"))
            .env("KEYS_COMMAND", keys)
            .env("SERVE_COMMAND", serve)
            .env_remove("VEILSTREAM_KEYS")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let log = fs::read_to_string(self.path("serve.log")).unwrap_or_default();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {said}\n{errors}\n{log}");
        said
    }
}

#[test]
fn the_first_steps_work_as_they_stand() {
    let text = fs::read_to_string(root().join("docs/reading.md")).unwrap();
    let sandbox = Sandbox::new();
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
    let mut books = text.split("<!-- run: ").skip(1).map(|rest| {
        let (head, rest) = rest.split_once(" -->\n```sh\n").unwrap();
        let name = head.split_once(", after: ").map_or(head, |(name, _)| name);
        (name, rest.split_once("```").unwrap().0)
    });
    for (name, parts) in expected {
        let (named, script) = books.next().unwrap();
        assert_eq!(named, name);
        let said = sandbox.run(name, script);
        for part in parts {
            assert!(said.contains(part), "{name} does not say {part:?}:\n{said}");
        }
    }
    assert!(books.next().is_none());
}

/// The sidecar's container mounts the same configuration, and no policies.
#[test]
fn the_sidecar_starts_with_the_same_configuration() {
    let sandbox = Sandbox::new();
    let etc = sandbox.path("etc");
    fs::remove_dir_all(etc.join("policies")).unwrap();
    sandbox.run("setup", "cd \"$LIB\"; bash -eu -c \"$KEYS_COMMAND\"");
    let said = sandbox.run("check", "veilstream check --config \"$ETC/veilstream.toml\" 2>&1");
    assert!(said.contains("ok") || said.is_empty(), "{said}");
    // A second start finds everything, and changes nothing.
    let before = fs::read(sandbox.path("lib/tls/server.pem")).unwrap();
    sandbox.run("setup again", "cd \"$LIB\"; bash -eu -c \"$KEYS_COMMAND\"");
    assert_eq!(fs::read(sandbox.path("lib/tls/server.pem")).unwrap(), before);
}
