//! The first steps of docs/storage.md, run as they stand there: broker, sidecar, Kafka Connect,
//! PostgreSQL and the reading service, with the files and settings of `docker-compose.yml`. A script
//! stands for `docker compose`; no container runs.

use std::fs;

use crate::compose::{Containers, root, scripts};
use crate::connect_worker::{Connect, home};
use crate::kafka::{Kafka, libs};
use crate::ports::free_port;
use crate::postgres_server::server;
use crate::sidecar::{text, veilstream};

/// `up` runs what `keys`, `serve` and `veilstream` run; the others run already.
const DOCKER: &str = r#"#!/bin/bash
set -eu
[ "$1" = compose ]; shift
[ "$1" != --profile ] || shift 2
here() { local text=${1//\/var\/lib\/veilstream/$LIB}; text=${text//kafka:19092/$BOOTSTRAP}; echo "${text//\/etc\/veilstream/$ETC}"; }
case $1 in
  up) cd "$LIB"; bash -eu -c "$KEYS_COMMAND"
      for command in "$SERVE_COMMAND" "$RUN_COMMAND"; do
        bash -c "exec veilstream $command" 2>> "$SANDBOX/veilstream.log" > /dev/null & echo $! >> "$SANDBOX/pids"
      done ;;
  exec) [ "$2" = -T ]; service=$3; shift 3; words=(); for word; do words+=("$(here "$word")"); done
      case $service in
        serve) cd "$LIB"; exec "${words[@]}" ;;
        kafka) [ "${words[0]}" = /opt/kafka/bin/kafka-console-producer.sh ]
            exec java -Xmx128m -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp "$KAFKA_LIBS/*" org.apache.kafka.tools.ConsoleProducer "${words[@]:1}" ;;
        postgres) exec "$POSTGRES/${words[0]}" "${words[@]:1}" ;;
      esac ;;
  cp) cp "$(here "${2#serve:}")" "$3" ;;
  *) echo "docker compose $1 is not known here" >&2; exit 1 ;;
esac
"#;

/// What each must show.
const EXPECTED: [(&str, &[&str]); 5] = [
    ("storage-start", &[]),
    ("storage-write", &["42|vs1.", "|1~"]),
    ("storage-search", &["\"id\" : 42", "\"email\" : \"vs1."]),
    ("storage-reveal", &["\"email\" : \"ada@example.com\"", "\"phone\" : \"+1 415 555 0101\""]),
    ("storage-erase", &["\"email\":{\"status\":\"erased\"}"]),
];

#[test]
fn the_first_steps_of_storage_work_as_they_stand() {
    let broker = Kafka::start("storage-steps", 1);
    let containers = Containers::new(&["keys", "veilstream", "serve"]);
    containers.listen();
    containers.docker(DOCKER);
    let config = containers.path("etc/veilstream.toml");
    let settings = fs::read_to_string(&config).unwrap();
    assert!(settings.contains("kafka:19092"));
    fs::write(&config, settings.replace("kafka:19092", &broker.bootstrap)).unwrap();
    assert!(containers.service("topics").contains("--topic=customers.raw"));
    broker.create_topic("customers.raw", 4);
    database(&containers);
    let connect = connect(&containers, &broker);

    let steps = scripts("docs/storage.md");
    let names: Vec<&str> = steps.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, EXPECTED.map(|(name, _)| name));
    for ((name, script), (_, parts)) in steps.iter().zip(EXPECTED) {
        let output = containers
            .bash(script)
            .env("BOOTSTRAP", &broker.bootstrap)
            .env("KAFKA_LIBS", libs())
            .env("POSTGRES", &server().bin)
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", server().port.to_string())
            .env("RUN_COMMAND", containers.words("veilstream", "command"))
            .output()
            .unwrap();
        let log = fs::read_to_string(containers.path("veilstream.log")).unwrap_or_default();
        let said = text(&output);
        assert!(output.status.success(), "{name}: {said}\n{log}\n{}", connect.log());
        for part in parts {
            assert!(said.contains(part), "{name} does not say {part:?}:\n{said}\n{log}");
        }
    }
    assert!(!connect.has_failed("customers-sink"), "{}", connect.log());
}

/// The database of the service `postgres`.
fn database(containers: &Containers) {
    let service = containers.service("postgres");
    for line in ["POSTGRES_DB: customers", "POSTGRES_USER: sink", "POSTGRES_PASSWORD: trying-out"] {
        assert!(service.contains(line), "{line}");
    }
    assert!(service.contains("./deploy/connect/customers.sql:/docker-entrypoint-initdb.d/"));
    let admin = |name: &str, sql: &str| server().admin(name).batch_execute(sql).unwrap();
    admin("postgres", "CREATE ROLE sink LOGIN PASSWORD 'trying-out'");
    admin("postgres", "CREATE DATABASE customers OWNER sink");
    let table = fs::read_to_string(root().join("deploy/connect/customers.sql")).unwrap();
    admin("customers", &format!("SET ROLE sink; {table}"));
}

/// The worker of the service `connect`, with its settings and its connector.
fn connect(containers: &Containers, broker: &Kafka) -> Connect {
    let service = containers.service("connect");
    let of = |name: &str| {
        let line = service.lines().find_map(|line| line.trim().strip_prefix(&format!("{name}: ")));
        line.unwrap().to_owned()
    };
    let (from, to) = ("postgres:5432", format!("127.0.0.1:{}", server().port));
    let url = of("SINK_URL");
    assert!(url.contains(from));
    let port = free_port();
    let settings = fs::read_to_string(root().join("deploy/connect/worker.properties")).unwrap();
    let mut replaced = settings;
    for (from, to) in [
        ("kafka:19092", broker.bootstrap.clone()),
        ("0.0.0.0:8083", format!("127.0.0.1:{port}")),
        ("/opt/connect/plugins", home().join("plugins").display().to_string()),
        ("/tmp/connect.offsets", containers.path("connect.offsets").display().to_string()),
    ] {
        assert!(replaced.contains(from), "{from}");
        replaced = replaced.replace(from, &to);
    }
    let connector = fs::read_to_string(root().join("deploy/connect/customers-sink.json")).unwrap();
    let environment = [
        ("SINK_URL", &*url.replace(from, &to)),
        ("SINK_USER", &*of("SINK_USER")),
        ("SINK_PASSWORD", &*of("SINK_PASSWORD")),
    ];
    let dir = containers.path("connect");
    fs::create_dir(&dir).unwrap();
    Connect::with(&dir, port, &replaced, &connector, &environment)
}

/// The committed files are what is printed, and the container mounts them where it reads them.
#[test]
fn the_files_of_the_worker_are_what_is_printed() {
    let schema = root().join("schemas/customers.json");
    for (what, file) in [("ddl", "customers.sql"), ("connect", "customers-sink.json")] {
        let output = veilstream(&["schema", what, "--schema"]).arg(&schema).output().unwrap();
        let path = root().join("deploy/connect").join(file);
        let committed = fs::read_to_string(&path).unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            committed,
            "run: veilstream schema {what} --schema schemas/customers.json > deploy/connect/{file}"
        );
    }
    let containers = Containers::new(&[]);
    let service = containers.service("connect");
    for (from, to) in
        [("worker.properties", "worker.properties"), ("customers-sink.json", "sink.json")]
    {
        let mount = format!("- ./deploy/connect/{from}:/etc/connect/{to}:ro");
        assert!(service.contains(&mount), "{mount}");
        assert!(containers.words("connect", "command").contains(&format!("/etc/connect/{to}")));
    }
    let dockerfile = fs::read_to_string(root().join("deploy/connect/Dockerfile")).unwrap();
    let makefile = fs::read_to_string(root().join("Makefile")).unwrap();
    let version = makefile.lines().find_map(|line| line.strip_prefix("DEBEZIUM := ")).unwrap();
    assert!(dockerfile.contains(&format!("debezium-connector-jdbc:{version}:")), "{version}");
    let pom = fs::read_to_string(root().join("tests/support/connect/pom.xml")).unwrap();
    let kafka = pom.split("<version>").nth(2).unwrap().split('<').next().unwrap();
    assert!(dockerfile.contains(&format!("FROM apache/kafka:{kafka}\n")), "{kafka}");
    // The health check restarts the tasks of the connector that is mounted.
    let connector: serde_json::Value = serde_json::from_str(
        &fs::read_to_string(root().join("deploy/connect/customers-sink.json")).unwrap(),
    )
    .unwrap();
    let name = connector["name"].as_str().unwrap();
    assert!(service.contains(&format!("/connectors/{name}/restart?includeTasks=true")));
}
