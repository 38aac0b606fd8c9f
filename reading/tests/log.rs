//! The audit log as its users have it: written by threads and processes, verified from its files.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod support;

use std::fs;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake};
use std::thread::Thread;
use std::time::{Duration, Instant};

use support::{Lab, NOON, entry};
use veilstream_engine::key::SubjectRef;
use veilstream_reading::audit::verify::{Copies, Wrong, verify};
use veilstream_reading::audit::{
    AuditError, AuditLog, Entry, Event, Hex, LedgerHead, Line, LineFault, LogParts, Settings,
};

#[test]
fn lines_of_many_threads_are_in_one_chain() {
    let lab = Lab::new();
    let log = AuditLog::open(lab.settings()).unwrap();
    let places = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (log, places) = (log.clone(), &places);
            scope.spawn(move || {
                for n in 0..50 {
                    let durable = log.append(vec![entry(thread * 100 + n), entry(0)]).unwrap();
                    places.lock().unwrap().push(durable.seq);
                }
            });
        }
    });
    log.stop().unwrap();
    assert!(matches!(log.append(vec![entry(1)]), Err(AuditError::Stopped)));
    let lines = lab.lines();
    for seq in places.into_inner().unwrap() {
        let at = usize::try_from(seq).unwrap() - 1;
        assert_eq!(lines[at].entry.event, Event::Reveal, "where the append said");
    }
    let events = |event| lines.iter().filter(|line| line.entry.event == event).count();
    assert_eq!((events(Event::Start), events(Event::Reveal)), (1, 800));
    assert_eq!((events(Event::Stop), events(Event::Checkpoint)), (1, 1));
    let verdict = lab.verify(&Copies::default());
    assert_eq!((verdict.faults.as_slice(), verdict.chains.len()), (&[][..], 1));
    assert_eq!(verdict.chains[0].known_to, 803);
}

/// A process that is about to be copied must have no thread that holds the key store.
#[test]
fn an_ended_log_holds_nothing() {
    let lab = Lab::new();
    for _ in 0..20 {
        let held = Arc::new(());
        let theirs = held.clone();
        let ledger = Arc::new(move || {
            let _ = &theirs;
            None
        });
        let log = AuditLog::open(Settings { ledger, ..lab.settings() }).unwrap();
        log.append(vec![entry(1)]).unwrap();
        log.clone().end().unwrap();
        assert_eq!(Arc::strong_count(&held), 1, "the thread is still there");
        // The file is free: nobody writes a second one.
        assert_eq!(lab.files(), ["audit.jsonl"]);
        assert!(matches!(log.end(), Ok(()) | Err(AuditError::Stopped)));
    }
}

#[test]
fn checkpoints_come_by_lines_and_by_time() {
    let lab = Lab::new();
    let mut settings = lab.settings();
    settings.checkpoint_lines = 10;
    let log = AuditLog::open(settings).unwrap();
    log.append((0..25).map(entry).collect()).unwrap();
    log.stop().unwrap();
    let checkpoints: Vec<u64> = lab.checkpoints().iter().map(|line| line.seq).collect();
    assert_eq!(checkpoints, [11, 21, 30], "10 lines each, and the rest at the end");

    let lab = Lab::new();
    let mut settings = lab.settings();
    settings.checkpoint_every = Duration::from_millis(5);
    let log = AuditLog::open(settings).unwrap();
    // Idle too: nobody appends.
    lab.until(|| lab.checkpoints().len() > 2);
    drop(log);
    assert_eq!(lab.verify(&Copies::default()).faults, []);
}

#[test]
fn a_line_that_is_none_is_refused_and_the_chain_goes_on() {
    let lab = Lab::new();
    let log = AuditLog::open(lab.settings()).unwrap();
    let long = Entry { reason: Some("x".repeat(201)), ..entry(1) };
    assert!(matches!(log.append(vec![entry(1), long]), Err(AuditError::Line(LineFault::Reason))));
    assert_eq!(log.append(vec![entry(1)]).unwrap().seq, 2);
}

#[test]
fn a_restart_follows_in_the_same_file_and_another_day_in_a_new_one() {
    let lab = Lab::new();
    for _ in 0..3 {
        let log = AuditLog::open(lab.settings()).unwrap();
        log.append(vec![entry(1)]).unwrap();
        log.stop().unwrap();
    }
    assert_eq!(lab.files(), ["audit.jsonl"]);
    lab.clock.store(NOON + 86_400, Ordering::SeqCst);
    let log = AuditLog::open(lab.settings()).unwrap();
    log.append(vec![entry(1)]).unwrap();
    assert_eq!(lab.files().len(), 2, "{:?}", lab.files());
    // While it runs.
    lab.clock.store(NOON + 2 * 86_400, Ordering::SeqCst);
    log.append(vec![entry(1)]).unwrap();
    log.stop().unwrap();
    let files = lab.files();
    assert_eq!(files.len(), 3, "{files:?}");
    assert!(files[1].starts_with("audit.jsonl.ended-2026-11-30-"), "{files:?}");
    let verdict = lab.verify(&Copies::default());
    assert_eq!((verdict.faults.as_slice(), verdict.chains.len()), (&[][..], 5));
    // A whole file that is gone shows.
    fs::remove_file(lab.dir.path().join(&files[1])).unwrap();
    assert_eq!(lab.verify(&Copies::default()).faults[0].why, Wrong::Predecessor);
}

#[test]
fn a_file_ends_at_its_size() {
    let lab = Lab::new();
    let mut settings = lab.settings();
    settings.file_bytes = 4000;
    let log = AuditLog::open(settings).unwrap();
    for n in 0..40 {
        log.append(vec![entry(n)]).unwrap();
    }
    log.stop().unwrap();
    assert!(lab.files().len() > 3, "{:?}", lab.files());
    for name in lab.files() {
        assert!(fs::metadata(lab.dir.path().join(name)).unwrap().len() < 8000);
    }
    assert_eq!(lab.verify(&Copies::default()).faults, []);
    assert_eq!(lab.lines().iter().filter(|line| line.entry.event == Event::Reveal).count(), 40);
}

#[test]
fn a_second_writer_has_a_file_of_its_own() {
    let lab = Lab::new();
    let first = AuditLog::open(lab.settings()).unwrap();
    let second = AuditLog::open(lab.settings()).unwrap();
    let (a, b) = (first.append(vec![entry(1)]).unwrap(), second.append(vec![entry(2)]).unwrap());
    assert_ne!(a.chain, b.chain);
    assert_eq!(lab.files(), ["audit.jsonl", "audit.jsonl.1"]);
    first.stop().unwrap();
    second.stop().unwrap();
    let verdict = lab.verify(&Copies::default());
    assert_eq!((verdict.faults.as_slice(), verdict.chains.len()), (&[][..], 2));
}

#[test]
fn sixty_four_writers_have_files_and_one_more_is_told_to_take_another() {
    let lab = Lab::new();
    let logs: Vec<AuditLog> = (0..64).map(|_| AuditLog::open(lab.settings()).unwrap()).collect();
    assert!(lab.files().contains(&"audit.jsonl.63".to_owned()));
    let error = AuditLog::open(lab.settings()).unwrap_err().to_string();
    assert!(error.contains("64 processes write to it already"), "{error}");
    logs.iter().for_each(|log| log.stop().unwrap());
    let verdict = lab.verify(&Copies::default());
    assert_eq!((verdict.faults.as_slice(), verdict.chains.len()), (&[][..], 64));
}

#[test]
fn half_a_line_stays_and_the_successor_names_it() {
    let lab = Lab::new();
    let log = AuditLog::open(lab.settings()).unwrap();
    log.append(vec![entry(1)]).unwrap();
    log.stop().unwrap();
    let mut text = fs::read_to_string(lab.file()).unwrap();
    text.push_str("{\"actor\":\"half");
    fs::write(lab.file(), &text).unwrap();
    assert_eq!(lab.verify(&Copies::default()).faults, []);
    let log = AuditLog::open(lab.settings()).unwrap();
    log.stop().unwrap();
    let first = lab.lines().into_iter().filter(|line| line.seq == 1).nth(1).unwrap();
    assert!(first.predecessor.unwrap().torn);
    assert_eq!(lab.verify(&Copies::default()).faults, []);
    // Without the successor's word the half line is an edit.
    let text = fs::read_to_string(lab.file()).unwrap().replace(",\"torn\":true", "");
    fs::write(lab.file(), text).unwrap();
    assert_eq!(lab.verify(&Copies::default()).faults[0].why, Wrong::Form);
}

#[test]
fn a_writer_that_was_killed_at_its_first_line_is_in_nobodys_way() {
    let lab = Lab::new();
    fs::write(lab.file(), "{\"actor\":\"veil").unwrap();
    AuditLog::open(lab.settings()).unwrap().stop().unwrap();
    assert_eq!((lab.verify(&Copies::default()).faults, lab.lines().len()), (vec![], 3));
}

#[test]
fn what_is_no_audit_log_is_not_written_to() {
    let lab = Lab::new();
    fs::write(lab.file(), "somebody's notes\n").unwrap();
    let error = AuditLog::open(lab.settings()).unwrap_err().to_string();
    assert!(error.contains("has no line of an audit log"), "{error}");
    assert_eq!(fs::read_to_string(lab.file()).unwrap(), "somebody's notes\n");
}

#[test]
fn an_erasure_ledger_that_went_back_is_refused() {
    let lab = Lab::new();
    let head = |seq, line: u8, store: u8| {
        let mut settings = lab.settings();
        let head = LedgerHead { seq, sha256: Hex([line; 32]), store: Hex([store; 16]) };
        settings.ledger = Arc::new(move || Some(head.clone()));
        settings
    };
    AuditLog::open(head(4, 4, 1)).unwrap().stop().unwrap();
    for older in [head(3, 3, 1), head(4, 9, 1)] {
        let error = AuditLog::open(older).unwrap_err().to_string();
        assert!(error.contains("Restore the present ledger"), "{error}");
    }
    AuditLog::open(head(1, 1, 2)).unwrap().stop().unwrap();
    AuditLog::open(head(5, 5, 1)).unwrap().stop().unwrap();
    assert_eq!(lab.verify(&Copies::default()).faults, []);
}

#[test]
fn a_device_is_neither_written_nor_removed() {
    let lab = Lab::new();
    std::os::unix::fs::symlink("/dev/full", lab.file()).unwrap();
    let error = AuditLog::open(lab.settings()).unwrap_err().to_string();
    assert!(error.contains("no regular file"), "{error}");
    assert!(fs::symlink_metadata(lab.file()).is_ok());
}

#[test]
fn a_writer_that_hangs_is_told_within_the_deadline() {
    let lab = Lab::new();
    let gate = Arc::new(Gate::default());
    let deadline = Duration::from_millis(300);
    let log = AuditLog::open(Settings { deadline, ..gated(&lab, &gate) }).unwrap();
    let held = gate.lock.lock().unwrap();
    let begun = Instant::now();
    for n in 0..3 {
        assert!(matches!(log.append(vec![entry(n)]), Err(AuditError::Unavailable { .. })));
    }
    assert!(begun.elapsed() >= Duration::from_millis(900), "each waits for its own deadline");
    drop(held);
    lab.until(|| log.append(vec![entry(77)]).is_ok());
    log.stop().unwrap();
    // What nobody waited for any more was not written behind their backs, but for the one that the
    // thread had in hand.
    let abandoned =
        lab.lines().into_iter().filter(|line| matches!(line.entry.attempt, Some(1 | 2)));
    assert_eq!(abandoned.count(), 0);
    assert_eq!(lab.verify(&Copies::default()).faults, []);
}

/// Where a log's thread hangs.
#[derive(Default)]
struct Gate {
    lock: Mutex<()>,
    /// How often the thread came by.
    passes: AtomicU64,
}

/// A log whose thread hangs while the gate is locked.
fn gated(lab: &Lab, gate: &Arc<Gate>) -> Settings {
    let (gate, clock) = (gate.clone(), lab.clock.clone());
    let clock = move || {
        gate.passes.fetch_add(1, Ordering::SeqCst);
        drop(gate.lock.lock().unwrap());
        clock.load(Ordering::SeqCst)
    };
    Settings { clock: Arc::new(clock), ..lab.settings() }
}

/// Wakes the thread that polls.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[test]
fn a_task_waits_and_lines_that_nobody_waits_for_are_written() {
    let lab = Lab::new();
    let gate = Arc::new(Gate::default());
    let log = AuditLog::open(gated(&lab, &gate)).unwrap();
    let held = gate.lock.lock().unwrap();
    let submit = |n| log.submit(vec![entry(n)]).unwrap();
    let passes = gate.passes.load(Ordering::SeqCst);
    let mut tasks = vec![submit(1)];
    // The thread has the first in hand, so what follows waits.
    lab.until(|| gate.passes.load(Ordering::SeqCst) > passes);
    tasks.push(submit(2));
    drop(submit(3));
    let given_up = submit(4).give_up().to_string();
    assert!(given_up.contains("longer than 20 s"), "{given_up}");
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut cx = Context::from_waker(&waker);
    for task in &mut tasks {
        assert!(Pin::new(task).poll(&mut cx).is_pending());
    }
    drop(held);
    for mut task in tasks {
        let durable = loop {
            match Pin::new(&mut task).poll(&mut cx) {
                Poll::Ready(durable) => break durable.unwrap(),
                // Woken, or the test hangs.
                Poll::Pending => std::thread::park(),
            }
        };
        assert_eq!(
            lab.lines()[usize::try_from(durable.seq).unwrap() - 1].entry.event,
            Event::Reveal
        );
    }
    log.stop().unwrap();
    assert!(matches!(log.submit(vec![entry(5)]), Err(AuditError::Stopped)));
    let written: Vec<u64> = lab.lines().into_iter().filter_map(|line| line.entry.attempt).collect();
    assert_eq!(written, [1, 2, 3]);
    assert_eq!(lab.verify(&Copies::default()).faults, []);
}

#[test]
fn a_file_that_others_move_or_change_ends_and_is_told() {
    let append = |file: &Path| {
        let mut file = fs::OpenOptions::new().append(true).open(file).unwrap();
        std::io::Write::write_all(&mut file, b"not ours\n").unwrap();
    };
    type Harm<'h> = &'h dyn Fn(&Path);
    let harms: [(Harm<'_>, &str, &[u64]); 4] = [
        (&|file| fs::remove_file(file).unwrap(), "moved or removed", &[3]),
        (&|file| fs::rename(file, file.with_extension("old")).unwrap(), "moved or removed", &[3]),
        (&|file| drop(fs::File::create(file).unwrap()), "cut by somebody", &[3]),
        // Its own lines are all there: what stood between is cut off.
        (&append, "written to", &[1, 3]),
    ];
    for (harm, said, left) in harms {
        let lab = Lab::new();
        let log = AuditLog::open(lab.settings()).unwrap();
        log.append(vec![entry(1)]).unwrap();
        harm(&lab.file());
        let error = log.append(vec![entry(2)]).unwrap_err().to_string();
        assert!(error.contains(said) && error.contains("goes on in a new file"), "{error}");
        log.append(vec![entry(3)]).unwrap();
        log.stop().unwrap();
        let mut numbers: Vec<u64> =
            lab.lines().iter().filter_map(|line| line.entry.attempt).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, left, "{said}");
        let is_whole = lab.verify(&Copies::default()).faults.is_empty();
        assert_eq!(is_whole, left.len() == 2, "what is missing shows: {said}");
    }
}

#[test]
fn a_clock_that_goes_back_or_jumps_has_a_line() {
    let lab = Lab::new();
    let log = AuditLog::open(lab.settings()).unwrap();
    log.append(vec![entry(1)]).unwrap();
    lab.clock.store(NOON - 100, Ordering::SeqCst);
    let back = log.append(vec![entry(2)]).unwrap();
    lab.clock.store(NOON, Ordering::SeqCst);
    log.append(vec![entry(3)]).unwrap();
    log.append(vec![entry(4)]).unwrap();
    log.stop().unwrap();
    let lines = lab.lines();
    let clocks: Vec<&str> = lines
        .iter()
        .filter(|line| line.entry.event == Event::Clock)
        .map(|line| line.entry.reason.as_deref().unwrap())
        .collect();
    assert_eq!(clocks, ["the clock went back by 100 s", "the clock jumped by 100 s"]);
    let at = usize::try_from(back.seq).unwrap() - 1;
    assert_eq!(lines[at].entry.attempt, Some(2), "the clock's line is not the caller's");
}

#[test]
fn a_bulk_read_has_a_side_file() {
    let lab = Lab::new();
    let log = AuditLog::open(lab.settings()).unwrap();
    let bulk: Vec<SubjectRef> = (0..150).map(|n| SubjectRef([n; 16])).collect();
    log.append(vec![Entry { bulk, ..entry(1) }]).unwrap();
    log.stop().unwrap();
    let lines = lab.lines();
    let line = lines.iter().find(|line| line.entry.subjects.is_some()).unwrap();
    assert_eq!(line.entry.subjects, Some(150));
    assert_eq!(lab.verify(&Copies::default()).faults, []);
    let name = format!("audit.jsonl.subjects-{}", line.entry.subjects_sha256.unwrap());
    fs::write(lab.dir.path().join(name), [0; 150 * 16]).unwrap();
    assert_eq!(lab.verify(&Copies::default()).faults[0].why, Wrong::SideFile);
}

#[test]
fn the_second_place_knows_what_must_be_here() {
    let lab = Lab::new();
    let log = AuditLog::open(lab.settings()).unwrap();
    log.append(vec![entry(1)]).unwrap();
    log.stop().unwrap();
    let text = fs::read_to_string(lab.file()).unwrap();
    let mut copies = Copies::default();
    for line in [text.lines().next().unwrap(), text.lines().last().unwrap()] {
        copies.add(line.as_bytes()).unwrap();
    }
    assert_eq!(lab.verify(&copies).faults, []);
    assert_eq!(lab.verify_publicly(&copies).chains[0].known_to, 4);
    assert_eq!(lab.verify_publicly(&Copies::default()).chains[0].known_to, 0);
    // Somebody adds another line of the same number to the place: it is nobody's copy.
    let mut forged = copies.clone();
    let line = text.lines().next().unwrap().replace("T12:00:00Z", "T12:00:01Z");
    forged.add(line.as_bytes()).unwrap();
    assert_eq!(lab.verify(&forged).faults[0].why, Wrong::Copy);
    // The chain's file is gone, and another one has its name.
    fs::remove_file(lab.file()).unwrap();
    AuditLog::open(lab.settings()).unwrap().stop().unwrap();
    let fault = &lab.verify(&copies).faults[0];
    assert_eq!((fault.why, fault.line, fault.file.as_deref()), (Wrong::Missing, 1, None));
}

#[test]
fn hosts_that_share_a_second_place_are_verified_together() {
    let lab = Lab::new();
    let other = lab.dir.path().join("other.jsonl");
    let bulk: Vec<SubjectRef> = (0..150).map(|n| SubjectRef([n; 16])).collect();
    let mut copies = Copies::default();
    for file in [lab.file(), other.clone()] {
        let log = AuditLog::open(Settings { file: file.clone(), ..lab.settings() }).unwrap();
        log.append(vec![Entry { bulk: bulk.clone(), ..entry(1) }]).unwrap();
        log.stop().unwrap();
        let text = fs::read_to_string(file).unwrap();
        text.lines().for_each(|line| copies.add(line.as_bytes()).unwrap());
    }
    // One alone lacks the chain of the other.
    assert_eq!(lab.verify(&copies).faults[0].why, Wrong::Missing);
    let both = LogParts::of(&lab.file()).unwrap().with(&other).unwrap();
    let verdict = verify(&both, &lab.keys(vec![lab.verifier.clone()]), &copies).unwrap();
    assert_eq!((verdict.faults.as_slice(), verdict.chains.len()), (&[][..], 2));
}

#[test]
fn a_tail_that_was_cut_shows_by_the_successor() {
    let lab = a_log(3);
    // In one file, and at the end of a file that the next one follows.
    for (file, chain) in [(0, 0), (1, 1)] {
        let path = lab.dir.path().join(&lab.files()[file]);
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        let begins: Vec<usize> = (0..lines.len())
            .filter(|at| lines[*at].contains("\"seq\":1,"))
            .chain([lines.len()])
            .collect();
        let end = begins[chain + 1];
        fs::write(&path, [&lines[..end - 1], &lines[end..]].concat().concat()).unwrap();
        let faults = lab.verify(&Copies::default()).faults;
        assert_eq!(faults.iter().map(|f| f.why).collect::<Vec<_>>(), [Wrong::Predecessor]);
        fs::write(&path, text).unwrap();
        assert_eq!(lab.verify(&Copies::default()).faults, []);
    }
}

/// A log of two files and several chains for the changes below.
fn a_log(lines: u64) -> Lab {
    let lab = Lab::new();
    for day in 0..2 {
        lab.clock.store(NOON + day * 86_400, Ordering::SeqCst);
        for _ in 0..2 {
            let mut settings = lab.settings();
            settings.checkpoint_lines = 15;
            let log = AuditLog::open(settings).unwrap();
            for batch in 0..lines.div_ceil(100) {
                log.append((0..lines.min(100)).map(|n| entry(batch * 100 + n)).collect()).unwrap();
            }
            log.stop().unwrap();
        }
    }
    lab
}

/// Every change to a single line, and to two, is found: with the private key wherever it is; with
/// the public key up to the last copied checkpoint. `VEILSTREAM_AUDIT_SAMPLE=lines,changes` makes
/// it larger than 40 lines in each of four chains and 15 changes of each of seven kinds. Before a
/// release, built for speed: `25000,143`.
#[test]
fn every_change_is_found() {
    let sample = std::env::var("VEILSTREAM_AUDIT_SAMPLE").unwrap_or_else(|_| "40,15".to_owned());
    let (lines, changes) = sample.split_once(',').unwrap();
    let (lines, changes): (u64, usize) = (lines.parse().unwrap(), changes.parse().unwrap());
    let lab = a_log(lines);
    assert_eq!(lab.verify(&Copies::default()).faults, []);
    let copies = lab.copies_of_checkpoints();
    assert_eq!(lab.verify_publicly(&copies).faults, []);
    let path = lab.file();
    let text = fs::read(&path).unwrap();
    let whole: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    let other = fs::read(lab.dir.path().join(&lab.files()[1])).unwrap();
    let others: Vec<&[u8]> = other.split_inclusive(|byte| *byte == b'\n').collect();
    let seed = AtomicU64::new(support::seed());
    let below = |bound: usize| usize::try_from(support::next(&seed) % bound as u64).unwrap();
    let mut found = 0;
    for change in 0..changes * support::KINDS {
        let kind = change % support::KINDS;
        let changed = support::change(kind, &whole, &others, &below);
        fs::write(&path, &changed).unwrap();
        let faults = lab.verify(&copies).faults;
        assert!(!faults.is_empty(), "change {change} of kind {kind} is not found with the key");
        let faults = lab.verify_publicly(&copies).faults;
        assert!(!faults.is_empty(), "change {change} of kind {kind} is not found in public");
        found += 1;
    }
    fs::write(&path, &text).unwrap();
    assert_eq!(lab.verify(&copies).faults, []);
    println!("{found} changes of {} lines found", whole.len());
}

#[test]
fn lines_are_read_as_they_were_written() {
    let lab = a_log(3);
    for path in lab.files() {
        for line in fs::read_to_string(Path::new(lab.dir.path()).join(path)).unwrap().lines() {
            assert_eq!(Line::read(line.as_bytes()).unwrap().to_bytes(), line.as_bytes());
        }
    }
}
