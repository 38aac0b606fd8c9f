//! The first SIGTERM is a request, the second ends the process. A process of its own is needed:
//! this test's binary runs itself.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc;

use rustix::process::{Pid, Signal, kill_process};
use veilstream::signals::{self, Request};

const CHILD: &str = "VEILSTREAM_TEST_SIGNALS_CHILD";

#[test]
fn the_first_asks_and_the_second_ends() {
    if std::env::var_os(CHILD).is_some() {
        child();
    }
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_first_asks_and_the_second_ends", "--nocapture"])
        .env(CHILD, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = Pid::from_child(&child);
    // The harness writes lines of its own, one without an end.
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut expect = |line: &str| {
        assert!(lines.any(|l| l.ends_with(line)), "the child ended without saying {line}")
    };
    expect("watching");
    kill_process(pid, Signal::HUP).unwrap();
    expect("Reload");
    kill_process(pid, Signal::TERM).unwrap();
    expect("Stop(\"SIGTERM\")");
    assert!(child.try_wait().unwrap().is_none(), "the first signal ended the child");
    kill_process(pid, Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

/// Says what it receives and never ends by itself.
#[allow(clippy::print_stdout)] // its parent reads it
fn child() -> ! {
    let (send, requests) = mpsc::channel::<Request>();
    signals::watch(move |request| send.send(request).is_ok()).unwrap();
    println!("watching");
    loop {
        println!("{:?}", requests.recv().unwrap());
    }
}
