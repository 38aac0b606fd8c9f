//! One entry of `fields`.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::Grants;
use super::disclosure;
use super::interop;
use super::paths::Paths;
use super::read::{Reader, is_name, join, kind};
use crate::kdf;
use crate::normalize::Normalizer;
use crate::schema::{
    Bind, Dates, Field, Generalize, IndexRule, MaskRule, PathId, Protect, ValueType,
};

const MEMBERS: [&str; 26] = [
    "id",
    "path",
    "description",
    "protect",
    "domain",
    "root",
    "format",
    "keys_file",
    "passphrases_file",
    "pad",
    "required",
    "type",
    "null",
    "bind",
    "index",
    "mask",
    "tags",
    "keep_first",
    "keep_last",
    "with",
    "to",
    "epoch",
    "normalize",
    "bits",
    "into",
    "of",
];

/// Members that mean something for some kinds of `protect` only.
const SPECIAL: [(&str, &[&str]); 12] = [
    ("root", &["deterministic"]),
    ("mask", &["encrypt", "deterministic"]),
    ("keep_first", &["mask"]),
    ("keep_last", &["mask"]),
    ("with", &["mask", "redact"]),
    ("to", &["generalize"]),
    ("epoch", &["generalize"]),
    ("pad", &["encrypt"]),
    ("bind", &["encrypt"]),
    ("format", &["encrypt"]),
    ("keys_file", &["encrypt"]),
    ("passphrases_file", &["encrypt"]),
];

/// Where a field stands in the document, for the cross checks.
pub(super) struct FieldPlaces {
    /// Pointer of the entry.
    pub(super) at: String,
}

pub(super) fn fields(
    map: &Map<String, Value>,
    schema: &str,
    grants: &Grants,
    paths: &mut Paths,
    reader: &mut Reader,
) -> (Vec<Field>, Vec<FieldPlaces>) {
    let list = match map.get("fields") {
        Some(Value::Array(list)) => list.as_slice(),
        Some(other) => {
            reader.error("/fields", format!("must be a list, not {}", kind(other)));
            &[]
        }
        None => {
            reader.error(
                "",
                "has no fields; add \"fields\": [{ \"id\": \"email\", \"path\": \"$.email\" }]",
            );
            &[]
        }
    };
    // Fields' own paths take the first ids, so that a path below their number is a field: bind and
    // of come after.
    let mut own = Vec::new();
    for (i, value) in list.iter().enumerate() {
        let at = format!("/fields/{i}");
        let Some(map) = reader.object(&at, value, &MEMBERS) else { continue };
        let text = reader.required_string(&at, map, "path", "\"$.customer.email\"");
        if text.is_some_and(|text| paths.add(&join(&at, "path"), text, reader).is_some()) {
            own.push((at, map, text.unwrap_or_default()));
        } else {
            // The entry's other faults are reported all the same.
            FieldReader { at: &at, map, schema, grants, reader }.read("", paths);
        }
    }
    let mut fields: Vec<Field> = Vec::new();
    let mut places = Vec::new();
    let mut ids = HashSet::new();
    for (at, map, text) in own {
        let Some(field) = (FieldReader { at: &at, map, schema, grants, reader }).read(text, paths)
        else {
            continue;
        };
        if !ids.insert(field.id.clone()) {
            reader.error(
                &join(&at, "id"),
                format!("{} stands twice; ids are unique and stable for ever", field.id),
            );
        }
        fields.push(field);
        places.push(FieldPlaces { at });
    }
    (fields, places)
}

struct FieldReader<'r> {
    at: &'r str,
    map: &'r Map<String, Value>,
    schema: &'r str,
    grants: &'r Grants,
    reader: &'r mut Reader,
}

impl FieldReader<'_> {
    fn read(mut self, text: &str, paths: &mut Paths) -> Option<Field> {
        let id =
            self.reader.required_string(self.at, self.map, "id", "\"email\"").unwrap_or_default();
        if self.map.get("id").is_some_and(Value::is_string) {
            self.reader.name(&join(self.at, "id"), id);
        }
        let name = domain(self.at, self.map, self.grants, self.reader)
            .unwrap_or_else(|| format!("{}.{id}", self.schema));
        let protect = self.protect();
        let index = self.index(&name, protect.as_ref(), paths);
        let bind = self.bind(paths);
        Some(Field {
            id: id.into(),
            fid: kdf::field_id(&name),
            name,
            path: text.to_owned(),
            required: self.reader.boolean(self.at, self.map, "required"),
            value_type: self.value_type(),
            encrypt_null: self.encrypt_null(protect.as_ref()),
            pad: self.pad(),
            interop: interop::interop(self.at, self.map, self.reader),
            bind,
            index,
            read_mask: disclosure::mask(self.at, self.map, self.reader),
            tags: disclosure::tags(self.at, self.map, self.reader),
            protect: protect?,
        })
    }

    fn protect(&mut self) -> Option<Protect> {
        let kinds = ["encrypt", "deterministic", "hash", "mask", "generalize", "redact", "drop"]
            .map(|k| (k, k));
        let word = if self.map.contains_key("protect") {
            self.reader.choice(self.at, self.map, "protect", &kinds)?
        } else {
            "encrypt"
        };
        for (member, of) in SPECIAL
            .iter()
            .filter(|(member, of)| self.map.contains_key(*member) && !of.contains(&word))
        {
            self.reader.error(
                &join(self.at, member),
                format!("belongs to protect {}, not {word}; remove it", of.join(" or ")),
            );
        }
        for member in
            ["normalize", "bits", "into", "of"].into_iter().filter(|m| self.map.contains_key(*m))
        {
            self.reader.error(
                &join(self.at, member),
                format!("belongs inside \"index\": {{ \"{member}\": ... }}"),
            );
        }
        match word {
            "deterministic" => Some(Protect::Deterministic(self.root())),
            "hash" => Some(Protect::Hash),
            "mask" => Some(Protect::Mask(self.mask_rule())),
            "generalize" => self.generalize(),
            "redact" => Some(Protect::Redact(self.redact())),
            "drop" => Some(Protect::Drop),
            _ => Some(Protect::Encrypt),
        }
    }

    fn root(&mut self) -> u32 {
        if !self.map.contains_key("root") {
            self.reader.error(
                self.at,
                "has no root; deterministic fields pin the version of their root: add \"root\": 1",
            );
        }
        self.reader.integer(self.at, self.map, "root", 1..=u64::from(u32::MAX), 1) as u32
    }

    fn mask_rule(&mut self) -> MaskRule {
        let with = self.reader.string(self.at, self.map, "with").unwrap_or("*");
        if with.chars().count() != 1
            || with.contains(['"', '\\'])
            || with.chars().any(char::is_control)
        {
            self.reader.error(
                &join(self.at, "with"),
                "must be one character, no quote, backslash or control character",
            );
        }
        MaskRule {
            keep_first: self.reader.integer(self.at, self.map, "keep_first", 0..=1024, 0) as usize,
            keep_last: self.reader.integer(self.at, self.map, "keep_last", 0..=1024, 4) as usize,
            with: with.to_owned(),
        }
    }

    fn generalize(&mut self) -> Option<Protect> {
        let to = self.reader.required_string(self.at, self.map, "to", "\"year\"")?;
        let epochs = [
            ("days", Dates::Days),
            ("milliseconds", Dates::Milliseconds),
            ("microseconds", Dates::Microseconds),
        ];
        let dates = self.reader.choice(self.at, self.map, "epoch", &epochs).unwrap_or_default();
        let step = match (to, to.strip_prefix("bucket:").map(str::parse::<u64>)) {
            ("year", _) => Generalize::Year(dates),
            ("month", _) => Generalize::Month(dates),
            (_, Some(_)) if self.map.contains_key("epoch") => {
                self.reader
                    .error(&join(self.at, "epoch"), "belongs to \"year\" and \"month\"; remove it");
                return None;
            }
            (_, Some(Ok(width))) if width >= 2 && width <= i64::MAX as u64 => {
                Generalize::Bucket(width)
            }
            _ => {
                self.reader.error(
                    &join(self.at, "to"),
                    "must be \"year\", \"month\" or \"bucket:<n>\" with n of at least 2",
                );
                return None;
            }
        };
        Some(Protect::Generalize(step))
    }

    fn redact(&mut self) -> Vec<u8> {
        let value =
            self.map.get("with").cloned().unwrap_or_else(|| Value::String("[redacted]".to_owned()));
        if value.is_object() || value.is_array() {
            self.reader.error(&join(self.at, "with"), "must be a string, number, boolean or null");
        }
        value.to_string().into_bytes()
    }

    fn pad(&mut self) -> u16 {
        let pad = self.reader.integer(self.at, self.map, "pad", 0..=4096, 16) as u16;
        if !pad.is_multiple_of(16) {
            self.reader.error(&join(self.at, "pad"), "must be 0 or a multiple of 16 up to 4096");
        }
        pad
    }

    fn value_type(&mut self) -> Option<ValueType> {
        let types = [
            ("string", ValueType::String),
            ("number", ValueType::Number),
            ("integer", ValueType::Integer),
            ("boolean", ValueType::Boolean),
            ("object", ValueType::Object),
            ("array", ValueType::Array),
        ];
        self.reader.choice(self.at, self.map, "type", &types)
    }

    fn encrypt_null(&mut self, protect: Option<&Protect>) -> bool {
        let encrypt = self
            .reader
            .choice(self.at, self.map, "null", &[("keep", false), ("encrypt", true)])
            .unwrap_or_default();
        if encrypt && !matches!(protect, Some(Protect::Encrypt | Protect::Deterministic(_)) | None)
        {
            self.reader.error(
                &join(self.at, "null"),
                "\"encrypt\" needs protect encrypt or deterministic",
            );
        }
        encrypt
    }

    fn bind(&mut self, paths: &mut Paths) -> Vec<Bind> {
        let Some(value) = self.map.get("bind") else { return Vec::new() };
        let at = join(self.at, "bind");
        let Some(list) = value.as_array() else {
            self.reader.error(
                &at,
                format!("must be a list of {{ \"name\", \"path\" }}, not {}", kind(value)),
            );
            return Vec::new();
        };
        let mut out: Vec<Bind> = Vec::new();
        for (i, item) in list.iter().enumerate() {
            let at = format!("{at}/{i}");
            let Some(map) = self.reader.object(&at, item, &["name", "path"]) else { continue };
            let name =
                self.reader.required_string(&at, map, "name", "\"customer\"").unwrap_or_default();
            let text = self.reader.required_string(&at, map, "path", "\"$.customer.id\"");
            if out.iter().any(|b| b.name == name) {
                self.reader.error(&join(&at, "name"), "is bound twice; each name once");
            }
            if let Some(path) =
                text.and_then(|text| paths.add_singular(&join(&at, "path"), text, self.reader))
            {
                paths.read_in_clear(path);
                out.push(Bind { name: name.to_owned(), path });
            }
        }
        out.sort_by(|a, b| a.name.cmp(&b.name));
        out
    }

    fn index(
        &mut self,
        name: &str,
        protect: Option<&Protect>,
        paths: &mut Paths,
    ) -> Option<IndexRule> {
        let hash = protect == Some(&Protect::Hash);
        let at = join(self.at, "index");
        let Some(value) = self.map.get("index") else {
            if hash {
                self.reader.error(
                    self.at,
                    "has no index; a hash is a blind index: add \"index\": \
                    { \"normalize\": \"exact\" }",
                );
            }
            return None;
        };
        let map = self.reader.object(
            &at,
            value,
            &["normalize", "bits", "into", "domain", "of", "distinct"],
        )?;
        if protect == Some(&Protect::Drop) {
            self.reader.error(
                &at,
                "a dropped member has no index; remove it, or protect \"hash\" \
                to keep only the index",
            );
        }
        let mut rule = index_definition(&at, map, name, self.reader)?;
        rule.into = self.reader.string(&at, map, "into").map(str::to_owned);
        if rule.into.as_deref().is_some_and(|into| {
            into.is_empty() || into.contains(['"', '\\']) || into.contains(char::is_control)
        }) {
            self.reader.error(
                &join(&at, "into"),
                "must be a member name without quotes, backslashes and control characters",
            );
        }
        if hash && map.contains_key("into") {
            self.reader.error(&join(&at, "into"), "a hash replaces the value itself; remove it");
        }
        domain(&at, map, self.grants, self.reader);
        rule.of = self.parts(&at, map, paths);
        rule.distinct = map
            .contains_key("distinct")
            .then(|| self.reader.integer(&at, map, "distinct", 1..=u64::MAX, 1));
        Some(rule)
    }

    fn parts(&mut self, at: &str, map: &Map<String, Value>, paths: &mut Paths) -> Vec<PathId> {
        let Some(value) = map.get("of") else { return Vec::new() };
        let at = join(at, "of");
        match value.as_array() {
            Some(list) if list.len() >= 2 && list.len() <= 16 => list
                .iter()
                .enumerate()
                .filter_map(|(i, item)| {
                    let at = format!("{at}/{i}");
                    match item.as_str() {
                        Some(text) => paths.add_singular(&at, text, self.reader),
                        None => {
                            self.reader.error(&at, format!("must be a path, not {}", kind(item)));
                            None
                        }
                    }
                })
                .collect(),
            _ => {
                self.reader.error(&at, "must be a list of 2 to 16 paths");
                Vec::new()
            }
        }
    }
}

/// `normalize`, `bits` and `domain` of an index, in `map`. Not `into`, `of` and `root`.
pub(super) fn index_definition(
    at: &str,
    map: &Map<String, Value>,
    name: &str,
    reader: &mut Reader,
) -> Option<IndexRule> {
    let word = reader.required_string(at, map, "normalize", "\"exact\"")?;
    let normalize = word.parse::<Normalizer>();
    if let Err(e) = &normalize {
        reader.error(&join(at, "normalize"), e.to_string());
    }
    let bits = reader.integer(at, map, "bits", 8..=128, 128) as u16;
    if bits > 64 && bits != 128 {
        reader.error(&join(at, "bits"), "must be 8 to 64 (bucketed) or 128 (unique)");
    }
    // A record key's or header's own `domain` is already in its name.
    let domain = match map.get("domain").and_then(Value::as_str) {
        Some(domain) if is_name(domain) => format!("@{domain}"),
        _ => name.to_owned(),
    };
    Some(IndexRule {
        normalize: normalize.ok()?,
        bits,
        distinct: None,
        domain,
        into: None,
        of: Vec::new(),
        root: None,
    })
}

/// `@<domain>` of a member `domain`, when the operator granted it.
pub(super) fn domain(
    at: &str,
    map: &Map<String, Value>,
    grants: &Grants,
    reader: &mut Reader,
) -> Option<String> {
    let domain = reader.string(at, map, "domain")?;
    let at = join(at, "domain");
    if !reader.name(&at, domain) {
        return None;
    }
    if !grants.any_domain && !grants.domains.iter().any(|d| d == domain) {
        reader.error(
            &at,
            format!("{domain} is not granted; ask the operator to add it to [schemas] domains"),
        );
    }
    Some(format!("@{domain}"))
}
