//! Up to which line this process has applied the ledger, and how it reads on and appends.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use veilstream_engine::key::{KeyId, SubjectRef};

use super::{Appender, Erasure, Ledger, LedgerError, Position, Recorded, Verifier};
use crate::KeyError;
use crate::store::{Authentic, Shredded, StoreError};

/// Attempts to append while others do.
const ATTEMPTS: usize = 20;

/// A ledger, and the line up to which the store of this process knows it.
pub(crate) struct LedgerCursor {
    ledger: Arc<dyn Ledger>,
    known: Mutex<Position>,
}

impl LedgerCursor {
    pub(crate) fn new(ledger: Arc<dyn Ledger>, known: Position) -> Self {
        Self { ledger, known: Mutex::new(known) }
    }

    pub(crate) fn ledger(&self) -> &dyn Ledger {
        &*self.ledger
    }

    pub(crate) fn known(&self) -> Position {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes erasures down and does them in the store; the lines of those wanted, and what was
    /// shredded. Without any it does what the ledger says beyond the store's head.
    pub(crate) fn append(
        &self,
        store: &Authentic,
        wanted: &[Erasure],
        now: u64,
    ) -> Result<(Vec<Recorded>, Vec<Shredded>), KeyError> {
        let subjects: Vec<SubjectRef> = wanted.iter().map(|wanted| wanted.subject).collect();
        let mut attempt = 1;
        loop {
            let named = named(store, &subjects);
            let known = self.known();
            let mut appender = Appender::new(
                store.keys(),
                &*self.ledger,
                store.tenant(),
                now,
                wanted,
                &named,
                known,
            );
            let done =
                store.erase(&subjects, now, &mut |head, records| appender.plan(head, records));
            let (learned, written, end) = appender.finish();
            // Durable lines count, whatever became of the store.
            self.take(|known| {
                store.learn(&learned);
                if done.is_ok() {
                    *known = end;
                }
            });
            match done {
                Ok(shredded) => return Ok((learned[written].to_vec(), shredded)),
                Err(StoreError::Ledger(LedgerError::Moved { .. })) if attempt < ATTEMPTS => {
                    attempt += 1
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads what other processes wrote since, for the store to know; whether there was anything.
    pub(crate) fn follow(&self, store: &Authentic) -> Result<bool, KeyError> {
        let known = self.known();
        let head = Position::of(&store.head()?);
        if known == head {
            return Ok(false);
        }
        let place = self.ledger.place();
        let is_rebuilt = known.store != head.store;
        // Nobody waits with the lock for a ledger that hangs.
        let recorded = if is_rebuilt {
            let lines = self.ledger.read(0)?;
            Verifier::new(store.keys(), head.store).take_all(&place, &lines, &head)?
        } else {
            if head.seq < known.seq {
                let message = "the key store knows less of it than a moment ago: an older store \
                    has its place; start this process again"
                    .to_owned();
                return Err(LedgerError::Unusable { place, message }.into());
            }
            let lines = self.ledger.read(known.seq + 1)?;
            Verifier::behind(store.keys(), known).take_all(&place, &lines, &head)?
        };
        self.take(|newest| {
            // Whatever appended meanwhile knows more; the next look reads on from there.
            if *newest == known {
                if is_rebuilt {
                    store.unlearn();
                }
                store.learn(&recorded);
                *newest = head;
            }
        });
        Ok(true)
    }

    /// Lets the store know lines and says up to which, in one step: nobody forgets the lines of
    /// another thread in between.
    fn take(&self, learn: impl FnOnce(&mut Position)) {
        learn(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Keys of these subjects that the ledger names already.
fn named(store: &Authentic, subjects: &[SubjectRef]) -> BTreeMap<SubjectRef, Vec<KeyId>> {
    let asked: HashSet<SubjectRef> = subjects.iter().copied().collect();
    store.erased(|erased| {
        let mut named: BTreeMap<SubjectRef, Vec<KeyId>> = BTreeMap::new();
        erased
            .kids()
            .filter(|(_, subject)| asked.contains(subject))
            .for_each(|(kid, subject)| named.entry(*subject).or_default().push(*kid));
        named
    })
}
