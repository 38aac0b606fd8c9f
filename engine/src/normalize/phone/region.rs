//! What libphonenumber's metadata (9.0.33, as the crate phonenumber carries it) say of a region's
//! numbers.

use std::collections::HashMap;
use std::sync::{LazyLock, OnceLock};

use phonenumber::Metadata;
use phonenumber::metadata::{DATABASE, Descriptor};
use regex::Regex;

/// The rules of one region, or of a calling code without one.
pub(super) struct Region {
    pub(super) code: u16,
    /// What is dialled before a foreign number; anchored at the start.
    pub(super) international_prefix: Option<Regex>,
    /// What is dialled before a number at home; anchored at the start.
    pub(super) national_prefix: Option<Regex>,
    /// What becomes of a number with that prefix, where it is not only cut off.
    pub(super) transform: Option<String>,
    /// Every national number; anchored at both ends.
    general: Option<Regex>,
    /// Lengths of national numbers, sorted.
    lengths: Vec<u16>,
    /// Lengths that can be dialled from nearby only.
    local_lengths: Vec<u16>,
}

/// How the length of a national number compares with those there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Length {
    Possible,
    LocalOnly,
    TooShort,
    TooLong,
    /// Between two that there are.
    Invalid,
}

/// Regions are made when their first number comes.
struct Slot<'m> {
    metadata: &'m Metadata,
    region: OnceLock<Region>,
}

struct Table {
    slots: Vec<Slot<'static>>,
    by_id: HashMap<&'static str, usize>,
    /// The main region of each calling code.
    by_code: HashMap<u16, usize>,
}

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let (mut slots, mut by_id, mut by_code) = (Vec::new(), HashMap::new(), HashMap::new());
    // The main region of a code comes first among those of the code.
    let codes = (1..1000_u16).filter_map(|code| DATABASE.by_code(&code));
    for regions in codes {
        for (i, metadata) in regions.into_iter().enumerate() {
            let slot = slots.len();
            if i == 0 || metadata.is_main_country_for_code() {
                by_code.insert(metadata.country_code(), slot);
            }
            by_id.insert(metadata.id(), slot);
            slots.push(Slot { metadata, region: OnceLock::new() });
        }
    }
    Table { slots, by_id, by_code }
});

/// The region of that ISO 3166 code, in upper case.
pub(super) fn by_id(id: &str) -> Option<&'static Region> {
    TABLE.by_id.get(id).map(|slot| get(*slot))
}

/// The main region of a calling code.
pub(super) fn by_code(code: u16) -> Option<&'static Region> {
    TABLE.by_code.get(&code).map(|slot| get(*slot))
}

fn get(slot: usize) -> &'static Region {
    let slot: &'static Slot<'_> = &TABLE.slots[slot];
    slot.region.get_or_init(|| Region::new(slot.metadata))
}

impl Region {
    fn new(metadata: &Metadata) -> Self {
        let start = |pattern: &str| Regex::new(&format!("^(?x:{pattern})")).ok();
        let national_prefix =
            match (metadata.national_prefix_for_parsing(), metadata.national_prefix()) {
                (Some(pattern), _) => start(pattern.as_str()),
                (None, plain) => plain.and_then(start),
            };
        let (lengths, local_lengths) = lengths(metadata);
        Self {
            code: metadata.country_code(),
            international_prefix: metadata
                .international_prefix()
                .and_then(|pattern| start(pattern.as_str())),
            national_prefix,
            transform: metadata
                .national_prefix_transform_rule()
                .filter(|rule| !rule.is_empty())
                .map(braced),
            general: Regex::new(&format!(
                "^(?x:{})$",
                metadata.descriptors().general().national_number().as_str()
            ))
            .ok(),
            lengths,
            local_lengths,
        }
    }

    /// Whether it may be a whole national number.
    pub(super) fn matches(&self, national: &str) -> bool {
        let possible = self.lengths.is_empty() || self.lengths.contains(&(national.len() as u16));
        possible && self.general.as_ref().is_some_and(|general| general.is_match(national))
    }

    pub(super) fn length(&self, national: &str) -> Length {
        let actual = national.len() as u16;
        if self.local_lengths.contains(&actual) {
            return Length::LocalOnly;
        }
        match (self.lengths.first(), self.lengths.last()) {
            (Some(least), _) if actual < *least => Length::TooShort,
            (_, Some(most)) if actual > *most => Length::TooLong,
            _ if self.lengths.contains(&actual) => Length::Possible,
            _ => Length::Invalid,
        }
    }
}

/// `$1` as the crate regex takes it where a digit follows.
fn braced(rule: &str) -> String {
    let mut out = String::new();
    let mut rest = rule.chars().peekable();
    while let Some(c) = rest.next() {
        out.push(c);
        if c == '$'
            && let Some(digit) = rest.next_if(char::is_ascii_digit)
        {
            out.extend(['{', digit, '}']);
        }
    }
    out
}

/// Lengths of every kind of number, and those that are local only.
fn lengths(metadata: &Metadata) -> (Vec<u16>, Vec<u16>) {
    let all = metadata.descriptors();
    let kinds = [
        Some(all.general()),
        all.fixed_line(),
        all.mobile(),
        all.toll_free(),
        all.premium_rate(),
        all.shared_cost(),
        all.personal_number(),
        all.voip(),
        all.pager(),
        all.uan(),
        all.voicemail(),
    ];
    let union = |of: fn(&Descriptor) -> &[u16]| {
        let mut lengths: Vec<u16> =
            kinds.iter().flatten().flat_map(|kind| of(kind).iter().copied()).collect();
        lengths.sort_unstable();
        lengths.dedup();
        lengths
    };
    let (lengths, mut local) =
        (union(Descriptor::possible_length), union(Descriptor::possible_local_length));
    local.retain(|length| !lengths.contains(length));
    (lengths, local)
}
