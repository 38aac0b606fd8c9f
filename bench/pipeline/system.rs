//! The systems beside each other: how each is started, as a process of its own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::workload::{OUT, PARTITIONS, RAW, SCHEMA};

/// Lanes of every system.
pub(crate) const LANES: usize = 2;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum System {
    Copier,
    SealingCopier,
    Sidecar,
    /// Another build of it.
    OtherSidecar,
    RustByHand,
    PythonByHand,
}

impl System {
    pub(crate) const ALL: [Self; 6] = [
        Self::Copier,
        Self::SealingCopier,
        Self::Sidecar,
        Self::OtherSidecar,
        Self::RustByHand,
        Self::PythonByHand,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Copier => "copier",
            Self::SealingCopier => "sealing copier",
            Self::Sidecar => "veilstream run",
            Self::OtherSidecar => "other veilstream run",
            Self::RustByHand => "Rust by hand",
            Self::PythonByHand => "Python by hand",
        }
    }

    /// It protects nothing.
    pub(crate) fn copies(self) -> bool {
        self == Self::Copier
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

impl Bench {
    /// Starts `system` in group `group`.
    pub(crate) fn start(&self, system: System, group: &str) -> anyhow::Result<Running> {
        let mut running =
            Running { children: Vec::new(), log: self.dir.join(format!("{group}.log")) };
        let this = std::env::current_exe()?;
        let lanes = LANES.to_string();
        match system {
            System::Copier => {
                running.spawn(Command::new(this).arg("copier").arg(self.configure(group)?))?
            }
            System::SealingCopier => running
                .spawn(Command::new(this).args(["copier", "--seal"]).arg(self.configure(group)?))?,
            System::Sidecar | System::OtherSidecar => {
                let config = self.configure(group)?;
                let other = self.other.as_deref().filter(|_| system == System::OtherSidecar);
                let veilstream = other.unwrap_or(&self.program);
                running.run(
                    Command::new(veilstream).args(["keys", "init", "--config"]).arg(&config),
                )?;
                running.spawn(
                    Command::new(veilstream)
                        .args(["run", "--create-topics", "--config"])
                        .arg(&config),
                )?;
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

    /// A folder with configuration, schema and keys; the file's path. What is not said here is the
    /// default.
    fn configure(&self, group: &str) -> anyhow::Result<PathBuf> {
        let dir = self.dir.join(group);
        fs::create_dir_all(dir.join("schemas"))?;
        fs::write(dir.join("schemas/customers.json"), SCHEMA)?;
        let file = dir.join("veilstream.toml");
        let text = format!(
            "[kafka]\nbootstrap_servers = \"{}\"\ngroup_id = \"{group}\"\ninstance = \
            \"0\"\n[pipeline]\nlanes = {LANES}\n[http]\nlisten = \"127.0.0.1:0\"\n[log]\nlevel = \
            \"warn\"\n",
            self.bootstrap
        );
        fs::write(&file, text)?;
        Ok(file)
    }
}

/// A started system; killed when dropped.
pub(crate) struct Running {
    children: Vec<Child>,
    log: PathBuf,
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
