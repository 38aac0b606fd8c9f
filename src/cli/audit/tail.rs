//! `veilstream audit tail`

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anyhow::Context as _;
use veilstream_reading::audit::follow::Follower;

use super::LogSource;
use crate::exit::Exit;
use crate::signals::{self, Request};

/// Between two looks at the files.
const LOOK: Duration = Duration::from_millis(200);

pub(super) fn tail(source: &LogSource, count: usize, follow: bool) -> anyhow::Result<Exit> {
    let reading = source.open()?;
    let mut follower = Follower::new(reading.parts.base());
    let mut newest: VecDeque<(String, Vec<u8>)> = VecDeque::new();
    follower.poll(|bytes, line| -> anyhow::Result<()> {
        // Files stand in no order of time: sorted in, at the end most of the time.
        let at = newest.partition_point(|(time, _)| *time <= line.time);
        newest.insert(at, (line.time, bytes.to_vec()));
        if newest.len() > count {
            newest.pop_front();
        }
        Ok(())
    })?;
    let mut out = io::stdout().lock();
    for (_, line) in &newest {
        print(&mut out, line)?;
    }
    if !follow {
        return Ok(Exit::Ok);
    }
    let (stop, stopped) = mpsc::channel();
    signals::watch(move |request| match request {
        Request::Stop(_) => stop.send(()).is_ok(),
        Request::Reload => true,
    })
    .context("signals could not be watched")?;
    while stopped.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
        follower.poll(|bytes, _| print(&mut out, bytes))?;
        out.flush()?;
    }
    Ok(Exit::Ok)
}

fn print(out: &mut impl Write, line: &[u8]) -> anyhow::Result<()> {
    out.write_all(line)?;
    Ok(out.write_all(b"\n")?)
}
