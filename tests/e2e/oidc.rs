//! A real OAuth server (oidc-provider), as long as the test process lives.

use std::path::Path;
use std::time::Duration;

use crate::kafka::wait_for;
use crate::ports::free_port;
use crate::servers::Process;

/// The secret of its one client, `veilstream`.
pub(crate) const SECRET: &str = "canary-client-secret";
pub(crate) const AUDIENCE: &str = "urn:kafka";

pub(crate) struct Issuer {
    pub(crate) url: String,
    process: Process,
}

impl Issuer {
    /// Its tokens live so many seconds.
    pub(crate) fn start(lifetime: u32) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/oidc");
        assert!(
            folder.join("node_modules").is_dir(),
            "no OAuth server in {}: run `make setup`",
            folder.display()
        );
        let (port, script) = (free_port().to_string(), folder.join("issuer.mjs"));
        let settings = [
            ("PORT", &*port),
            ("AUDIENCE", AUDIENCE),
            ("CLIENT_SECRET", SECRET),
            ("TTL", &lifetime.to_string()),
        ];
        let process =
            Process::start("issuer", Path::new("node"), &[script.to_str().unwrap()], &settings);
        let issuer = Self { url: format!("http://127.0.0.1:{port}"), process };
        wait_for(Duration::from_secs(30), "the OAuth server", || issuer.lines("listens") == 1);
        issuer
    }

    /// How many tokens it has made.
    pub(crate) fn tokens(&self) -> usize {
        self.lines("token")
    }

    fn lines(&self, line: &str) -> usize {
        self.process.log().lines().filter(|l| *l == line).count()
    }
}
