//! What is read of a client certificate: its one name. Never the common name.

use sha2::{Digest as _, Sha256};
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// A certificate that the handshake has verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Its only subject alternative name, if that is a URI or a DNS name (in lower case).
    pub name: Option<String>,
    /// SHA-256 of it, in hex.
    pub sha256: String,
    /// From when on it counts no more, in Unix seconds.
    pub expires: u64,
}

impl ClientCertificate {
    /// Reads one in DER.
    #[must_use]
    pub fn read(der: &[u8]) -> Self {
        let sha256 = veilstream_keys::erasure::hex(&Sha256::digest(der));
        let Ok(certificate) = Certificate::from_der(der) else {
            return Self { name: None, sha256, expires: 0 };
        };
        let tbs = certificate.tbs_certificate();
        let names = tbs.get_extension::<SubjectAltName>().ok().flatten();
        let expires = tbs.validity().not_after.to_unix_duration().as_secs();
        Self { name: names.and_then(|(_, names)| only(&names)), sha256, expires }
    }
}

fn only(names: &SubjectAltName) -> Option<String> {
    match &names.0[..] {
        [GeneralName::UniformResourceIdentifier(uri)] => Some(uri.as_str().to_owned()),
        // `*.corp` would be nobody, and everybody.
        [GeneralName::DnsName(name)] if !name.as_str().contains('*') => {
            Some(name.as_str().to_ascii_lowercase())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn read(names: Vec<SanType>) -> ClientCertificate {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "fraud.corp");
        params.subject_alt_names = names;
        let key = KeyPair::generate().unwrap();
        ClientCertificate::read(params.self_signed(&key).unwrap().der())
    }

    #[test]
    fn exactly_one_uri_or_dns_name_counts() {
        let uri = || SanType::URI("spiffe://corp/Fraud".try_into().unwrap());
        let dns = |name: &str| SanType::DnsName(name.try_into().unwrap());
        assert_eq!(read(vec![uri()]).name.as_deref(), Some("spiffe://corp/Fraud"));
        assert_eq!(read(vec![dns("Fraud.Corp")]).name.as_deref(), Some("fraud.corp"));
        assert_eq!(read(vec![]).name, None, "never the common name");
        assert_eq!(read(vec![uri(), dns("fraud.corp")]).name, None);
        assert_eq!(read(vec![uri(), SanType::IpAddress([127, 0, 0, 1].into())]).name, None);
        assert_eq!(read(vec![SanType::Rfc822Name("a@corp".try_into().unwrap())]).name, None);
        assert_eq!(read(vec![dns("*.corp")]).name, None);
        let one = read(vec![uri()]);
        assert!(one.sha256.len() == 64 && one.expires > 1_795_500_000);
        assert_eq!(ClientCertificate::read(b"none").name, None);
    }
}
