//! The old form of a column, and the other system's keys.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use veilstream_engine::interop::{InteropForm, InteropKeySet};
use veilstream_keys::interop;
#[cfg(feature = "aws-kms")]
use veilstream_keys::provider::KmsReader;
#[cfg(feature = "vault")]
use veilstream_keys::provider::TransitReader;
use zeroize::Zeroizing;

use crate::config::{self, Config, KeyProvider};
use crate::exit::Exit;
use crate::migrate::{Form, Forms, OldKeys, Padding};

/// Forms on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OldForm {
    /// Fernet tokens
    Fernet,
    /// Messages of pgp_sym_encrypt: bytea, or text in base64 or hexadecimal
    Pgcrypto,
    /// Ciphertexts of Vault's Transit
    #[cfg(feature = "vault")]
    Vault,
    /// Ciphertexts of AWS KMS, Encrypt of each value: bytea, or text in base64
    #[cfg(feature = "aws-kms")]
    AwsKms,
    /// StringEncryptedType of sqlalchemy-utils, with its engine AES
    SqlalchemyUtils,
    /// Hexadecimal SHA-256 of the value, exactly or trimmed and in small letters
    Sha256Hash,
    /// The value itself
    Clear,
}

/// How sqlalchemy-utils was told to fill texts up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PaddingArg {
    /// "pkcs5"
    Pkcs5,
    /// "naive"
    Naive,
}

/// The old form, and its keys.
#[derive(Debug, Args)]
pub(super) struct SourceArgs {
    /// Form of the column; several where it is mixed
    #[arg(long, value_name = "FORM", required = true)]
    from: Vec<OldForm>,
    /// Fernet keys, one a line; interop.fernet.keys_file if left out
    #[arg(long, value_name = "FILE")]
    keys_file: Option<PathBuf>,
    /// Passphrases of pgcrypto, one a line; interop.pgcrypto.passphrases_file if left out
    #[arg(long, value_name = "FILE")]
    passphrases_file: Option<PathBuf>,
    /// Keys of sqlalchemy-utils as the application has them, one a line
    #[arg(long, value_name = "FILE")]
    sqlalchemy_keys_file: Option<PathBuf>,
    /// Configuration whose [keys] names the other key service (provider vault or aws-kms) and its
    /// key; --config if left out
    #[arg(long, value_name = "FILE")]
    source_config: Option<PathBuf>,
    /// Padding of sqlalchemy-utils
    #[arg(long, value_enum, default_value = "pkcs5")]
    padding: PaddingArg,
}

impl SourceArgs {
    /// Reads the keys of the forms that were named.
    pub(super) fn forms(&self, config: &Config) -> anyhow::Result<Forms> {
        let files = &config.keys.interop;
        let has = |form| self.from.contains(&form);
        let mut keys = OldKeys {
            padding: match self.padding {
                PaddingArg::Pkcs5 => Padding::Pkcs5,
                PaddingArg::Naive => Padding::Naive,
            },
            ..OldKeys::default()
        };
        if has(OldForm::Fernet) {
            let file = self.keys_file.as_ref().or(files.fernet.as_ref());
            keys.fernet = Some(read(InteropForm::Fernet, file, "--keys-file")?);
        }
        if has(OldForm::Pgcrypto) {
            let file = self.passphrases_file.as_ref().or(files.pgcrypto.as_ref());
            let set = read(InteropForm::Pgcrypto, file, "--passphrases-file")?;
            if let InteropKeySet::Pgcrypto(passphrases) = set {
                keys.pgcrypto = Some(passphrases);
            }
        }
        if has(OldForm::SqlalchemyUtils) {
            // Lines of any text, as passphrases are.
            let file = self.sqlalchemy_keys_file.as_ref();
            let set = read(InteropForm::Pgcrypto, file, "--sqlalchemy-keys-file")?;
            if let InteropKeySet::Pgcrypto(lines) = set {
                keys.sqlalchemy_utils =
                    lines.each().map(|line| Zeroizing::new(line.to_vec())).collect();
            }
        }
        self.services(config, &mut keys)?;
        Ok(Forms::new(self.from.iter().map(|from| from.form()).collect(), keys))
    }
}

impl SourceArgs {
    /// The key service that sealed the values, which need not be ours.
    fn services(&self, config: &Config, keys: &mut OldKeys) -> anyhow::Result<()> {
        let form = self
            .from
            .iter()
            .map(|from| from.form())
            .find(|form| matches!(form, Form::Vault | Form::AwsKms));
        let Some(form) = form else { return Ok(()) };
        let source = self.source_config.as_deref().map(config::load_config).transpose()?;
        let provider = &source.as_ref().unwrap_or(config).keys.provider;
        match (form, provider) {
            #[cfg(feature = "vault")]
            (Form::Vault, KeyProvider::Vault(settings)) => {
                keys.services.vault = Some(TransitReader::new(settings.clone())?);
            }
            #[cfg(feature = "aws-kms")]
            (Form::AwsKms, KeyProvider::AwsKms(settings)) => {
                keys.services.aws_kms = Some(KmsReader::new(settings)?);
            }
            _ => {
                return Err(Exit::Usage.because(format!(
                    "--from {0}: name the key service with --source-config FILE, a configuration \
                    whose keys.provider is \"{0}\"",
                    form.as_str()
                )));
            }
        }
        Ok(())
    }
}

impl OldForm {
    fn form(self) -> Form {
        match self {
            Self::Fernet => Form::Fernet,
            Self::Pgcrypto => Form::Pgcrypto,
            #[cfg(feature = "vault")]
            Self::Vault => Form::Vault,
            #[cfg(feature = "aws-kms")]
            Self::AwsKms => Form::AwsKms,
            Self::SqlalchemyUtils => Form::SqlalchemyUtils,
            Self::Sha256Hash => Form::Sha256Hash,
            Self::Clear => Form::Clear,
        }
    }
}

fn read(form: InteropForm, file: Option<&PathBuf>, flag: &str) -> anyhow::Result<InteropKeySet> {
    let Some(file) = file else {
        return Err(Exit::Usage.because(format!(
            "name the other system's keys with {flag} FILE (one a line, mode 0600)"
        )));
    };
    let path: &Path = file;
    interop::read(form, path).with_context(|| flag.to_owned())
}
