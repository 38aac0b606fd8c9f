//! What docker-compose.yml says, with folders of a sandbox instead of the containers'.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::ports::free_port;

/// `lib` stands for the volume of veilstream's containers, `etc` for what they mount.
pub(crate) struct Containers {
    dir: tempfile::TempDir,
    compose: String,
}

impl Containers {
    /// With what these services mount of this repository.
    pub(crate) fn new(services: &[&str]) -> Self {
        let compose = fs::read_to_string(root().join("docker-compose.yml")).unwrap();
        let dir = tempfile::tempdir().unwrap();
        for name in ["lib", "etc", "bin", "work"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let containers = Self { dir, compose };
        for name in services {
            containers.mount(containers.service(name));
        }
        containers
    }

    /// A path in the sandbox.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A text with the folders of the sandbox instead of the containers'.
    pub(crate) fn here(&self, text: &str) -> String {
        let of = |name: &str| self.path(name).display().to_string();
        text.replace("/var/lib/veilstream", &of("lib")).replace("/etc/veilstream", &of("etc"))
    }

    /// The lines of a service.
    pub(crate) fn service(&self, name: &str) -> &str {
        let (_, rest) = self.compose.split_once(&format!("\n  {name}:\n")).unwrap();
        let end = rest
            .match_indices("\n  ")
            .map(|(at, _)| at)
            .find(|at| !rest[at + 3..].starts_with([' ', '#']))
            .or_else(|| rest.find("\nvolumes:"));
        &rest[..end.unwrap_or(rest.len())]
    }

    /// The words of `command` or `entrypoint` of a service, with folders of the sandbox.
    pub(crate) fn words(&self, service: &str, name: &str) -> String {
        let mut lines = self.service(service).lines();
        let line = lines.find_map(|line| line.trim().strip_prefix(&format!("{name}: "))).unwrap();
        let words: Vec<String> = serde_json::from_str(line).unwrap();
        self.here(&words.join(" "))
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

    /// Gives the processes ports that are free here, and tells curl the one of `serve`.
    pub(crate) fn listen(&self) {
        let config = self.path("etc/veilstream.toml");
        let port = free_port();
        let text = fs::read_to_string(&config).unwrap();
        assert!(text.contains("\"0.0.0.0:8788\"") && text.contains("\"0.0.0.0:8787\""));
        let text = text
            .replace("0.0.0.0:8788", &format!("127.0.0.1:{port}"))
            .replace("0.0.0.0:8787", "127.0.0.1:0");
        fs::write(&config, self.here(&text)).unwrap();
        let published = self.service("serve").contains("\"127.0.0.1:8788:8788\"");
        assert!(published, "the documents ask this port");
        let curl = format!("connect-to = \"localhost:8788:127.0.0.1:{port}\"\n");
        fs::write(self.path("work/.curlrc"), curl).unwrap();
    }

    /// What stands for `docker` in scripts.
    pub(crate) fn docker(&self, script: &str) {
        let docker = self.path("bin/docker");
        fs::write(&docker, script).unwrap();
        assert!(Command::new("chmod").arg("+x").arg(docker).status().unwrap().success());
    }

    /// Bash with a script in the folder `work`: `docker` and the built binary are found, and what
    /// `keys` and `serve` run.
    pub(crate) fn bash(&self, script: &str) -> Command {
        let binary = Path::new(env!("CARGO_BIN_EXE_veilstream")).parent().unwrap();
        let (bin, path) = (self.path("bin"), std::env::var("PATH").unwrap());
        let mut command = Command::new("bash");
        command
            .args(["-euo", "pipefail", "-c", script])
            .current_dir(self.path("work"))
            .env("PATH", format!("{}:{}:{path}", bin.display(), binary.display()))
            .env("CURL_HOME", self.path("work"))
            .env("SANDBOX", self.dir.path())
            .env("LIB", self.path("lib"))
            .env("ETC", self.path("etc"))
            .env("KEYS_COMMAND", self.words("keys", "entrypoint"))
            .env("SERVE_COMMAND", self.words("serve", "command"))
            .env_remove("VEILSTREAM_KEYS");
        command
    }
}

impl Drop for Containers {
    /// Ends what scripts started and wrote down in `pids`.
    fn drop(&mut self) {
        for pid in fs::read_to_string(self.path("pids")).unwrap_or_default().lines() {
            let _ = Command::new("kill").arg(pid).status();
        }
    }
}

/// The scripts of a document that stand behind `<!-- run: NAME -->`, with their names.
pub(crate) fn scripts(document: &str) -> Vec<(String, String)> {
    let text = fs::read_to_string(root().join(document)).unwrap();
    let marked = text.split("<!-- run: ").skip(1).map(|rest| {
        let (head, rest) = rest.split_once(" -->\n```sh\n").unwrap();
        let name = head.split_once(", after: ").map_or(head, |(name, _)| name);
        (name.to_owned(), rest.split_once("```").unwrap().0.to_owned())
    });
    marked.collect()
}

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
