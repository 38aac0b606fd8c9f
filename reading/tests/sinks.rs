//! Second places of the log: away, hanging, and back. The place here is memory, with a switch; the
//! real ones have their tests where they are made.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use support::{Lab, NOON, entry};
use veilstream_engine::key::SubjectRef;
use veilstream_reading::audit::verify::Copies;
use veilstream_reading::audit::{
    AuditError, AuditLog, CopiedLine, Entry, Event, Line, Settings, Sink, SinkError, SinkObserver,
    SinkSettings,
};

/// What is in the place, and how it is.
#[derive(Clone, Default)]
struct Place(Arc<(Mutex<Held>, Condvar)>);

#[derive(Default)]
struct Held {
    lines: Vec<Vec<u8>>,
    subjects: Vec<Vec<u8>>,
    mood: Mood,
    waits: usize,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Mood {
    #[default]
    Takes,
    Refuses,
    /// Takes one line of each batch, then refuses.
    TakesOne,
    Hangs,
}

struct Memory(Place);

impl Sink for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn copy(&mut self, lines: &[CopiedLine], _: &dyn Fn() -> bool) -> Result<(), SinkError> {
        let (held, changed) = &*self.0.0;
        let mut held = held.lock().unwrap();
        while held.mood == Mood::Hangs {
            held.waits += 1;
            changed.notify_all();
            held = changed.wait(held).unwrap();
            held.waits -= 1;
        }
        let message = "it refuses".to_owned();
        let taken = match held.mood {
            Mood::Refuses => return Err(SinkError { copied: 0, message }),
            Mood::TakesOne => 1,
            _ => lines.len(),
        };
        for line in &lines[..taken] {
            held.lines.push(line.bytes.clone());
            held.subjects.extend(line.subjects.clone());
        }
        if taken == lines.len() { Ok(()) } else { Err(SinkError { copied: taken, message }) }
    }
}

impl Place {
    fn set(&self, mood: Mood) {
        self.0.0.lock().unwrap().mood = mood;
        self.0.1.notify_all();
    }

    fn lines(&self) -> Vec<Line> {
        self.0.0.lock().unwrap().lines.iter().map(|bytes| Line::read(bytes).unwrap()).collect()
    }

    fn copies(&self) -> Copies {
        let mut copies = Copies::default();
        self.0.0.lock().unwrap().lines.iter().for_each(|line| copies.add(line).unwrap());
        copies
    }

    /// Settings of a log that copies to it.
    fn of(&self, lab: &Lab, is_required: bool, most_waiting: u64) -> Settings {
        let sink = Box::new(Memory(self.clone()));
        Settings {
            sinks: vec![SinkSettings { sink, is_required, most_waiting }],
            deadline: Duration::from_millis(400),
            ..lab.settings()
        }
    }
}

/// Number of lines by event.
fn events(lines: &[Line]) -> BTreeMap<&'static str, usize> {
    let mut events = BTreeMap::new();
    for line in lines {
        *events.entry(line.entry.event.as_str()).or_default() += 1;
    }
    events
}

/// The place has what the file has, in its order and once.
fn assert_same(lab: &Lab, place: &Place) {
    let named = |lines: Vec<Line>| -> Vec<_> { lines.iter().map(|l| (l.chain, l.seq)).collect() };
    assert_eq!(named(place.lines()), named(lab.lines()));
    assert_eq!(lab.verify(&place.copies()).faults, []);
}

#[test]
fn a_required_place_that_hangs_refuses_within_the_deadline_and_comes_back() {
    let (lab, place) = (Lab::new(), Place::default());
    let log = AuditLog::open(place.of(&lab, true, 0)).unwrap();
    log.append(vec![entry(1)]).unwrap();
    place.set(Mood::Hangs);
    let begun = Instant::now();
    let error = log.append(vec![entry(2)]).unwrap_err();
    assert!(matches!(error, AuditError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("memory"), "{error}");
    // What comes now is not even written: it will not be answered.
    let before = lab.lines().len();
    for n in 3..6 {
        assert!(log.append(vec![entry(n)]).is_err());
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(lab.lines().len(), before);
    place.set(Mood::Takes);
    // The first that is taken: the place has everything before it.
    lab.until(|| log.append(vec![entry(7)]).is_ok());
    log.append(vec![entry(8)]).unwrap();
    log.stop().unwrap();
    assert_same(&lab, &place);
    let lines = lab.lines();
    let told: Vec<_> =
        lines.iter().map(|l| (l.entry.event, l.entry.attempt, l.entry.items)).collect();
    let of = |event, n| told.iter().position(|line| line.0 == event && line.1 == n).unwrap();
    // Once, between the line that was refused and the first one that was not.
    let pause = of(Event::Gap, None);
    assert!(of(Event::Reveal, Some(2)) < pause && pause < of(Event::Reveal, Some(7)), "{told:?}");
    assert_eq!((told[pause].2, events(&lines)["gap"]), (Some(0), 1));
    assert_eq!(lines[pause].entry.reason.as_deref(), Some("memory"));
}

#[test]
fn a_required_place_that_refuses_is_caught_up_in_order() {
    for mood in [Mood::Refuses, Mood::TakesOne] {
        let (lab, place) = (Lab::new(), Place::default());
        let log = AuditLog::open(place.of(&lab, true, 0)).unwrap();
        place.set(Mood::Refuses);
        let error = log.append((0..5).map(entry).collect()).unwrap_err();
        assert!(error.to_string().contains("it refuses"), "{error}");
        place.set(mood);
        lab.until(|| mood == Mood::Refuses || place.lines().len() == 6);
        place.set(Mood::Takes);
        lab.until(|| log.append(vec![entry(9)]).is_ok());
        log.stop().unwrap();
        assert_same(&lab, &place);
    }
}

#[test]
fn what_a_killed_process_left_is_copied_before_the_next_line() {
    let (lab, place) = (Lab::new(), Place::default());
    let log = AuditLog::open(place.of(&lab, true, 0)).unwrap();
    log.append(vec![entry(1)]).unwrap();
    place.set(Mood::Refuses);
    log.append(vec![entry(2)]).unwrap_err();
    // Its last lines find no place either.
    let _ = log.stop();
    drop(log);
    assert!(place.lines().len() < lab.lines().len());
    place.set(Mood::Takes);
    // A day later, so that the old lines stand in a file that ended.
    lab.clock.store(NOON + 86_400, Ordering::SeqCst);
    let log = AuditLog::open(place.of(&lab, true, 0)).unwrap();
    let copied: Vec<_> = place.lines().iter().map(|line| (line.chain, line.seq)).collect();
    assert_eq!(copied.len(), lab.lines().len(), "before anything else");
    log.append(vec![entry(3)]).unwrap();
    log.stop().unwrap();
    assert_eq!(lab.files().len(), 2);
    let mut lines = lab.lines();
    lines.sort_by_key(|line| (line.time.clone(), line.seq));
    let there = place.lines();
    assert_eq!(lines, there);
    // One that ended well owes nothing.
    AuditLog::open(place.of(&lab, true, 0)).unwrap().stop().unwrap();
    assert_eq!(place.lines().len(), lab.lines().len());
}

/// Counts what the log tells of its places.
#[derive(Default)]
struct Heard(Mutex<(u64, u64, usize, usize)>);

impl SinkObserver for Heard {
    fn copied(&self, _: &'static str, lines: u64) {
        self.0.lock().unwrap().0 += lines;
    }
    fn missed(&self, _: &'static str, lines: u64) {
        self.0.lock().unwrap().1 += lines;
    }
    fn away(&self, sink: &'static str, is_required: bool, _: &str) {
        assert_eq!((sink, is_required), ("memory", false));
        self.0.lock().unwrap().2 += 1;
    }
    fn back(&self, _: &'static str) {
        self.0.lock().unwrap().3 += 1;
    }
}

#[test]
fn a_place_that_is_not_required_misses_lines_and_a_line_says_how_many() {
    let (lab, place, heard) = (Lab::new(), Place::default(), Arc::new(Heard::default()));
    let settings = Settings { observer: heard.clone(), ..place.of(&lab, false, 5) };
    let log = AuditLog::open(settings).unwrap();
    place.set(Mood::Hangs);
    for n in 0..30 {
        log.append(vec![entry(n)]).unwrap();
    }
    place.set(Mood::Takes);
    // Without another request.
    lab.until(|| lab.lines().iter().any(|line| line.entry.event == Event::Gap));
    log.append(vec![entry(30)]).unwrap();
    log.stop().unwrap();
    let (all, there) = (lab.lines(), place.lines());
    let gap = all.iter().find(|line| line.entry.event == Event::Gap).unwrap();
    assert_eq!(gap.entry.reason.as_deref(), Some("memory"));
    assert_eq!(gap.entry.items, Some((all.len() - there.len()) as u64));
    assert_eq!(events(&all)["gap"], 1);
    assert_eq!(events(&there)["gap"], 1, "the place has it too");
    assert_eq!(gap.entry.items, Some(25), "5 waited");
    let (copied, missed, away, back) = *heard.0.lock().unwrap();
    assert_eq!((copied, missed, away, back), (there.len() as u64, 25, 1, 1));
    assert_eq!(lab.verify(&place.copies()).faults, []);
}

#[test]
fn a_log_that_ends_while_a_place_hangs_says_what_is_missing() {
    let (lab, place) = (Lab::new(), Place::default());
    let log = AuditLog::open(place.of(&lab, false, 5)).unwrap();
    place.set(Mood::Hangs);
    for n in 0..10 {
        log.append(vec![entry(n)]).unwrap();
    }
    log.stop().unwrap();
    let lines = lab.lines();
    let gap = lines.iter().find(|line| line.entry.event == Event::Gap).unwrap();
    assert_eq!(gap.entry.items, Some(10));
    assert_eq!(lines.last().unwrap().entry.event, Event::Checkpoint);
}

#[test]
fn a_chain_discloses_nothing_before_its_first_line_is_in_a_second_place() {
    let (lab, place) = (Lab::new(), Place::default());
    let log = AuditLog::open(place.of(&lab, false, 5)).unwrap();
    place.set(Mood::Refuses);
    log.append(vec![entry(1)]).unwrap();
    // The next day's chain would find no place: this one goes on.
    lab.clock.store(NOON + 86_400, Ordering::SeqCst);
    lab.until(|| log.append(vec![entry(2)]).is_ok());
    assert_eq!(lab.files().len(), 1);
    place.set(Mood::Takes);
    lab.until(|| {
        log.append(vec![entry(3)]).unwrap();
        lab.files().len() == 2
    });
    log.stop().unwrap();
    assert!(place.lines().iter().filter(|line| line.seq == 1).count() == 2);
    // A start has no chain that could go on.
    place.set(Mood::Refuses);
    let error = AuditLog::open(place.of(&lab, false, 5)).unwrap_err().to_string();
    assert!(error.contains("lacks the chain's first line: it refuses"), "{error}");
}

#[test]
fn side_files_are_copied_with_their_lines() {
    let (lab, place) = (Lab::new(), Place::default());
    let log = AuditLog::open(place.of(&lab, true, 0)).unwrap();
    let bulk: Vec<SubjectRef> = (0..150).map(|n| SubjectRef([n; 16])).collect();
    log.append(vec![Entry { bulk, ..entry(1) }]).unwrap();
    log.stop().unwrap();
    let held = place.0.0.lock().unwrap();
    assert_eq!((held.subjects.len(), held.subjects[0].len()), (1, 150 * 16));
}
