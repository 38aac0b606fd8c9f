//! What goes wrong, and the Python exception it becomes. No message has a value, a token or a key.

use pyo3::PyErr;
use veilstream::keys::KeyFault;
use veilstream_engine::RejectCode;

pub(crate) mod exceptions {
    #![allow(missing_docs, reason = "documented where they are made: veilstream/errors.py")]
    pyo3::import_exception!(veilstream.errors, AuditError);
    pyo3::import_exception!(veilstream.errors, BindingError);
    pyo3::import_exception!(veilstream.errors, ColumnError);
    pyo3::import_exception!(veilstream.errors, ConfigError);
    pyo3::import_exception!(veilstream.errors, KeysUnavailable);
    pyo3::import_exception!(veilstream.errors, NotPicklable);
    pyo3::import_exception!(veilstream.errors, NotRevealed);
    pyo3::import_exception!(veilstream.errors, NotSealed);
    pyo3::import_exception!(veilstream.errors, NotSearchable);
    pyo3::import_exception!(veilstream.errors, PurposeError);
    pyo3::import_exception!(veilstream.errors, Rejected);
    pyo3::import_exception!(veilstream.errors, UnknownField);
    pyo3::import_exception!(veilstream.errors, VeilError);
}

/// Why a call was not answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VeilFault {
    #[error("{0:#}")]
    Config(anyhow::Error),
    #[error(
        "{0} is a Kafka topic, which this package does not read keys from; use Veil.connect to ask \
        the reading service"
    )]
    KeysInKafka(&'static str),
    #[error(
        "{0} has no [audit] section, so nobody would know what was opened. Add one (`veilstream \
        audit keygen` makes the key for it), or open with unaudited=True"
    )]
    Unaudited(String),
    #[error("the keys are not available: {0}")]
    Keys(KeyFault),
    #[error("the audit log takes no lines, so nothing was handed out: {0:#}")]
    Audit(anyhow::Error),
    #[error("there is no schema {0}")]
    UnknownSchema(String),
    #[error(
        "there is no field {0}; a field is named <schema>.<id>, <schema>#key or <schema>#header:<name>"
    )]
    UnknownField(String),
    #[error("{field}: bind must have {wanted}")]
    Bind { field: String, wanted: String },
    #[error("{field}: {what}")]
    Subject { field: String, what: &'static str },
    #[error("{0} has no index; add one to the schema")]
    NotSearchable(String),
    #[error("{field}: its compound index takes {wanted} values, in the order of its \"of\"")]
    Parts { field: String, wanted: usize },
    #[error(
        "{field} is {form}, whose texts do not name their key, so its columns do not rotate; reveal \
        and seal them: what is sealed is under the first key of the file"
    )]
    NotRotatable { field: String, form: &'static str },
    #[error("rejected: {code}")]
    Rejected { code: RejectCode, schema: Option<String>, field: Option<String> },
    #[error("{field}: not revealed: {status}")]
    NotRevealed { field: String, status: &'static str },
    #[error("the purpose is none of policy.purposes; name one of them")]
    UnknownPurpose,
    #[error("the purpose asks for a reason; give one")]
    NoReason,
    #[error("the reason is not of the form that the purpose asks for, or has over 200 characters")]
    Reason,
    #[error("on_behalf_of and request_id have 200 characters at most")]
    Claim,
    #[error("{0}")]
    Column(#[from] crate::column::ColumnFault),
    #[error("this process was forked outside of Python's os.fork; open another Veil in it")]
    Forked,
    #[error("this Veil is closed; open another one")]
    Closed,
}

impl From<KeyFault> for VeilFault {
    fn from(fault: KeyFault) -> Self {
        Self::Keys(fault)
    }
}

impl From<VeilFault> for PyErr {
    fn from(fault: VeilFault) -> Self {
        use exceptions::*;
        let text = fault.to_string();
        match fault {
            VeilFault::Config(_) | VeilFault::KeysInKafka(_) | VeilFault::Unaudited(_) => {
                ConfigError::new_err(text)
            }
            VeilFault::Keys(_) => KeysUnavailable::new_err(text),
            VeilFault::Audit(_) => AuditError::new_err(text),
            VeilFault::UnknownSchema(_) | VeilFault::UnknownField(_) => UnknownField::new_err(text),
            VeilFault::Bind { .. } | VeilFault::Subject { .. } => BindingError::new_err(text),
            VeilFault::NotSearchable(_) | VeilFault::Parts { .. } => NotSearchable::new_err(text),
            VeilFault::Rejected { code, schema, field } => {
                Rejected::new_err((code.as_str(), schema, field))
            }
            VeilFault::NotRevealed { field, status } => NotRevealed::new_err((field, status)),
            VeilFault::UnknownPurpose
            | VeilFault::NoReason
            | VeilFault::Reason
            | VeilFault::Claim => PurposeError::new_err(text),
            VeilFault::Column(_) | VeilFault::NotRotatable { .. } => ColumnError::new_err(text),
            VeilFault::Forked | VeilFault::Closed => VeilError::new_err(text),
        }
    }
}
