//! A table as a second place, written by a role that may INSERT and nothing else.

use std::path::Path;

use postgres::Client;
use veilstream_keys::store::PostgresAddress;
use veilstream_reading::audit::{CopiedLine, Sink, SinkError};

use crate::config::AuditPostgres;

/// Whatever the server, the database or the role has as its default: a commit is on the disk before
/// it is reported. A table that somebody locked is asked again.
const SETTINGS: &str = "SET synchronous_commit = on;
SET default_transaction_isolation = 'read committed';
SET statement_timeout = '30s';
SET lock_timeout = '5s';";

// No conflict target: to name columns takes the right to SELECT them. (chain, seq) is the only
// unique place.
const INSERT: &str = r#"INSERT INTO pii_access_logs (chain, seq, user_id, accessed_by, access_type,
    fields_accessed, reason, "timestamp", ip_address, line)
SELECT chain, seq, user_id, accessed_by, access_type, fields::jsonb, reason, at::timestamptz, ip,
    line
FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
    $8::text[], $9::text[], $10::text[])
    AS lines(chain, seq, user_id, accessed_by, access_type, fields, reason, at, ip, line)
ON CONFLICT DO NOTHING"#;
const INSERT_SUBJECTS: &str =
    "INSERT INTO pii_access_log_subjects (sha256, refs) VALUES ($1, $2) ON CONFLICT DO NOTHING";

/// Copies lines to `pii_access_logs`.
pub(super) struct PostgresSink {
    address: PostgresAddress,
    /// `None`: not made yet, or broken.
    client: Option<Client>,
}

impl PostgresSink {
    pub(super) fn new(config: &AuditPostgres) -> anyhow::Result<Self> {
        Ok(Self { address: address(config.url.expose(), config.ca_file.as_deref())?, client: None })
    }

    fn client(&mut self) -> Result<&mut Client, SinkError> {
        let kept = self.client.take().filter(|client| !client.is_closed());
        let client = match kept {
            Some(client) => client,
            None => {
                let mut made = self
                    .address
                    .connect(|_| {})
                    .map_err(|error| SinkError::none_copied(error.to_string()))?;
                made.batch_execute(SETTINGS).map_err(|error| self.refused(&error))?;
                let encoding: String = made
                    .query_one("SHOW server_encoding", &[])
                    .and_then(|row| row.try_get(0))
                    .map_err(|error| self.refused(&error))?;
                if encoding != "UTF8" {
                    let place = self.address.place();
                    return Err(SinkError::none_copied(format!(
                        "{place} is encoded in {encoding}; make one in UTF8"
                    )));
                }
                made
            }
        };
        Ok(self.client.insert(client))
    }

    fn insert(&mut self, lines: &[CopiedLine]) -> Result<(), SinkError> {
        let rows = Rows::of(lines);
        let client = self.client()?;
        let inserted = (|| {
            for line in lines {
                // Before the line that names it.
                if let (Some(refs), Some(name)) = (&line.subjects, line.line.entry.subjects_sha256)
                {
                    client.execute(INSERT_SUBJECTS, &[&name.to_string(), refs])?;
                }
            }
            client.execute(
                INSERT,
                &[
                    &rows.chain,
                    &rows.seq,
                    &rows.user_id,
                    &rows.accessed_by,
                    &rows.access_type,
                    &rows.fields,
                    &rows.reason,
                    &rows.at,
                    &rows.ip,
                    &rows.line,
                ],
            )
        })();
        inserted.map(drop).map_err(|error| self.refused(&error))
    }

    /// What the server says may quote a row: only its code is told.
    fn refused(&self, error: &postgres::Error) -> SinkError {
        SinkError::none_copied(refused(&self.address, error))
    }
}

fn refused(address: &PostgresAddress, error: &postgres::Error) -> String {
    let place = address.place();
    let Some(code) = error.code().map(postgres::error::SqlState::code) else {
        return format!("{place}: the connection broke ({error})");
    };
    let what = match code {
        "42P01" => "has no table pii_access_logs; `veilstream audit ddl` prints it",
        "42501" => "does not let this role do it; `veilstream audit ddl --role` prints the grant",
        "42703" => "has another table pii_access_logs than `veilstream audit ddl` prints",
        "55P03" => "has the table locked",
        "57P01" | "57P02" | "57P03" => "is stopping or starting",
        _ => "refuses the lines; its log says why",
    };
    format!("{place} {what} (SQLSTATE {code})")
}

impl Sink for PostgresSink {
    fn name(&self) -> &'static str {
        "postgres"
    }

    fn copy(&mut self, lines: &[CopiedLine], _: &dyn Fn() -> bool) -> Result<(), SinkError> {
        self.insert(lines)
    }
}

/// Lines as columns.
#[derive(Default)]
struct Rows {
    chain: Vec<String>,
    seq: Vec<i64>,
    user_id: Vec<Option<String>>,
    accessed_by: Vec<Option<String>>,
    access_type: Vec<&'static str>,
    fields: Vec<String>,
    reason: Vec<Option<String>>,
    at: Vec<String>,
    ip: Vec<Option<String>>,
    line: Vec<String>,
}

impl Rows {
    fn of(lines: &[CopiedLine]) -> Self {
        let mut rows = Self::default();
        for CopiedLine { line, bytes, .. } in lines {
            let entry = &line.entry;
            let fields: Vec<String> = entry.fields.keys().map(|field| storable(field)).collect();
            rows.chain.push(line.chain.to_string());
            rows.seq.push(i64::try_from(line.seq).unwrap_or(i64::MAX));
            rows.user_id.push(entry.subject.map(|subject| subject.to_string()));
            rows.accessed_by.push(entry.actor.as_deref().map(storable));
            rows.access_type.push(entry.event.as_str());
            rows.fields.push(serde_json::Value::from(fields).to_string());
            rows.reason.push(entry.reason.as_deref().map(storable));
            rows.at.push(line.time.clone());
            rows.ip.push(entry.ip.as_deref().map(storable));
            rows.line.push(String::from_utf8_lossy(bytes).into_owned());
        }
        rows
    }
}

/// Text as PostgreSQL takes it: a caller's NUL would stop every line behind it.
fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn address(url: &str, ca: Option<&Path>) -> anyhow::Result<PostgresAddress> {
    PostgresAddress::parse(url, ca, "audit.postgres_ca_file")
        .map_err(|error| anyhow::anyhow!("audit.postgres: {error}"))
}

/// Gives out every line that the table holds, as it is. The role of `url` must be allowed to SELECT.
///
/// # Errors
/// The table cannot be read, or what `each` says.
pub fn read_table(
    url: &str,
    ca: Option<&Path>,
    mut each: impl FnMut(&[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    use postgres::fallible_iterator::FallibleIterator as _;

    let address = address(url, ca)?;
    let mut client = address.connect(|_| {})?;
    let failed = |error: postgres::Error| anyhow::anyhow!(refused(&address, &error));
    let sql = "SELECT line FROM pii_access_logs ORDER BY chain, seq";
    let mut rows = client.query_raw(sql, std::iter::empty::<&str>()).map_err(failed)?;
    while let Some(row) = rows.next().map_err(failed)? {
        each(row.try_get::<_, &str>(0).map_err(failed)?.as_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use veilstream_reading::audit::{Entry, Event, Hex, Line};

    use super::*;

    #[test]
    fn what_a_caller_wrote_is_no_fault_of_the_table() {
        assert_eq!(storable("a\0b"), "a\u{fffd}b");
    }

    #[test]
    fn the_columns_are_what_the_line_says() {
        let text = r#"{"actor":"key:desk","chain":"000102030405060708090a0b0c0d0e0f","event":"reveal","fields":{"email":"revealed","ssn":"denied"},"ip":"10.0.0.7","mac":"0000000000000000000000000000000000000000000000000000000000000000","prev":"0000000000000000000000000000000000000000000000000000000000000000","reason":"ticket \u00007","seq":7,"subject":"0f0e0d0c0b0a09080706050403020100","time":"2026-11-29T12:00:00Z","v":1}"#;
        let line = Line::read(text.as_bytes()).unwrap();
        let copied = CopiedLine { line, bytes: text.as_bytes().to_vec(), subjects: None };
        let rows = Rows::of(&[copied]);
        assert_eq!((rows.seq[0], rows.access_type[0]), (7, "reveal"));
        assert_eq!(rows.user_id[0].as_deref(), Some("0f0e0d0c0b0a09080706050403020100"));
        assert_eq!(rows.fields[0], r#"["email","ssn"]"#);
        assert_eq!(rows.reason[0].as_deref(), Some("ticket \u{fffd}7"));
        assert_eq!(rows.line[0], text);
        let nobody = Entry::new(Event::Start);
        assert_eq!(nobody.subject, None::<Hex<16>>);
    }
}
