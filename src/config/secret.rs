//! Values that never show.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::path::PathBuf;

use zeroize::Zeroizing;

/// A secret text; wiped when dropped, `[redacted]` in `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Keeps `text` secret.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text itself: for the one place that uses it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// librdkafka properties by their own names. `Debug` shows the names only: passwords and PEM keys
/// are among the values.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Properties {
    /// Name to value, those read from files included.
    pub values: BTreeMap<String, String>,
    /// Of those, where they were read from: they may change.
    pub files: BTreeMap<String, PathBuf>,
}

impl Properties {
    /// These, and `own` on top.
    pub(super) fn with(mut self, own: Self) -> Self {
        self.files.retain(|name, _| !own.values.contains_key(name));
        self.values.extend(own.values);
        self.files.extend(own.files);
        self
    }
}

impl Deref for Properties {
    type Target = BTreeMap<String, String>;

    fn deref(&self) -> &Self::Target {
        &self.values
    }
}

impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.values.keys()).finish()
    }
}
