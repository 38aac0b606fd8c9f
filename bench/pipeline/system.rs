//! The systems beside each other: how each is started, as a process of its own.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::kafka;
use crate::workload::{OUT, PARTITIONS, RAW, SCHEMA};

/// Lanes of every system.
pub(crate) const LANES: usize = 2;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum System {
    Copier,
    SealingCopier,
    JavaCopier,
    Sidecar,
    /// Another build of it.
    OtherSidecar,
    RustByHand,
    PythonByHand,
}

impl System {
    pub(crate) const ALL: [Self; 7] = [
        Self::Copier,
        Self::SealingCopier,
        Self::JavaCopier,
        Self::Sidecar,
        Self::OtherSidecar,
        Self::RustByHand,
        Self::PythonByHand,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Copier => "copier",
            Self::SealingCopier => "sealing copier",
            Self::JavaCopier => "Java copier",
            Self::Sidecar => "veilstream run",
            Self::OtherSidecar => "other veilstream run",
            Self::RustByHand => "Rust by hand",
            Self::PythonByHand => "Python by hand",
        }
    }

    /// It protects nothing.
    pub(crate) fn copies(self) -> bool {
        matches!(self, Self::Copier | Self::JavaCopier)
    }

    /// It makes its topics itself.
    pub(crate) fn is_sidecar(self) -> bool {
        matches!(self, Self::Sidecar | Self::OtherSidecar)
    }

    /// Its part of the records: a slow system needs fewer for the same time.
    pub(crate) fn share(self, records: u64) -> u64 {
        if matches!(self, Self::RustByHand | Self::PythonByHand) { records / 5 } else { records }
    }
}

/// Where everything of one benchmark is.
pub(crate) struct Bench {
    pub(crate) bootstrap: String,
    pub(crate) dir: PathBuf,
    /// The interpreter with confluent-kafka.
    pub(crate) python: PathBuf,
    /// The build of the sidecar that is measured.
    pub(crate) program: PathBuf,
    /// The other build of the sidecar.
    pub(crate) other: Option<PathBuf>,
}

/// Sidecars of one group.
pub(crate) struct Deployment {
    /// Names and texts of documents.
    pub(crate) schemas: Vec<(String, String)>,
    /// Of an instance.
    pub(crate) lanes: usize,
    pub(crate) instances: usize,
}

impl Deployment {
    fn usual() -> Self {
        Self {
            schemas: vec![("customers".to_owned(), SCHEMA.to_owned())],
            lanes: LANES,
            instances: 1,
        }
    }
}

impl Bench {
    /// Starts `system` in group `group`.
    pub(crate) fn start(&self, system: System, group: &str) -> anyhow::Result<Running> {
        let mut running = self.nothing_running(group);
        let this = std::env::current_exe()?;
        let lanes = LANES.to_string();
        match system {
            System::Copier => {
                let config = self.configure(group, &Deployment::usual(), 0, 0)?;
                running.spawn(Command::new(this).arg("copier").arg(config))?
            }
            System::SealingCopier => {
                let config = self.configure(group, &Deployment::usual(), 0, 0)?;
                running.spawn(Command::new(this).args(["copier", "--seal"]).arg(config))?
            }
            System::JavaCopier => running.spawn(
                Command::new("java")
                    .args(["-Xms512m", "-Xmx1g", "-XX:+UseParallelGC", "-cp"])
                    .arg(kafka::libs().join("*"))
                    .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/pipeline/Copier.java"))
                    .args([&self.bootstrap, group, RAW, OUT, &lanes, &PARTITIONS.to_string()]),
            )?,
            System::Sidecar | System::OtherSidecar => {
                let other = self.other.as_deref().filter(|_| system == System::OtherSidecar);
                let veilstream = other.unwrap_or(&self.program);
                self.spawn_sidecars(&mut running, veilstream, group, &Deployment::usual(), true)?;
            }
            System::RustByHand => {
                for lane in 0..LANES {
                    running.spawn(Command::new(&this).args([
                        "by-hand",
                        &self.bootstrap,
                        group,
                        &lane.to_string(),
                        &lanes,
                    ]))?;
                }
            }
            System::PythonByHand => {
                let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/by_hand.py");
                for lane in 0..LANES {
                    let mut command = Command::new(&self.python);
                    running.spawn(command.arg(&script).args([
                        &self.bootstrap,
                        group,
                        RAW,
                        OUT,
                        &lane.to_string(),
                        &lanes,
                        &PARTITIONS.to_string(),
                    ]))?;
                }
            }
        }
        Ok(running)
    }

    fn nothing_running(&self, group: &str) -> Running {
        let log = self.dir.join(format!("{group}.log"));
        Running { children: Vec::new(), log, http: None }
    }

    /// Starts sidecars of one group; `with_keys`: makes its keys first.
    pub(crate) fn start_sidecars(
        &self,
        group: &str,
        deployment: &Deployment,
        with_keys: bool,
    ) -> anyhow::Result<Running> {
        let mut running = self.nothing_running(group);
        self.spawn_sidecars(&mut running, &self.program, group, deployment, with_keys)?;
        Ok(running)
    }

    fn spawn_sidecars(
        &self,
        running: &mut Running,
        veilstream: &Path,
        group: &str,
        deployment: &Deployment,
        with_keys: bool,
    ) -> anyhow::Result<()> {
        for instance in 0..deployment.instances {
            let port = crate::ports::free_port();
            let config = self.configure(group, deployment, instance, port)?;
            running.http.get_or_insert(port);
            if with_keys && instance == 0 {
                running.run(
                    Command::new(veilstream).args(["keys", "init", "--config"]).arg(&config),
                )?;
            }
            running.spawn(
                Command::new(veilstream).args(["run", "--create-topics", "--config"]).arg(&config),
            )?;
        }
        Ok(())
    }

    /// A folder with configuration, schemas and keys; the path of an instance's file. What is not
    /// said here is the default.
    fn configure(
        &self,
        group: &str,
        deployment: &Deployment,
        instance: usize,
        port: u16,
    ) -> anyhow::Result<PathBuf> {
        let dir = self.dir.join(group);
        fs::create_dir_all(dir.join("schemas"))?;
        for (name, document) in &deployment.schemas {
            fs::write(dir.join(format!("schemas/{name}.json")), document)?;
        }
        let file = dir.join(format!("veilstream-{instance}.toml"));
        let text = format!(
            "[kafka]\nbootstrap_servers = \"{}\"\ngroup_id = \"{group}\"\ninstance = \
            \"{instance}\"\n[pipeline]\nlanes = {}\n[http]\nlisten = \
            \"127.0.0.1:{port}\"\n[log]\nlevel = \"warn\"\n",
            self.bootstrap, deployment.lanes
        );
        fs::write(&file, text)?;
        Ok(file)
    }
}

/// A started system; killed when dropped.
pub(crate) struct Running {
    children: Vec<Child>,
    log: PathBuf,
    /// Where a sidecar says its metrics.
    http: Option<u16>,
}

impl Running {
    fn output(&self) -> anyhow::Result<File> {
        File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("{}", self.log.display()))
    }

    fn spawn(&mut self, command: &mut Command) -> anyhow::Result<()> {
        let (out, err) = (self.output()?, self.output()?);
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .with_context(|| format!("{command:?}"))?;
        self.children.push(child);
        Ok(())
    }

    /// Runs something to its end first.
    fn run(&self, command: &mut Command) -> anyhow::Result<()> {
        let status = command
            .stdin(Stdio::null())
            .stdout(self.output()?)
            .stderr(self.output()?)
            .status()
            .with_context(|| format!("{command:?}"))?;
        if !status.success() {
            bail!("{command:?} failed ({status}):\n{}", self.said());
        }
        Ok(())
    }

    /// The end of what it said.
    pub(crate) fn said(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// A metric without labels of the first sidecar; `None`: it has none.
    pub(crate) fn metric(&self, name: &str) -> anyhow::Result<Option<f64>> {
        let Some(port) = self.http else { return Ok(None) };
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(line.map(str::parse).transpose()?)
    }

    /// The ids of its processes.
    pub(crate) fn ids(&self) -> Vec<u32> {
        self.children.iter().map(Child::id).collect()
    }

    /// An error when a part of it has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        for child in &mut self.children {
            if let Some(status) = child.try_wait()? {
                bail!(
                    "it ended ({status}):\n{}",
                    fs::read_to_string(&self.log).unwrap_or_default()
                );
            }
        }
        Ok(())
    }

    /// SIGTERM, then waits; SIGKILL to what stays.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        for child in &self.children {
            kill_process(Pid::from_child(child), Signal::TERM)?;
        }
        let end = Instant::now() + Duration::from_secs(20);
        while Instant::now() < end
            && self.children.iter_mut().any(|c| matches!(c.try_wait(), Ok(None)))
        {
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
