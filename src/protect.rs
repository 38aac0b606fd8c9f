//! A record through the engine, again with the keys it lacked. One loop for pipeline, replay,
//! command line and cases.
//!
//! Lanes take it in steps, because they fetch on a thread of their own ([`Protector::transform`],
//! [`Protector::request`], [`Protector::add_keys`]); everybody else blocks
//! ([`Protector::protect`]).

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use veilstream_engine::Entropy;
use veilstream_engine::compile::SchemaSet;
use veilstream_engine::error::{Reject, RejectCode};
use veilstream_engine::key::{Key, Scope};
use veilstream_engine::keyring::Keyring;
use veilstream_engine::record::{Output, Record};
use veilstream_engine::transform::{Limits, NeededKey, Outcome, Transformer};
use veilstream_keys::OsEntropy;

use crate::keys::{KeyFault, KeySource};
use crate::telemetry::metrics::Metrics;

/// Fetches for one record: what its schema needs, the key of references, its subject's key, and a
/// key that was spent meanwhile. A record that still lacks keys after so many successful fetches
/// lacks something else.
pub const FETCHES: u32 = 4;

/// Protects records, one after another, under one snapshot of schemas and keys at a time. One per
/// thread.
pub struct Protector {
    schemas: Arc<SchemaSet>,
    keys: Arc<Keyring>,
    transformer: Transformer,
    output: Output,
    limits: Limits,
    one_shot: bool,
    entropy: fn() -> Box<dyn Entropy>,
    metrics: Option<Arc<Metrics>>,
    /// Fetches since the last record that was done.
    fetches: u32,
    /// What was asked for last comes with a new snapshot of the keys.
    stale: bool,
}

impl Protector {
    /// A protector with the first snapshots.
    #[must_use]
    pub fn new(schemas: Arc<SchemaSet>, keys: Arc<Keyring>) -> Self {
        Self::with_entropy(schemas, keys, || Box::new(OsEntropy))
    }

    fn with_entropy(
        schemas: Arc<SchemaSet>,
        keys: Arc<Keyring>,
        entropy: fn() -> Box<dyn Entropy>,
    ) -> Self {
        Self {
            schemas,
            keys,
            transformer: Transformer::new(entropy()),
            output: Output::default(),
            limits: Limits::default(),
            one_shot: false,
            entropy,
            metrics: None,
            fetches: 0,
            stale: false,
        }
    }

    /// Sets the size limits.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self.renew();
        self
    }

    /// For commands that run once: seals with keys that several processes share.
    #[must_use]
    pub fn one_shot(mut self) -> Self {
        self.one_shot = true;
        self.renew();
        self
    }

    /// Where panics of the engine are counted.
    #[must_use]
    pub fn with_metrics(mut self, metrics: Arc<Metrics>) -> Self {
        self.metrics = Some(metrics);
        self
    }

    /// The schemas in force.
    #[must_use]
    pub fn schemas(&self) -> &Arc<SchemaSet> {
        &self.schemas
    }

    /// The keys in hand, without those of subjects.
    #[must_use]
    pub fn keys(&self) -> &Arc<Keyring> {
        &self.keys
    }

    /// The record that was protected last.
    #[must_use]
    pub fn output(&self) -> &Output {
        &self.output
    }

    /// Gives back what a large record needed beyond 8 MiB, once nobody reads [`Protector::output`]
    /// any more.
    pub fn shrink_output(&mut self) {
        self.output.shrink();
    }

    /// Takes the snapshots of a new transaction.
    pub fn take_snapshots(&mut self, schemas: Arc<SchemaSet>, keys: Arc<Keyring>) {
        (self.schemas, self.keys) = (schemas, keys);
    }

    /// One try at one record, without waiting for anything; [`Protector::output`] holds what was
    /// protected. A panic of the engine rejects the record as `internal`: the next one is not to
    /// suffer for it.
    pub fn transform(&mut self, record: &Record<'_>) -> Outcome {
        self.attempt(record).unwrap_or_else(|| {
            tracing::error!(
                "the engine failed on a record, which is rejected; its place follows \
                in the dead letter, the program's stands above"
            );
            if let Some(metrics) = &self.metrics {
                metrics.engine_panics.inc();
            }
            Outcome::Rejected(Reject::new(RejectCode::Internal))
        })
    }

    /// The keys that a later record lacks, so that one fetch serves many. Overwrites
    /// [`Protector::output`].
    pub fn look_ahead(&mut self, record: &Record<'_>) -> Vec<NeededKey> {
        match self.attempt(record) {
            Some(Outcome::NeedKeys(needed)) => needed,
            // A panic comes again, and counts, when it is the record's turn.
            _ => Vec::new(),
        }
    }

    /// What to fetch for records that lack these keys.
    ///
    /// # Errors
    /// [`KeyFault`]: fetched [`FETCHES`] times, and the record still lacks keys. It may be asked
    /// for again.
    pub fn request(
        &mut self,
        needed: impl IntoIterator<Item = NeededKey>,
    ) -> Result<Vec<NeededKey>, KeyFault> {
        if self.fetches >= FETCHES {
            self.fetches = 0;
            return Err(KeyFault(
                "keys are there and do not seal; see the logs of the key store and \
                the random source"
                    .to_owned(),
            ));
        }
        self.fetches += 1;
        let needed: Vec<NeededKey> =
            needed.into_iter().collect::<HashSet<_>>().into_iter().collect();
        self.stale |= needed.iter().any(|key| !matches!(key.scope, Scope::Subject(_)));
        Ok(needed)
    }

    /// Takes what was fetched for the last [`Protector::request`].
    pub fn add_keys(&mut self, fetched: Vec<Arc<Key>>, source: &dyn KeySource) {
        self.transformer.add_subject_keys(fetched);
        // A subject's key is handed over; other keys come with a new snapshot, for which the
        // transformer prepares again.
        if std::mem::take(&mut self.stale) {
            self.keys = source.keyring();
        }
    }

    /// The record is done: the next one may ask for keys as often again.
    pub fn done(&mut self) {
        self.fetches = 0;
    }

    /// Protects a record, fetching what it and the records `ahead` of it lack; the index of its
    /// schema. Blocks.
    ///
    /// # Errors
    /// [`KeyFault`]: keys are not available; the record was not judged.
    pub fn protect<'r>(
        &mut self,
        record: &Record<'_>,
        ahead: impl Iterator<Item = Record<'r>> + Clone,
        source: &dyn KeySource,
    ) -> Result<Result<usize, Reject>, KeyFault> {
        loop {
            let needed = match self.transform(record) {
                Outcome::Protected(schema) => {
                    self.done();
                    return Ok(Ok(schema));
                }
                Outcome::Rejected(reject) => {
                    self.done();
                    return Ok(Err(reject));
                }
                Outcome::NeedKeys(needed) => needed,
            };
            let later: Vec<NeededKey> =
                ahead.clone().flat_map(|record| self.look_ahead(&record)).collect();
            let needed = self.request(needed.into_iter().chain(later))?;
            let fetched = source.fetch(&needed)?;
            self.add_keys(fetched, source);
        }
    }

    /// `None`: the engine panicked.
    fn attempt(&mut self, record: &Record<'_>) -> Option<Outcome> {
        let Self { transformer, schemas, keys, output, .. } = self;
        // What was under way is not looked at again: transformer and output are replaced.
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            #[cfg(feature = "inject")]
            crate::inject::engine_panic(record);
            transformer.transform(schemas, keys, record, output)
        }));
        if outcome.is_err() {
            self.renew();
        }
        outcome.ok()
    }

    fn renew(&mut self) {
        let transformer = Transformer::new((self.entropy)()).with_limits(self.limits);
        self.transformer = if self.one_shot { transformer.one_shot() } else { transformer };
        self.output = Output::default();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    use veilstream_engine::EntropyError;
    use veilstream_engine::compile::{Grants, compile};
    use veilstream_engine::key::KeyId;

    use super::*;
    use crate::ephemeral::EphemeralKeys;

    const PEOPLE: &str = r#"{"veilstream":1,"name":"people","version":1,"subject":"$.id","fields":[{"id":"email","path":"$.email"}]}"#;
    const ADA: &[u8] = br#"{"id":1,"email":"ada@example.com"}"#;

    fn people() -> Arc<SchemaSet> {
        Arc::new(
            SchemaSet::new(vec![Arc::new(
                compile(PEOPLE.as_bytes(), &Grants::local()).unwrap().schema,
            )])
            .unwrap(),
        )
    }

    fn record(value: &[u8]) -> Record<'_> {
        Record { value: Some(value), ..Record::default() }
    }

    /// Gives empty answers, and counts them.
    #[derive(Default)]
    struct Barren(Mutex<u32>);

    impl KeySource for Barren {
        fn keyring(&self) -> Arc<Keyring> {
            Arc::default()
        }
        fn fetch(&self, _: &[NeededKey]) -> Result<Vec<Arc<Key>>, KeyFault> {
            *self.0.lock().unwrap() += 1;
            Ok(Vec::new())
        }
        fn lookup(&self, _: &KeyId) -> Result<Option<Arc<Key>>, KeyFault> {
            Ok(None)
        }
        fn prepare(&self, _: &SchemaSet) -> Result<(), KeyFault> {
            Ok(())
        }
        fn follow(&self) {}
        fn renew(&self) {}
    }

    #[test]
    fn keys_that_do_not_help_are_fetched_so_often_and_no_more() {
        let (source, mut protector) = (Barren::default(), Protector::new(people(), Arc::default()));
        for round in 1..=2 {
            let fault = protector.protect(&record(ADA), std::iter::empty(), &source).unwrap_err();
            assert!(fault.0.contains("do not seal"), "{fault}");
            assert_eq!(*source.0.lock().unwrap(), round * FETCHES, "and as often the next time");
        }
    }

    #[test]
    fn one_fetch_serves_the_records_ahead() {
        let (source, mut protector) =
            (EphemeralKeys::default(), Protector::new(people(), Arc::default()));
        let values: Vec<String> =
            (0..50).map(|i| format!(r#"{{"id":{i},"email":"{i}@example.com"}}"#)).collect();
        let ahead = values.iter().map(|v| record(v.as_bytes()));
        assert_eq!(protector.protect(&record(ADA), ahead.clone(), &source).unwrap(), Ok(0));
        // Nobody asks any more.
        for record in ahead {
            assert!(matches!(protector.transform(&record), Outcome::Protected(0)));
        }
    }

    static ENTROPY_PANICS: AtomicBool = AtomicBool::new(true);

    /// Panics inside the engine as long as it is told to.
    struct Faulty;

    impl Entropy for Faulty {
        fn fill(&mut self, buf: &mut [u8]) -> Result<(), EntropyError> {
            assert!(!ENTROPY_PANICS.load(Ordering::Relaxed), "a fault of the engine");
            OsEntropy.fill(buf)
        }
    }

    #[test]
    fn a_panic_rejects_one_record_and_the_next_goes_through() {
        let (source, metrics) = (EphemeralKeys::default(), Arc::new(Metrics::new().unwrap()));
        let mut protector = Protector::with_entropy(people(), Arc::default(), || Box::new(Faulty))
            .with_metrics(metrics.clone());
        let rejected =
            protector.protect(&record(ADA), std::iter::empty(), &source).unwrap().unwrap_err();
        assert_eq!((rejected, metrics.engine_panics.get()), (Reject::new(RejectCode::Internal), 1));
        assert!(protector.output().value.is_empty(), "nothing half done comes out");
        ENTROPY_PANICS.store(false, Ordering::Relaxed);
        assert_eq!(protector.protect(&record(ADA), std::iter::empty(), &source).unwrap(), Ok(0));
        assert_eq!(metrics.engine_panics.get(), 1);
        assert!(protector.output().value.starts_with(br#"{"id":1,"email":"vs1."#));
    }
}
