//! Whether the settings for TLS and SASL fit together: what librdkafka would take and could not
//! work with, or would pass over in silence.

use super::secret::Properties;
use super::value_error::ValueError;
use crate::kafka::access::AWS_MSK_IAM;

/// What clients of this build authenticate with.
const MECHANISMS: [&str; 5] =
    ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", AWS_MSK_IAM];
const OIDC_GRANT: &str = "sasl.oauthbearer.grant.type";
const ENDPOINT: &str = "sasl.oauthbearer.token.endpoint.url";

/// A key below `kafka`, and what is wrong with it.
type SettingFault = (String, String);

/// Faults of both sides; one that both have is told once, as of `[kafka.client]`.
pub(super) fn judge(
    consumer: &Properties,
    producer: &Properties,
    region: Option<&str>,
) -> Vec<SettingFault> {
    let (mut of_consumer, mut of_producer) = (side(consumer, region), side(producer, region));
    let both: Vec<SettingFault> =
        of_consumer.iter().filter(|fault| of_producer.contains(fault)).cloned().collect();
    of_consumer.retain(|fault| !both.contains(fault));
    of_producer.retain(|fault| !both.contains(fault));
    let named = |section: &str, faults: Vec<SettingFault>| -> Vec<SettingFault> {
        let key =
            |name: String| if name == "aws_region" { name } else { format!("{section}.{name}") };
        faults.into_iter().map(|(name, message)| (key(name), message)).collect()
    };
    [named("client", both), named("consumer", of_consumer), named("producer", of_producer)].concat()
}

fn side(properties: &Properties, region: Option<&str>) -> Vec<SettingFault> {
    let get = |name: &str| properties.get(name).map(String::as_str);
    let protocol = get("security.protocol").unwrap_or("plaintext").to_ascii_lowercase();
    let has_sasl = protocol.starts_with("sasl_");
    let named = get("sasl.mechanisms").or_else(|| get("sasl.mechanism"));
    let mut faults = Vec::new();
    let mut fault = |name: &str, message: String| faults.push((name.to_owned(), message));
    match (named, has_sasl) {
        (None, true) => {
            fault("sasl.mechanism", format!("is missing; write one of {}", MECHANISMS.join(", ")))
        }
        (Some(_), false) => fault(
            "sasl.mechanism",
            format!(
                "has no effect with security.protocol {protocol}; set security.protocol to \
                SASL_SSL, or remove the sasl settings"
            ),
        ),
        (Some(mechanism), true) if !MECHANISMS.contains(&mechanism) => {
            fault(
                "sasl.mechanism",
                format!("is not one that this build has; write one of {}", MECHANISMS.join(", ")),
            );
        }
        (Some("OAUTHBEARER"), true) => faults.extend(oauth(properties)),
        (Some(AWS_MSK_IAM), true) => {
            if protocol != "sasl_ssl" {
                fault(
                    "security.protocol",
                    "must be SASL_SSL with AWS_MSK_IAM: anyone who reads \
                    the token on its way has the access"
                        .to_owned(),
                );
            }
            if region.is_none() {
                fault(
                    "aws_region",
                    "is missing, and the brokers' names do not tell; write the \
                    region of the Amazon MSK cluster"
                        .to_owned(),
                );
            }
        }
        (Some(_), true) => {
            for name in ["sasl.username", "sasl.password"]
                .into_iter()
                .filter(|name| get(name).is_none_or(str::is_empty))
            {
                fault(
                    name,
                    format!("is missing, which this mechanism needs; write it, or {name}_file"),
                );
            }
        }
        (None, false) => {}
    }
    if protocol.ends_with("ssl") {
        faults.extend(certificates(properties));
    }
    faults
}

/// OAUTHBEARER: who makes the tokens?
fn oauth(properties: &Properties) -> Vec<SettingFault> {
    let get =
        |name: &str| properties.get(name).map(String::as_str).filter(|value| !value.is_empty());
    let fault = |name: &str, message: &str| (name.to_owned(), message.to_owned());
    if get("sasl.oauthbearer.method") != Some("oidc") {
        if get("enable.sasl.oauthbearer.unsecure.jwt") == Some("true") {
            return Vec::new();
        }
        return vec![fault(
            "sasl.oauthbearer.method",
            "must be \"oidc\" (tokens of an OAuth server); nothing else here makes tokens. For \
            Amazon MSK write sasl.mechanism = \"AWS_MSK_IAM\"",
        )];
    }
    let mut faults = Vec::new();
    let is_azure =
        get("sasl.oauthbearer.metadata.authentication.type").is_some_and(|kind| kind != "none");
    match get(ENDPOINT) {
        None if !is_azure => faults.push(fault(
            ENDPOINT,
            "is missing; write the address at which \
            the OAuth server gives tokens",
        )),
        // The client's secret goes there, and the token comes from there.
        Some(url) if !is_secure(url) => faults.push(fault(
            ENDPOINT,
            "is neither an https address nor one of this host; the \
                client's secret would go there in clear",
        )),
        _ => {}
    }
    let has_secret = get(OIDC_GRANT).is_none_or(|grant| grant == "client_credentials") && !is_azure;
    let spellings = [
        ("sasl.oauthbearer.client.id", "sasl.oauthbearer.client.credentials.client.id"),
        ("sasl.oauthbearer.client.secret", "sasl.oauthbearer.client.credentials.client.secret"),
    ];
    for (name, _) in spellings
        .into_iter()
        .filter(|(name, alias)| has_secret && get(name).is_none() && get(alias).is_none())
    {
        faults.push(fault(name, "is missing, which the OAuth server asks for"));
    }
    faults
}

fn is_secure(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("http://") else { return url.starts_with("https://") };
    let authority = rest.split(['/', '?']).next().unwrap_or("");
    let host = authority.strip_prefix('[').map_or_else(
        || authority.split(':').next().unwrap_or(""),
        |v6| v6.split(']').next().unwrap_or(""),
    );
    host == "localhost"
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// librdkafka opens these files when a client is made.
fn certificates(properties: &Properties) -> Vec<SettingFault> {
    let mut faults = Vec::new();
    for name in [
        "ssl.ca.location",
        "ssl.certificate.location",
        "ssl.key.location",
        "ssl.keystore.location",
        "ssl.crl.location",
    ] {
        let Some(path) = properties.get(name).filter(|path| *path != "probe") else { continue };
        let found = std::fs::metadata(path).and_then(|found| {
            if found.is_dir() {
                std::fs::read_dir(path).map(drop)
            } else {
                std::fs::File::open(path).map(drop)
            }
        });
        if let Err(error) = found {
            faults.push((name.to_owned(), format!("names {path}, which cannot be read ({error})")));
        }
    }
    faults
}

/// A region as the user writes it.
pub(super) fn region(text: &str) -> Result<String, ValueError> {
    let is_region = text.len() <= 32
        && text.split('-').count() >= 3
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if is_region {
        Ok(text.to_owned())
    } else {
        Err(ValueError::form("no AWS region", "one as \"eu-central-1\""))
    }
}

/// The region in the names that Amazon MSK gives brokers:
/// `b-1.name.abc.c2.kafka.eu-central-1.amazonaws.com:9098`.
pub(super) fn region_of(servers: &str) -> Option<String> {
    let (host, _) = servers.split(',').next()?.rsplit_once(':')?;
    let mut labels = host.trim_end_matches(".cn").strip_suffix(".amazonaws.com")?.rsplit('.');
    let name = labels.next()?;
    labels.next().filter(|service| matches!(*service, "kafka" | "kafka-serverless"))?;
    region(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Input};

    const SASL: &str = "[kafka.client]\n\"security.protocol\" = \"SASL_SSL\"\n";

    fn faults(text: &str) -> Vec<String> {
        let input = Input { text: text.to_owned(), host_name: "h".to_owned(), ..Input::default() };
        Config::examine(&input, &|_| Ok("secret\n".to_owned()))
            .1
            .iter()
            .map(|fault| format!("{}: {}", fault.key, fault.message))
            .collect()
    }

    #[test]
    fn what_cannot_work_is_refused_with_what_to_write() {
        for (settings, expected) in [
            ("\"security.protocol\" = \"SASL_SSL\"", "kafka.client.sasl.mechanism: is missing"),
            (
                "\"security.protocol\" = \"SASL_SSL\"\n\"sasl.mechanism\" = \"GSSAPI\"",
                "kafka.client.sasl.mechanism: is not one that this build has",
            ),
            (
                "\"sasl.mechanism\" = \"PLAIN\"",
                "kafka.client.sasl.mechanism: has no effect with security.protocol plaintext",
            ),
            (
                "\"security.protocol\" = \"SASL_SSL\"\n\"sasl.mechanism\" = \
                \"PLAIN\"\n\"sasl.username\" = \"me\"",
                "kafka.client.sasl.password: is missing, which this mechanism needs; write it, or \
                sasl.password_file",
            ),
            (
                "\"security.protocol\" = \"SASL_SSL\"\n\"sasl.mechanism\" = \"OAUTHBEARER\"",
                "kafka.client.sasl.oauthbearer.method: must be \"oidc\"",
            ),
            (
                "\"security.protocol\" = \"SSL\"\n\"ssl.ca.location\" = \"/nowhere/ca.pem\"",
                "kafka.client.ssl.ca.location: names /nowhere/ca.pem, which cannot be read",
            ),
        ] {
            let found = faults(&format!("[kafka.client]\n{settings}\n"));
            assert_eq!(found.len(), 1, "{settings}: {found:?}");
            assert!(found[0].starts_with(expected), "{}", found[0]);
        }
    }

    #[test]
    fn oidc_needs_all_of_it_and_a_secure_server() {
        let oidc = format!(
            "{SASL}\"sasl.mechanism\" = \"OAUTHBEARER\"\n\"sasl.oauthbearer.method\" = \"oidc\"\n"
        );
        let found = faults(&oidc);
        assert_eq!(found.len(), 3, "{found:?}");
        let credentials = "\"sasl.oauthbearer.client.id\" = \
            \"me\"\n\"sasl.oauthbearer.client.secret_file\" = \"secret\"\n";
        for (url, ok) in [
            ("https://login.example/token", true),
            ("http://127.0.0.1:8080/token", true),
            ("http://[::1]:8080/token", true),
            ("http://localhost/token", true),
            ("http://login.example/token", false),
            ("http://127.0.0.1.example/token", false),
            ("login.example/token", false),
        ] {
            let found = faults(&format!(
                "{oidc}{credentials}\"sasl.oauthbearer.token.endpoint.url\" = \"{url}\"\n"
            ));
            assert_eq!(found.is_empty(), ok, "{url}: {found:?}");
        }
    }

    #[test]
    fn a_fault_of_one_side_is_told_of_that_side() {
        let found = faults("[kafka.consumer]\n\"security.protocol\" = \"SASL_SSL\"\n");
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("kafka.consumer.sasl.mechanism: is missing"), "{}", found[0]);
    }

    #[cfg(feature = "aws-kms")]
    #[test]
    fn msk_needs_tls_and_a_region() {
        let msk = |protocol: &str, servers: &str, region: &str| {
            faults(&format!(
                "[kafka]\nbootstrap_servers = \
                \"{servers}\"\n{region}\n[kafka.client]\n\"security.protocol\" = \
                \"{protocol}\"\n\"sasl.mechanism\" = \"AWS_MSK_IAM\"\n"
            ))
        };
        let cluster = "b-1.demo.abc123.c2.kafka.eu-central-1.amazonaws.com:9098";
        assert_eq!(msk("SASL_SSL", cluster, ""), [""; 0]);
        assert_eq!(msk("SASL_SSL", "broker:9098", "aws_region = \"eu-central-1\""), [""; 0]);
        assert!(msk("SASL_SSL", "broker:9098", "")[0].starts_with("kafka.aws_region: is missing"));
        assert!(
            msk("SASL_SSL", cluster, "aws_region = \"Frankfurt\"")[0].contains("is no AWS region")
        );
        assert!(
            msk("SASL_PLAINTEXT", cluster, "")[0]
                .starts_with("kafka.client.security.protocol: must be SASL_SSL")
        );
    }

    #[cfg(not(feature = "aws-kms"))]
    #[test]
    fn a_build_without_it_says_so() {
        assert!(
            faults(&format!("{SASL}\"sasl.mechanism\" = \"AWS_MSK_IAM\"\n"))
                .iter()
                .any(|fault| fault.contains("build it with the feature aws-kms"))
        );
    }

    #[test]
    fn the_region_is_in_the_brokers_names() {
        for (servers, region) in [
            (
                "b-1.demo.abc123.c2.kafka.eu-central-1.amazonaws.com:9098,b-2.x:1",
                Some("eu-central-1"),
            ),
            ("boot-abc.c3.kafka-serverless.us-east-1.amazonaws.com:9098", Some("us-east-1")),
            ("b-1.demo.abc.c4.kafka.cn-north-1.amazonaws.com.cn:9098", Some("cn-north-1")),
            ("kafka.eu-central-1.example.com:9098", None),
            ("ec2.eu-central-1.amazonaws.com:9098", None),
            ("localhost:9092", None),
        ] {
            assert_eq!(region_of(servers).as_deref(), region, "{servers}");
        }
    }
}
