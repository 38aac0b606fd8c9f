//! API keys of the reading service: their text, and the records of them in the key store
//! (docs/formats.md, "API keys").

mod suspension;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

pub use suspension::Suspension;

use crate::KeyError;
use crate::erasure::{hex, unhex};
use crate::time;

/// What every API key begins with: people and scanners of secrets know it by that.
const PREFIX: &str = "vsk";
/// Days that an API key opens anything, at most.
pub const LONGEST_DAYS: u32 = 365;

/// The visible part of an API key: names it in lists, in the audit and in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CredentialId(pub [u8; 8]);

impl fmt::Display for CredentialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl FromStr for CredentialId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        unhex(text).map(Self).ok_or("is no id of an API key; `serve keys list` shows them")
    }
}

/// An API key in hand: `vsk_<id>_<secret>_<checksum>`, each in lower-case hex. `id` has 8 random
/// bytes, `secret` 32, `checksum` the first 4 of SHA-256("vs1/credential/checksum" | what stands
/// before it). Shows its id alone.
pub struct ApiKey {
    id: CredentialId,
    text: Zeroizing<String>,
}

impl ApiKey {
    /// A new one.
    ///
    /// # Errors
    /// The operating system gives no random bytes.
    pub fn generate() -> Result<Self, KeyError> {
        let (mut id, mut secret) = ([0; 8], Zeroizing::new([0; 32]));
        getrandom::fill(&mut id).map_err(|_| KeyError::Random)?;
        getrandom::fill(&mut *secret).map_err(|_| KeyError::Random)?;
        let secret = Zeroizing::new(hex(&*secret));
        let mut text = Zeroizing::new(format!("{PREFIX}_{}_{}_", hex(&id), *secret));
        let sum = checksum(&text);
        text.push_str(&sum);
        Ok(Self { id: CredentialId(id), text })
    }

    /// Whether a text is meant as an API key, right or not.
    #[must_use]
    pub fn is_meant(text: &str) -> bool {
        text.strip_prefix(PREFIX).is_some_and(|rest| rest.starts_with('_'))
    }

    /// Reads one; `None`: it was mistyped, cut or is something else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (body, sum) = text.rsplit_once('_')?;
        let (id, secret) = body.strip_prefix(PREFIX)?.strip_prefix('_')?.split_once('_')?;
        let id = unhex(id).map(CredentialId)?;
        Zeroizing::new(unhex::<32>(secret)?);
        let is_whole = checksum(&text[..=body.len()]) == sum;
        is_whole.then(|| Self { id, text: Zeroizing::new(text.to_owned()) })
    }

    /// Its visible part.
    #[must_use]
    pub fn id(&self) -> CredentialId {
        self.id
    }

    /// The whole text: for the one who made it, once.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// SHA-256 of the whole text: what the store has of it. 256 random bits need no slow hash.
    #[must_use]
    pub fn sha256(&self) -> [u8; 32] {
        Sha256::digest(self.text.as_bytes()).into()
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey({})", self.id)
    }
}

fn checksum(before: &str) -> String {
    let mut sum = Sha256::new_with_prefix("vs1/credential/checksum");
    sum.update(before);
    hex(&sum.finalize()[..4])
}

/// What the key store has of an API key. Times are Unix seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// Names it.
    pub id: CredentialId,
    /// [`ApiKey::sha256`].
    pub sha256: [u8; 32],
    /// Whose: keys of one name are one principal, so one can follow another without a gap.
    pub name: String,
    /// Sorted, unique, without commas.
    pub roles: Vec<String>,
    /// When it was made.
    pub created: u64,
    /// From when on it is refused.
    pub expires: u64,
    /// Since when it is refused; `None`: it is not.
    pub revoked: Option<u64>,
}

impl Credential {
    /// Whether it is this key. In constant time.
    #[must_use]
    pub fn is(&self, key: &ApiKey) -> bool {
        self.id == key.id && bool::from(self.sha256.ct_eq(&key.sha256()))
    }

    /// From when on it is refused, revoked or not: a year after it was made, whatever it says.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.expires.min(self.created.saturating_add(u64::from(LONGEST_DAYS) * 86_400))
    }

    /// The row of it, with this MAC.
    #[must_use]
    pub fn row(&self, mac: &[u8; 32]) -> CredentialRow {
        CredentialRow {
            id: self.id.to_string(),
            sha256: hex(&self.sha256),
            name: self.name.clone(),
            roles: self.roles.join(","),
            created: time::text(self.created),
            expires: time::text(self.expires),
            revoked: self.revoked.map(time::text),
            mac: hex(mac),
        }
    }
}

/// A row of table `credentials`, as text in every store: `sha256` and `mac` in hex, `roles`
/// separated by commas, times `YYYY-MM-DDTHH:MM:SSZ`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the members of Credential, and its MAC")]
pub struct CredentialRow {
    pub id: String,
    pub sha256: String,
    pub name: String,
    pub roles: String,
    pub created: String,
    pub expires: String,
    pub revoked: Option<String>,
    pub mac: String,
}

impl CredentialRow {
    /// What it says, and its MAC, which nobody has checked yet; `None`: it says nothing.
    #[must_use]
    pub fn read(&self) -> Option<(Credential, [u8; 32])> {
        let revoked = match &self.revoked {
            None => None,
            Some(text) => Some(time::seconds(text)?),
        };
        let credential = Credential {
            id: self.id.parse().ok()?,
            sha256: unhex(&self.sha256)?,
            name: self.name.clone(),
            roles: self.roles.split(',').filter(|r| !r.is_empty()).map(str::to_owned).collect(),
            created: time::seconds(&self.created)?,
            expires: time::seconds(&self.expires)?,
            revoked,
        };
        let mac = unhex(&self.mac)?;
        // Two rows that read the same would have one MAC.
        (credential.row(&mac) == *self).then_some((credential, mac))
    }
}

/// The API keys and suspensions of a store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// API keys whose MAC holds, in the order of their ids.
    pub authentic: Vec<Credential>,
    /// Suspensions whose MAC holds, resumed ones too.
    pub suspensions: Vec<Suspension>,
    /// Ids, as they stand there, of rows that somebody changed who does not hold the store key.
    pub corrupt: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_was_made() {
        let key = ApiKey::generate().unwrap();
        let text = key.expose().to_owned();
        assert_eq!(text.len(), 3 + 1 + 16 + 1 + 64 + 1 + 8);
        assert!(ApiKey::is_meant(&text));
        let read = ApiKey::parse(&text).unwrap();
        assert_eq!((read.id(), read.sha256()), (key.id(), key.sha256()));
        assert_ne!(ApiKey::generate().unwrap().sha256(), key.sha256());
        assert_eq!(format!("{key:?}"), format!("ApiKey({})", key.id()));
    }

    /// Every single character, changed, doubled or left out.
    #[test]
    fn a_mistyped_key_is_none() {
        let text = ApiKey::generate().unwrap().expose().to_owned();
        for at in 0..text.len() {
            let (before, after) = (&text[..at], &text[at + 1..]);
            let other = if &text[at..=at] == "0" { "1" } else { "0" };
            for wrong in [
                format!("{before}{other}{after}"),
                format!("{before}{after}"),
                format!("{before}{}{}{after}", &text[at..=at], &text[at..=at]),
            ] {
                assert!(wrong == text || ApiKey::parse(&wrong).is_none(), "{wrong}");
            }
        }
        for wrong in ["", "vsk", "vsk_", "vsk___", "vsk_é_é_é", &text.to_uppercase()] {
            assert!(ApiKey::parse(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn a_row_has_one_spelling() {
        let key = ApiKey::generate().unwrap();
        let credential = Credential {
            id: key.id(),
            sha256: key.sha256(),
            name: "reports".to_owned(),
            roles: vec!["analyst".to_owned(), "export".to_owned()],
            created: 1_700_000_000,
            expires: 1_700_086_400,
            revoked: None,
        };
        let row = credential.row(&[7; 32]);
        assert_eq!(row.read(), Some((credential.clone(), [7; 32])));
        assert!(credential.is(&key) && !credential.is(&ApiKey::generate().unwrap()));
        let changed = |change: fn(&mut CredentialRow)| {
            let mut row = row.clone();
            change(&mut row);
            row.read()
        };
        assert_eq!(changed(|row| row.roles.push(',')), None);
        assert_eq!(changed(|row| row.created = "2023-11-14T22:13:20.0Z".to_owned()), None);
        assert_eq!(changed(|row| row.sha256.make_ascii_uppercase()), None);
        assert_eq!(changed(|row| row.revoked = Some(String::new())), None);
    }
}
