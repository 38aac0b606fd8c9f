//! The configuration: `veilstream.toml`, `.env` and `VEILSTREAM__SECTION__KEY`, read into types
//! with every fault reported at once.

mod access;
mod audit;
mod fault;
mod guide;
mod keys;
mod policy;
mod read;
mod secret;
mod serve;
mod source;
mod units;
mod value_error;

#[cfg(test)]
mod tests;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use audit::{Audit, AuditPostgres, AuditTopic, Delivery};
pub use fault::{ConfigFault, Faults};
pub use guide::Guide;
pub use keys::{KafkaTopic, KeyLedger, KeyProvider, KeyStore, Keys};
pub use policy::{Budget, Limit, Pattern, Policy, Purpose};
pub use read::ReadFile;
pub use secret::{Properties, Secret};
pub use serve::{
    CredentialKind, JwtIssuer, Network, PrincipalKind, Serve, ServeLimits, ServerCertificate, role,
};
pub use source::Input;
pub use units::RejectGuard;
pub use value_error::ValueError;

use veilstream_keys::interop::InteropFiles;

use crate::exit::faults_error;
use crate::kafka::settings::{self, Side};

use read::{ConfigReader, Section, not_empty};

/// What an operator should know of a configuration that is no fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    /// Raw records have personal data in clear, and cross a network.
    #[error(
        "kafka.{section}: security.protocol is {protocol}: raw records, with all personal data, \
        cross the network to {hosts} in clear; set security.protocol to SSL or SASL_SSL"
    )]
    Plaintext {
        /// `consumer` or `producer`.
        section: &'static str,
        /// The protocol.
        protocol: String,
        /// Brokers that are not this machine, separated by commas.
        hosts: String,
    },
}

/// Everything `veilstream` can be told.
#[derive(Debug, Clone)]
pub struct Config {
    /// Settings that did not come from the file, by name.
    pub overrides: Vec<String>,
    /// A `.env` that does not count, as it is not beside the file.
    pub ignored_dotenv: Option<PathBuf>,
    /// `[kafka]`
    pub kafka: Kafka,
    /// `[pipeline]`
    pub pipeline: Pipeline,
    /// `[schemas]`
    pub schemas: Schemas,
    /// `[keys]`
    pub keys: Keys,
    /// `[policy]`
    pub policy: Policy,
    /// `[http]`
    pub http: Http,
    /// `[serve]`; `None`: there is no such section.
    pub serve: Option<Serve>,
    /// `[log]`
    pub log: Log,
    /// `[audit]`; `None`: nothing is audited.
    pub audit: Option<Audit>,
    /// `[guide]`
    pub guide: Guide,
}

/// Brokers and who this process is to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kafka {
    /// `host:port`, separated by commas.
    pub bootstrap_servers: String,
    /// The consumer group.
    pub group_id: String,
    /// Stable name of this process in the group; the host name where it is not configured.
    pub instance: String,
    /// Start of every `transactional.id`.
    pub transactional_id_prefix: String,
    /// Where reading begins where the group has no committed offset.
    pub on_missing_offset: OnMissingOffset,
    /// What happens to a partition whose committed offset is no place in its log any more.
    pub on_offset_lost: OnOffsetLost,
    /// librdkafka properties of the consumer, `[kafka.client]` (both sides) included.
    pub consumer: Properties,
    /// librdkafka properties of the producers, `[kafka.client]` (both sides) included.
    pub producer: Properties,
    /// Region of the Amazon MSK cluster, where `sasl.mechanism` is `AWS_MSK_IAM`: as configured,
    /// else as the brokers' names say.
    pub aws_region: Option<String>,
}

/// Where reading begins on a partition for which the group has no committed offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnMissingOffset {
    /// At the oldest record that is there.
    Earliest,
    /// Behind the newest: what is in the topic already stays unprotected where it is.
    Latest,
    /// Nowhere: the partition waits for an operator.
    Fail,
}

/// What happens to a partition whose committed offset is no place in its log any more: retention
/// has passed it, the log was truncated, or another topic has the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnOffsetLost {
    /// It waits for an operator.
    Stop,
    /// It goes on at the next place there is; what was missed is counted.
    Continue,
}

/// How records flow.
#[derive(Debug, Clone)]
pub struct Pipeline {
    /// Worker threads; 0 is one per core.
    pub lanes: usize,
    /// A transaction commits at the latest after this time.
    pub commit_interval: Duration,
    /// A transaction commits at the latest with so many input records.
    pub max_batch_records: usize,
    /// A transaction commits at the latest with so many input bytes.
    pub max_batch_bytes: usize,
    /// A longer input value is rejected (`too_large`).
    pub max_record_bytes: usize,
    /// Input bytes a lane holds.
    pub max_inflight_bytes: usize,
    /// Where sealed rejects go.
    pub dead_letter_topic: String,
    /// Sanitized records get a header that names their schema.
    pub schema_header: bool,
    /// A partition that has records and does not move for so long makes the process unready.
    pub stall_after: Duration,
    /// When a route stops instead of dead-lettering everything; `None` is off.
    pub reject_guard: Option<RejectGuard>,
    /// How long a stop may take before open transactions are aborted.
    pub drain_timeout: Duration,
}

/// Where schema documents come from.
#[derive(Debug, Clone)]
pub struct Schemas {
    /// Directory of `<name>.json` documents.
    pub dir: PathBuf,
    /// Domains that documents may use.
    pub domains: Vec<String>,
    /// How often the directory is looked at for changes.
    pub reload_interval: Duration,
}

/// The HTTP listener.
#[derive(Debug, Clone)]
pub struct Http {
    /// Address and port; port 0 takes a free one.
    pub listen: SocketAddr,
}

/// What is logged and how.
#[derive(Debug, Clone)]
pub struct Log {
    /// The least level that is logged.
    pub level: tracing::Level,
    /// Shape of a line.
    pub format: LogFormat,
}

/// Shape of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}

/// Loads a configuration for a command.
///
/// # Errors
/// Every fault, one a line, with [`crate::exit::Exit::Usage`].
pub fn load_config(path: &Path) -> anyhow::Result<Config> {
    Config::load(path).map_err(|Faults(faults)| faults_error(&faults))
}

impl Config {
    /// Reads the file at `path`, the `.env` beside it and the environment.
    ///
    /// # Errors
    /// Every fault at once.
    pub fn load(path: &Path) -> Result<Self, Faults> {
        let input = Input::from_system(path).map_err(|fault| Faults(vec![fault]))?;
        Self::parse(&input, &|path| std::fs::read_to_string(path))
    }

    /// Reads a configuration from what is given; `read_file` reads what `*_file` settings name.
    ///
    /// # Errors
    /// Every fault at once.
    pub fn parse(input: &Input, read_file: &ReadFile<'_>) -> Result<Self, Faults> {
        let (config, faults) = Self::examine(input, read_file);
        if faults.is_empty() { Ok(config) } else { Err(Faults(faults)) }
    }

    /// What to know of it, though it is no fault.
    #[must_use]
    pub fn warnings(&self) -> Vec<Warning> {
        let sides = [("consumer", &self.kafka.consumer), ("producer", &self.kafka.producer)];
        let mut warnings: Vec<Warning> = Vec::new();
        for (section, properties) in sides {
            let protocol = properties.get("security.protocol").map_or("plaintext", String::as_str);
            let hosts: Vec<&str> = self
                .kafka
                .bootstrap_servers
                .split(',')
                .filter(|server| !is_this_machine(server))
                .collect();
            // Both sides have the same brokers: once is enough.
            if protocol.to_ascii_lowercase().ends_with("plaintext")
                && !hosts.is_empty()
                && warnings.is_empty()
            {
                warnings.push(Warning::Plaintext {
                    section,
                    protocol: protocol.to_owned(),
                    hosts: hosts.join(","),
                });
            }
        }
        warnings
    }

    /// Like [`Config::parse`], for callers that check further: defaults stand where the faults are.
    /// Not for running.
    pub fn examine(input: &Input, read_file: &ReadFile<'_>) -> (Self, Vec<ConfigFault>) {
        let (config, reading) = read(input, read_file);
        let mut faults = reading.faults;
        faults.sort();
        (config, faults)
    }
}

fn read<'r>(input: &Input, read_file: &'r ReadFile<'r>) -> (Config, ConfigReader<'r>) {
    let mut faults = Vec::new();
    let tree = input.merge(&mut faults);
    let base = input.path.parent().map(Path::to_owned).unwrap_or_default();
    let mut reading = ConfigReader {
        place: input.path.display().to_string(),
        base,
        read_file,
        faults,
        known: Vec::new(),
    };
    let mut config = config(Section::root(tree, &mut reading), &input.host_name);
    (config.overrides, config.ignored_dotenv) = (input.overrides(), input.ignored.clone());
    (config, reading)
}

fn config(mut root: Section<'_, '_>, host_name: &str) -> Config {
    let kafka = kafka(root.section("kafka"), host_name);
    let has_serve = root.has("serve");
    let mut config = Config {
        pipeline: pipeline(root.section("pipeline")),
        schemas: schemas(root.section("schemas")),
        keys: keys::read(root.section("keys"), &kafka),
        audit: audit::read(root.section("audit"), &kafka),
        kafka,
        policy: policy::read(root.section("policy")),
        http: http(root.section("http")),
        serve: serve::read(root.section("serve"), has_serve),
        log: log(root.section("log")),
        guide: Guide::default(),
        overrides: Vec::new(),
        ignored_dotenv: None,
    };
    config.keys.interop = interop(root.section("interop"));
    config.guide = guide::read(root.section("guide"), &config.policy);
    root.finish();
    config
}

fn kafka(mut s: Section<'_, '_>, host_name: &str) -> Kafka {
    let of = |side| move |name: &str, value: &str| settings::refused(side, name, value);
    let client = s.section("client").properties(|name, value| {
        of(Side::Consumer)(name, value).or_else(|| of(Side::Producer)(name, value))
    });
    let consumer = client.clone().with(s.section("consumer").properties(of(Side::Consumer)));
    let producer = client.with(s.section("producer").properties(of(Side::Producer)));
    let bootstrap_servers = s.parse("bootstrap_servers", "localhost:9092".to_owned(), servers);
    let aws_region = s
        .parse("aws_region", None, |text| access::region(text).map(Some))
        .or_else(|| access::region_of(&bootstrap_servers));
    for (key, message) in access::judge(&consumer, &producer, aws_region.as_deref()) {
        s.missing(&key, &message);
    }
    let kafka = Kafka {
        bootstrap_servers,
        group_id: s.parse("group_id", "veilstream".to_owned(), not_empty),
        instance: s.parse("instance", host_name.to_owned(), not_empty),
        transactional_id_prefix: s.parse(
            "transactional_id_prefix",
            "veilstream".to_owned(),
            not_empty,
        ),
        on_missing_offset: s.parse("on_missing_offset", OnMissingOffset::Earliest, |t| match t {
            "earliest" => Ok(OnMissingOffset::Earliest),
            "latest" => Ok(OnMissingOffset::Latest),
            "fail" => Ok(OnMissingOffset::Fail),
            _ => Err(ValueError::form("no place to begin", "earliest, latest or fail")),
        }),
        on_offset_lost: s.parse("on_offset_lost", OnOffsetLost::Stop, |t| match t {
            "stop" => Ok(OnOffsetLost::Stop),
            "continue" => Ok(OnOffsetLost::Continue),
            _ => Err(ValueError::form("no policy", "stop or continue")),
        }),
        consumer,
        producer,
        aws_region,
    };
    s.finish();
    kafka
}

fn pipeline(mut s: Section<'_, '_>) -> Pipeline {
    let pipeline = Pipeline {
        lanes: s.number("lanes", 0, 0..=256),
        commit_interval: s
            .parse("commit_interval", Duration::from_millis(100), |t| duration_in(t, "1ms", "10s")),
        max_batch_records: s.number("max_batch_records", 5000, 1..=1_000_000),
        max_batch_bytes: s.parse("max_batch_bytes", 16 << 20, |t| bytes_in(t, "1KiB", "1GiB")),
        max_record_bytes: s.parse("max_record_bytes", 8 << 20, |t| bytes_in(t, "1KiB", "256MiB")),
        max_inflight_bytes: s
            .parse("max_inflight_bytes", 32 << 20, |t| bytes_in(t, "64KiB", "4GiB")),
        dead_letter_topic: s.parse("dead_letter_topic", "veilstream.dead-letter".to_owned(), topic),
        schema_header: s.flag("schema_header", true),
        reject_guard: s.parse(
            "reject_guard",
            Some(RejectGuard { percent: 50, window: 1000 }),
            |t| if t == "off" { Ok(None) } else { t.parse().map(Some) },
        ),
        drain_timeout: s
            .parse("drain_timeout", Duration::from_secs(30), |t| duration_in(t, "1s", "10m")),
        stall_after: s
            .parse("stall_after", Duration::from_secs(30), |t| duration_in(t, "1s", "1h")),
    };
    s.finish();
    pipeline
}

fn schemas(mut s: Section<'_, '_>) -> Schemas {
    s.later("topic", "name a directory with schemas.dir");
    let schemas = Schemas {
        dir: s.path("dir", "schemas"),
        domains: s.list("domains"),
        reload_interval: s
            .parse("reload_interval", Duration::from_secs(5), |t| duration_in(t, "1s", "1h")),
    };
    s.finish();
    schemas
}

/// `[interop]`: keys of other systems.
fn interop(mut s: Section<'_, '_>) -> InteropFiles {
    let mut fernet = s.section("fernet");
    let keys_file = fernet.optional_path("keys_file");
    fernet.finish();
    let mut pgcrypto = s.section("pgcrypto");
    let passphrases_file = pgcrypto.optional_path("passphrases_file");
    pgcrypto.finish();
    let base = s.base().to_owned();
    s.finish();
    InteropFiles { base, fernet: keys_file, pgcrypto: passphrases_file }
}

fn http(mut s: Section<'_, '_>) -> Http {
    let default = SocketAddr::from((Ipv4Addr::LOCALHOST, 8787));
    let listen = s.parse("listen", default, |t| {
        t.parse().map_err(|_| {
            ValueError::form("not an address with a port", "\"127.0.0.1:8787\" or \"0.0.0.0:8787\"")
        })
    });
    s.finish();
    Http { listen }
}

fn log(mut s: Section<'_, '_>) -> Log {
    let level = s.parse("level", tracing::Level::INFO, |t| match t {
        "error" => Ok(tracing::Level::ERROR),
        "warn" => Ok(tracing::Level::WARN),
        "info" => Ok(tracing::Level::INFO),
        "debug" => Ok(tracing::Level::DEBUG),
        "trace" => Ok(tracing::Level::TRACE),
        _ => Err(ValueError::form("no level", "error, warn, info, debug or trace")),
    });
    let format = s.parse("format", LogFormat::Text, |t| match t {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(ValueError::form("no format", "text or json")),
    });
    s.finish();
    Log { level, format }
}

/// Whether a broker's address (`host:port`) leaves no network interface but the loopback.
pub fn is_this_machine(server: &str) -> bool {
    let host = server.rsplit_once(':').map_or(server, |(host, _)| host);
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .trim_end_matches('.')
        .to_ascii_lowercase();
    host == "localhost"
        || host.ends_with(".localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn servers(text: &str) -> Result<String, ValueError> {
    let well_formed = |server: &str| {
        server
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
    };
    let servers: Vec<&str> = text.split(',').map(str::trim).collect();
    if servers.iter().all(|s| well_formed(s)) {
        Ok(servers.join(","))
    } else {
        Err(ValueError::form("not host:port", "\"broker-1:9092,broker-2:9092\""))
    }
}

/// The grammar of all names in tokens (docs/formats.md), which tenants, purposes, issuers and API
/// keys share.
///
/// # Errors
/// What to write instead.
pub fn name(text: &str) -> Result<String, ValueError> {
    let mut chars = text.chars();
    let starts = chars.next().is_some_and(|c| c.is_ascii_lowercase());
    if starts
        && text.len() <= 64
        && chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-')
    {
        Ok(text.to_owned())
    } else {
        Err(ValueError::form("no name", "up to 64 of a-z, 0-9, _ and -, a letter first"))
    }
}

/// Kafka's own rule for topic names.
fn topic(text: &str) -> Result<String, ValueError> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if (1..=249).contains(&text.len()) && text.chars().all(legal) && text != "." && text != ".." {
        Ok(text.to_owned())
    } else {
        Err(ValueError::form("no topic name", "up to 249 of a-z, A-Z, 0-9, ., _ and -"))
    }
}

fn duration_in(
    text: &str,
    least: &'static str,
    most: &'static str,
) -> Result<Duration, ValueError> {
    within(units::duration, text, least, most)
}

fn bytes_in(text: &str, least: &'static str, most: &'static str) -> Result<usize, ValueError> {
    within(units::bytes, text, least, most)
}

fn within<T: PartialOrd>(
    parse: fn(&str) -> Result<T, ValueError>,
    text: &str,
    least: &'static str,
    most: &'static str,
) -> Result<T, ValueError> {
    let value = parse(text)?;
    if (parse(least)?..=parse(most)?).contains(&value) {
        Ok(value)
    } else {
        Err(ValueError::Range { least, most })
    }
}
