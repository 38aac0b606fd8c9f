//! Record key and headers.

use super::{Run, Stop, deterministic_root, seal_failed, subjects};
use crate::error::RejectCode;
use crate::normalize::Input;
use crate::record::{HeaderOutput, KeyOutput, Output};
use crate::schema::Protect;
use crate::seal::PayloadKind;

impl Run<'_> {
    pub(super) fn envelope(&mut self, out: &mut Output) -> Result<(), Stop> {
        self.key(out)?;
        for i in 0..self.record.headers.len() {
            self.header(i, out)?;
        }
        Ok(())
    }

    /// A tombstone names no subject, so a header that is there and must be encrypted has no key.
    /// One that is null or absent needs none.
    pub(super) fn nothing_to_encrypt(&self) -> Result<(), Stop> {
        let mut encrypted =
            self.schema.headers.iter().filter(|rule| rule.protect == Protect::Encrypt);
        let there = |name: &[u8]| {
            self.record.headers.iter().any(|(header, value)| *header == name && value.is_some())
        };
        match encrypted.find(|rule| there(rule.header.as_bytes())) {
            Some(rule) => Err(Stop::Reject(
                RejectCode::MissingSubject,
                Some(format!("#header:{}", rule.header).into()),
                None,
            )),
            None => Ok(()),
        }
    }

    fn key(&mut self, out: &mut Output) -> Result<(), Stop> {
        let (Some(rule), Some(key)) = (&self.schema.key, self.record.key) else { return Ok(()) };
        out.key = KeyOutput::Replaced;
        let unsupported = || Stop::Reject(RejectCode::UnsupportedValue, Some("#key".into()), None);
        match (&rule.index, &self.plan.key_indexer, &mut self.plan.key_sealer) {
            (Some(index), Some(indexer), _) => {
                let values = &mut self.work.index_values;
                if values.write(index.normalize, Input::Raw(key), indexer, &mut out.key_bytes) {
                    Ok(())
                } else {
                    Err(unsupported())
                }
            }
            (None, _, Some(sealer)) => {
                let sealed =
                    sealer.seal(PayloadKind::Bytes, key, 16, None, self.nonces, &mut out.key_bytes);
                let root = if let Protect::Deterministic(root) = rule.protect { root } else { 1 };
                sealed.map_err(|e| seal_failed(e, deterministic_root(root)))
            }
            _ => Err(unsupported()),
        }
    }

    fn header(&mut self, i: usize, out: &mut Output) -> Result<(), Stop> {
        let (name, value) = self.record.headers[i];
        let Some(r) = self.schema.headers.iter().position(|rule| rule.header.as_bytes() == name)
        else {
            out.headers.push(HeaderOutput::Same(i));
            return Ok(());
        };
        let rule = &self.schema.headers[r];
        if rule.protect == Protect::Drop {
            return Ok(());
        }
        let Some(value) = value else {
            out.headers.push(HeaderOutput::Same(i));
            return Ok(());
        };
        let start = out.header_bytes.len();
        if let (Some(index), Some(indexer)) = (&rule.index, &self.plan.header_indexers[r]) {
            // What has no index becomes an empty value: the header stays, its content does not.
            self.work.index_values.write(
                index.normalize,
                Input::Raw(value),
                indexer,
                &mut out.header_bytes,
            );
        } else {
            let sealer =
                subjects::sealer(&mut self.subject, &mut self.plan.header_sealers[r], rule.fid);
            let sealed = sealer.and_then(|s| {
                s.seal(PayloadKind::Bytes, value, 16, None, self.nonces, &mut out.header_bytes)
            });
            sealed.map_err(|e| self.data_failed(e))?;
        }
        out.headers.push(HeaderOutput::Replaced(i, start..out.header_bytes.len()));
        Ok(())
    }
}
