//! Why brokers refuse a connection: authentication and TLS, told from librdkafka's codes and
//! OpenSSL's words.

use std::fmt;

use rdkafka::types::RDKafkaErrorCode as Code;

/// Why a connection is refused. A closed set: each is a label of
/// `veilstream_authentication_errors_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AccessReason {
    /// The broker refuses user and password, or the token.
    Credentials,
    /// The broker does not take this SASL mechanism.
    Mechanism,
    /// There is no token to authenticate with.
    Token,
    /// The broker's certificate has expired, or is not valid yet.
    BrokerCertificateExpired,
    /// The broker's certificate is of another name.
    BrokerCertificateName,
    /// No authority that we trust made the broker's certificate.
    BrokerCertificateUntrusted,
    /// The broker refuses our certificate, or wants one.
    ClientCertificate,
    /// The listener speaks another `security.protocol`.
    Protocol,
    /// TLS fails for another reason.
    Tls,
}

/// `X509_V_ERR_...` of OpenSSL's x509_vfy.h.
mod x509 {
    pub(super) const NOT_YET_VALID: i32 = 9;
    pub(super) const HAS_EXPIRED: i32 = 10;
    pub(super) const HOSTNAME_MISMATCH: i32 = 62;
    pub(super) const IP_ADDRESS_MISMATCH: i32 = 64;
}

/// Alerts of TLS with which a broker answers a certificate that it refuses, or misses (RFC 8446,
/// section 6.2): bad_certificate to unknown_ca, certificate_required.
const CERTIFICATE_ALERTS: [&str; 7] = ["42", "43", "44", "45", "46", "48", "116"];

impl AccessReason {
    /// Every reason, in the order of the documentation.
    pub const ALL: [Self; 9] = [
        Self::Credentials,
        Self::Mechanism,
        Self::Token,
        Self::BrokerCertificateExpired,
        Self::BrokerCertificateName,
        Self::BrokerCertificateUntrusted,
        Self::ClientCertificate,
        Self::Protocol,
        Self::Tls,
    ];

    /// Its name as a label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Credentials => "credentials",
            Self::Mechanism => "mechanism",
            Self::Token => "token",
            Self::BrokerCertificateExpired => "broker_certificate_expired",
            Self::BrokerCertificateName => "broker_certificate_name",
            Self::BrokerCertificateUntrusted => "broker_certificate_untrusted",
            Self::ClientCertificate => "client_certificate",
            Self::Protocol => "protocol",
            Self::Tls => "tls",
        }
    }

    /// The reason of a global error of librdkafka; `None`: it is about something else.
    pub(crate) fn of(code: Code, text: &str) -> Option<Self> {
        // After a handshake of TLS 1.3 a refused certificate is an error of the transport.
        if let Some((_, alert)) = text.split_once("SSL alert number ") {
            let number: &str = alert.split(|c: char| !c.is_ascii_digit()).next().unwrap_or("");
            return Some(if CERTIFICATE_ALERTS.contains(&number) {
                Self::ClientCertificate
            } else {
                Self::Tls
            });
        }
        match code {
            Code::SSL | Code::BrokerTransportFailure
                if text.contains("connecting to a PLAINTEXT")
                    || text.contains("connecting to a SSL") =>
            {
                Some(Self::Protocol)
            }
            Code::Authentication if text.contains("mechanism handshake failed") => {
                Some(Self::Mechanism)
            }
            Code::Authentication
                if text.contains("OAUTHBEARER token") || text.contains("no token available") =>
            {
                Some(Self::Token)
            }
            Code::Authentication | Code::SaslAuthenticationFailed => Some(Self::Credentials),
            Code::UnsupportedSASLMechanism => Some(Self::Mechanism),
            Code::SSL
                if text.contains("wrong version number")
                    || text.contains("record layer failure") =>
            {
                Some(Self::Protocol)
            }
            Code::SSL
                if text.contains("certificate verify failed")
                    || text.contains("verify broker certificate") =>
            {
                Some(Self::BrokerCertificateUntrusted)
            }
            Code::SSL if text.contains("client SSL authentication might be required") => {
                Some(Self::ClientCertificate)
            }
            Code::SSL => Some(Self::Tls),
            Code::BrokerTransportFailure if text.contains("security.protocol") => {
                Some(Self::Protocol)
            }
            _ => None,
        }
    }

    /// Whether a token could not be renewed: the one before it counts still, until a broker says
    /// otherwise.
    pub(crate) fn is_renewal(text: &str) -> bool {
        text.contains("Failed to acquire SASL OAUTHBEARER token")
    }

    /// Whether a listener hung up before it answered a first question: what a TLS or SASL listener
    /// does with a client that speaks neither. A broker that stops does it, too, so it says
    /// something only of a question that nobody answers.
    pub(crate) fn is_hang_up(code: Code, text: &str) -> bool {
        code == Code::BrokerTransportFailure
            && text.contains("Disconnected")
            && (text.contains("in state APIVERSION_QUERY") || text.contains("in state UP"))
    }

    /// The reason of a code with which OpenSSL refuses the broker's certificate.
    pub(crate) fn of_certificate(code: i32) -> Self {
        match code {
            x509::HAS_EXPIRED | x509::NOT_YET_VALID => Self::BrokerCertificateExpired,
            x509::HOSTNAME_MISMATCH | x509::IP_ADDRESS_MISMATCH => Self::BrokerCertificateName,
            _ => Self::BrokerCertificateUntrusted,
        }
    }

    /// What is wrong and what to do, for a client that authenticates with `mechanism`.
    fn message(self, mechanism: &str) -> &'static str {
        match (self, mechanism) {
            (Self::Credentials, "OAUTHBEARER") => {
                "the broker refuses the token; compare its issuer, audience and claims with the \
                broker's settings"
            }
            (Self::Credentials, "AWS_MSK_IAM") => {
                "Amazon MSK refuses the token; grant kafka-cluster:Connect to this identity, and \
                check region and clock"
            }
            (Self::Credentials, _) => {
                "the broker refuses user and password; correct sasl.username and sasl.password or \
                its file"
            }
            (Self::Mechanism, _) => {
                "the broker does not offer this SASL mechanism; set sasl.mechanism to one that its \
                listener has"
            }
            (Self::Token, "AWS_MSK_IAM") => {
                "there is no token; give this process AWS credentials (environment, profile, web \
                identity, Pod Identity or instance role)"
            }
            (Self::Token, _) => {
                "there is no token; check sasl.oauthbearer.token.endpoint.url, client.id and \
                client.secret, and that the OAuth server answers"
            }
            (Self::BrokerCertificateExpired, _) => {
                "the broker's certificate has expired or is not valid yet; renew it, and check \
                this machine's clock"
            }
            (Self::BrokerCertificateName, _) => {
                "the broker's certificate is of another host name; name the broker as its \
                certificate does"
            }
            (Self::BrokerCertificateUntrusted, _) => {
                "no trusted authority made the broker's certificate; set ssl.ca.location to the \
                certificate of its authority"
            }
            (Self::ClientCertificate, _) => {
                "the broker refuses our certificate: it is missing, expired or of an authority \
                that the broker does not trust; renew ssl.certificate.location and ssl.key.location"
            }
            (Self::Protocol, _) => {
                "the listener speaks another protocol; correct security.protocol or the port"
            }
            (Self::Tls, _) => {
                "TLS fails; compare the ssl settings of this client with those of the listener"
            }
        }
    }
}

/// A refused connection: whose, where, why, and what to do. Never a secret, and no text of a
/// broker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct AccessFault {
    /// Which client.
    pub client: String,
    /// How it authenticates: the SASL mechanism, or the security protocol.
    pub mechanism: String,
    /// `host:port`, where librdkafka says which broker it was.
    pub broker: Option<String>,
    /// Why.
    pub reason: AccessReason,
}

impl fmt::Display for AccessFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}", self.client, self.mechanism)?;
        if let Some(broker) = &self.broker {
            write!(f, " at {broker}")?;
        }
        write!(f, "): {}", self.reason.message(&self.mechanism))
    }
}

/// The broker that a text of librdkafka begins with: `sasl_ssl://host:9092/1: ...`.
pub(crate) fn broker_of(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once("://")?;
    let (address, _) = rest.split_once('/')?;
    let is_address = address
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    (is_address && scheme.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
        .then(|| address.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts of librdkafka 2.12.1 as brokers of Kafka 4.3.1 made it write them
    /// (tests/e2e/access.rs), and those of its sources that no test brings about.
    #[test]
    fn each_error_has_its_reason() {
        for (code, text, reason) in [
            (
                Code::Authentication,
                "sasl_plaintext://h:1/bootstrap: SASL authentication error: Authentication failed \
                during authentication due to invalid credentials with SASL mechanism SCRAM-SHA-512 \
                (after 3ms in state AUTH_REQ)",
                Some(AccessReason::Credentials),
            ),
            (Code::SaslAuthenticationFailed, "", Some(AccessReason::Credentials)),
            (
                Code::Authentication,
                "sasl_plaintext://h:1/1: SASL PLAIN mechanism handshake failed: Broker: \
                Unsupported SASL mechanism: broker's supported mechanisms: SCRAM-SHA-512",
                Some(AccessReason::Mechanism),
            ),
            (
                Code::Authentication,
                "Failed to acquire SASL OAUTHBEARER token: Failed to retrieve OIDC token from \
                \"http://h/token\": HTTP error",
                Some(AccessReason::Token),
            ),
            (
                Code::Authentication,
                "sasl_ssl://h:1/1: Failed to initialize SASL authentication: OAUTHBEARER cannot \
                log in because there is no token available; last error: (not available)",
                Some(AccessReason::Token),
            ),
            (
                Code::SSL,
                "ssl://h:1/bootstrap: SSL handshake failed: error:0A000086:SSL \
                routines::certificate verify failed: broker certificate could not be verified, \
                verify that ssl.ca.location is correctly configured",
                Some(AccessReason::BrokerCertificateUntrusted),
            ),
            (
                Code::SSL,
                "ssl://h:1/bootstrap: SSL handshake failed: Disconnected: SSL connection closed by \
                peer: connecting to a PLAINTEXT broker listener? (after 4ms in state \
                SSL_HANDSHAKE)",
                Some(AccessReason::Protocol),
            ),
            (
                Code::SSL,
                "ssl://h:1/bootstrap: SSL handshake failed: error:0A00010B:SSL routines::wrong \
                version number",
                Some(AccessReason::Protocol),
            ),
            (
                Code::BrokerTransportFailure,
                "ssl://h:1/bootstrap: Receive failed: error:0A000416:SSL routines::sslv3 alert \
                certificate unknown: SSL alert number 46",
                Some(AccessReason::ClientCertificate),
            ),
            (
                Code::BrokerTransportFailure,
                "ssl://h:1/bootstrap: Receive failed: error:0A00045C:SSL routines::tlsv13 alert \
                certificate required: SSL alert number 116",
                Some(AccessReason::ClientCertificate),
            ),
            (
                Code::SSL,
                "ssl://h:1/bootstrap: SSL handshake failed: error:0A000410:SSL routines::sslv3 \
                alert handshake failure: SSL alert number 40",
                Some(AccessReason::Tls),
            ),
            (
                Code::BrokerTransportFailure,
                "h:1/bootstrap: Disconnected: verify that security.protocol is correctly \
                configured, broker might require SASL authentication",
                Some(AccessReason::Protocol),
            ),
            (
                Code::BrokerTransportFailure,
                "[thrd:h:1/bootstrap]: h:1/bootstrap: Disconnected while requesting ApiVersion: \
                might be caused by incorrect security.protocol configuration (connecting to a SSL \
                listener?) or broker version is < 0.10",
                Some(AccessReason::Protocol),
            ),
            (
                Code::BrokerTransportFailure,
                "h:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed: Connection refused",
                None,
            ),
            (Code::AllBrokersDown, "1/1 brokers are down", None),
        ] {
            assert_eq!(AccessReason::of(code, text), reason, "{text}");
        }
        assert_eq!(AccessReason::of_certificate(10), AccessReason::BrokerCertificateExpired);
        assert_eq!(AccessReason::of_certificate(62), AccessReason::BrokerCertificateName);
        assert_eq!(AccessReason::of_certificate(20), AccessReason::BrokerCertificateUntrusted);
    }

    #[test]
    fn a_listener_that_hangs_up_speaks_another_protocol() {
        let text = "[thrd:h:1/bootstrap]: h:1/bootstrap: Disconnected: connection closed by peer: \
            receive 0 after POLLIN (after 0ms in state APIVERSION_QUERY)";
        assert!(AccessReason::is_hang_up(Code::BrokerTransportFailure, text));
        assert!(!AccessReason::is_hang_up(
            Code::BrokerTransportFailure,
            "h:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed: Connection refused (after 0ms in \
            state CONNECT)"
        ));
    }

    #[test]
    fn a_fault_says_whose_it_is_where_and_what_to_do() {
        let fault = |mechanism: &str, broker: Option<&str>| AccessFault {
            client: "consumer".to_owned(),
            mechanism: mechanism.to_owned(),
            broker: broker.map(str::to_owned),
            reason: AccessReason::Credentials,
        };
        let said = fault("SCRAM-SHA-512", Some("h:1")).to_string();
        assert_eq!(
            said,
            "consumer (SCRAM-SHA-512 at h:1): the broker refuses user and password; correct \
            sasl.username and sasl.password or its file"
        );
        assert!(fault("AWS_MSK_IAM", None).to_string().starts_with(
            "consumer (AWS_MSK_IAM): Amazon MSK refuses the token; grant kafka-cluster:Connect"
        ));
    }

    #[test]
    fn the_broker_is_read_from_the_text() {
        assert_eq!(
            broker_of("sasl_ssl://b-1.example:9096/bootstrap: SASL"),
            Some("b-1.example:9096".to_owned())
        );
        assert_eq!(broker_of("ssl://[::1]:9093/2: x"), Some("[::1]:9093".to_owned()));
        for other in [
            "GroupCoordinator: x",
            "Failed to retrieve \"http://h:1/token\": x",
            "1/1 brokers are down",
        ] {
            assert_eq!(broker_of(other), None, "{other}");
        }
    }

    #[test]
    fn labels_are_a_closed_set() {
        let mut labels = AccessReason::ALL.map(AccessReason::label);
        labels.sort_unstable();
        assert!(labels.windows(2).all(|pair| pair[0] != pair[1]));
        assert!(
            labels.iter().all(|label| label.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
        );
        let document = include_str!("../../../docs/operations.md");
        let table = document.split("| `reason` | what it means | what to do |\n").nth(1).unwrap();
        let rows = table.lines().skip(1).take_while(|line| line.starts_with('|'));
        let mut documented: Vec<&str> = rows.map(|row| row.split('`').nth(1).unwrap()).collect();
        documented.sort_unstable();
        assert_eq!(documented, labels, "left: docs/operations.md, right: the code");
    }
}
