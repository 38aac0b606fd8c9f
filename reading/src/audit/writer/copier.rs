//! Second places: a thread for each, and who waits for them. Lines come from the file, so a place
//! that was away is caught up in order, however long that took.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::queue::Queue;
use super::span::{Mark, Piece, Span};
use crate::audit::sink::{Sink, SinkObserver, SinkSettings};

/// Between two attempts at a place that refuses, at first and at most.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
const NO_ANSWER: &str = "it does not answer";

/// The second places of a log.
pub(super) struct Copiers(Arc<Shared>);

struct Shared {
    places: Mutex<Vec<Place>>,
    changed: Condvar,
    observer: Arc<dyn SinkObserver>,
    /// The log as configured.
    base: PathBuf,
    /// Whose thread writes what a place missed.
    queue: Arc<Queue>,
}

struct Place {
    name: &'static str,
    is_required: bool,
    most_waiting: u64,
    /// In the order of the file.
    waiting: VecDeque<Span>,
    /// Lines that were handed over, and that are there, ever.
    given: u64,
    copied: u64,
    /// Of the newest chain's first line: `copied` from which on it is there.
    first: u64,
    /// Lines that were left out and that no line tells of yet.
    missed: u64,
    /// What it said last, while it is away.
    away: Option<String>,
    is_stopped: bool,
}

/// A required place has not taken every line, or no place the chain's first.
pub(super) struct Behind {
    name: &'static str,
    why: Option<String>,
    is_required: bool,
}

impl Behind {
    /// The place, where it is required.
    pub(super) fn required(&self) -> Option<&'static str> {
        self.is_required.then_some(self.name)
    }

    pub(super) fn to_error(&self) -> io::Error {
        let what = if self.is_required { "lacks lines" } else { "lacks the chain's first line" };
        let why = self.why.as_deref().unwrap_or(NO_ANSWER);
        io::Error::other(format!("its copy in {} {what}: {why}", self.name))
    }
}

impl Place {
    fn is_whole(&self) -> bool {
        self.copied == self.given
    }

    fn has_first(&self) -> bool {
        self.copied >= self.first
    }
}

impl Copiers {
    /// Starts a thread for each place. Threads end when they are told to, or when the call they are
    /// in returns.
    pub(super) fn start(
        sinks: Vec<SinkSettings>,
        observer: Arc<dyn SinkObserver>,
        base: &Path,
        queue: &Arc<Queue>,
    ) -> io::Result<Self> {
        let place = |settings: &SinkSettings| Place {
            name: settings.sink.name(),
            is_required: settings.is_required,
            most_waiting: settings.most_waiting,
            waiting: VecDeque::new(),
            given: 0,
            copied: 0,
            first: 0,
            missed: 0,
            away: None,
            is_stopped: false,
        };
        let shared = Arc::new(Shared {
            places: Mutex::new(sinks.iter().map(place).collect()),
            changed: Condvar::new(),
            observer,
            base: base.to_owned(),
            queue: queue.clone(),
        });
        let copiers = Self(shared.clone());
        for (number, SinkSettings { sink, .. }) in sinks.into_iter().enumerate() {
            let shared = shared.clone();
            std::thread::Builder::new()
                .name(format!("audit-{}", sink.name()))
                .spawn(move || shared.work(number, sink))?;
        }
        Ok(copiers)
    }

    /// Names of the places that must have every line.
    pub(super) fn required(&self) -> Vec<&'static str> {
        self.0.places().iter().filter(|place| place.is_required).map(|place| place.name).collect()
    }

    /// Hands lines over that an earlier process left to a place.
    pub(super) fn give_lacking(&self, name: &str, spans: Vec<Span>) {
        for place in self.0.places().iter_mut().filter(|place| place.name == name) {
            place.given += spans.iter().map(|span| span.lines).sum::<u64>();
            place.waiting.extend(spans.iter().cloned());
        }
        self.0.changed.notify_all();
    }

    /// Hands durable lines over. `is_first`: a chain's first line, which is never left out.
    pub(super) fn give(&self, span: &Span, is_first: bool) {
        for place in self.0.places().iter_mut() {
            let waiting = place.given - place.copied;
            let has_room = waiting + span.lines <= place.most_waiting && place.missed == 0;
            if !(place.is_required || is_first || has_room) {
                place.missed += span.lines;
                self.0.observer.missed(place.name, span.lines);
                if place.away.is_none() {
                    self.0.is_away(place, NO_ANSWER);
                }
                continue;
            }
            place.given += span.lines;
            if is_first {
                place.first = place.given;
            }
            let is_joined = place.waiting.back_mut().is_some_and(|last| last.join(span));
            if !is_joined {
                place.waiting.push_back(span.clone());
            }
        }
        self.0.changed.notify_all();
    }

    /// Waits until every required place has all lines and some place the chain's first.
    pub(super) fn wait(&self, until: Instant) -> Result<(), Behind> {
        let mut places = self.0.places();
        loop {
            let Some(behind) = behind(&places) else { return Ok(()) };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let place = &mut places[behind];
                let told = Behind {
                    name: place.name,
                    why: place.away.clone(),
                    is_required: place.is_required && !place.is_whole(),
                };
                if place.away.is_none() {
                    self.0.is_away(place, NO_ANSWER);
                }
                return Err(told);
            }
            places =
                self.0.changed.wait_timeout(places, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until every place has all lines.
    pub(super) fn drain(&self, until: Instant) {
        let mut places = self.0.places();
        while !places.iter().all(|place| place.is_whole() || place.is_stopped) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            places =
                self.0.changed.wait_timeout(places, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Whether a new chain's first line would find a place.
    pub(super) fn take_first_lines(&self) -> bool {
        let places = self.0.places();
        places.is_empty() || places.iter().any(|place| place.is_whole() && place.away.is_none())
    }

    /// What places missed that take lines again: it is told with these numbers, once.
    pub(super) fn take_gaps(&self) -> Vec<(&'static str, u64)> {
        let mut places = self.0.places();
        let is_due = |place: &&mut Place| place.missed > 0 && place.is_whole();
        places.iter_mut().filter(is_due).map(|p| (p.name, std::mem::take(&mut p.missed))).collect()
    }

    /// Takes numbers of [`Copiers::take_gaps`] back: no line tells of them.
    pub(super) fn give_back(&self, gaps: &[(&'static str, u64)]) {
        let mut places = self.0.places();
        for (name, missed) in gaps {
            let of = places.iter_mut().filter(|place| place.name == *name);
            of.for_each(|place| place.missed += missed);
        }
    }

    /// What the log owes places that are not required, at its end: what waits is given up.
    pub(super) fn give_up(&self) -> Vec<(&'static str, u64)> {
        let mut gaps = Vec::new();
        for place in self.0.places().iter_mut().filter(|place| !place.is_required) {
            let waiting = place.given - place.copied;
            if waiting > 0 {
                self.0.observer.missed(place.name, waiting);
                place.is_stopped = true;
            }
            let missed = std::mem::take(&mut place.missed) + waiting;
            if missed > 0 {
                gaps.push((place.name, missed));
            }
        }
        gaps
    }
}

impl Drop for Copiers {
    fn drop(&mut self) {
        self.0.places().iter_mut().for_each(|place| place.is_stopped = true);
        self.0.changed.notify_all();
    }
}

/// The place that is waited for.
fn behind(places: &[Place]) -> Option<usize> {
    if let Some(at) = places.iter().position(|place| place.is_required && !place.is_whole()) {
        return Some(at);
    }
    let has_first = places.is_empty() || places.iter().any(Place::has_first);
    if has_first { None } else { Some(0) }
}

impl Shared {
    fn places(&self) -> MutexGuard<'_, Vec<Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_away(&self, place: &mut Place, why: &str) {
        if place.away.is_none() {
            self.observer.away(place.name, place.is_required, why);
        }
        place.away = Some(why.to_owned());
    }

    /// Copies what waits, until it is stopped.
    fn work(&self, number: usize, mut sink: Box<dyn Sink>) {
        let mut pause = PAUSE;
        while let Some(span) = self.next(number) {
            let done = span.read(&self.base).map_err(|error| error.to_string()).map(|piece| {
                let copied = sink.copy(&piece.lines, &|| !self.places()[number].is_stopped);
                (piece, copied)
            });
            match done {
                Ok((piece, Ok(()))) => {
                    pause = PAUSE;
                    self.advance(number, &span, &piece, None);
                }
                Ok((piece, Err(error))) => {
                    self.advance(number, &span, &piece, Some(error.copied));
                    self.failed(number, &error.message, &mut pause);
                }
                Err(message) => self.failed(number, &message, &mut pause),
            }
        }
    }

    /// The oldest lines that wait; `None`: it is the end.
    fn next(&self, number: usize) -> Option<Span> {
        let mut places = self.places();
        loop {
            let place = &places[number];
            if place.is_stopped {
                return None;
            }
            if let Some(span) = place.waiting.front() {
                return Some(span.clone());
            }
            places = self.changed.wait(places).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes note of what is there: the whole piece, or so many lines of it.
    fn advance(&self, number: usize, span: &Span, piece: &Piece, copied: Option<usize>) {
        let last = copied.unwrap_or(piece.lines.len()).min(piece.lines.len()).checked_sub(1);
        let (end, count) = match (copied, last) {
            (None, _) => (piece.end, piece.count),
            (Some(_), None) => return,
            (Some(_), Some(last)) => piece.ends[last],
        };
        let mut places = self.places();
        let place = &mut places[number];
        if let Some(front) = place.waiting.front_mut() {
            front.from = end;
            front.lines = front.lines.saturating_sub(count);
            if front.from >= front.to || front.lines == 0 {
                place.waiting.pop_front();
            }
        }
        place.copied += count;
        self.observer.copied(place.name, count);
        if let Some(last) = last.filter(|_| place.is_required) {
            Mark::of(&piece.lines[last].line, piece.ends[last].0).write(&span.slot, place.name);
        }
        if copied.is_none() && place.away.take().is_some() {
            self.observer.back(place.name);
        }
        let owes = place.missed > 0 && place.is_whole();
        self.changed.notify_all();
        drop(places);
        if owes {
            self.queue.nudge();
        }
    }

    fn failed(&self, number: usize, why: &str, pause: &mut Duration) {
        let mut places = self.places();
        self.is_away(&mut places[number], why);
        let until = Instant::now() + *pause;
        *pause = (*pause * 2).min(LONGEST_PAUSE);
        while !places[number].is_stopped {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            places =
                self.changed.wait_timeout(places, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
