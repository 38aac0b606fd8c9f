//! A log that is followed while its files end, others are written beside them, and old lines go.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod support;

use std::sync::atomic::Ordering;

use support::{Lab, NOON, entry};
use veilstream_reading::audit::follow::Follower;
use veilstream_reading::audit::prune::prune;
use veilstream_reading::audit::{AuditError, AuditLog, Entry, Event, Line};

fn new_lines(follower: &mut Follower) -> Vec<Line> {
    let mut lines = Vec::new();
    follower
        .poll(|_, line| -> Result<(), AuditError> {
            lines.push(line);
            Ok(())
        })
        .unwrap();
    lines
}

fn attempts(lines: &[Line]) -> Vec<u64> {
    lines.iter().filter_map(|line| line.entry.attempt).collect()
}

#[test]
fn a_follower_sees_each_line_once_across_the_ends_of_files() {
    let lab = Lab::new();
    let mut follower = Follower::new(&lab.file());
    assert!(new_lines(&mut follower).is_empty(), "it is not there yet");
    let log = AuditLog::open(lab.settings()).unwrap();
    log.append(vec![entry(1)]).unwrap();
    assert_eq!(attempts(&new_lines(&mut follower)), [1]);
    assert!(new_lines(&mut follower).is_empty());
    // The last lines of a file, and the first of the next: between two looks.
    log.append(vec![entry(2)]).unwrap();
    lab.clock.store(NOON + 86_400, Ordering::SeqCst);
    log.append(vec![entry(3)]).unwrap();
    let mut seen = attempts(&new_lines(&mut follower));
    seen.sort_unstable();
    assert_eq!(seen, [2, 3]);
    // A second writer, and a second end.
    let second = AuditLog::open(lab.settings()).unwrap();
    second.append(vec![entry(4)]).unwrap();
    lab.clock.store(NOON + 2 * 86_400, Ordering::SeqCst);
    log.append(vec![entry(5)]).unwrap();
    let mut seen = attempts(&new_lines(&mut follower));
    seen.sort_unstable();
    assert_eq!(seen, [4, 5]);
    // Files that are written again without old lines.
    let pruned = prune(&log, &Entry::new(Event::Prune), NOON + 86_401).unwrap();
    assert!(pruned.lines > 0);
    assert_eq!(attempts(&new_lines(&mut follower)), [0; 0]);
    log.append(vec![entry(6)]).unwrap();
    assert_eq!(attempts(&new_lines(&mut follower)), [6]);
}

#[test]
fn half_a_line_waits_for_its_end() {
    let lab = Lab::new();
    AuditLog::open(lab.settings()).unwrap().stop().unwrap();
    let text = std::fs::read_to_string(lab.file()).unwrap();
    let (cut, rest) = text.split_at(text.len() - 40);
    std::fs::write(lab.file(), cut).unwrap();
    let mut follower = Follower::new(&lab.file());
    let before = new_lines(&mut follower).len();
    assert!(new_lines(&mut follower).is_empty());
    let mut file = std::fs::OpenOptions::new().append(true).open(lab.file()).unwrap();
    std::io::Write::write_all(&mut file, rest.as_bytes()).unwrap();
    assert_eq!(new_lines(&mut follower).len(), 1);
    assert_eq!(before + 1, text.lines().count());
}
