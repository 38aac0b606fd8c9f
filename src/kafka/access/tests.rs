use super::*;
use crate::config::{Config, Input};

fn kafka(text: &str) -> Kafka {
    let input = Input { text: text.to_owned(), host_name: "h".to_owned(), ..Input::default() };
    let (config, _) = Config::examine(&input, &|path| std::fs::read_to_string(path));
    config.kafka
}

fn scram(dir: &std::path::Path, more: &str) -> Kafka {
    kafka(&format!(
        "[kafka]\nbootstrap_servers = \"127.0.0.1:1\"\n[kafka.client]\n\"security.protocol\" = \
        \"SASL_PLAINTEXT\"\n\"sasl.mechanism\" = \"SCRAM-SHA-512\"\n\"sasl.username\" = \
        \"me\"\n\"sasl.password_file\" = \"{}\"\n{more}",
        dir.join("password").display()
    ))
}

#[test]
fn sides_with_the_same_credentials_have_one_access() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("password"), "old\n").unwrap();
    let same = scram(dir.path(), "[kafka.consumer]\n\"fetch.min.bytes\" = 1\n");
    assert_eq!(Access::of(&same, Side::Consumer).id, Access::of(&same, Side::Producer).id);
    let other = scram(dir.path(), "[kafka.consumer]\n\"sasl.username\" = \"reader\"\n");
    assert_ne!(Access::of(&other, Side::Consumer).id, Access::of(&other, Side::Producer).id);
}

/// What the file holds counts only once a broker has taken it.
#[test]
fn what_no_broker_has_accepted_is_not_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    std::fs::write(&file, "old\n").unwrap();
    let access = Access::of(&scram(dir.path(), ""), Side::Producer);
    let password = || access.credentials().unwrap().1.into_string().unwrap();
    assert_eq!(password(), "old");
    std::fs::write(&file, "new\n").unwrap();
    access.look(&|| true);
    assert_eq!((password().as_str(), access.generation()), ("old", 0));
    let told = lock(&access.state).told.clone();
    assert_eq!(told.as_deref(), Some("sasl.password"));
    // A file that is empty for a moment changes nothing.
    std::fs::write(&file, "").unwrap();
    access.look(&|| true);
    assert_eq!(password(), "old");
}

/// An OAuth server that is away for a while takes nothing from connections whose token counts.
#[test]
fn a_token_that_is_not_renewed_refuses_nothing_yet() {
    let kafka = kafka("[kafka]\nbootstrap_servers = \"127.0.0.1:2\"\n");
    let access = Access::of(&kafka, Side::Producer);
    let reporter = access.reporter("producer");
    let code = rdkafka::types::RDKafkaErrorCode::Authentication;
    reporter.error(
        code,
        "Failed to acquire SASL OAUTHBEARER token: Failed to retrieve OIDC token \
        from \"http://h:1/token\": HTTP error",
    );
    assert_eq!(report::refused_brokers(&access), []);
    reporter.error(code, "sasl_plaintext://h:1/1: SASL authentication error: {}");
    assert_eq!(report::refused_brokers(&access), [Some("h:1".to_owned())]);
    // What one broker accepts says nothing of another; and who ended is refused no more.
    report::accepted(&access, Some("h:2"));
    assert_eq!(report::refused_brokers(&access).len(), 1);
    report::accepted(&access, Some("h:1"));
    assert_eq!(report::refused_brokers(&access), []);
    reporter.error(code, "sasl_plaintext://h:1/1: SASL authentication error: {}");
    drop(reporter);
    assert_eq!(report::refused_brokers(&access), []);
}

/// The clients that were made before certificates changed stay refused until others take their
/// places.
#[test]
fn what_a_broker_accepts_now_does_not_clear_clients_with_old_certificates() {
    let kafka = kafka("[kafka]\nbootstrap_servers = \"127.0.0.1:3\"\n");
    let access = Access::of(&kafka, Side::Producer);
    let reporter = access.reporter("consumer");
    access.generation.fetch_add(1, Ordering::AcqRel);
    reporter
        .error(rdkafka::types::RDKafkaErrorCode::SSL, "ssl://h:1/1: SSL handshake failed: error");
    report::accepted(&access, Some("h:1"));
    assert_eq!(report::refused_brokers(&access), [Some("h:1".to_owned())]);
}

#[test]
fn a_new_password_needs_no_new_client_and_a_new_certificate_does() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::write(dir.path().join("password"), "old\n").unwrap();
    std::fs::write(&ca, "one").unwrap();
    let text = format!(
        "[kafka.client]\n\"security.protocol\" = \"SASL_SSL\"\n\"sasl.mechanism\" = \
        \"PLAIN\"\n\"sasl.username\" = \"me\"\n\"sasl.password_file\" = \
        \"{}\"\n\"ssl.ca.location\" = \"{}\"\n",
        dir.path().join("password").display(),
        ca.display()
    );
    let access = Access::of(&kafka(&text), Side::Producer);
    let before = files::read(&access.key).unwrap();
    std::fs::write(dir.path().join("password"), "new\n").unwrap();
    let password = files::read(&access.key).unwrap();
    assert!(!before.needs_new_clients(&password));
    assert_eq!(before.changed(&password), "sasl.password");
    std::fs::write(&ca, "two").unwrap();
    let certificate = files::read(&access.key).unwrap();
    assert!(password.needs_new_clients(&certificate));
    assert_eq!(password.changed(&certificate), "ssl.ca.location");
}

#[cfg(feature = "aws-kms")]
#[test]
fn our_mechanism_is_librdkafkas_with_our_tokens() {
    let kafka = kafka(
        "[kafka]\naws_region = \"eu-central-1\"\n[kafka.client]\n\"security.protocol\" = \
        \"SASL_SSL\"\n\"sasl.mechanism\" = \"AWS_MSK_IAM\"\n",
    );
    for side in [Side::Consumer, Side::Producer] {
        let properties = crate::kafka::settings::properties(&kafka, side);
        assert_eq!(
            (
                properties.get("sasl.mechanisms").map(String::as_str),
                properties.get("sasl.mechanism")
            ),
            (Some("OAUTHBEARER"), None)
        );
        assert_eq!(Access::of(&kafka, side).mechanism, AWS_MSK_IAM);
    }
}
