//! Provider `aws-kms`: a symmetric key in AWS KMS, or several in an order of preference. What a
//! wrap is tied to is its encryption context.

mod reader;

use std::collections::HashMap;
use std::error::Error as StdError;
use std::future::Future;
use std::time::Duration;

use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_kms::Client;
use aws_sdk_kms::config::retry::RetryConfig;
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::{KeySpec, KeyState};
use tokio::runtime::{Builder, Runtime};
use veilstream_engine::key::SecretKey;
use veilstream_engine::wrap::WrapContext;
use zeroize::Zeroizing;

use super::{Kek, Provider, ProviderError, Rotation};
use crate::store::Wrap;
pub use reader::KmsReader;

const NAME: &str = "aws-kms";
const URI: &str = "aws-kms:";
/// The version where KMS does not tell which material a key has.
const UNKNOWN_MATERIAL: &str = "1";

/// Which keys, and how they are reached. Credentials are those of the SDK's chain: environment,
/// profile, web identity (IRSA), Pod Identity, instance role.
#[derive(Debug, Clone)]
pub struct AwsKmsSettings {
    /// Key ARNs; the first one that can be reached wraps. An ARN names its region.
    pub key_arns: Vec<String>,
    /// Asked instead of the regions' own endpoints.
    pub endpoint: Option<String>,
    /// Profile of the shared configuration files.
    pub profile: Option<String>,
    /// How long one request may take.
    pub timeout: Duration,
}

/// Asks KMS at each use.
pub struct AwsKmsProvider {
    runtime: Runtime,
    keys: Vec<KmsKey>,
}

/// One key, and a client of its region.
struct KmsKey {
    arn: String,
    uri: String,
    client: Client,
}

impl AwsKmsProvider {
    /// Over the keys that the settings name. Asks nobody yet.
    ///
    /// # Errors
    /// An ARN is none of a key, or no runtime can be started.
    pub fn new(settings: &AwsKmsSettings) -> Result<Self, ProviderError> {
        let unusable = |message: String| ProviderError::Unusable { provider: NAME, message };
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|e| unusable(format!("no thread for requests ({e})")))?;
        let first = settings
            .key_arns
            .first()
            .ok_or_else(|| unusable("no key is named; write keys.aws-kms.key_arns".to_owned()))?;
        let region = Region::new(region_of(first)?.to_owned());
        // Each try is one request: the retry layer tries again.
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(settings.timeout)
            .operation_timeout(settings.timeout)
            .build();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .region(region)
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts);
        if let Some(profile) = &settings.profile {
            loader = loader.profile_name(profile);
        }
        if let Some(endpoint) = &settings.endpoint {
            loader = loader.endpoint_url(endpoint);
        }
        let shared = runtime.block_on(loader.load());
        let keys = settings.key_arns.iter().map(|arn| {
            let config = aws_sdk_kms::config::Builder::from(&shared)
                .region(Region::new(region_of(arn)?.to_owned()))
                .build();
            Ok(KmsKey {
                arn: arn.clone(),
                uri: format!("{URI}{arn}"),
                client: Client::from_conf(config),
            })
        });
        let keys = keys.collect::<Result<_, ProviderError>>()?;
        Ok(Self { runtime, keys })
    }

    fn ask<T, E>(
        &self,
        key: &KmsKey,
        context: Option<&WrapContext<'_>>,
        request: impl Future<Output = Result<T, SdkError<E>>>,
    ) -> Result<T, ProviderError>
    where
        E: ProvideErrorMetadata + StdError + 'static,
    {
        self.runtime.block_on(request).map_err(|error| failure(&error, &key.arn, context))
    }

    /// What the first of these keys answers that can be reached.
    fn first<'k, T>(
        keys: impl Iterator<Item = &'k KmsKey>,
        ask: impl Fn(&'k KmsKey) -> Result<T, ProviderError>,
    ) -> Option<Result<T, ProviderError>> {
        let mut unreached = None;
        for key in keys {
            match ask(key) {
                Err(error) if error.is_retryable() => unreached = unreached.or(Some(Err(error))),
                answer => return Some(answer),
            }
        }
        unreached
    }

    fn describe_key(&self, key: &KmsKey) -> Result<Kek, ProviderError> {
        let found = self.ask(key, None, key.client.describe_key().key_id(&key.arn).send())?;
        let Some(found) = found.key_metadata else {
            return Err(malformed("the description of a key"));
        };
        if found.key_spec.is_some_and(|spec| spec != KeySpec::SymmetricDefault) {
            return Err(ProviderError::Unusable {
                provider: NAME,
                message: format!("{} is no symmetric encryption key; name one that is", key.arn),
            });
        }
        if found.key_state.as_ref().is_some_and(|state| *state != KeyState::Enabled) {
            return Err(disabled(&key.arn));
        }
        let version = found.current_key_material_id.unwrap_or_else(|| UNKNOWN_MATERIAL.to_owned());
        Ok(Kek { uri: key.uri.clone(), version, since: None, rotation: Rotation::Elsewhere })
    }

    /// The keys that open a wrap: the one that made it, and other regions' replicas of it.
    fn openers(&self, kek_uri: &str) -> impl Iterator<Item = &KmsKey> {
        let (own, replicas): (Vec<_>, Vec<_>) = self
            .keys
            .iter()
            .filter(|key| same_material(&key.uri, kek_uri))
            .partition(|key| key.uri == kek_uri);
        own.into_iter().chain(replicas)
    }

    fn reencrypt(
        &self,
        target: &KmsKey,
        source: &KmsKey,
        wrap: &Wrap,
        context: &WrapContext<'_>,
    ) -> Result<Wrap, ProviderError> {
        let tied = encryption_context(context);
        let request = target
            .client
            .re_encrypt()
            .ciphertext_blob(Blob::new(wrap.wrapped.clone()))
            .source_key_id(&source.arn)
            .set_source_encryption_context(Some(tied.clone()))
            .destination_key_id(&target.arn)
            .set_destination_encryption_context(Some(tied));
        let answer = self.ask(source, Some(context), request.send())?;
        let wrapped = answer.ciphertext_blob.ok_or_else(|| malformed("a ciphertext"))?.into_inner();
        let kek_version =
            answer.destination_key_material_id.unwrap_or_else(|| UNKNOWN_MATERIAL.to_owned());
        Ok(Wrap { kek_uri: target.uri.clone(), kek_version, wrapped })
    }
}

impl Provider for AwsKmsProvider {
    fn name(&self) -> &'static str {
        NAME
    }

    fn opens(&self, kek_uri: &str) -> bool {
        self.openers(kek_uri).next().is_some()
    }

    fn describe(&self) -> Result<Kek, ProviderError> {
        Self::first(self.keys.iter(), |key| self.describe_key(key))
            .unwrap_or_else(|| Err(malformed("a key")))
    }

    fn wrap(&self, key: &SecretKey, context: &WrapContext<'_>) -> Result<Wrap, ProviderError> {
        let wrap = |kms: &KmsKey| {
            // KMS does not say with which material it encrypts: as described just before.
            let Kek { uri, version, .. } = self.describe_key(kms)?;
            let request = kms
                .client
                .encrypt()
                .key_id(&kms.arn)
                .set_encryption_context(Some(encryption_context(context)));
            let answer = self.ask(
                kms,
                Some(context),
                request.plaintext(Blob::new(key.expose().to_vec())).send(),
            )?;
            let wrapped =
                answer.ciphertext_blob.ok_or_else(|| malformed("a ciphertext"))?.into_inner();
            Ok(Wrap { kek_uri: uri, kek_version: version, wrapped })
        };
        Self::first(self.keys.iter(), wrap).unwrap_or_else(|| Err(malformed("a key")))
    }

    fn unwrap(&self, wrap: &Wrap, context: &WrapContext<'_>) -> Result<SecretKey, ProviderError> {
        let unwrap = |kms: &KmsKey| {
            let request = kms
                .client
                .decrypt()
                .key_id(&kms.arn)
                .set_encryption_context(Some(encryption_context(context)));
            let answer = self.ask(
                kms,
                Some(context),
                request.ciphertext_blob(Blob::new(wrap.wrapped.clone())).send(),
            )?;
            let plain = Zeroizing::new(
                answer.plaintext.ok_or_else(|| malformed("a plaintext"))?.into_inner(),
            );
            Ok(SecretKey::new(
                plain.as_slice().try_into().map_err(|_| malformed("a plaintext of 32 bytes"))?,
            ))
        };
        Self::first(self.openers(&wrap.kek_uri), unwrap).unwrap_or(Err(ProviderError::Refused {
            provider: NAME,
            kid: context.kid,
            what: "a key that is not configured",
        }))
    }

    fn rewrap(
        &self,
        wraps: &[(&Wrap, WrapContext<'_>)],
    ) -> Result<Vec<Result<Wrap, ProviderError>>, ProviderError> {
        let target = self.describe()?;
        let Some(target) = self.keys.iter().find(|key| key.uri == target.uri) else {
            return Err(malformed("a key"));
        };
        let moved = wraps.iter().map(|(wrap, context)| {
            let same_region =
                |source: &&KmsKey| region_of(&source.arn).ok() == region_of(&target.arn).ok();
            match self.openers(&wrap.kek_uri).find(same_region) {
                Some(source) => self.reencrypt(target, source, wrap, context),
                // KMS re-encrypts within a region.
                None => self.unwrap(wrap, context).and_then(|key| self.wrap(&key, context)),
            }
        });
        Ok(moved.collect())
    }

    fn rotate(&self, _: u64) -> Result<Kek, ProviderError> {
        let Some(key) = self.keys.first() else { return Err(malformed("a key")) };
        self.ask(key, None, key.client.rotate_key_on_demand().key_id(&key.arn).send())?;
        self.describe_key(key)
    }
}

/// The region in `arn:<partition>:kms:<region>:<account>:key/<id>`.
fn region_of(arn: &str) -> Result<&str, ProviderError> {
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    match parts[..] {
        ["arn", _, "kms", region, _, key]
            if !region.is_empty() && key.strip_prefix("key/").is_some_and(|id| !id.is_empty()) =>
        {
            Ok(region)
        }
        _ => {
            let message = format!(
                "{arn} is no ARN of a key; write arn:aws:kms:REGION:ACCOUNT:key/ID (an alias may \
                point elsewhere tomorrow)"
            );
            Err(ProviderError::Unusable { provider: NAME, message })
        }
    }
}

/// Whether two keys are one: the same, or replicas of one multi-region key.
fn same_material(a: &str, b: &str) -> bool {
    let replica = |uri: &str| -> Option<(String, String)> {
        let parts: Vec<&str> = uri.strip_prefix(URI)?.splitn(6, ':').collect();
        let [_, partition, _, _, account, key] = parts[..] else { return None };
        key.starts_with("key/mrk-").then(|| (format!("{partition}:{account}"), key.to_owned()))
    };
    a == b || replica(a).is_some_and(|one| Some(one) == replica(b))
}

/// What a wrap is tied to (docs/formats.md).
fn encryption_context(context: &WrapContext<'_>) -> HashMap<String, String> {
    let pairs = [
        ("format", "vs1/wrap".to_owned()),
        ("kid", context.kid.to_string()),
        ("kind", context.kind.as_str().to_owned()),
        ("tenant", context.tenant.to_owned()),
        ("scope", context.scope.to_string()),
    ];
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn malformed(expected: &str) -> ProviderError {
    ProviderError::Malformed { provider: NAME, message: format!("it should hold {expected}") }
}

fn disabled(arn: &str) -> ProviderError {
    ProviderError::Disabled {
        provider: NAME,
        message: format!("{arn} is disabled or to be deleted; enable it, or cancel the deletion"),
    }
}

/// Without the answer's own text, which may name what nobody should read in a log.
fn failure<E>(error: &SdkError<E>, arn: &str, context: Option<&WrapContext<'_>>) -> ProviderError
where
    E: ProvideErrorMetadata + StdError + 'static,
{
    let provider = NAME;
    let away =
        |message: String| ProviderError::Unavailable { provider, message, retry_after: None };
    let SdkError::ServiceError(answer) = error else {
        if causes(error).any(|cause| cause.to_string().contains("no credentials found in chain")) {
            let message = "there are no AWS credentials; give this process a role, a profile \
                (keys.aws-kms.profile) or AWS_ACCESS_KEY_ID"
                .to_owned();
            return ProviderError::Denied { provider, message };
        }
        return match error {
            SdkError::ResponseError(_) => ProviderError::Malformed {
                provider,
                message: format!("what came for {arn} is not what KMS answers"),
            },
            SdkError::TimeoutError(_) => away(format!("no answer about {arn} in time")),
            _ => away(format!(
                "no answer about {arn}: {}",
                causes(error).last().map(ToString::to_string).unwrap_or_default()
            )),
        };
    };
    let status = answer.raw().status().as_u16();
    match (answer.err().code().unwrap_or_default(), context) {
        ("InvalidCiphertextException" | "IncorrectKeyException", Some(context)) => {
            ProviderError::Refused { provider, kid: context.kid, what: "another key" }
        }
        ("DisabledException" | "KMSInvalidStateException", _) => disabled(arn),
        ("NotFoundException", _) => ProviderError::Unusable {
            provider,
            message: format!("{arn} is not there; correct keys.aws-kms.key_arns"),
        },
        ("InvalidKeyUsageException", _) => ProviderError::Unusable {
            provider,
            message: format!("{arn} is no symmetric encryption key; name one that is"),
        },
        (code, _) if is_denial(code) || status == 403 => {
            let grants = "kms:Encrypt, kms:Decrypt, kms:ReEncrypt*, kms:DescribeKey and, for `keys \
                rotate --kek`, kms:RotateKeyOnDemand";
            ProviderError::Denied {
                provider,
                message: format!("grant this process {grants} on {arn}"),
            }
        }
        (code, _) if status >= 500 || status == 429 || may_pass(code) => {
            away(format!("status {status} about {arn} ({})", known_word(code)))
        }
        (code, _) => ProviderError::Malformed {
            provider,
            message: format!("status {status} about {arn} ({})", known_word(code)),
        },
    }
}

fn is_denial(code: &str) -> bool {
    [
        "AccessDeniedException",
        "UnrecognizedClientException",
        "InvalidClientTokenId",
        "ExpiredTokenException",
        "InvalidSignatureException",
    ]
    .contains(&code)
}

fn may_pass(code: &str) -> bool {
    let words = [
        "Throttling",
        "LimitExceeded",
        "RequestLimitExceeded",
        "KMSInternalException",
        "DependencyTimeoutException",
        "KeyUnavailableException",
    ];
    words.iter().any(|word| code.contains(word))
}

/// An error code, if it looks like one.
fn known_word(code: &str) -> &str {
    if !code.is_empty() && code.len() <= 64 && code.bytes().all(|b| b.is_ascii_alphanumeric()) {
        code
    } else {
        "no code"
    }
}

fn causes<'e>(
    error: &'e (dyn StdError + 'static),
) -> impl Iterator<Item = &'e (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error| StdError::source(*error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arn_names_its_region_and_an_alias_is_refused() {
        assert_eq!(
            region_of("arn:aws-cn:kms:cn-north-1:111122223333:key/mrk-1").unwrap(),
            "cn-north-1"
        );
        for wrong in [
            "alias/veilstream",
            "arn:aws:kms:eu-west-1:111122223333:alias/veilstream",
            "arn:aws:s3:::bucket",
            "arn:aws:kms::1:key/x",
            "1234",
        ] {
            assert!(
                region_of(wrong).unwrap_err().to_string().contains("is no ARN of a key"),
                "{wrong}"
            );
        }
    }

    #[test]
    fn replicas_of_a_multi_region_key_are_one_key_and_others_are_not() {
        let uri = |region: &str, account: &str, key: &str| {
            format!("aws-kms:arn:aws:kms:{region}:{account}:key/{key}")
        };
        let one = uri("eu-west-1", "111122223333", "mrk-a");
        assert!(same_material(&one, &uri("us-east-1", "111122223333", "mrk-a")));
        for other in [
            uri("us-east-1", "111122223333", "mrk-b"),
            uri("us-east-1", "444455556666", "mrk-a"),
            "file".to_owned(),
        ] {
            assert!(!same_material(&one, &other), "{other}");
        }
        assert!(!same_material(&uri("eu-west-1", "1", "a"), &uri("us-east-1", "1", "a")));
    }
}
