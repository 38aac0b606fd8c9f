//! What every provider promises, asked of a real one.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "every test binary takes what it needs; a test ends where it fails"
)]

use std::sync::Arc;
use std::time::Duration;

use veilstream_engine::kdf;
use veilstream_engine::key::{KeyId, KeyKind, Scope, SecretKey};
use veilstream_engine::wrap::WrapContext;
use veilstream_keys::provider::{
    CachePolicy, Clock, Observer, Provider, ProviderError, RetryPolicy, SystemClock, layered,
};
use veilstream_keys::store::Wrap;

/// A key and what its wraps are tied to.
pub(crate) struct Sample {
    pub(crate) secret: SecretKey,
    pub(crate) kid: KeyId,
    pub(crate) scope: Scope,
}

impl Sample {
    pub(crate) fn new() -> Self {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).unwrap();
        let secret = SecretKey::new(bytes);
        Self { kid: kdf::key_id(&kdf::key_check_value(&secret)), secret, scope: Scope::Version(1) }
    }

    pub(crate) fn context(&self) -> WrapContext<'_> {
        WrapContext { kid: self.kid, kind: KeyKind::Index, tenant: "default", scope: &self.scope }
    }

    pub(crate) fn wrap(&self, provider: &dyn Provider) -> Wrap {
        provider.wrap(&self.secret, &self.context()).unwrap()
    }

    #[track_caller]
    pub(crate) fn opens(&self, provider: &dyn Provider, wrap: &Wrap) {
        assert_eq!(provider.unwrap(wrap, &self.context()).unwrap().expose(), self.secret.expose());
    }
}

#[track_caller]
fn refused(answer: Result<SecretKey, ProviderError>, why: &str) {
    match answer {
        Err(ProviderError::Refused { .. }) => {}
        Err(other) => panic!("{why}: {other}"),
        Ok(_) => panic!("{why}: opened"),
    }
}

/// Round trip, ties, edits, another provider's wraps, and moving wraps.
pub(crate) fn conformance(provider: &dyn Provider) {
    let (one, two) = (Sample::new(), Sample::new());
    let (first, second) = (one.wrap(provider), two.wrap(provider));
    one.opens(provider, &first);
    two.opens(provider, &second);
    assert_ne!(one.wrap(provider).wrapped, first.wrapped, "no nonce twice");
    assert!(
        !first.wrapped.windows(8).any(|bytes| bytes == &one.secret.expose()[..8]),
        "the key shows"
    );

    let kek = provider.describe().unwrap();
    assert_eq!((&first.kek_uri, &first.kek_version), (&kek.uri, &kek.version));
    provider.health().unwrap();
    assert!(provider.opens(&kek.uri) && !provider.opens("somebody-else") && !provider.opens(""));

    // Each part of what a wrap is tied to.
    let right = one.context();
    let other_scope = Scope::Version(2);
    for (wrong, why) in [
        (WrapContext { kid: two.kid, ..right }, "another key's id"),
        (WrapContext { kind: KeyKind::Deterministic, ..right }, "another kind"),
        (WrapContext { tenant: "other", ..right }, "another tenant"),
        (WrapContext { scope: &other_scope, ..right }, "another scope"),
    ] {
        refused(provider.unwrap(&first, &wrong), why);
    }
    // Wraps swapped between rows.
    refused(provider.unwrap(&second, &one.context()), "swapped");
    refused(provider.unwrap(&first, &two.context()), "swapped");
    for place in [first.wrapped.len() - 1, first.wrapped.len() / 2] {
        let mut edited = first.clone();
        // Stays base64 where it is base64.
        edited.wrapped[place] = if edited.wrapped[place] == b'A' { b'B' } else { b'A' };
        if edited.wrapped[place] != b'=' {
            refused(provider.unwrap(&edited, &one.context()), "edited");
        }
    }
    refused(
        provider.unwrap(&Wrap { wrapped: Vec::new(), ..first.clone() }, &one.context()),
        "empty",
    );

    // One that does not open does not keep the others from being moved.
    let answers = provider
        .rewrap(&[(&first, one.context()), (&second, one.context()), (&second, two.context())])
        .unwrap();
    let [moved, not_moved, also_moved] = &answers[..] else { panic!("three answers: {answers:?}") };
    one.opens(provider, moved.as_ref().unwrap());
    two.opens(provider, also_moved.as_ref().unwrap());
    assert!(matches!(not_moved, Err(ProviderError::Refused { .. })), "{not_moved:?}");
}

/// A new version: it wraps, the old wraps open and are moved. Returns a wrap of the old version and
/// its sample.
pub(crate) fn rotated_then_rewrapped(provider: &dyn Provider) -> (Sample, Wrap) {
    let sample = Sample::new();
    let old = sample.wrap(provider);
    let before = provider.describe().unwrap();
    let kek = provider.rotate(1_800_000_000).unwrap();
    assert_ne!((&before.uri, &before.version), (&kek.uri, &kek.version), "a version of its own");
    sample.opens(provider, &old);
    let moved = provider.rewrap(&[(&old, sample.context())]).unwrap().pop().unwrap().unwrap();
    assert_eq!(
        (&moved.kek_version, &sample.wrap(provider).kek_version),
        (&kek.version, &kek.version)
    );
    sample.opens(provider, &moved);
    (sample, old)
}

struct Unobserved;

impl Observer for Unobserved {
    fn asked(&self, _: &'static str, _: &'static str, _: &'static str, _: Duration) {}
}

/// With the layers that a sidecar puts around it, and its times.
pub(crate) fn with_layers(provider: impl Provider + 'static) -> Box<dyn Provider> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    layered(
        Box::new(provider),
        Arc::new(Unobserved),
        RetryPolicy::default(),
        CachePolicy::default(),
        &clock,
    )
}
