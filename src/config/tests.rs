mod policy;
mod serve;

use std::collections::BTreeMap;

use veilstream_reading::audit::VerifierKey;

use super::*;
use serve::with_serve;

const CANARY: &str = "canary-secret-5a1f";

/// A configuration of this text and environment; `*_file` settings name files of these contents.
fn examine(text: &str, environment: &[(&str, &str)]) -> (Config, Vec<ConfigFault>) {
    Config::examine(&input(text, &[], environment), &|path| match path.to_str() {
        Some("conf/secret") => Ok(format!("{CANARY}\n")),
        Some("conf/empty") => Ok("\n".to_owned()),
        _ => Err(std::io::ErrorKind::NotFound.into()),
    })
}

fn input(text: &str, dotenv: &[(&str, &str)], environment: &[(&str, &str)]) -> Input {
    let map = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<BTreeMap<_, _>>()
    };
    Input {
        path: "conf/veilstream.toml".into(),
        text: text.to_owned(),
        dotenv: map(dotenv),
        environment: map(environment),
        host_name: "the-host".to_owned(),
        ..Input::default()
    }
}

fn good(text: &str, environment: &[(&str, &str)]) -> Config {
    let (config, faults) = examine(text, environment);
    assert_eq!(faults, []);
    config
}

/// The faults of a text as lines.
fn faults(text: &str, environment: &[(&str, &str)]) -> Vec<String> {
    examine(text, environment).1.iter().map(ToString::to_string).collect()
}

#[test]
fn the_example_holds_every_key_with_its_default() {
    let example = include_str!("../../deploy/veilstream.example.toml");
    assert_eq!(format!("{:?}", good(example, &[])), format!("{:?}", good("", &[])));

    let input = input(example, &[], &[]);
    let (_, reading) = read(&input, &|_| Err(std::io::ErrorKind::NotFound.into()));
    let mut section = "";
    let mut written = Vec::new();
    for line in example.lines().map(|l| l.trim_start_matches("# ")) {
        if line.starts_with('[') && line.ends_with(']') {
            // Of a list of tables too: [[policy.purposes]].
            section = line.trim_matches(['[', ']']);
        } else if let Some((key, _)) = line.split_once(" = ") {
            written.push(format!("{section}.{key}"));
        }
    }
    assert!(reading.known.len() > 20);
    for key in &reading.known {
        assert!(written.contains(key), "{key} is missing in deploy/veilstream.example.toml");
    }
    // Not properties of librdkafka, the recovery provider's sections, and sentences.
    let is_elsewhere = |key: &str| {
        ["kafka.client.", "kafka.consumer.", "kafka.producer.", "keys.recovery.", "serve.jwt."]
            .iter()
            .any(|start| key.starts_with(start))
    };
    for key in written.iter().filter(|key| !is_elsewhere(key) && !key.contains(' ')) {
        assert!(
            reading.known.contains(key),
            "{key} of deploy/veilstream.example.toml is no setting"
        );
    }
}

/// The document has the settings of a whole build.
#[cfg(all(feature = "postgres", feature = "aws-kms", feature = "pkcs11"))]
mod document {
    use std::collections::BTreeSet;

    use super::*;

    /// A row of a table: the names in its first cell, and the default where it is a value.
    struct Row<'t> {
        names: Vec<&'t str>,
        default: Option<&'t str>,
    }

    fn rows(document: &str) -> Vec<Row<'_>> {
        fn code(text: &str) -> Option<&str> {
            text.strip_prefix('`')?.strip_suffix('`')
        }
        fn row(line: &str) -> Row<'_> {
            let cells: Vec<&str> =
                line.split(" | ").map(|cell| cell.trim_matches(['|', ' '])).collect();
            assert!(cells.len() == 3 && cells.iter().all(|cell| !cell.is_empty()), "{line}");
            Row { names: cells[0].split(", ").filter_map(code).collect(), default: code(cells[1]) }
        }
        let tables = document.split("| setting | default | meaning |\n").skip(1);
        tables
            .flat_map(|table| {
                table.lines().skip(1).take_while(|line| line.starts_with('|')).map(row)
            })
            .collect()
    }

    /// Names in both directions; defaults by way of the example, which holds those of the code.
    #[test]
    fn the_document_holds_every_setting_with_its_default() {
        let rows = rows(include_str!("../../docs/configuration.md"));
        let input = input("[keys.recovery]\nprovider = \"file\"\n[serve.jwt.corp]", &[], &[]);
        let (_, reading) = read(&input, &|_| Err(std::io::ErrorKind::NotFound.into()));
        // Sections of the recovery provider are those of the provider.
        let is_own =
            |name: &String| !name.starts_with("keys.recovery.") || name == "keys.recovery.provider";
        // The section of an issuer has the issuer's name.
        let any_issuer = |name: String| name.replace("serve.jwt.corp.", "serve.jwt.<name>.");
        let known: BTreeSet<String> =
            reading.known.into_iter().filter(is_own).map(any_issuer).collect();
        let documented: BTreeSet<String> =
            rows.iter().flat_map(|row| &row.names).map(|name| (*name).to_owned()).collect();
        assert_eq!(documented, known, "left: docs/configuration.md, right: the code");
        assert_eq!(
            documented.len(),
            rows.iter().flat_map(|row| &row.names).count(),
            "a setting stands twice in docs/configuration.md"
        );

        let example = include_str!("../../deploy/veilstream.example.toml");
        let mut section = String::new();
        let mut defaults = BTreeMap::new();
        for line in with_serve(example).lines() {
            if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                section = name.to_owned();
            } else if let Some((key, value)) =
                line.split_once(" = ").filter(|_| !line.starts_with('#'))
            {
                defaults.insert(format!("{section}.{key}"), value.trim_matches('"').to_owned());
            }
        }
        let stated = rows
            .iter()
            .filter_map(|row| Some((row.names.first()?.to_string(), row.default?.to_owned())));
        assert_eq!(
            stated.collect::<BTreeMap<_, _>>(),
            defaults,
            "left: docs/configuration.md, right: deploy/veilstream.example.toml"
        );
    }
}

#[test]
fn the_composed_configuration_is_good() {
    // deploy/compose/setup.sh makes it.
    let recipient = VerifierKey::generate().unwrap().recipient().unwrap().to_string();
    let input = input(include_str!("../../deploy/compose/veilstream.toml"), &[], &[]);
    let config = Config::parse(&input, &|path| {
        assert_eq!(path.to_str(), Some("/var/lib/veilstream/audit/audit.pub"));
        Ok(recipient.clone())
    })
    .unwrap();
    assert!(config.serve.is_some() && config.audit.is_some());
    assert_eq!(config.kafka.instance, "compose-0");
    assert_eq!(config.keys.store, KeyStore::Sqlite("/var/lib/veilstream/keys/keys.db".into()));
}

#[test]
fn later_layers_win() {
    let text = "[kafka]\ngroup_id = \"file\"\n[kafka.consumer]\n\"fetch.min.bytes\" = 1\n";
    let layered = |dotenv: &[(&str, &str)], environment: &[(&str, &str)]| {
        Config::parse(&input(text, dotenv, environment), &|_| unreachable!()).unwrap().kafka
    };
    let (name, property) =
        ("VEILSTREAM__KAFKA__GROUP_ID", "VEILSTREAM__KAFKA__CONSUMER__FETCH.MIN.BYTES");
    assert_eq!(layered(&[], &[]).group_id, "file");
    assert_eq!(layered(&[(name, "dotenv")], &[]).group_id, "dotenv");
    assert_eq!(layered(&[(name, "dotenv")], &[(name, "environment")]).group_id, "environment");
    assert_eq!(layered(&[], &[]).consumer["fetch.min.bytes"], "1");
    assert_eq!(layered(&[(property, "2")], &[]).consumer["fetch.min.bytes"], "2");
    assert_eq!(layered(&[(property, "2")], &[(property, "3")]).consumer["fetch.min.bytes"], "3");
}

#[test]
fn properties_keep_librdkafkas_names() {
    let text = "[kafka.client]\n\"sasl.username\" = \"me\"\n\"ssl.ca.location\" = \
        \"ca.pem\"\n[kafka.consumer]\nqueued.min.messages = 5\n\"sasl.username\" = \
        \"reader\"\n[kafka.producer]\n\"ssl.ca.location\" = \"probe\"\n";
    let kafka = good(
        text,
        &[
            ("VEILSTREAM__KAFKA__PRODUCER__COMPRESSION_TYPE", "zstd"),
            ("VEILSTREAM__KAFKA__CLIENT__SASL.PASSWORD_FILE", "secret"),
        ],
    )
    .kafka;
    let properties =
        |p: &Properties| p.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ");
    assert_eq!(
        properties(&kafka.consumer),
        format!(
            "queued.min.messages=5 sasl.password={CANARY} sasl.username=reader \
            ssl.ca.location=conf/ca.pem"
        )
    );
    assert_eq!(
        properties(&kafka.producer),
        format!(
            "compression.type=zstd sasl.password={CANARY} sasl.username=me ssl.ca.location=probe"
        )
    );
}

#[test]
fn every_fault_comes_at_once() {
    let text = r#"
        [kafka]
        bootstrap_servers = "broker"
        group_idd = "x"
        group_id = " "
        [kafka.client]
        "sasl.pasword" = "x"
        [kafka.consumer]
        "enable.auto.commit" = true
        [pipeline]
        lanes = "many"
        commit_interval = 100
        max_batch_bytes = "16"
        max_record_bytes = "1TiB"
        reject_guard = "half"
        dead_letter_topic = "a b"
        drain_timeout = ["30s"]
        [schemas]
        topic = "veilstream.schemas"
        domains = 5
        [keys]
        tenant = "Acme"
        provider = "valt"
        store = "mysql://db"
        rotation_enabled = "maybe"
        cache_refresh = "2h"
        cache_max_age = "1h"
        vault.auth = "ldap"
        vault.key = "../sys/raw"
        [keys.recovery]
        file.path = "x"
        [http]
        listen = "8787"
        [log]
        level = "loud"
        format = "xml"
        [audit]
        file = "audit.jsonl"
        retain = "a year"
        copy = "tape"
        topic_delivery = "maybe"
        [colour]
        red = 1
    "#;
    let expected = r#"
conf/veilstream.toml: audit.copy: "tape" is no second place; write "none", or name one with audit.topic or audit.postgres
conf/veilstream.toml: audit.recipient: is missing; name the verifier's public key, which `veilstream audit keygen` makes
conf/veilstream.toml: audit.retain: "a year" is no number of days; write "400d" (1d to 36500d)
conf/veilstream.toml: audit.topic_delivery: "maybe" is no delivery; write required or best_effort
conf/veilstream.toml: colour: is unknown; known here: kafka, pipeline, schemas, keys, audit, policy, http, serve, log, interop, guide
conf/veilstream.toml: http.listen: "8787" is not an address with a port; write "127.0.0.1:8787" or "0.0.0.0:8787"
conf/veilstream.toml: kafka.bootstrap_servers: "broker" is not host:port; write "broker-1:9092,broker-2:9092"
conf/veilstream.toml: kafka.client.sasl.pasword: is no librdkafka property; see librdkafka's CONFIGURATION.md for the names
conf/veilstream.toml: kafka.consumer.enable.auto.commit: cannot be set: offsets commit inside the transactions; remove it
conf/veilstream.toml: kafka.group_id: " " is empty; write a value or leave the key out
conf/veilstream.toml: kafka.group_idd: is unknown; did you mean group_id?
conf/veilstream.toml: keys.cache_refresh: is longer than cache_max_age; a key is refreshed before it is too old
conf/veilstream.toml: keys.provider: "valt" is no provider; write env, file, password, vault, aws-kms or pkcs11
conf/veilstream.toml: keys.recovery.provider: is missing; write env, file, password, vault, aws-kms or pkcs11
conf/veilstream.toml: keys.rotation_enabled: "maybe" is neither true nor false; write one of them
conf/veilstream.toml: keys.store: is no store; write "sqlite:keys.db", "postgres://host/database" or "kafka:veilstream.keys"
conf/veilstream.toml: keys.tenant: "Acme" is no name; write up to 64 of a-z, 0-9, _ and -, a letter first
conf/veilstream.toml: keys.vault.auth: "ldap" is no method; write token, approle, jwt or kubernetes
conf/veilstream.toml: keys.vault.key: "../sys/raw" is no path; write letters, digits, - and _, with / between parts
conf/veilstream.toml: log.format: "xml" is no format; write text or json
conf/veilstream.toml: log.level: "loud" is no level; write error, warn, info, debug or trace
conf/veilstream.toml: pipeline.commit_interval: "100" is not a duration; write a number with its unit, such as "100ms", "5s" or "2m"
conf/veilstream.toml: pipeline.dead_letter_topic: "a b" is no topic name; write up to 249 of a-z, A-Z, 0-9, ., _ and -
conf/veilstream.toml: pipeline.drain_timeout: is a table or a list; write one value
conf/veilstream.toml: pipeline.lanes: "many" is not allowed; write a number from 0 to 256
conf/veilstream.toml: pipeline.max_batch_bytes: "16" is not a size; write a number with its unit, such as "512KiB" or "16MiB"
conf/veilstream.toml: pipeline.max_record_bytes: "1TiB" is out of range; write 1KiB to 256MiB
conf/veilstream.toml: pipeline.reject_guard: "half" is not a guard; write "50% of 1000" (share of the last so many records) or "off"
conf/veilstream.toml: schemas.domains: is not a list of texts; write ["one", "two"]
conf/veilstream.toml: schemas.topic: is not in this version; name a directory with schemas.dir"#;
    assert_eq!(faults(text, &[]).join("\n"), expected.trim());
}

#[test]
fn faults_of_the_environment_name_the_variable() {
    assert_eq!(
        faults("", &[("VEILSTREAM__PIPELINE__LANES", "x"), ("VEILSTREAM__PIPLINE__LANES", "4")]),
        [
            "environment variable VEILSTREAM__PIPELINE__LANES: pipeline.lanes: \"x\" is not \
            allowed; write a number from 0 to 256",
            "environment variable VEILSTREAM__PIPLINE__LANES: pipline: is unknown; did you mean \
            pipeline?",
        ]
    );
}

#[test]
fn units_are_read() {
    let pipeline = good(
        "[pipeline]\ncommit_interval = \"1s\"\nmax_batch_bytes = \"512KiB\"\nmax_record_bytes = \
        \"2MB\"\nreject_guard = \"5% of 200\"\ndrain_timeout = \"1m 30s\"",
        &[],
    )
    .pipeline;
    assert_eq!(pipeline.commit_interval, Duration::from_secs(1));
    assert_eq!(pipeline.max_batch_bytes, 512 << 10);
    assert_eq!(pipeline.max_record_bytes, 2_000_000);
    assert_eq!(pipeline.reject_guard, Some(RejectGuard { percent: 5, window: 200 }));
    assert_eq!(pipeline.drain_timeout, Duration::from_secs(90));
    assert_eq!(good("[pipeline]\nreject_guard = \"off\"", &[]).pipeline.reject_guard, None);
    for wrong in ["0% of 1000", "101% of 1000", "50% of 9", "50 of 1000"] {
        assert_eq!(
            faults(&format!("[pipeline]\nreject_guard = \"{wrong}\""), &[]).len(),
            1,
            "{wrong}"
        );
    }
    assert_eq!(faults("[pipeline]\ncommit_interval = \"-5ms\"", &[]).len(), 1);
}

#[test]
fn offset_policies_are_words() {
    let kafka =
        good("[kafka]\non_missing_offset = \"latest\"\non_offset_lost = \"continue\"", &[]).kafka;
    assert_eq!(
        (kafka.on_missing_offset, kafka.on_offset_lost),
        (OnMissingOffset::Latest, OnOffsetLost::Continue)
    );
    let kafka = good("", &[("VEILSTREAM__KAFKA__ON_MISSING_OFFSET", "fail")]).kafka;
    assert_eq!(
        (kafka.on_missing_offset, kafka.on_offset_lost),
        (OnMissingOffset::Fail, OnOffsetLost::Stop)
    );
    assert_eq!(good("", &[]).kafka.on_missing_offset, OnMissingOffset::Earliest);
    assert_eq!(
        good("[pipeline]\nstall_after = \"2m\"", &[]).pipeline.stall_after,
        Duration::from_secs(120)
    );
    assert_eq!(
        faults(
            "[kafka]\non_missing_offset = \"largest\"\non_offset_lost = \
            \"skip\"\n[pipeline]\nstall_after = \"10ms\"",
            &[]
        ),
        [
            "conf/veilstream.toml: kafka.on_missing_offset: \"largest\" is no place to begin; \
            write earliest, latest or fail",
            "conf/veilstream.toml: kafka.on_offset_lost: \"skip\" is no policy; write stop or \
            continue",
            "conf/veilstream.toml: pipeline.stall_after: \"10ms\" is out of range; write 1s to 1h",
        ]
    );
}

#[test]
fn what_would_weaken_the_connection_is_refused_with_the_reason() {
    let text = r#"
        [kafka.client]
        "enable.ssl.certificate.verification" = false
        "ssl.endpoint.identification.algorithm" = "none"
        [kafka.consumer]
        "auto.offset.reset" = "latest"
        "check.crcs" = false
    "#;
    assert_eq!(
        faults(text, &[]),
        [
            "conf/veilstream.toml: kafka.client.enable.ssl.certificate.verification: cannot be \
            set: anyone on the way could pose as the broker and read raw records; name its \
            authority with ssl.ca.location",
            "conf/veilstream.toml: kafka.client.ssl.endpoint.identification.algorithm: cannot be \
            set: any holder of a certificate could pose as the broker and read raw records; \
            connect to the names in its certificate",
            "conf/veilstream.toml: kafka.consumer.auto.offset.reset: cannot be set: write \
            kafka.on_missing_offset and kafka.on_offset_lost instead",
            "conf/veilstream.toml: kafka.consumer.check.crcs: cannot be set: damaged records must \
            not be sealed as if they were whole; remove it",
        ]
    );
    let same = "[kafka.client]\n\"enable.ssl.certificate.verification\" = \
        true\n\"ssl.endpoint.identification.algorithm\" = \
        \"https\"\n[kafka.consumer]\n\"check.crcs\" = true";
    assert_eq!(faults(same, &[]), [""; 0]);
}

#[test]
fn personal_data_on_the_network_in_clear_are_warned_of() {
    let warned = |servers: &str, more: &str| -> Vec<String> {
        let config = good(&format!("[kafka]\nbootstrap_servers = \"{servers}\"\n{more}"), &[]);
        config.warnings().iter().map(ToString::to_string).collect()
    };
    let plain =
        "\"sasl.mechanism\" = \"PLAIN\"\n\"sasl.username\" = \"u\"\n\"sasl.password\" = \"p\"";
    let far = warned("localhost:9092,broker-1:9092,10.0.0.7:9092", "");
    assert_eq!(far.len(), 1);
    assert!(
        far[0].contains("plaintext")
            && far[0].contains("to broker-1:9092,10.0.0.7:9092 in clear")
            && far[0].contains("SASL_SSL"),
        "{far:?}"
    );
    assert_eq!(
        warned(
            "broker-1:9092",
            &format!("[kafka.client]\n\"security.protocol\" = \"SASL_PLAINTEXT\"\n{plain}")
        )
        .len(),
        1
    );
    assert_eq!(
        warned("broker-1:9092", "[kafka.consumer]\n\"security.protocol\" = \"SSL\"").len(),
        1,
        "the producers' side"
    );
    assert_eq!(
        warned(
            "broker-1:9092",
            &format!("[kafka.client]\n\"security.protocol\" = \"SASL_SSL\"\n{plain}")
        )
        .len(),
        0
    );
    assert_eq!(
        warned("localhost:9092,127.0.0.1:1,[::1]:9092,LOCALHOST.:9092,kafka.localhost:1", "").len(),
        0
    );
}

#[test]
fn paths_start_at_the_files_folder() {
    let config = good(
        "[schemas]\ndir = \"s\"\n[keys]\nstore = \"sqlite:k.db\"\n[keys.file]\npath = \"/etc/kek\"",
        &[],
    );
    assert_eq!(config.schemas.dir, Path::new("conf/s"));
    assert_eq!(config.keys.store, KeyStore::Sqlite("conf/k.db".into()));
    assert!(
        matches!(config.keys.provider, KeyProvider::File { path } if path == Path::new("/etc/kek"))
    );
}

#[test]
fn instance_defaults_to_the_host_name() {
    assert_eq!(good("", &[]).kafka.instance, "the-host");
    assert_eq!(good("[kafka]\ninstance = 0", &[]).kafka.instance, "0");
}

#[test]
fn lists_come_from_arrays_and_commas() {
    assert_eq!(good("[schemas]\ndomains = [\"a\", \"b\"]", &[]).schemas.domains, ["a", "b"]);
    assert_eq!(good("", &[("VEILSTREAM__SCHEMAS__DOMAINS", "a, b")]).schemas.domains, ["a", "b"]);
}

#[test]
fn plain_names_count_where_nothing_else_is_said() {
    let plain = [
        ("ENCRYPTION_KEY", CANARY),
        ("ENCRYPTION_KEY_ROTATION_ENABLED", "false"),
        ("ENCRYPTION_KEY_ROTATION_INTERVAL_DAYS", "30"),
    ];
    let keys = good("", &plain).keys;
    assert!(matches!(keys.provider, KeyProvider::Env { key } if key.expose() == CANARY));
    assert!(!keys.rotation_enabled);
    assert_eq!(keys.rotation_interval_days, 30);

    let keys = good(
        "[keys]\nprovider = \"file\"\nrotation_enabled = true\nrotation_interval_days = 7",
        &plain,
    )
    .keys;
    assert!(matches!(keys.provider, KeyProvider::File { .. }));
    assert!(keys.rotation_enabled);
    assert_eq!(keys.rotation_interval_days, 7);

    // A key file that the configuration names is not "given twice".
    let keys = good("[keys.env]\nkey_file = \"secret\"", &[("ENCRYPTION_KEY", "other")]).keys;
    assert!(matches!(keys.provider, KeyProvider::Env { key } if key.expose() == CANARY));
}

#[test]
fn secrets_come_from_files() {
    let provider = |text: &str| good(text, &[]).keys.provider;
    let password =
        provider("[keys]\nprovider = \"password\"\n[keys.password]\npassword_file = \"secret\"");
    assert!(
        matches!(password, KeyProvider::Password { password, iterations: 600_000 } if password.expose() == format!("{CANARY}\n"))
    );
    assert_eq!(
        faults(
            "[keys]\nprovider = \"env\"\n[keys.env]\nkey_file = \
            \"nowhere\"\n[keys.password]\npassword_file = \"empty\"",
            &[]
        ),
        [
            "conf/veilstream.toml: keys.env.key: is missing; set ENCRYPTION_KEY to 32 random bytes \
            in base64 (openssl rand -base64 32) or name a file with key_file",
            "conf/veilstream.toml: keys.env.key_file: names conf/nowhere, which cannot be read \
            (entity not found)",
            "conf/veilstream.toml: keys.password.password_file: names conf/empty, which is empty",
        ]
    );
    assert_eq!(
        faults(&format!("[keys.env]\nkey = \"{CANARY}\"\nkey_file = \"secret\""), &[]),
        ["conf/veilstream.toml: keys.env.key: is given twice, directly and by key_file; keep \
            one of them"]
    );
}

#[test]
fn secrets_never_show() {
    let text = format!(
        "[kafka.client]\n\"sasl.password\" = \"{CANARY}\"\n[kafka.producer]\n\"ssl.key.pem\" = \
        \"{CANARY}\"\n[keys]\nprovider = \"password\"\n[keys.password]\npassword = \
        \"{CANARY}\"\niterations = 5\n[keys.env]\nkey = \"{CANARY}\""
    );
    let (config, found) = examine(&text, &[]);
    assert_eq!(found.len(), 1);
    assert_eq!(config.kafka.producer["ssl.key.pem"], CANARY);
    assert!(!format!("{config:?} {found:?}").contains(CANARY));
    let env = good("", &[("ENCRYPTION_KEY", CANARY)]);
    assert!(!format!("{env:?}").contains(CANARY));
}

#[test]
fn syntax_errors_name_the_line_and_quote_nothing() {
    let found = faults(&format!("[keys.password]\npassword = \"{CANARY}\nx = 1"), &[]);
    assert_eq!(found.len(), 1);
    assert!(
        found[0].starts_with("conf/veilstream.toml: is not TOML: TOML parse error at line 2"),
        "{found:?}"
    );
    assert!(!found[0].contains(CANARY), "{found:?}");
}

#[test]
fn key_services_say_what_they_lack() {
    let lacks = |provider: &str, more: &str| {
        let found =
            faults(&format!("[keys]\nprovider = \"{provider}\"\n[keys.{provider}]\n{more}"), &[]);
        found
            .iter()
            .map(|fault| {
                fault.split(": is missing").next().unwrap().rsplit(' ').next().unwrap().to_owned()
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(lacks("vault", ""), ["keys.vault.token"]);
    assert_eq!(
        lacks("vault", "auth = \"approle\""),
        ["keys.vault.role_id", "keys.vault.secret_id"]
    );
    assert_eq!(lacks("vault", "auth = \"jwt\""), ["keys.vault.jwt", "keys.vault.role"]);
    assert_eq!(lacks("vault", "auth = \"kubernetes\""), ["keys.vault.role"]);
    assert_eq!(lacks("aws-kms", ""), ["keys.aws-kms.key_arns"]);
    assert_eq!(lacks("pkcs11", ""), ["keys.pkcs11.module", "keys.pkcs11.pin"]);
}

#[test]
fn a_key_service_and_its_recovery_are_read_and_show_no_secret() {
    let text = r#"
        [keys]
        provider = "vault"
        [keys.vault]
        address = "https://vault:8200"
        auth = "approle"
        role_id = "sidecar"
        secret_id_file = "secret"
        ca_file = "ca.pem"
        [keys.recovery]
        provider = "aws-kms"
        aws-kms.key_arns = ["arn:aws:kms:eu-central-1:111122223333:key/x"]
    "#;
    let variables = [
        ("VEILSTREAM__KEYS__RECOVERY__AWS_KMS__TIMEOUT", "2s"),
        ("VEILSTREAM__KEYS__VAULT__NAMESPACE", "team"),
    ];
    let keys = good(text, &variables).keys;
    let KeyProvider::Vault(vault) = &keys.provider else { panic!("{:?}", keys.provider) };
    assert_eq!(
        (vault.namespace.as_deref(), vault.ca_file.as_deref()),
        (Some("team"), Some(Path::new("conf/ca.pem")))
    );
    let Some(KeyProvider::AwsKms(kms)) = &keys.recovery else { panic!("{:?}", keys.recovery) };
    assert_eq!(kms.timeout, Duration::from_secs(2));
    let given = good("[keys]\nprovider = \"vault\"\n[keys.vault]\ntoken = \"hvs.canary\"", &[]);
    assert!(
        !format!("{given:?} {keys:?}").contains("canary") && !format!("{keys:?}").contains(CANARY)
    );
}

#[test]
fn a_store_that_hosts_share_takes_a_ledger_that_they_share() {
    let ledger = |keys: &str| good(&format!("[keys]\n{keys}"), &[]).keys.ledger;
    assert_eq!(ledger(""), KeyLedger::File("conf/erasures.jsonl".into()));
    assert_eq!(
        ledger("store = \"sqlite:keys/keys.db\""),
        KeyLedger::File("conf/keys.erasures.jsonl".into()),
        "beside the folder of the store"
    );
    assert_eq!(
        ledger("store = \"sqlite:/var/keys/keys.db\""),
        KeyLedger::File("/var/keys.erasures.jsonl".into())
    );
    assert!(
        matches!(ledger("store = \"kafka:keys\"\nledger = \"kafka:books\""), KeyLedger::Kafka(at) if at.topic == "books")
    );
    assert!(matches!(
        ledger("store = \"kafka:keys\"\nledger = \"postgres://h/books\""),
        KeyLedger::Postgres { .. }
    ));
    let fault = |keys: &str| faults(&format!("[keys]\n{keys}"), &[]).join("\n");
    for keys in [
        "store = \"kafka:keys\"",
        "store = \"postgres://h/keys\"",
        "store = \"postgres://h/keys\"\nledger = \"books.jsonl\"",
    ] {
        assert!(
            fault(keys).contains(
                "keys.ledger: is a file of this host, but other hosts erase in the same store"
            ),
            "{keys}: {}",
            fault(keys)
        );
    }
    assert!(
        fault("store = \"kafka:keys\"\nledger = \"kafka:keys\"")
            .contains("keys.ledger: is the topic of the store")
    );
    let same = fault(
        "store = \"postgres://a:b@h/keys?sslmode=disable\"\nledger = \
        \"postgres://c:canary@h/keys\"",
    );
    assert!(
        same.contains("keys.ledger: is in the database of the store") && !same.contains("canary"),
        "{same}"
    );
    assert!(
        fault("store = \"postgres://h/keys\"\nstore_schema = \"Acme;\"\nledger = \"kafka:books\"")
            .contains("keys.store_schema: \"Acme;\" is no name")
    );
}
