//! A real OAuth server (oidc-provider), as long as the test process lives.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use crate::kafka::{free_ports, wait_for};

/// Kills the server at the end of its input, that is whenever and however the test process ends.
const SUPERVISOR: &str = r#"trap : INT TERM HUP
node "$1/issuer.mjs" > "$2" 2>&1 < /dev/null &
server=$!
read -r _
kill -KILL "$server"
rm -f "$2""#;

/// The secret of its one client, `veilstream`.
pub(crate) const SECRET: &str = "canary-client-secret";
pub(crate) const AUDIENCE: &str = "urn:kafka";

pub(crate) struct Issuer {
    pub(crate) url: String,
    log: PathBuf,
    _supervisor: (Child, ChildStdin),
}

impl Issuer {
    /// Its tokens live so many seconds.
    pub(crate) fn start(lifetime: u32) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/oidc");
        assert!(folder.join("node_modules").is_dir(), "no OAuth server in {}: run `make setup`", folder.display());
        let port = free_ports(1)[0].to_string();
        let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("issuer-{}.log", std::process::id()));
        let mut supervisor = Command::new("sh")
            .args(["-c", SUPERVISOR, "sh"])
            .args([&folder, &log])
            .envs([("PORT", &*port), ("AUDIENCE", AUDIENCE), ("CLIENT_SECRET", SECRET), ("TTL", &lifetime.to_string())])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stdin = supervisor.stdin.take().unwrap();
        let issuer = Self { url: format!("http://127.0.0.1:{port}"), log, _supervisor: (supervisor, stdin) };
        wait_for(Duration::from_secs(30), "the OAuth server", || issuer.lines("listens") == 1);
        issuer
    }

    /// How many tokens it has made.
    pub(crate) fn tokens(&self) -> usize {
        self.lines("token")
    }

    fn lines(&self, line: &str) -> usize {
        fs::read_to_string(&self.log).unwrap_or_default().lines().filter(|l| *l == line).count()
    }
}
