//! All files of a log together: chains that follow each other, within a file and across files.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::chain::{ChainVerifier, Heads};
use super::{ChainReport, Copies, Fault, Keys, Verdict, Wrong};
use crate::audit::AuditError;
use crate::audit::hex::Hex;
use crate::audit::line::{Event, Line, Predecessor};
use crate::audit::parts::{LogParts, RawLine, RawLines};

/// Verifies the files of a log.
///
/// # Errors
/// A file cannot be read. What is wrong with the log is no error: it stands in the verdict.
pub fn verify(log: &LogParts, keys: &Keys, copies: &Copies) -> Result<Verdict, AuditError> {
    let outline = Outline::of(log)?;
    let mut work = Work {
        log,
        keys,
        copies,
        outline: &outline,
        ends: HashMap::new(),
        seen: HashSet::new(),
        verdict: Verdict::default(),
    };
    for path in outline.in_order(log.files()) {
        work.file(path)?;
    }
    for (chain, lines) in &copies.0 {
        if !work.seen.contains(chain)
            && !work.outline.is_behind_fault(&work.verdict, *chain)
            && !lines.is_empty()
        {
            let fault = Fault { file: None, line: 1, chain: Some(*chain), why: Wrong::Missing };
            work.verdict.faults.push(fault);
        }
    }
    Ok(work.verdict)
}

/// What the log's files say before anything is verified.
struct Outline {
    /// Where each chain begins.
    begins: HashMap<Hex<16>, PathBuf>,
    /// The chain before the first one of each file.
    before: HashMap<PathBuf, Hex<16>>,
    /// Which line of a chain its successor names.
    named: HashMap<Hex<16>, u64>,
    /// The checkpoint that pruning kept behind line 1, by chain.
    pruned: HashMap<Hex<16>, u64>,
}

impl Outline {
    fn of(log: &LogParts) -> Result<Self, AuditError> {
        let mut outline = Self {
            begins: HashMap::new(),
            before: HashMap::new(),
            named: HashMap::new(),
            pruned: HashMap::new(),
        };
        let mut files = HashSet::new();
        log.each(|path, _, line| {
            let is_first = files.insert(path.to_owned());
            if line.seq == 1 {
                outline.begins.entry(line.chain).or_insert_with(|| path.to_owned());
                if let Some(before) = &line.predecessor {
                    outline.named.insert(before.chain, before.seq);
                    if is_first {
                        outline.before.insert(path.to_owned(), before.chain);
                    }
                }
            }
            if line.entry.event == Event::Prune {
                for (chain, seq) in &line.entry.fields {
                    if let (Ok(chain), Ok(seq)) = (chain.parse(), seq.parse()) {
                        outline.pruned.insert(chain, seq);
                    }
                }
            }
            Ok(())
        })?;
        Ok(outline)
    }

    /// The files, each behind the one that it follows.
    fn in_order<'f>(&self, files: &'f [PathBuf]) -> Vec<&'f PathBuf> {
        let (mut ordered, mut rest): (Vec<&PathBuf>, Vec<&PathBuf>) =
            (Vec::new(), files.iter().collect());
        while !rest.is_empty() {
            let follows_rest = |path: &PathBuf| {
                let before = self.before.get(path).and_then(|chain| self.begins.get(chain));
                before.is_some_and(|before| before != path && rest.contains(&before))
            };
            // Files that follow each other in a circle come in any order; the verifier refuses them.
            let at = rest.iter().position(|path| !follows_rest(path)).unwrap_or(0);
            ordered.push(rest.remove(at));
        }
        ordered
    }

    /// Whether a chain begins in a file that was left at a fault.
    fn is_behind_fault(&self, verdict: &Verdict, chain: Hex<16>) -> bool {
        let file = self.begins.get(&chain);
        file.is_some() && verdict.faults.iter().any(|fault| fault.file.as_ref() == file)
    }
}

/// How a verified chain ended.
struct End {
    last: u64,
    /// SHA-256 of the line that its successor names.
    named: Option<Hex<32>>,
    heads: Heads,
}

struct Work<'a> {
    log: &'a LogParts,
    keys: &'a Keys,
    copies: &'a Copies,
    outline: &'a Outline,
    ends: HashMap<Hex<16>, End>,
    seen: HashSet<Hex<16>>,
    verdict: Verdict,
}

/// A chain under verification, and what is told of it.
struct Current<'a> {
    verifier: ChainVerifier<'a>,
    named: Option<Hex<32>>,
    report: ChainReport,
}

impl<'a> Work<'a> {
    /// Verifies a file up to its first fault.
    fn file(&mut self, path: &Path) -> Result<(), AuditError> {
        let mut lines = RawLines::open(path)?;
        let mut current: Option<Current<'a>> = None;
        // A line that cannot be read: it must be the half line that the next chain names.
        let mut torn: Option<u64> = None;
        while let Some(raw) = lines.next()? {
            if let Err(why) = self.line(path, &raw, &mut current, &mut torn) {
                let line = if why == Wrong::Form { torn.unwrap_or(raw.number) } else { raw.number };
                let chain = current.as_ref().map(|current| current.verifier.chain);
                self.fault(path, line, chain, why);
                if let Some(current) = current {
                    self.verdict.chains.push(current.finish().0);
                }
                return Ok(());
            }
        }
        if let Some(line) = torn {
            self.fault(path, line, current.as_ref().map(|c| c.verifier.chain), Wrong::Form);
        }
        self.end(path, current.take());
        Ok(())
    }

    fn line(
        &mut self,
        path: &Path,
        raw: &RawLine<'_>,
        current: &mut Option<Current<'a>>,
        torn: &mut Option<u64>,
    ) -> Result<(), Wrong> {
        let read = Line::read(raw.bytes);
        if read.is_err() {
            // Half a line at the end stays; anywhere else the next chain must name it.
            if raw.is_whole {
                torn.get_or_insert(raw.number);
            }
            return Ok(());
        }
        let is_first = |line: &Line| {
            line.seq == 1 && current.as_ref().is_none_or(|c| c.verifier.chain != line.chain)
        };
        if let Ok(line) = read
            && is_first(&line)
        {
            let before = current.take();
            let begun = self.begin(path, &line, before.as_ref(), torn.is_some());
            self.end(path, before);
            *current = Some(begun?);
            *torn = None;
        }
        if torn.is_some() {
            return Err(Wrong::Form);
        }
        let Some(current) = current else { return Err(Wrong::Seq) };
        let line = current.verifier.take(raw.bytes)?;
        if self.outline.named.get(&line.chain) == Some(&line.seq) {
            current.named = Some(current.verifier.hash());
        }
        current.report.times.1.clone_from(&line.time);
        if let Some(sha256) = &line.entry.subjects_sha256 {
            let refs = self.log.subjects(sha256).ok_or(Wrong::SideFile)?;
            if line.entry.subjects != Some(refs.len() as u64) {
                return Err(Wrong::SideFile);
            }
        }
        Ok(())
    }

    /// Begins a chain: once, and behind the one that it names.
    fn begin(
        &mut self,
        path: &Path,
        line: &Line,
        before: Option<&Current<'_>>,
        is_torn: bool,
    ) -> Result<Current<'a>, Wrong> {
        if !self.seen.insert(line.chain) {
            return Err(Wrong::Chain);
        }
        let named = line.predecessor.as_ref();
        if is_torn && !named.is_some_and(|named| named.torn) {
            return Err(Wrong::Form);
        }
        let heads = match (before, named) {
            (None, None) => Heads::new(),
            (Some(_), None) => return Err(Wrong::Predecessor),
            (Some(before), Some(named)) => {
                if before.verifier.chain != named.chain {
                    return Err(Wrong::Predecessor);
                }
                follows(named, before.verifier.last(), before.named)?;
                before.verifier.heads.clone()
            }
            (None, Some(named)) => match self.ends.get(&named.chain) {
                Some(end) => {
                    follows(named, end.last, end.named)?;
                    end.heads.clone()
                }
                // Behind a fault that is told already.
                None if self.outline.is_behind_fault(&self.verdict, named.chain) => Heads::new(),
                None => return Err(Wrong::Predecessor),
            },
        };
        let pruned_to = self.outline.pruned.get(&line.chain).copied();
        let report = ChainReport {
            chain: line.chain,
            file: path.to_owned(),
            lines: 0,
            known_to: 0,
            pruned_to: None,
            times: (line.time.clone(), line.time.clone()),
        };
        let verifier = ChainVerifier::new(line.chain, self.keys, self.copies, pruned_to, heads);
        Ok(Current { verifier, named: None, report })
    }

    /// Ends a chain: nothing of it may be missing that a second place has.
    fn end(&mut self, path: &Path, current: Option<Current<'_>>) {
        let Some(current) = current else { return };
        let (chain, last) = (current.verifier.chain, current.verifier.last());
        if current.verifier.is_short() {
            self.fault(path, last + 1, Some(chain), Wrong::Missing);
        }
        let (report, end) = current.finish();
        self.ends.insert(chain, end);
        self.verdict.chains.push(report);
    }

    fn fault(&mut self, path: &Path, line: u64, chain: Option<Hex<16>>, why: Wrong) {
        self.verdict.faults.push(Fault { file: Some(path.to_owned()), line, chain, why });
    }
}

impl Current<'_> {
    fn finish(self) -> (ChainReport, End) {
        let verifier = self.verifier;
        let report = ChainReport {
            lines: verifier.last(),
            known_to: verifier.known_to(),
            pruned_to: verifier.pruned_to(),
            ..self.report
        };
        (report, End { last: verifier.last(), named: self.named, heads: verifier.heads })
    }
}

/// Whether a chain ended as its successor says. More lines than it names are there only where a
/// write failed (`torn`): nobody was told that they were durable.
fn follows(named: &Predecessor, last: u64, hash: Option<Hex<32>>) -> Result<(), Wrong> {
    let is_end = last == named.seq || (last > named.seq && named.torn);
    if is_end && hash == Some(named.sha256) { Ok(()) } else { Err(Wrong::Predecessor) }
}
