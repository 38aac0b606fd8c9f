//! Tokens of Amazon MSK's IAM access control: the address of a request `kafka-cluster:Connect`,
//! signed ahead (Signature Version 4), in base64url. The same as AWS's own signers make
//! (`aws-msk-iam-sasl-signer-*`), by AWS's own crate for signatures.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials as _, SharedCredentialsProvider};
use aws_sigv4::http_request::{
    SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign,
};
use aws_sigv4::sign::v4;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use tokio::runtime::{Builder, Runtime};
use zeroize::Zeroizing;

/// How long a token counts, as AWS's signers have it.
const LIFETIME: Duration = Duration::from_secs(900);
/// One request for credentials.
const REQUEST: Duration = Duration::from_secs(5);
const SERVICE: &str = "kafka-cluster";
/// The signature does not cover it; MSK writes it into its logs.
const USER_AGENT: &str = concat!("veilstream/", env!("CARGO_PKG_VERSION"));

/// A token and its end.
#[derive(Clone)]
pub(crate) struct Token {
    pub(crate) text: Zeroizing<String>,
    pub(crate) expires: SystemTime,
}

/// Why there is no token. AWS's own words, which hold no secret.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoToken {
    /// The chain of providers has no credentials.
    #[error("no AWS credentials ({0})")]
    Credentials(String),
    /// They cannot be signed with.
    #[error("not signed ({0})")]
    Signing(String),
    /// No runtime for requests can be started.
    #[error("no runtime for requests ({0})")]
    Runtime(#[from] std::io::Error),
}

/// Makes tokens with the credentials of the SDK's chain: environment, profile, web identity, Pod
/// Identity, instance role.
pub(crate) struct Signer {
    region: String,
    runtime: Runtime,
    provider: Option<SharedCredentialsProvider>,
}

impl Signer {
    /// For clusters of `region`. Asks nobody yet, except for what the SDK reads of this machine.
    pub(crate) fn new(region: &str) -> Result<Self, NoToken> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let timeouts =
            TimeoutConfig::builder().connect_timeout(REQUEST).operation_timeout(REQUEST).build();
        let loader = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new(region.to_owned()))
            .timeout_config(timeouts);
        let provider = runtime.block_on(loader.load()).credentials_provider();
        Ok(Self { region: region.to_owned(), runtime, provider })
    }

    /// A token that counts from now on. Blocks while the chain is asked.
    pub(crate) fn token(&self) -> Result<Token, NoToken> {
        let provider = self
            .provider
            .as_ref()
            .ok_or_else(|| NoToken::Credentials("none are configured".to_owned()))?;
        let credentials = self
            .runtime
            .block_on(provider.provide_credentials())
            .map_err(|e| NoToken::Credentials(e.to_string()))?;
        presign(&self.region, credentials, SystemTime::now(), USER_AGENT)
    }
}

/// The token of `credentials` at a time.
fn presign(
    region: &str,
    credentials: Credentials,
    now: SystemTime,
    user_agent: &str,
) -> Result<Token, NoToken> {
    let fault = |e: &dyn std::fmt::Display| NoToken::Signing(e.to_string());
    let url = format!("https://kafka.{region}.amazonaws.com/?Action=kafka-cluster%3AConnect");
    let mut settings = SigningSettings::default();
    settings.signature_location = SignatureLocation::QueryParams;
    settings.expires_in = Some(LIFETIME);
    let end = credentials.expiry();
    let identity = credentials.into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name(SERVICE)
        .time(now)
        .settings(settings)
        .build()
        .map_err(|e| fault(&e))?
        .into();
    let request = SignableRequest::new("GET", &url, std::iter::empty(), SignableBody::empty())
        .map_err(|e| fault(&e))?;
    let (instructions, _) = sign(request, &params).map_err(|e| fault(&e))?.into_parts();
    let mut signed = Zeroizing::new(url);
    for (name, value) in instructions
        .params()
        .iter()
        .map(|(name, value)| (*name, &**value))
        .chain([("User-Agent", user_agent)])
    {
        signed.push('&');
        signed.push_str(name);
        signed.push('=');
        percent_encode(value, &mut signed);
    }
    let expires = now + LIFETIME;
    Ok(Token {
        text: Zeroizing::new(BASE64_URL_SAFE_NO_PAD.encode(signed.as_bytes())),
        expires: end.map_or(expires, |end| end.min(expires)),
    })
}

/// RFC 3986: all but unreserved characters.
fn percent_encode(text: &str, into: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                into.push(byte.into())
            }
            _ => into.push_str(&format!("%{byte:02X}")),
        }
    }
}

impl Token {
    /// When it ends, in milliseconds since the epoch.
    pub(crate) fn expires_ms(&self) -> i64 {
        let since = self.expires.duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-28T12:00:00Z.
    const NOW: u64 = 1_795_867_200;
    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn text(token: &Token) -> String {
        String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(token.text.as_bytes()).unwrap()).unwrap()
    }

    /// Made once by AWS's own signer, `aws-msk-iam-sasl-signer-python` 1.0.2 with botocore 1.44.8:
    /// `MSKAuthTokenProvider.generate_auth_token_from_credentials_provider(region, provider)`, with
    /// a provider that returns `Credentials("AKIDEXAMPLE", SECRET, session)` and
    /// `botocore.auth.get_current_datetime` patched to 2026-11-28 12:00:00.
    #[test]
    fn tokens_are_those_of_awss_own_signer() {
        let plain = "aHR0cHM6Ly9rYWZrYS5ldS1jZW50cmFsLTEuYW1hem9uYXdzLmNvbS8_QWN0aW9uPWthZmthLWNsdXN0ZXIlM0FDb25uZWN0JlgtQW16LUFsZ29yaXRobT1BV1M0LUhNQUMtU0hBMjU2JlgtQW16LUNyZWRlbnRpYWw9QUtJREVYQU1QTEUlMkYyMDI2MTEyOCUyRmV1LWNlbnRyYWwtMSUyRmthZmthLWNsdXN0ZXIlMkZhd3M0X3JlcXVlc3QmWC1BbXotRGF0ZT0yMDI2MTEyOFQxMjAwMDBaJlgtQW16LUV4cGlyZXM9OTAwJlgtQW16LVNpZ25lZEhlYWRlcnM9aG9zdCZYLUFtei1TaWduYXR1cmU9MGFhOTg1MTdiY2IyMmViMGZlY2U3ZjBlZjY2NWRlMzcyNmUwOWEzYzMyMjgwZjk0ZGZjMTIxOWI1MjMxMjFlZCZVc2VyLUFnZW50PWF3cy1tc2staWFtLXNhc2wtc2lnbmVyLXB5dGhvbiUyRjEuMC4y";
        let with_session = "aHR0cHM6Ly9rYWZrYS51cy1lYXN0LTEuYW1hem9uYXdzLmNvbS8_QWN0aW9uPWthZmthLWNsdXN0ZXIlM0FDb25uZWN0JlgtQW16LUFsZ29yaXRobT1BV1M0LUhNQUMtU0hBMjU2JlgtQW16LUNyZWRlbnRpYWw9QUtJREVYQU1QTEUlMkYyMDI2MTEyOCUyRnVzLWVhc3QtMSUyRmthZmthLWNsdXN0ZXIlMkZhd3M0X3JlcXVlc3QmWC1BbXotRGF0ZT0yMDI2MTEyOFQxMjAwMDBaJlgtQW16LUV4cGlyZXM9OTAwJlgtQW16LVNpZ25lZEhlYWRlcnM9aG9zdCZYLUFtei1TZWN1cml0eS1Ub2tlbj1BUW9FWEFNUExFJTJGc2Vzc2lvbiUyQnRva2VuJTNEJTNEJlgtQW16LVNpZ25hdHVyZT00OGQwZDJiZTEwNDk4ZWYwZWVkNTg2MzU2MTBhN2JjMTdiODZkZWVkOGU2MGU2ZmRkOWE1ODVmZDU5MThlNGRjJlVzZXItQWdlbnQ9YXdzLW1zay1pYW0tc2FzbC1zaWduZXItcHl0aG9uJTJGMS4wLjI";
        for (region, session, expected) in [
            ("eu-central-1", None, plain),
            ("us-east-1", Some("AQoEXAMPLE/session+token=="), with_session),
        ] {
            let credentials =
                Credentials::new("AKIDEXAMPLE", SECRET, session.map(str::to_owned), None, "test");
            let token =
                presign(region, credentials, at(NOW), "aws-msk-iam-sasl-signer-python/1.0.2")
                    .unwrap();
            let wanted =
                String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(expected).unwrap()).unwrap();
            // The order of parameters means nothing to AWS, which sorts them before it signs.
            let sorted = |url: &str| {
                let (place, query) = url.split_once('?').unwrap();
                let mut query: Vec<String> = query.split('&').map(str::to_owned).collect();
                query.sort();
                (place.to_owned(), query)
            };
            assert_eq!(sorted(&text(&token)), sorted(&wanted), "{region}");
            assert_eq!(token.expires_ms(), 1_795_868_100_000, "{region}");
        }
    }

    #[test]
    fn a_token_ends_with_its_credentials() {
        let credentials = Credentials::new("AKIDEXAMPLE", SECRET, None, Some(at(NOW + 60)), "test");
        assert_eq!(
            presign("eu-central-1", credentials, at(NOW), USER_AGENT).unwrap().expires,
            at(NOW + 60)
        );
    }

    #[test]
    fn the_secret_is_not_in_the_token() {
        let token = presign(
            "eu-central-1",
            Credentials::new("AKIDEXAMPLE", SECRET, None, None, "test"),
            at(NOW),
            USER_AGENT,
        )
        .unwrap();
        let url = text(&token);
        assert!(
            !url.contains("wJalrXUtnFEMI")
                && url
                    .ends_with(&format!("&User-Agent=veilstream%2F{}", env!("CARGO_PKG_VERSION"))),
            "{url}"
        );
    }
}
