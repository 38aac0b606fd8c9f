//! What a crash, a full disk and a failed fsync leave: real processes, killed, limited, and told by
//! their C library that the disk did not take it.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

#[path = "support/disk.rs"]
mod disk;
mod support;

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use disk::Disk;
use rlimit::Resource;
use support::{Lab, entry, settings};
use veilstream_reading::audit::verify::Copies;
use veilstream_reading::audit::{AuditError, AuditLog, VerifierKey};

const FOLDER: &str = "VEILSTREAM_AUDIT_CHILD";
const KEY: &str = "VEILSTREAM_AUDIT_CHILD_KEY";

/// This test binary again, as a process that runs one of the children below. The shell lets it live
/// when a file reaches its limit.
fn child(lab: &Lab, name: &str) -> Child {
    child_with(lab, name, &[])
}

fn child_with(lab: &Lab, name: &str, environment: &[(&str, PathBuf)]) -> Child {
    Command::new("sh")
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .args(["-c", "trap '' XFSZ; exec \"$0\" --exact --nocapture \"$1\""])
        .arg(std::env::current_exe().unwrap())
        .arg(name)
        .env(FOLDER, lab.dir.path())
        .env(KEY, lab.verifier.expose().as_str())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The log of a child's folder; `None`: this is no child.
fn log_of_child() -> Option<AuditLog> {
    let folder = PathBuf::from(std::env::var_os(FOLDER)?);
    let key: VerifierKey = std::env::var(KEY).unwrap().parse().unwrap();
    Some(AuditLog::open(settings(folder.join("audit.jsonl"), &key)).unwrap())
}

/// Appends from eight threads until it is killed, and tells what is durable.
#[test]
fn child_appends() {
    let Some(log) = log_of_child() else { return };
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let log = log.clone();
            scope.spawn(move || {
                for n in 0.. {
                    if let Ok(durable) = log.append(vec![entry(thread * 1_000_000 + n)]) {
                        // One write a line: half of it may not stand between others.
                        let text = format!("ack {} {}\n", durable.chain, durable.seq);
                        std::io::stdout().write_all(text.as_bytes()).unwrap();
                    }
                }
            });
        }
    });
}

#[test]
fn a_kill_loses_no_line_that_was_acknowledged() {
    let lab = Lab::new();
    let mut acknowledged: Vec<(String, u64)> = Vec::new();
    let seed = std::sync::atomic::AtomicU64::new(support::seed());
    for _ in 0..5 {
        let mut child = child(&lab, "child_appends");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let enough = acknowledged.len() + 50 + usize::try_from(support::next(&seed) % 500).unwrap();
        let take = |line: String, into: &mut Vec<(String, u64)>| {
            let mut words = line.split(' ').skip_while(|word| *word != "ack");
            let (_, chain, seq) = (words.next(), words.next(), words.next());
            if let (Some(chain), Some(Ok(seq))) = (chain, seq.map(str::parse)) {
                into.push((chain.to_owned(), seq));
            }
        };
        while acknowledged.len() < enough {
            take(lines.next().expect("the child ended by itself").unwrap(), &mut acknowledged);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it told and nobody read yet; its last line may be cut.
        lines.map_while(Result::ok).for_each(|line| take(line, &mut acknowledged));
    }
    let there: HashSet<(String, u64)> =
        lab.lines().iter().map(|line| (line.chain.to_string(), line.seq)).collect();
    let lost: Vec<_> = acknowledged.iter().filter(|place| !there.contains(*place)).collect();
    assert!(lost.is_empty(), "{} of {} are lost: {lost:?}", lost.len(), acknowledged.len());
    let verdict = lab.verify(&Copies::default());
    assert_eq!((verdict.faults.as_slice(), verdict.chains.len()), (&[][..], 5));
    println!("{} acknowledged lines, {} in the log", acknowledged.len(), there.len());
}

/// Fills its file up to a limit, finds no room at all, then has room again.
#[test]
fn child_fills_its_disk() {
    let Some(log) = log_of_child() else { return };
    let (_, hard) = Resource::FSIZE.get().unwrap();
    let limit = |bytes| Resource::FSIZE.set(bytes, hard).unwrap();
    let append = |n| log.append(vec![entry(n)]);
    let acknowledge = |n| {
        let durable = append(n).unwrap();
        println!("\nack {} {}", durable.chain, durable.seq);
    };
    (0..5).for_each(acknowledge);
    // The batch gets half a line into the file before it is full.
    limit(std::fs::metadata(log.file()).unwrap().len() + 200);
    let refused = append(5);
    assert!(matches!(refused, Err(AuditError::Unavailable { .. })), "{refused:?}");
    // Not even the first line of another file.
    limit(100);
    for n in 6..9 {
        assert!(matches!(append(n), Err(AuditError::Unavailable { .. })));
    }
    limit(hard);
    (9..12).for_each(acknowledge);
    log.stop().unwrap();
    println!("\nthe child is done");
}

#[test]
fn a_full_disk_refuses_and_the_chain_heals_in_a_new_file() {
    let lab = Lab::new();
    let output = child(&lab, "child_fills_its_disk").wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && said.contains("the child is done"), "{said}");
    let files = lab.files();
    assert_eq!(files.len(), 2, "the failed attempts left nothing: {files:?}");
    for name in &files {
        let text = std::fs::read(lab.dir.path().join(name)).unwrap();
        assert!(text.ends_with(b"\n"), "{name} still has the half line that failed");
    }
    let verdict = lab.verify(&Copies::default());
    assert_eq!((verdict.faults.as_slice(), verdict.chains.len()), (&[][..], 2));
    let lines = lab.lines();
    let numbers: Vec<u64> = lines.iter().filter_map(|line| line.entry.attempt).collect();
    assert!(numbers.iter().all(|n| !(5..9).contains(n)), "a refused line stands: {numbers:?}");
    for line in said.lines().filter_map(|line| line.strip_prefix("ack ")) {
        let (chain, seq) = line.split_once(' ').unwrap();
        let is_it = |l: &&veilstream_reading::audit::Line| {
            l.chain.to_string() == chain && l.seq.to_string() == seq
        };
        assert!(lines.iter().any(|line| is_it(&line)), "{line} is lost");
    }
}

/// Appends while its disk takes nothing, and before and after.
#[test]
fn child_has_a_disk_that_fails() {
    let Some(log) = log_of_child() else { return };
    let flag = std::env::var_os("VEILSTREAM_DISK_FAILS").unwrap();
    for n in 0..3 {
        log.append(vec![entry(n)]).unwrap();
    }
    std::fs::write(&flag, "").unwrap();
    for n in 3..6 {
        let refused = log.append(vec![entry(n)]);
        assert!(matches!(refused, Err(AuditError::Unavailable { .. })), "{refused:?}");
    }
    std::fs::remove_file(&flag).unwrap();
    for n in 6..9 {
        log.append(vec![entry(n)]).unwrap();
    }
    log.stop().unwrap();
    println!("\nthe child is done");
}

#[test]
fn a_failed_fsync_ends_the_chain_and_the_next_has_a_new_file() {
    let (lab, disk) = (Lab::new(), Disk::new());
    let child = child_with(&lab, "child_has_a_disk_that_fails", &disk.environment());
    let said = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    assert!(said.contains("the child is done"), "{said}");
    let files = lab.files();
    assert!(files.len() == 2 && files[1].contains(".ended-"), "{files:?}");
    let verdict = lab.verify(&Copies::default());
    assert_eq!((verdict.faults.as_slice(), verdict.chains.len()), (&[][..], 2));
    // What was refused stands nowhere: it was cut off before anybody could rely on it.
    let mut numbers: Vec<u64> = lab.lines().iter().filter_map(|line| line.entry.attempt).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [0, 1, 2, 6, 7, 8]);
    let last = &verdict.chains[0];
    assert_eq!(last.lines, 4, "the first chain ended with its last durable line");
}
