//! Rows of a schema: opened where they have tokens, or protected as a whole.

use std::collections::BTreeSet;
use std::sync::Arc;

use veilstream::protect::Protector;
use veilstream_engine::compile::SchemaSet;
use veilstream_engine::record::Record;
use veilstream_engine::reveal::{
    Decision, Disclosed, Disclosure, DisclosureOptions, HeldKeys, ReadStatus, Revealer, Status,
};
use veilstream_engine::schema::Schema;
use veilstream_reading::audit::{self, Event};

use crate::bare::honey_entry;
use crate::fault::VeilFault;
use crate::held::Held;
use crate::parts::{CallPurpose, ReadingParts};

/// What became of a field: its id, its status, and its places where they differ.
pub(crate) type FieldOutcome = (String, &'static str, Vec<(String, &'static str)>);

/// What became of a row.
pub(crate) struct RowOutcome {
    /// The record as JSON; `None`: it is no record of the schema.
    pub(crate) record: Option<String>,
    pub(crate) fields: Vec<FieldOutcome>,
}

/// A row that was opened, before it may be handed out.
#[derive(Default)]
struct OpenedRow {
    is_record: bool,
    shown: Vec<u8>,
    told: Disclosure,
}

impl ReadingParts {
    /// Opens rows, which are JSON texts (`None`: one that cannot be). When it returns, their lines
    /// are durable.
    ///
    /// # Errors
    /// There is no such schema or field, or keys or log are not available. Never for a row.
    pub(crate) fn reveal_rows(
        &self,
        schema: &str,
        fields: Option<&[String]>,
        rows: &[Option<String>],
        purpose: &CallPurpose,
    ) -> Result<Vec<RowOutcome>, VeilFault> {
        let template = self.entry(Event::Reveal, purpose)?;
        let set = self.schemas();
        let schema = find(&set, schema)?;
        let mut decisions = decisions(schema, fields)?;
        let mut held = Held::of(&*self.keys);
        let opened = self.with_revealer(|revealer| {
            loop {
                let opened = rows
                    .iter()
                    .map(|row| open(schema, row.as_deref(), &decisions, &mut held, revealer))
                    .collect::<Result<Vec<_>, VeilFault>>()?;
                // All places of a field with honey are withheld: a lone one would tell which it was.
                let met: Vec<usize> =
                    opened.iter().flat_map(|row| row.told.honey.iter().copied()).collect();
                if met.iter().all(|at| decisions[*at] == Decision::Withhold) {
                    return Ok::<_, VeilFault>((opened, met));
                }
                met.iter().for_each(|at| decisions[*at] = Decision::Withhold);
            }
        });
        let (opened, _) = opened?;
        let asked =
            |at: usize| fields.is_none_or(|ids| ids.iter().any(|id| **id == *schema.fields[at].id));
        let honey: Vec<usize> = (0..schema.fields.len())
            .filter(|at| asked(*at) && decisions[*at] == Decision::Withhold)
            .collect();
        let mut disclosure = audit::Disclosure::new(template.clone());
        for row in opened.iter().filter(|row| row.is_record) {
            tell(&mut disclosure, schema, row);
        }
        let mut lines = disclosure.into_entries();
        lines.extend(
            honey
                .iter()
                .map(|at| honey_entry(template.clone(), &schema.name, &schema.fields[*at].id)),
        );
        self.append(lines)?;
        Ok(opened.into_iter().map(|row| outcome(schema, row, &asked)).collect())
    }

    /// An event as the sidecar protects it.
    ///
    /// # Errors
    /// The schema does not take it, or keys or log are not available.
    pub(crate) fn transform(
        &self,
        schema: &str,
        event: &str,
        purpose: &CallPurpose,
    ) -> Result<String, VeilFault> {
        let template = self.entry(Event::Seal, purpose)?;
        let set = self.schemas();
        let schema = find(&set, schema)?;
        // Alone: the caller has said which schema it is.
        let set = SchemaSet::new(vec![schema.clone()])
            .map_err(|faults| VeilFault::Config(veilstream::exit::faults_error(&faults)))?;
        let mut protector = Protector::new(Arc::new(set), self.keys.keyring()).one_shot();
        let now = veilstream::keys::now();
        let record = Record { value: Some(event.as_bytes()), now, ..Record::default() };
        let protected = protector.protect(&record, std::iter::empty(), &*self.keys)?;
        let outcome = if protected.is_ok() { "ok" } else { "failed" };
        self.append(vec![audit::Entry {
            schema: Some(schema.name.to_string()),
            outcome: Some(outcome.to_owned()),
            items: Some(1),
            ..template
        }])?;
        match protected {
            Ok(_) => Ok(String::from_utf8_lossy(&protector.output().value).into_owned()),
            Err(reject) => Err(VeilFault::Rejected {
                code: reject.code,
                schema: Some(schema.name.to_string()),
                field: reject.field.map(|field| field.to_string()),
            }),
        }
    }
}

fn find<'s>(set: &'s SchemaSet, name: &str) -> Result<&'s Arc<Schema>, VeilFault> {
    set.get(name).ok_or_else(|| VeilFault::UnknownSchema(name.chars().take(64).collect()))
}

fn decisions(schema: &Schema, fields: Option<&[String]>) -> Result<Vec<Decision>, VeilFault> {
    let Some(ids) = fields else { return Ok(vec![Decision::Reveal; schema.fields.len()]) };
    let mut decisions = vec![Decision::Withhold; schema.fields.len()];
    for id in ids {
        let at = schema.fields.iter().position(|field| *field.id == **id);
        let unknown = || VeilFault::UnknownField(format!("{}.{id}", schema.name));
        decisions[at.ok_or_else(unknown)?] = Decision::Reveal;
    }
    Ok(decisions)
}

fn open(
    schema: &Schema,
    row: Option<&str>,
    decisions: &[Decision],
    held: &mut Held<'_>,
    revealer: &mut Revealer,
) -> Result<OpenedRow, VeilFault> {
    let mut opened = OpenedRow::default();
    let Some(row) = row else { return Ok(opened) };
    let options = DisclosureOptions { decisions, strict: true };
    loop {
        let keys = HeldKeys { keyring: &held.keyring, fetched: &held.fetched };
        let OpenedRow { shown, told, .. } = &mut opened;
        match revealer.disclose(schema, keys, row.as_bytes(), &options, shown, told) {
            Ok(Disclosed::Whole) => {
                opened.is_record = true;
                return Ok(opened);
            }
            Ok(Disclosed::NeedKeys(kids)) => {
                for kid in kids {
                    held.get(&kid)?;
                }
            }
            // It is no record of this schema, whatever it is.
            Err(_) => return Ok(OpenedRow::default()),
        }
    }
}

fn tell(disclosure: &mut audit::Disclosure, schema: &Schema, row: &OpenedRow) {
    let told = row.told.places.iter().filter(|place| {
        !matches!(place.status, Status::NoToken | Status::Withheld | Status::Skipped)
    });
    let fields: Vec<(&str, &str)> =
        told.map(|place| (&*schema.fields[place.field].id, place.status.as_str())).collect();
    if fields.is_empty() {
        return;
    }
    let subjects: BTreeSet<_> = row.told.places.iter().filter_map(|place| place.subject).collect();
    let kids: BTreeSet<_> = row.told.places.iter().filter_map(|place| place.kid).collect();
    disclosure.add(&schema.name, subjects, fields.into_iter(), kids.iter().copied(), 1);
}

fn outcome(schema: &Schema, row: OpenedRow, asked: &dyn Fn(usize) -> bool) -> RowOutcome {
    if !row.is_record {
        return RowOutcome { record: None, fields: Vec::new() };
    }
    let fields = schema.fields.iter().enumerate().filter(|(at, _)| asked(*at));
    let fields = fields
        .map(|(at, field)| {
            let status = row.told.fields.get(at).copied().unwrap_or(ReadStatus::Denied);
            let places = row.told.places.iter().filter(|place| place.field == at);
            let places = places.filter_map(|place| {
                Some((place.path.clone()?, ReadStatus::from(place.status).as_str()))
            });
            (field.id.to_string(), status.as_str(), places.collect())
        })
        .collect();
    RowOutcome { record: String::from_utf8(row.shown).ok(), fields }
}
