//! How the process ends: the exit codes scripts and orchestrators hold on to.

use std::process::ExitCode;

/// Exit codes of every command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// Failed at its work.
    Failed = 1,
    /// Wrong usage, configuration or schema documents.
    Usage = 2,
    /// Another process runs under this instance name.
    Fenced = 3,
    /// Kafka refuses something this process needs.
    NotAuthorized = 4,
    /// Brokers, topics or keys are not as `run` needs them.
    Preflight = 5,
}

impl Exit {
    /// An error that ends the process with this code.
    pub fn because(self, message: impl Into<String>) -> anyhow::Error {
        Failure { exit: self, message: message.into() }.into()
    }

    /// The code an error asks for; [`Exit::Failed`] where it does not say.
    #[must_use]
    pub fn of(error: &anyhow::Error) -> Self {
        error.downcast_ref::<Failure>().map_or(Self::Failed, |f| f.exit)
    }
}

/// The error of a list of faults: one a line, ends with [`Exit::Usage`].
pub fn faults_error(faults: &[impl ToString]) -> anyhow::Error {
    let lines: Vec<String> = faults.iter().map(|f| format!("  {}", f.to_string())).collect();
    let noun = if faults.len() == 1 { "fault" } else { "faults" };
    Exit::Usage.because(format!("{} {noun}\n{}", faults.len(), lines.join("\n")))
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error with the exit code it leads to.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct Failure {
    exit: Exit,
    message: String,
}
