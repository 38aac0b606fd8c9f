//! What goes into the engine and what comes out: borrowed bytes in, reused buffers out.

/// One header: raw name bytes (Kafka does not promise UTF-8), raw value or null.
pub type Header<'a> = (&'a [u8], Option<&'a [u8]>);

/// One input record, borrowed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Record<'a> {
    /// Record key, raw.
    pub key: Option<&'a [u8]>,
    /// Record value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Headers in order; duplicates and empty values are kept.
    pub headers: &'a [Header<'a>],
    /// Topic it came from; schemas whose `topics.from` is another do not claim it. `None` (command
    /// line): every schema may.
    pub topic: Option<&'a str>,
    /// Now, in Unix seconds: decides whether a key may still seal.
    pub now: u64,
    /// The record's own time, in Unix seconds, which forms of other systems tell; `None`: now.
    pub time: Option<u64>,
    /// Where values start that are sealed as honey tokens, in order. Only a rotation knows of them
    /// ([`Report::honey`](crate::reveal::Report::honey)).
    pub honey: &'a [usize],
}

/// The protected record. Owned buffers that the caller reuses from record to record.
#[derive(Debug, Default)]
pub struct Output {
    /// Protected value; meaningless when `tombstone`.
    pub value: Vec<u8>,
    /// The input had a null value.
    pub tombstone: bool,
    /// What to do with the record key.
    pub key: KeyOutput,
    /// Replacement of a protected key, when `key` is `Replaced`.
    pub key_bytes: Vec<u8>,
    /// Headers in order, without `veilstream-schema`; (index of the input header, what became of
    /// it).
    pub headers: Vec<HeaderOutput>,
    /// Bytes that `headers` refers to.
    pub header_bytes: Vec<u8>,
    /// What happened to each field, for metrics: (field index in the schema, outcome, how often).
    pub counts: Vec<(usize, FieldOutcome, u32)>,
    /// Times a protected value was found in clear elsewhere, per field (`residue: count`).
    pub residue: Vec<(usize, u32)>,
    /// Protected values that were not looked for elsewhere, because there were too many (`residue:
    /// count`).
    pub residue_capped: u32,
}

/// Bytes of buffers that are kept from record to record; what a large record needed beyond goes
/// back.
pub(crate) const KEPT: usize = 8 << 20;

impl Output {
    /// Empties the buffers for the next record.
    pub fn clear(&mut self) {
        self.value.clear();
        self.tombstone = false;
        self.key = KeyOutput::Same;
        self.key_bytes.clear();
        self.headers.clear();
        self.header_bytes.clear();
        self.counts.clear();
        self.residue.clear();
        self.residue_capped = 0;
    }

    /// Bytes its buffers hold, whether in use or not: part of what a record in flight costs.
    #[must_use]
    pub fn buffer_bytes(&self) -> usize {
        let counts = self.counts.capacity() * size_of::<(usize, FieldOutcome, u32)>()
            + self.residue.capacity() * size_of::<(usize, u32)>();
        let headers =
            self.headers.capacity() * size_of::<HeaderOutput>() + self.header_bytes.capacity();
        self.value.capacity() + self.key_bytes.capacity() + headers + counts
    }

    /// Gives back what a large record needed beyond 8 MiB, once nobody reads the output any more.
    pub fn shrink(&mut self) {
        if self.buffer_bytes() > KEPT {
            *self = Self::default();
        }
    }
}

/// What became of the record key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeyOutput {
    /// Same as the input's (null stays null).
    #[default]
    Same,
    /// `Output::key_bytes`.
    Replaced,
}

/// What became of one input header (dropped ones do not appear).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderOutput {
    /// Copied from the input header of that index, byte for byte.
    Same(usize),
    /// Name of the input header of that index, value `Output::header_bytes[range]`.
    Replaced(usize, std::ops::Range<usize>),
}

/// What happened to one field of one record (label `outcome` of
/// `veilstream_fields_protected_total`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FieldOutcome {
    /// Sealed into a token (also deterministic).
    Encrypted,
    /// Replaced by or accompanied by a blind index.
    Indexed,
    /// Masked, generalized or redacted.
    Masked,
    /// Removed.
    Dropped,
    /// Not in this record.
    Absent,
    /// Null and kept.
    Null,
}

impl FieldOutcome {
    /// How many there are.
    pub const COUNT: usize = 6;
    /// Every outcome, in order.
    pub const ALL: [Self; Self::COUNT] =
        [Self::Encrypted, Self::Indexed, Self::Masked, Self::Dropped, Self::Absent, Self::Null];

    /// The label's value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Encrypted => "encrypted",
            Self::Indexed => "indexed",
            Self::Masked => "masked",
            Self::Dropped => "dropped",
            Self::Absent => "absent",
            Self::Null => "null",
        }
    }
}
