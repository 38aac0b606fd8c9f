//! A running `veilstream serve`, and what it logs.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const LISTENS: &str = "the reading service listens";
/// On a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// A service that listens. Killed when dropped.
pub(crate) struct ServeProcess {
    pub(crate) child: Child,
    log: Arc<Mutex<String>>,
    pub(crate) address: String,
    /// Of metrics, status and probes.
    pub(crate) http: String,
}

impl ServeProcess {
    /// Starts it and waits until it listens. Its log is JSON.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (lines, into) = (BufReader::new(child.stderr.take().unwrap()), log.clone());
        let (listens, told) = mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                let is_it = line.contains(LISTENS);
                into.lock().unwrap().push_str(&(line + "\n"));
                if is_it {
                    let _ = listens.send(());
                }
            }
        });
        let mut process = Self { child, log, address: String::new(), http: String::new() };
        // It ends with an error where the process ends too.
        assert_eq!(told.recv_timeout(LIMIT), Ok(()), "{}", process.log());
        process.address = process.logged(LISTENS).unwrap();
        process.http = process.logged("HTTP listens").unwrap();
        process
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// The address of a line with this message.
    pub(crate) fn logged(&self, message: &str) -> Option<String> {
        let lines = self.log();
        let mut lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.find_map(|line| {
            let fields = line.get("fields").unwrap_or(&line);
            let is_it = fields["message"].as_str() == Some(message);
            is_it.then(|| fields["address"].as_str().map(str::to_owned))?
        })
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Stops it as an orchestrator does.
    pub(crate) fn stop(&mut self) -> i32 {
        self.signal(Signal::TERM);
        self.child.wait().unwrap().code().unwrap()
    }
}

impl Drop for ServeProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
