//! The work on a page of rows: what is old is opened and sealed, all else is counted.

use std::collections::{BTreeMap, HashSet};

use sha2::{Digest as _, Sha256};
use veilstream_engine::RejectCode;
use veilstream_engine::key::KeyId;
use zeroize::Zeroizing;

use super::error::MigrateError;
use super::forms::{Cell, Form, Forms, is_hash_of};
use super::passes::Sample;
use super::target::{RowValue, Target, TargetColumns};
use crate::keys::KeySource;
use crate::rows::{Change, Layout, Row, Work};

/// Ciphertexts that are remembered to find equal ones.
const MOST_REMEMBERED: usize = 1 << 20;

/// Keys whose tokens are counted apart.
const MOST_KEYS: usize = 1000;

/// Why a row stays as it is.
pub type Stays = &'static str;

/// What a walk found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rows by what stood in the column: `null`, `token`, or an old form.
    pub forms: BTreeMap<&'static str, u64>,
    /// Tokens by their key; `None`: those of all further keys.
    pub keys: BTreeMap<Option<KeyId>, u64>,
    /// Rows that stay, by why.
    pub stays: BTreeMap<Stays, u64>,
    /// Rows of pgcrypto that open without a passphrase (CVE-2026-14663).
    pub in_clear: u64,
    /// Rows of sqlalchemy-utils whose ciphertext another row has too.
    pub repeated: u64,
    /// Rows whose cells were set to null, because their person was erased.
    pub erased: u64,
}

impl Counts {
    /// Rows that are not migrated.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.stays.values().sum()
    }

    /// Rows whose column holds no token, and is not null.
    #[must_use]
    pub fn old(&self) -> u64 {
        let old = self.forms.iter().filter(|(form, _)| !matches!(**form, "null" | "token"));
        old.map(|(_, rows)| rows).sum()
    }

    fn form(&mut self, form: &'static str) {
        *self.forms.entry(form).or_default() += 1;
    }

    fn token(&mut self, key: KeyId) {
        self.form("token");
        let is_named = self.keys.len() < MOST_KEYS || self.keys.contains_key(&Some(key));
        *self.keys.entry(is_named.then_some(key)).or_default() += 1;
    }
}

/// Where a cell stands in a row that was read.
#[derive(Debug, Clone, Default)]
pub(super) struct Cells {
    /// The tokens' column, where it is another than the old form's.
    target: Option<usize>,
    subject: Option<usize>,
    bind: Vec<usize>,
}

impl Cells {
    /// The columns that are read, the old form first.
    pub(super) fn read(columns: &TargetColumns) -> (Vec<&str>, Self) {
        let (mut names, mut cells) = (vec![&*columns.source], Self::default());
        let mut add = |name| {
            names.push(name);
            names.len() - 1
        };
        if columns.target != columns.source {
            cells.target = Some(add(&*columns.target));
        }
        cells.subject = columns.subject.as_ref().map(|name| add(&**name));
        cells.bind = columns.bind.iter().map(|name| add(&**name)).collect();
        (names, cells)
    }
}

/// One walk's work.
pub(super) struct Migration<'a> {
    pub(super) layout: &'a Layout,
    pub(super) target: &'a mut Target,
    pub(super) forms: &'a Forms,
    pub(super) keys: &'a dyn KeySource,
    pub(super) cells: Cells,
    /// The index has a column.
    pub(super) has_index: bool,
    /// Cells of erased persons become null.
    pub(super) erase: bool,
    pub(super) sample: &'a mut Sample,
    pub(super) counts: Counts,
    /// Rows that stay, by their keys.
    pub(super) stays: Vec<(String, Stays)>,
    /// Ciphertexts of sqlalchemy-utils.
    pub(super) seen: HashSet<[u8; 16]>,
}

/// A row whose old value is open.
struct Ready {
    row: usize,
    text: Zeroizing<Vec<u8>>,
}

impl Migration<'_> {
    fn value<'r>(&self, row: &'r Row, text: &'r [u8]) -> RowValue<'r> {
        RowValue {
            text,
            subject: self.cells.subject.and_then(|at| row.cells[at].as_deref()),
            bind: self.cells.bind.iter().filter_map(|at| row.cells[*at].as_deref()).collect(),
        }
    }

    fn stay(&mut self, row: &Row, why: Stays) {
        *self.counts.stays.entry(why).or_default() += 1;
        self.stays.push((self.layout.name_of(row), why));
    }

    /// What is to be sealed of a row; `None`: nothing, and the row is counted.
    fn opened(
        &mut self,
        row: &Row,
        by_service: Option<Option<Zeroizing<Vec<u8>>>>,
    ) -> Option<Zeroizing<Vec<u8>>> {
        let source = row.cells[0].as_deref();
        let target = self.cells.target.and_then(|at| row.cells[at].as_deref());
        match self.forms.of(source) {
            Cell::Null => {
                match target {
                    None => self.counts.form("null"),
                    Some(token) => self.token(row, token),
                }
                None
            }
            Cell::Token if self.cells.target.is_none() => {
                self.token(row, source.unwrap_or_default());
                None
            }
            Cell::Token | Cell::Other => {
                self.counts.form("other");
                self.stay(row, "other_form");
                None
            }
            Cell::Old(Form::Sha256Hash) => self.hashed(row, source?, target),
            Cell::Old(form) => {
                self.counts.form(form.as_str());
                if form == Form::SqlalchemyUtils {
                    self.remember(source?);
                }
                if target.is_some() {
                    self.stay(row, "both");
                    return None;
                }
                if let Some(Some(text)) = by_service {
                    return Some(text);
                }
                let Some(opened) = self.forms.open(form, source?) else {
                    self.stay(row, "not_opened");
                    return None;
                };
                self.counts.in_clear += u64::from(opened.is_in_clear);
                Some(opened.text)
            }
        }
    }

    /// A token is done; one of the sample must hold what the old form held.
    fn token(&mut self, row: &Row, token: &[u8]) {
        let Some(key) = self.target.key_of(token) else {
            self.counts.form("other");
            return self.stay(row, "other_form");
        };
        self.counts.token(key);
        if !self.sample.has(&row.key) {
            return;
        }
        let value = self.value(row, token);
        let opened = self.target.open(&value, self.keys);
        self.sample.check(&row.key, token, opened.as_ref().map(|text| text.as_bytes()));
    }

    /// The value of a hash stands in the tokens' column.
    fn hashed(
        &mut self,
        row: &Row,
        hash: &[u8],
        token: Option<&[u8]>,
    ) -> Option<Zeroizing<Vec<u8>>> {
        self.counts.form(Form::Sha256Hash.as_str());
        let Some(token) = token else {
            self.stay(row, "no_value");
            return None;
        };
        let value = self.value(row, token);
        let Some(text) = self.target.open(&value, self.keys) else {
            self.stay(row, "not_opened");
            return None;
        };
        if !is_hash_of(hash, &text) {
            self.stay(row, "hash_differs");
            return None;
        }
        Some(Zeroizing::new(text.as_bytes().to_vec()))
    }

    fn remember(&mut self, ciphertext: &[u8]) {
        let mut name = [0; 16];
        name.copy_from_slice(&Sha256::digest(ciphertext)[..16]);
        if self.seen.contains(&name) {
            self.counts.repeated += 1;
        } else if self.seen.len() < MOST_REMEMBERED {
            self.seen.insert(name);
        }
    }

    /// What is written: the token, unless only its index is missing, and the index.
    fn cells(&self, token: Option<String>, index: Option<String>) -> Vec<Option<String>> {
        let token = (!self.forms.has(Form::Sha256Hash)).then_some(token);
        token.into_iter().chain(self.has_index.then_some(index)).collect()
    }
}

impl Work for Migration<'_> {
    type Error = MigrateError;

    fn changes(&mut self, rows: &[Row]) -> Result<Vec<Change>, MigrateError> {
        self.target.renew(self.keys);
        let remote: Vec<(usize, Form, &[u8])> = rows
            .iter()
            .enumerate()
            .filter_map(|(i, row)| {
                let cell = row.cells[0].as_deref()?;
                match self.forms.of(Some(cell)) {
                    Cell::Old(form @ (Form::Vault | Form::AwsKms)) => Some((i, form, cell)),
                    _ => None,
                }
            })
            .collect();
        let mut by_services = self.forms.open_by_services(&remote)?;
        let opened = rows.iter().enumerate().filter_map(|(i, row)| {
            let text = self.opened(row, by_services.remove(&i))?;
            Some(Ready { row: i, text })
        });
        let ready: Vec<Ready> = opened.collect();
        let values: Vec<RowValue<'_>> =
            ready.iter().map(|one| self.value(&rows[one.row], &one.text)).collect();
        let sealed = self.target.seal(&values, self.keys)?;
        let mut changes = Vec::with_capacity(sealed.len());
        for (one, sealed) in ready.iter().zip(sealed) {
            let row = &rows[one.row];
            match sealed {
                Ok(sealed) => {
                    let token = match (self.forms.has(Form::Sha256Hash), self.cells.target) {
                        // The token stands there already.
                        (true, Some(at)) => row.cells[at].as_deref().unwrap_or_default(),
                        _ => sealed.token.as_bytes(),
                    };
                    self.sample.offer(&row.key, &one.text, token);
                    let cells = self.cells(Some(sealed.token), sealed.index);
                    changes.push(Change { row: one.row, cells });
                }
                Err(RejectCode::ErasedSubject) if self.erase => {
                    self.counts.erased += 1;
                    changes.push(Change { row: one.row, cells: self.cells(None, None) });
                }
                Err(code) => self.stay(row, code.as_str()),
            }
        }
        Ok(changes)
    }
}
