//! The real binary, in a process of its own, with a configuration and keys as a user has them.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use veilstream::config::Config;

/// The files of one instance.
pub(crate) struct Instance {
    config: PathBuf,
    log: PathBuf,
    env: Vec<(String, String)>,
}

/// A running instance; killed when dropped.
pub(crate) struct Running<'a> {
    child: Child,
    instance: &'a Instance,
    /// Where its own part of the log begins.
    from: usize,
}

impl Instance {
    /// Writes the configuration of instance `name` into `dir`, whose `schemas` folder holds the
    /// documents; makes keys where there are none.
    pub(crate) fn new(dir: &Path, name: &str, bootstrap: &str, group: &str) -> Self {
        if !dir.join("keys").is_dir() {
            let init =
                veilstream(&["keys", "init", "--keys"]).arg(dir.join("keys")).output().unwrap();
            assert!(init.status.success(), "{}", text(&init));
        }
        let config = dir.join(format!("{name}.toml"));
        // Not compressed: what is on disk is searched for clear text.
        let toml = format!(
            "[kafka]\nbootstrap_servers = \"{bootstrap}\"\ngroup_id = \"{group}\"\ninstance = \
            \"{name}\"\n[kafka.consumer]\n\"session.timeout.ms\" = \
            \"6000\"\n\"heartbeat.interval.ms\" = \"500\"\n[kafka.producer]\n\"compression.type\" \
            = \"none\"\n[pipeline]\nlanes = 2\ndead_letter_topic = \
            \"{group}.dead-letter\"\nreject_guard = \"off\"\n[schemas]\ndir = \
            \"schemas\"\nreload_interval = \"1s\"\n[keys]\nprovider = \"file\"\nstore = \
            \"sqlite:keys/keys.db\"\n[keys.file]\npath = \"keys/kek\"\n[http]\nlisten = \
            \"127.0.0.1:0\"\n[log]\nlevel = \"debug\"\n"
        );
        fs::write(&config, toml).unwrap();
        Self { config, log: dir.join(format!("{name}.log")), env: Vec::new() }
    }

    /// Overrides a setting, by its name in the environment: `PIPELINE__LANES`.
    pub(crate) fn set(mut self, setting: &str, value: &str) -> Self {
        self.env.push((format!("VEILSTREAM__{setting}"), value.to_owned()));
        self
    }

    /// In the group protocol of KIP-848, whose time-outs are the broker's and refused here.
    pub(crate) fn consumer_protocol(self) -> Self {
        let toml = fs::read_to_string(&self.config).unwrap();
        let lines = toml.lines().filter(|line| {
            !line.starts_with("\"session.timeout.ms")
                && !line.starts_with("\"heartbeat.interval.ms")
        });
        fs::write(&self.config, lines.map(|line| format!("{line}\n")).collect::<String>()).unwrap();
        self.set("KAFKA__CONSUMER__GROUP.PROTOCOL", "consumer")
    }

    /// Plants a fault (src/inject.rs): `ENGINE_PANIC` or `SLOW_MOVE`.
    #[cfg(feature = "inject")]
    pub(crate) fn inject(mut self, fault: &str, value: &str) -> Self {
        self.env.push((format!("VEILSTREAM_INJECT_{fault}"), value.to_owned()));
        self
    }

    /// A command of the binary with this configuration.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = veilstream(arguments);
        command
            .arg("--config")
            .arg(&self.config)
            .envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Starts the sidecar; its output is appended to the log.
    pub(crate) fn start(&self) -> Running<'_> {
        let from = self.log().len();
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        let child = self
            .command(&["run", "--create-topics"])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Running { child, instance: self, from }
    }

    /// Everything it said.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The end of it.
    pub(crate) fn tail(&self) -> String {
        let log = self.log();
        log.char_indices().rev().nth(6000).map_or(log.as_str(), |(i, _)| &log[i..]).to_owned()
    }

    /// Where its files are.
    pub(crate) fn folder(&self) -> &Path {
        self.config.parent().unwrap()
    }

    /// The configuration's file.
    pub(crate) fn file(&self) -> &Path {
        &self.config
    }

    /// The configuration, for looking at its keys and topics.
    pub(crate) fn config(&self) -> Config {
        Config::load(&self.config).unwrap()
    }
}

impl Running<'_> {
    /// Waits until it is ready.
    pub(crate) fn ready(&mut self) {
        self.wait_for(Duration::from_secs(60), "the sidecar to be ready", |this| {
            this.get("/readyz").is_some_and(|(status, _)| status == 200)
        });
    }

    /// Waits until `holds`, as long as it runs.
    pub(crate) fn wait_for(
        &mut self,
        limit: Duration,
        what: &str,
        mut holds: impl FnMut(&mut Self) -> bool,
    ) {
        let end = Instant::now() + limit;
        while !holds(self) {
            assert_eq!(self.ended(), None, "it ended\n{}", self.instance.tail());
            assert!(
                Instant::now() < end,
                "waited {} s for {what}, which did not come\n{}",
                limit.as_secs(),
                self.instance.tail()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The end of its log.
    pub(crate) fn tail(&self) -> String {
        self.instance.tail()
    }

    /// Status and body of a GET; `None` while it does not listen yet.
    pub(crate) fn get(&self, path: &str) -> Option<(u16, String)> {
        let log = self.instance.log();
        let address = log.get(self.from..)?.split_once("address=")?.1.split_whitespace().next()?;
        let mut stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")
            .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    /// The sum of a metric's samples whose labels contain `label`.
    pub(crate) fn metric(&self, name: &str, label: &str) -> f64 {
        let Some((200, text)) = self.get("/metrics") else { return 0.0 };
        let samples = text.lines().filter(|l| {
            l.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
                && l.contains(label)
        });
        samples.map(|l| l.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
    }

    /// Waits until a metric has this value: it is counted a moment after what it tells of.
    pub(crate) fn await_metric(&mut self, name: &str, label: &str, value: f64) {
        let what = format!("{name} with {label} to be {value}");
        self.wait_for(Duration::from_secs(30), &what, |r| r.metric(name, label) == value);
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGSTOP, until [`Running::resume`].
    pub(crate) fn pause(&self) {
        kill_process(Pid::from_child(&self.child), Signal::STOP).unwrap();
    }

    /// SIGCONT.
    pub(crate) fn resume(&self) {
        kill_process(Pid::from_child(&self.child), Signal::CONT).unwrap();
    }

    /// SIGTERM, and the exit code.
    pub(crate) fn stop(mut self) -> Option<i32> {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        self.child.wait().unwrap().code()
    }

    /// Its exit code, if it has ended.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        self.child.try_wait().unwrap().map(|status| status.code().unwrap_or(-1))
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The binary with arguments; nothing of the environment's configuration counts.
pub(crate) fn veilstream(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_veilstream"));
    command.args(arguments).env_remove("VEILSTREAM_KEYS");
    command
}

/// What a command said.
pub(crate) fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
