//! Keys a lane waits for. They are fetched on a thread beside the lane: a key service or store may
//! take its time, and a rebalance must not wait for it.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use veilstream_engine::key::Key;
use veilstream_engine::transform::NeededKey;

use super::LaneThread;
use crate::keys::{KeyFault, KeySource};
use crate::pipeline::End;
use crate::pipeline::core::lane::LaneEvent;
use crate::pipeline::core::machine::TransactionState;
use crate::pipeline::core::partition::{Block, BlockReason};

/// One look at whether keys have come; the inbox waits so long.
const LOOK: Duration = Duration::from_millis(5);
/// From here on it is an outage and not a look into a store: the partition waits, and the lane goes
/// on with others.
const LONG: Duration = Duration::from_secs(2);

type FetchedKeys = Result<Vec<Arc<Key>>, KeyFault>;

/// The thread beside a lane.
pub(in crate::pipeline) struct Fetcher {
    asks: Sender<Vec<NeededKey>>,
    answers: Receiver<FetchedKeys>,
    is_asked: bool,
    /// The last answer, where it was none.
    fault: Option<KeyFault>,
}

impl Fetcher {
    /// Its thread ends with it, or when the request it is at has ended.
    pub(in crate::pipeline) fn start(
        lane: usize,
        keys: Arc<dyn KeySource>,
    ) -> std::io::Result<Self> {
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
        Ok(Self { asks, answers, is_asked: false, fault: None })
    }
}

impl LaneThread {
    /// The record of the partition at this place lacks keys: asks for them.
    pub(super) fn ask_for_keys(&mut self, place: usize) {
        let epoch = self.core.assigned(place).epoch;
        if self.fetcher.is_asked && !self.look_for_keys(Duration::ZERO) {
            return self.still_without_keys(epoch);
        }
        match self.path.needed() {
            Ok(needed) => match self.fetcher.asks.send(needed) {
                Ok(()) => {
                    self.fetcher.is_asked = true;
                    self.awaiting = Some((epoch, Instant::now()));
                }
                Err(_) => self.fetcher_is_gone(),
            },
            Err(fault) => self.without_keys(epoch, &fault),
        }
    }

    /// Looks for the answer. What the transaction holds commits in time, with or without it.
    pub(super) fn await_keys(&mut self) {
        let Some((epoch, since)) = self.awaiting else { return };
        if self.look_for_keys(LOOK) {
            self.awaiting = None;
        } else if since.elapsed() > LONG {
            self.awaiting = None;
            self.still_without_keys(epoch);
        } else if self.core.state() == TransactionState::Open && self.is_due() {
            self.drive(LaneEvent::Due);
        }
    }

    /// `true`: an answer came, and was taken.
    fn look_for_keys(&mut self, wait: Duration) -> bool {
        match self.fetcher.answers.recv_timeout(wait) {
            Ok(answer) => {
                self.fetcher.is_asked = false;
                match answer {
                    Ok(keys) => {
                        self.fetcher.fault = None;
                        self.path.take_keys(keys);
                    }
                    Err(fault) => {
                        // A partition that waited and does no more is blocked, and asks again.
                        if let Some((epoch, _)) = self.awaiting {
                            self.without_keys(epoch, &fault);
                        }
                        self.fetcher.fault = Some(fault);
                    }
                }
                true
            }
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => {
                self.fetcher_is_gone();
                false
            }
        }
    }

    fn fetcher_is_gone(&mut self) {
        self.ended = Some(End::Failed("the key thread of a lane is gone".to_owned()));
    }

    /// No answer yet: the answer before it tells more than that one is waited for.
    fn still_without_keys(&mut self, epoch: u64) {
        let fault = self
            .fetcher
            .fault
            .clone()
            .unwrap_or_else(|| KeyFault("waiting for the key store or key service".to_owned()));
        self.without_keys(epoch, &fault);
    }

    /// The partition waits; what it holds commits first.
    fn without_keys(&mut self, epoch: u64, fault: &KeyFault) {
        self.drive(LaneEvent::Blocked(epoch, Block::new(BlockReason::Keys, fault.to_string())));
    }
}
