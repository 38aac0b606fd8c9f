//! Keys a lane waits for. They are fetched on a thread beside the lane: a key service or store may take its time, and a rebalance must not wait for it.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use veilstream_engine::key::Key;
use veilstream_engine::transform::NeededKey;

use super::Worker;
use crate::keys::{KeyFault, KeySource};
use crate::pipeline::End;
use crate::pipeline::core::machine::{Event, State};

/// One look at whether keys have come; the inbox waits so long.
const LOOK: Duration = Duration::from_millis(5);
/// From here on it is an outage and not a look into a store.
const LONG: Duration = Duration::from_secs(2);

type Answer = Result<Vec<Arc<Key>>, KeyFault>;

/// The thread beside a lane.
pub(in crate::pipeline) struct Fetcher {
    asks: Sender<Vec<NeededKey>>,
    answers: Receiver<Answer>,
    asked: Option<Instant>,
}

impl Fetcher {
    /// Its thread ends with it, or when the request it is at has ended.
    pub(in crate::pipeline) fn start(lane: usize, keys: Arc<dyn KeySource>) -> std::io::Result<Self> {
        let (asks, asked) = mpsc::channel::<Vec<NeededKey>>();
        let (answer, answers) = mpsc::channel();
        let run = move || {
            while let Ok(needed) = asked.recv() {
                if answer.send(keys.fetch(&needed)).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name(format!("keys-{lane}")).spawn(run)?;
        Ok(Self { asks, answers, asked: None })
    }

    pub(super) fn is_asked(&self) -> bool {
        self.asked.is_some()
    }
}

impl Worker {
    /// The pump lacks keys: asks for them.
    pub(super) fn ask_for_keys(&mut self) {
        if self.fetcher.is_asked() {
            return;
        }
        match self.pump.needed() {
            Ok(needed) => match self.fetcher.asks.send(needed) {
                Ok(()) => self.fetcher.asked = Some(Instant::now()),
                Err(_) => self.fetcher_is_gone(),
            },
            Err(fault) => self.keys_failed(&fault),
        }
    }

    /// Looks for the answer. What the transaction holds commits in time, with or without it.
    pub(super) fn await_keys(&mut self) {
        match self.fetcher.answers.recv_timeout(LOOK) {
            Ok(answer) => {
                self.fetcher.asked = None;
                match answer {
                    Ok(keys) => {
                        self.pump.take_keys(keys);
                        self.keys_away.clear(&self.shared.status);
                    }
                    Err(fault) => self.keys_failed(&fault),
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                if self.machine.state() == State::Open && self.is_due() {
                    self.drive(Event::Due);
                }
                if self.fetcher.asked.is_some_and(|at| at.elapsed() > LONG) {
                    self.keys_away.raise(&self.shared.status, "waiting for the key store or key service");
                }
            }
            Err(RecvTimeoutError::Disconnected) => self.fetcher_is_gone(),
        }
    }

    fn fetcher_is_gone(&mut self) {
        self.ended = Some(End::Failed("the key thread of a lane is gone".to_owned()));
    }

    /// What the transaction holds commits first.
    fn keys_failed(&mut self, fault: &KeyFault) {
        if self.machine.state() == State::Open {
            self.drive(Event::Due);
        }
        self.keys_away.raise(&self.shared.status, &fault.to_string());
        self.backoff.failed(Instant::now());
    }
}
