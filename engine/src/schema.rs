//! A compiled schema document: what is PII and what happens to it. Made by [`crate::compile`].

use std::borrow::Cow;
use std::sync::Arc;

use crate::envelope::WrittenEnvelope;
use crate::interop::Interop;
use crate::mask::ReadMask;
use crate::normalize::Normalizer;
use crate::record::Header;
use crate::scan::{Kind, Node, Tape};
use crate::select::{Last, Program, Selection, Step};
use crate::token::FieldId;

/// Index of a path in a schema's [`Program`].
pub type PathId = u16;

/// One compiled document.
#[derive(Debug)]
pub struct Schema {
    /// Stable name.
    pub name: Arc<str>,
    /// The team's number, or the first 8 hex digits of the document's SHA-256.
    pub version: String,
    /// `name/version`, as in headers and dead letters.
    pub label: Arc<str>,
    /// Raw topic, when the document routes one.
    pub from: Option<String>,
    /// Sanitized topic.
    pub to: Option<String>,
    /// All of these must hold for the schema to claim a record.
    pub when: Vec<When>,
    /// Whose data a record is: the first of these places that is there and not null. Empty: nobody
    /// asks.
    pub subjects: Vec<PathId>,
    /// Whose ids the subjects are. `Some("")` is said, `None` is not; both mean the reference
    /// without a domain.
    pub subject_domain: Option<String>,
    /// A record without subject falls back to the schema's key.
    pub subject_optional: bool,
    /// What happens to members nobody named.
    pub undeclared: Undeclared,
    /// What happens when a protected value stands in clear elsewhere.
    pub residue: Residue,
    /// What values stand in, in the sanitized topic at least.
    pub envelope: Option<Envelope>,
    /// The envelope that is written around values, which come without one.
    pub written: Option<WrittenEnvelope>,
    /// With an envelope: the path of each field from the root of the envelope.
    pub(crate) enveloped: Vec<Vec<Step>>,
    /// Fields in the order of the document.
    pub fields: Vec<Field>,
    /// Where required fields must be that several objects may have.
    pub(crate) required_in: RequiredIn,
    /// The path of an indexed field may select a member an index is written to.
    pub(crate) indexes_selectable: bool,
    /// What happens to the record key.
    pub key: Option<KeyRule>,
    /// What happens to headers.
    pub headers: Vec<HeaderRule>,
    /// Of records that it protected already: what opens is sealed again, all else stays.
    pub(crate) rotation: bool,
    /// Every path of the document as one automaton. Paths 0.. are those of `fields`, in order.
    pub program: Program,
    /// What [`Schema::members`] gives, by path.
    pub(crate) members: Vec<Option<Vec<String>>>,
    /// What [`Schema::list_members`] gives, by path.
    pub(crate) list_members: Vec<Option<Vec<String>>>,
}

impl Schema {
    /// The field of that id.
    #[must_use]
    pub fn field(&self, id: &str) -> Option<&Field> {
        self.fields.iter().find(|f| &*f.id == id)
    }

    /// The names of the members on the way to what a path selects, from the root of a record (with
    /// an envelope, of its payload); `None`: it goes another way than by names.
    #[must_use]
    pub fn members(&self, path: PathId) -> Option<&[String]> {
        self.members.get(usize::from(path))?.as_deref()
    }

    /// The same to the list whose elements a path selects, as `$.contact.phones[*]`; `None`: it
    /// selects otherwise.
    #[must_use]
    pub fn list_members(&self, path: PathId) -> Option<&[String]> {
        self.list_members.get(usize::from(path))?.as_deref()
    }

    /// Whether the conditions of `when` on headers hold.
    #[must_use]
    pub fn takes_headers(&self, headers: &[Header<'_>]) -> bool {
        self.when.iter().all(|when| match when {
            When::Header(name, value) => {
                headers.iter().any(|(n, v)| *n == name.as_bytes() && *v == Some(value))
            }
            When::Value(..) => true,
        })
    }

    /// The cryptographic names of fields, record key and headers, with their ids.
    pub fn names(&self) -> impl Iterator<Item = (FieldId, &str)> {
        let fields = self.fields.iter().map(|f| (f.fid, f.name.as_str()));
        let key = self.key.iter().map(|k| (k.fid, k.name.as_str()));
        fields.chain(key).chain(self.headers.iter().map(|h| (h.fid, h.name.as_str())))
    }

    /// Its blind indexes, by what they are of: a field's id, `#key` or `#header:<name>`.
    pub fn indexes(&self) -> impl Iterator<Item = (Cow<'_, str>, &IndexRule)> {
        let fields =
            self.fields.iter().filter_map(|f| Some((Cow::from(&*f.id), f.index.as_ref()?)));
        let key = self.key.iter().filter_map(|k| Some((Cow::from("#key"), k.index.as_ref()?)));
        let headers = self
            .headers
            .iter()
            .filter_map(|h| Some((format!("#header:{}", h.header).into(), h.index.as_ref()?)));
        fields.chain(key).chain(headers)
    }

    /// Whether a value of that field stays as it stands.
    pub(crate) fn keeps(&self, field: &Field) -> bool {
        self.rotation && !field.protect.is_reversible()
    }

    /// Whether any value or header is encrypted under keys of ours.
    #[must_use]
    pub fn encrypts(&self) -> bool {
        self.fields.iter().any(Field::takes_key) || self.encrypts_headers()
    }

    /// Fields in the form of another system, with that form and where their keys stand.
    pub fn interop_fields(&self) -> impl Iterator<Item = (&Field, &Interop)> {
        self.fields.iter().filter_map(|field| Some((field, field.interop.as_ref()?)))
    }

    /// Whether any header is encrypted.
    #[must_use]
    pub fn encrypts_headers(&self) -> bool {
        self.headers.iter().any(|h| h.protect == Protect::Encrypt)
    }

    /// Whether values may be encrypted under a key of the schema: always without a subject, else
    /// where it may be missing.
    #[must_use]
    pub fn uses_schema_key(&self) -> bool {
        (self.subjects.is_empty() || self.subject_optional) && self.encrypts()
    }

    /// The node that says whose data the record is.
    pub(crate) fn subject_in(&self, tape: &Tape, selection: &Selection) -> Option<Node> {
        let places = self.subjects.iter().filter_map(|path| selection.single(*path));
        places.map(|node| tape.nodes()[node as usize]).find(|node| node.kind != Kind::Null)
    }

    /// Whether the two protect record keys and headers alike, so that a tombstone may go by either.
    #[must_use]
    pub fn same_envelope(&self, other: &Self) -> bool {
        self.name == other.name
            || (self.key.is_none()
                && other.key.is_none()
                && self.headers.is_empty()
                && other.headers.is_empty())
    }
}

/// Required fields that are asked of every object their path's parent reaches.
#[derive(Debug, Default)]
pub(crate) struct RequiredIn {
    /// The parents, as one automaton; path n belongs to `fields[n]`.
    pub(crate) parents: Program,
    /// The field, and which children of its parents it is.
    pub(crate) fields: Vec<(PathId, Last)>,
}

/// One condition of `when`.
#[derive(Debug, Clone)]
pub enum When {
    /// The value at a singular path equals a scalar.
    Value(PathId, Scalar),
    /// A header of that name has exactly these bytes.
    Header(String, Vec<u8>),
}

/// A JSON scalar to compare with.
#[derive(Debug, Clone, PartialEq)]
pub enum Scalar {
    /// Unescaped text.
    String(String),
    /// Compared as a double, and by spelling when both are integers.
    Number(String),
    /// A boolean.
    Bool(bool),
    /// `null`; an absent member is not null.
    Null,
}

/// `envelope`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Envelope {
    /// Kafka Connect's `{schema, payload}`: paths start at the payload.
    Connect,
}

/// `undeclared`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Undeclared {
    /// Copied.
    #[default]
    Pass,
    /// Removed.
    Drop,
    /// The record is rejected.
    Reject,
}

/// `residue`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Residue {
    /// Counted per field.
    #[default]
    Count,
    /// The record is rejected.
    Reject,
    /// Not looked for.
    Off,
}

/// One field.
#[derive(Debug)]
pub struct Field {
    /// Stable id.
    pub id: Arc<str>,
    /// Cryptographic name: `<schema>.<id>` or `@<domain>`.
    pub name: String,
    /// Hash of `name`.
    pub fid: FieldId,
    /// The path as written.
    pub path: String,
    /// What happens to the value.
    pub protect: Protect,
    /// Present and not null, in every object that the path's parent reaches.
    pub required: bool,
    /// Demanded JSON type.
    pub value_type: Option<ValueType>,
    /// `"null": "encrypt"`.
    pub encrypt_null: bool,
    /// Pad of the token: 0 or a multiple of 16.
    pub pad: u16,
    /// The form of another system that an encrypted value takes; `None`: a token.
    pub interop: Option<Interop>,
    /// Values the token is tied to, sorted by name.
    pub bind: Vec<Bind>,
    /// The blind index beside (or, for `hash`, instead of) the value.
    pub index: Option<IndexRule>,
    /// What [`Field::mask`] gives.
    pub(crate) read_mask: Option<ReadMask>,
    /// What [`Field::tags`] gives.
    pub(crate) tags: Vec<Arc<str>>,
}

impl Field {
    /// Whether values are encrypted under keys of ours.
    #[must_use]
    pub fn takes_key(&self) -> bool {
        self.protect == Protect::Encrypt && self.interop.is_none()
    }

    /// What those see who may only mask; `None`: nothing. Not [`Protect::Mask`], which is for ever.
    #[must_use]
    pub fn mask(&self) -> Option<ReadMask> {
        self.read_mask
    }

    /// Names that policies refer to, sorted.
    #[must_use]
    pub fn tags(&self) -> &[Arc<str>] {
        &self.tags
    }
}

/// What happens to a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Protect {
    /// A token, different every time.
    Encrypt,
    /// A token, equal for equal values; pinned root version.
    Deterministic(u32),
    /// The value becomes its index.
    Hash,
    /// All but some characters are replaced.
    Mask(MaskRule),
    /// A coarser value.
    Generalize(Generalize),
    /// A constant: a JSON text.
    Redact(Vec<u8>),
    /// The member goes.
    Drop,
}

impl Protect {
    /// Whether the value can be opened again.
    #[must_use]
    pub fn is_reversible(&self) -> bool {
        matches!(self, Self::Encrypt | Self::Deterministic(_))
    }
}

/// Parameters of `protect: mask`: what the record keeps of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaskRule {
    /// Characters kept at the front.
    pub keep_first: usize,
    /// Characters kept at the end.
    pub keep_last: usize,
    /// What stands for each other character.
    pub with: String,
}

/// Parameters of `generalize`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generalize {
    /// `YYYY` of a date.
    Year(Dates),
    /// `YYYY-MM` of a date.
    Month(Dates),
    /// The lower bound of an integer's bucket.
    Bucket(u64),
}

/// How dates are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dates {
    /// Strings: `YYYY-MM-DD` and what follows, `YYYY-MM`, `YYYY`.
    #[default]
    Text,
    /// Integers: days since 1970-01-01.
    Days,
    /// Integers: milliseconds since 1970-01-01T00:00:00Z.
    Milliseconds,
    /// Integers: microseconds since 1970-01-01T00:00:00Z.
    Microseconds,
}

/// JSON types a field may demand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueType {
    /// A string.
    String,
    /// Any number.
    Number,
    /// A number without fraction and exponent.
    Integer,
    /// `true` or `false`.
    Boolean,
    /// An object.
    Object,
    /// An array.
    Array,
}

impl ValueType {
    /// Whether a value of that kind and text is of this type.
    pub(crate) fn is_of(self, kind: Kind, text: &[u8]) -> bool {
        match self {
            Self::String => kind == Kind::String,
            Self::Number => kind == Kind::Number,
            Self::Integer => {
                kind == Kind::Number && !text.iter().any(|b| matches!(b, b'.' | b'e' | b'E'))
            }
            Self::Boolean => kind == Kind::Bool,
            Self::Object => kind == Kind::Object,
            Self::Array => kind == Kind::Array,
        }
    }
}

/// One bound value.
#[derive(Debug, Clone)]
pub struct Bind {
    /// Name in the token.
    pub name: String,
    /// Where it stands.
    pub path: PathId,
}

/// A blind index.
#[derive(Debug, Clone)]
pub struct IndexRule {
    /// Normaliser of every part.
    pub normalize: Normalizer,
    /// Bits kept of the tag: 8..=64 or 128.
    pub bits: u16,
    /// How many distinct values the author expects; only for a warning.
    pub distinct: Option<u64>,
    /// The field name, or `@<domain>`.
    pub domain: String,
    /// Member it is written to; `None`: `<member>_bidx`.
    pub into: Option<String>,
    /// Parts of a compound index; empty: the field's own value.
    pub of: Vec<PathId>,
    /// Root version a `hash` of a record key or header is pinned to; `None`: the newest.
    pub root: Option<u32>,
}

impl IndexRule {
    /// Whether equal tags mean equal values: 128 bits.
    #[must_use]
    pub fn is_unique(&self) -> bool {
        self.bits == 128
    }
}

/// What happens to the record key.
#[derive(Debug)]
pub struct KeyRule {
    /// `<schema>#key`, or `@<domain>`.
    pub name: String,
    /// Hash of `name`.
    pub fid: FieldId,
    /// `Hash` or `Deterministic`.
    pub protect: Protect,
    /// For `Hash`.
    pub index: Option<IndexRule>,
}

/// What happens to a header.
#[derive(Debug)]
pub struct HeaderRule {
    /// Header name, compared byte for byte.
    pub header: String,
    /// `<schema>#header:<header>`.
    pub name: String,
    /// Hash of `name`.
    pub fid: FieldId,
    /// `Encrypt`, `Hash` or `Drop`.
    pub protect: Protect,
    /// For `Hash`.
    pub index: Option<IndexRule>,
}
