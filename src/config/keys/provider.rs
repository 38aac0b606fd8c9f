//! `[keys]` of the providers: which one holds the key-encrypting key, and its section.

use std::path::PathBuf;
#[cfg(any(feature = "aws-kms", feature = "vault"))]
use std::time::Duration;

#[cfg(feature = "aws-kms")]
use veilstream_keys::provider::AwsKmsSettings;
#[cfg(feature = "pkcs11")]
use veilstream_keys::provider::Pkcs11Settings;
#[cfg(any(feature = "pkcs11", feature = "vault"))]
use veilstream_keys::provider::SecretText;
#[cfg(feature = "vault")]
use veilstream_keys::provider::{VaultAuth, VaultSettings};

#[cfg(any(feature = "aws-kms", feature = "vault"))]
use crate::config::duration_in;
use crate::config::read::Section;
#[cfg(any(feature = "pkcs11", feature = "vault"))]
use crate::config::read::not_empty;
use crate::config::secret::Secret;
use crate::config::value_error::ValueError;

/// Where a Kubernetes pod finds its service account's token.
#[cfg(feature = "vault")]
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// Who holds a key-encrypting key.
#[derive(Debug, Clone)]
pub enum KeyProvider {
    /// 32 bytes in base64 or base64url, from `ENCRYPTION_KEY` or `[keys.env]`.
    Env {
        /// The encoded key.
        key: Secret,
    },
    /// A file of `<version> <base64>` lines.
    File {
        /// The file.
        path: PathBuf,
    },
    /// Derived from a password with PBKDF2.
    Password {
        /// The password.
        password: Secret,
        /// Iterations of new wraps.
        iterations: u32,
    },
    /// Transit of HashiCorp Vault or OpenBao.
    #[cfg(feature = "vault")]
    Vault(VaultSettings),
    /// AWS KMS.
    #[cfg(feature = "aws-kms")]
    AwsKms(AwsKmsSettings),
    /// A PKCS#11 token.
    #[cfg(feature = "pkcs11")]
    Pkcs11(Pkcs11Settings),
}

impl KeyProvider {
    /// Its name in the configuration.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Env { .. } => "env",
            Self::File { .. } => "file",
            Self::Password { .. } => "password",
            #[cfg(feature = "vault")]
            Self::Vault(_) => "vault",
            #[cfg(feature = "aws-kms")]
            Self::AwsKms(_) => "aws-kms",
            #[cfg(feature = "pkcs11")]
            Self::Pkcs11(_) => "pkcs11",
        }
    }
}
pub(super) fn recovery(mut s: Section<'_, '_>) -> Option<KeyProvider> {
    if s.is_empty() {
        return None;
    }
    let found = provider(&mut s, None);
    s.finish();
    found
}

/// The chosen provider. The sections of the others may stay in the file.
pub(super) fn provider(s: &mut Section<'_, '_>, default: Option<&str>) -> Option<KeyProvider> {
    const NAMES: &str = "env, file, password, vault, aws-kms or pkcs11";
    let is_given = !s.is_empty();
    let name = s.parse("provider", default.map(str::to_owned), |text| match text {
        "env" | "file" | "password" => Ok(Some(text.to_owned())),
        "aws-kms" if cfg!(feature = "aws-kms") => Ok(Some(text.to_owned())),
        "pkcs11" if cfg!(feature = "pkcs11") => Ok(Some(text.to_owned())),
        "vault" if cfg!(feature = "vault") => Ok(Some(text.to_owned())),
        "aws-kms" => Err(ValueError::Feature { feature: "aws-kms" }),
        "pkcs11" => Err(ValueError::Feature { feature: "pkcs11" }),
        "vault" => Err(ValueError::Feature { feature: "vault" }),
        _ => Err(ValueError::form("no provider", NAMES)),
    });
    if name.is_none() && is_given {
        s.missing("provider", &format!("is missing; write {NAMES}"));
    }
    let is = |other: &str| name.as_deref() == Some(other);
    let env = env(s.section("env"), is("env"));
    let file = file(s.section("file"));
    let password = password(s.section("password"), is("password"));
    #[cfg(feature = "vault")]
    let vault = vault(s.section("vault"), is("vault"));
    #[cfg(feature = "aws-kms")]
    let aws_kms = aws_kms(s.section("aws-kms"), is("aws-kms"));
    #[cfg(feature = "pkcs11")]
    let pkcs11 = pkcs11(s.section("pkcs11"), is("pkcs11"));
    match name.as_deref()? {
        "env" => Some(env),
        "password" => Some(password),
        #[cfg(feature = "vault")]
        "vault" => Some(vault),
        #[cfg(feature = "aws-kms")]
        "aws-kms" => Some(aws_kms),
        #[cfg(feature = "pkcs11")]
        "pkcs11" => Some(pkcs11),
        _ => Some(file),
    }
}

/// A missing secret is a fault already: the configuration is refused, whatever stands here.
fn or_none(secret: Option<Secret>) -> Secret {
    secret.unwrap_or_else(|| Secret::new(String::new()))
}

fn env(mut s: Section<'_, '_>, is_chosen: bool) -> KeyProvider {
    let key = s.secret("key", "key_file");
    if is_chosen && key.is_none() {
        s.missing(
            "key",
            "is missing; set ENCRYPTION_KEY to 32 random bytes in base64 (openssl \
            rand -base64 32) or name a file with key_file",
        );
    }
    s.finish();
    KeyProvider::Env { key: or_none(key) }
}

fn file(mut s: Section<'_, '_>) -> KeyProvider {
    let path = s.path("path", "kek");
    s.finish();
    KeyProvider::File { path }
}

fn password(mut s: Section<'_, '_>, is_chosen: bool) -> KeyProvider {
    let password = s.secret_whole("password", "password_file");
    let iterations = s.number("iterations", 600_000, 600_000..=10_000_000);
    if is_chosen && password.is_none() {
        s.missing("password", "is missing; name a file that holds it with password_file");
    }
    s.finish();
    KeyProvider::Password { password: or_none(password), iterations }
}

#[cfg(any(feature = "aws-kms", feature = "vault"))]
fn timeout(s: &mut Section<'_, '_>) -> Duration {
    s.parse("timeout", Duration::from_secs(5), |t| duration_in(t, "100ms", "60s"))
}

#[cfg(feature = "vault")]
fn vault(mut s: Section<'_, '_>, is_chosen: bool) -> KeyProvider {
    let method = s.parse("auth", "token".to_owned(), |text| match text {
        "token" | "approle" | "jwt" | "kubernetes" => Ok(text.to_owned()),
        _ => Err(ValueError::form("no method", "token, approle, jwt or kubernetes")),
    });
    let mount = s.parse("auth_mount", method.clone(), path_part);
    let (token, secret_id, jwt) = (
        s.secret_text("token", "token_file"),
        s.secret_text("secret_id", "secret_id_file"),
        s.secret_text("jwt", "jwt_file"),
    );
    let (role, role_id) = (s.optional("role"), s.optional("role_id"));
    let none = || SecretText::Given(String::new().into());
    let jwt =
        jwt.or_else(|| (method == "kubernetes").then(|| SecretText::File(SERVICE_ACCOUNT.into())));
    let needed: [(&str, bool, &str); 5] = [
        (
            "token",
            method == "token" && token.is_none(),
            "is missing; name a file that holds it with token_file",
        ),
        (
            "role_id",
            method == "approle" && role_id.is_none(),
            "is missing; write the AppRole's role_id",
        ),
        (
            "secret_id",
            method == "approle" && secret_id.is_none(),
            "is missing; name a file that holds it with secret_id_file",
        ),
        (
            "role",
            (method == "jwt" || method == "kubernetes") && role.is_none(),
            "is missing; write the role to log in as",
        ),
        (
            "jwt",
            method == "jwt" && jwt.is_none(),
            "is missing; name the file the platform puts it into with jwt_file",
        ),
    ];
    for (key, is_missing, message) in needed {
        if is_chosen && is_missing {
            s.missing(key, message);
        }
    }
    let auth = match method.as_str() {
        "approle" => VaultAuth::AppRole {
            mount,
            role_id: role_id.unwrap_or_default(),
            secret_id: secret_id.unwrap_or_else(none),
        },
        "jwt" | "kubernetes" => VaultAuth::Jwt {
            mount,
            role: role.unwrap_or_default(),
            token: jwt.unwrap_or_else(none),
        },
        _ => VaultAuth::Token(token.unwrap_or_else(none)),
    };
    let settings = VaultSettings {
        address: s.parse("address", "https://127.0.0.1:8200".to_owned(), not_empty),
        mount: s.parse("mount", "transit".to_owned(), path_part),
        key: s.parse("key", "veilstream".to_owned(), path_part),
        namespace: s.optional("namespace"),
        ca_file: s.optional_path("ca_file"),
        timeout: timeout(&mut s),
        batch: s.number("batch", 200, 1..=5000),
        auth,
    };
    s.finish();
    KeyProvider::Vault(settings)
}

/// A part of a path at Vault, which may have several segments.
#[cfg(feature = "vault")]
fn path_part(text: &str) -> Result<String, ValueError> {
    let legal = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    let is_path = !text.is_empty()
        && text.chars().all(legal)
        && text.split('/').all(|part| !part.trim_matches('.').is_empty());
    if is_path {
        Ok(text.to_owned())
    } else {
        Err(ValueError::form("no path", "letters, digits, - and _, with / between parts"))
    }
}

#[cfg(feature = "aws-kms")]
fn aws_kms(mut s: Section<'_, '_>, is_chosen: bool) -> KeyProvider {
    let key_arns = s.list("key_arns");
    if is_chosen && key_arns.is_empty() {
        s.missing("key_arns", "is missing; write [\"arn:aws:kms:REGION:ACCOUNT:key/ID\"]");
    }
    let settings = AwsKmsSettings {
        key_arns,
        endpoint: s.optional("endpoint"),
        profile: s.optional("profile"),
        timeout: timeout(&mut s),
    };
    s.finish();
    KeyProvider::AwsKms(settings)
}

#[cfg(feature = "pkcs11")]
fn pkcs11(mut s: Section<'_, '_>, is_chosen: bool) -> KeyProvider {
    let (module, pin) = (s.optional_path("module"), s.secret_text("pin", "pin_file"));
    for (key, is_missing, message) in [
        ("module", module.is_none(), "is missing; write the path of the vendor's shared library"),
        ("pin", pin.is_none(), "is missing; name a file that holds it with pin_file"),
    ] {
        if is_chosen && is_missing {
            s.missing(key, message);
        }
    }
    let settings = Pkcs11Settings {
        module: module.unwrap_or_default(),
        token_label: s.parse("token_label", "veilstream".to_owned(), not_empty),
        key_label: s.parse("key_label", "veilstream".to_owned(), not_empty),
        pin: pin.unwrap_or_else(|| SecretText::Given(String::new().into())),
    };
    s.finish();
    KeyProvider::Pkcs11(settings)
}
