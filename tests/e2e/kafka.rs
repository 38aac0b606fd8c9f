//! The real broker, one for the suite, and what tests write to it.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

/// Any 22 characters of base64 will do.
const CLUSTER: &str = "MkU3OEVBNTcwNTJENDM2Qg";

/// Ends the broker when the pipe to it closes, that is whenever and however the test process ends.
const SUPERVISOR: &str = r#"trap '' INT TERM HUP
java -Xms256m -Xmx512m -XX:+UseSerialGC -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp "$1/*" kafka.Kafka "$2/server.properties" > "$2/broker.log" 2>&1 &
broker=$!
read -r _
kill "$broker"
wait "$broker"
rm -rf "$2""#;

/// The running broker.
pub(crate) struct Kafka {
    pub(crate) bootstrap: String,
    dir: PathBuf,
    _supervisor: ChildStdin,
}

/// The broker of this suite, started by whoever asks first.
pub(crate) fn kafka() -> &'static Kafka {
    static KAFKA: LazyLock<Kafka> = LazyLock::new(Kafka::start);
    &KAFKA
}

impl Kafka {
    fn start() -> Self {
        let libs = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/kafka/libs");
        assert!(libs.is_dir(), "no broker in {}: run `make setup`", libs.display());
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kafka-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let [port, controller] = free_ports();
        fs::write(dir.join("server.properties"), properties(&dir, port, controller)).unwrap();
        let format = Command::new("java")
            .args(["-Xmx128m", "-cp"])
            .arg(libs.join("*"))
            .args(["kafka.tools.StorageTool", "format", "--standalone", "-t", CLUSTER, "-c"])
            .arg(dir.join("server.properties"))
            .output()
            .unwrap();
        assert!(format.status.success(), "{}", String::from_utf8_lossy(&format.stderr));
        let mut supervisor = Command::new("sh")
            .args(["-c", SUPERVISOR, "sh"])
            .args([&libs, &dir])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stdin = supervisor.stdin.take().unwrap();
        let kafka = Self { bootstrap: format!("127.0.0.1:{port}"), dir, _supervisor: stdin };
        // Not client errors but an answer says that it is up; the log says why not.
        wait_for(Duration::from_secs(90), "the broker to answer", || {
            assert!(supervisor.try_wait().unwrap().is_none(), "{}", fs::read_to_string(kafka.dir.join("broker.log")).unwrap_or_default());
            kafka.admin().inner().fetch_metadata(None, Duration::from_secs(2)).is_ok()
        });
        kafka
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        let mut config = self.client();
        config.set("log_level", "0").create().unwrap()
    }

    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap);
        config
    }

    /// Creates a topic.
    pub(crate) fn create_topic(&self, name: &str, partitions: i32) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1)).set("max.message.bytes", "4194304");
        let admin = self.admin();
        let results = runtime.block_on(admin.create_topics([&topic], &AdminOptions::new())).unwrap();
        results[0].as_ref().unwrap();
        wait_for(Duration::from_secs(10), "the new topic", || {
            let metadata = admin.inner().fetch_metadata(Some(name), Duration::from_secs(5)).unwrap();
            metadata.topics()[0].partitions().len() == usize::try_from(partitions).unwrap()
        });
    }

    /// An idempotent producer.
    pub(crate) fn feeder(&self) -> Feeder {
        Feeder(self.client().set("enable.idempotence", "true").set("linger.ms", "20").set("message.max.bytes", "4000000").create().unwrap())
    }

    /// All bytes the broker has on disk for a topic.
    pub(crate) fn segments(&self, topic: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        for entry in fs::read_dir(self.dir.join("data")).unwrap().map(Result::unwrap) {
            if entry.file_name().to_string_lossy().rsplit_once('-').is_some_and(|(name, _)| name == topic) {
                for file in fs::read_dir(entry.path()).unwrap().map(Result::unwrap).filter(|f| f.path().extension().is_some_and(|e| e == "log")) {
                    bytes.extend(fs::read(file.path()).unwrap());
                }
            }
        }
        assert!(!bytes.is_empty(), "{topic} has no segment on disk");
        bytes
    }
}

/// Writes input records.
pub(crate) struct Feeder(BaseProducer);

/// An input record.
pub(crate) struct Input<'a> {
    pub(crate) topic: &'a str,
    pub(crate) partition: i32,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) timestamp: i64,
    pub(crate) headers: &'a [(&'a str, Option<&'a [u8]>)],
}

impl Feeder {
    /// Queues a record; waits while the queue is full.
    pub(crate) fn send(&self, input: &Input<'_>) {
        let headers = input.headers.iter().fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: *value }));
        let mut record = BaseRecord::<[u8], [u8]>::to(input.topic).partition(input.partition).timestamp(input.timestamp).headers(headers);
        record.key = input.key;
        record.payload = input.value;
        loop {
            match self.0.send(record) {
                Ok(()) => return,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    self.0.poll(Duration::from_millis(5));
                    record = back;
                }
                Err((error, _)) => panic!("{error}"),
            }
        }
    }

    /// Waits until the broker has everything.
    pub(crate) fn finish(&self) {
        self.0.flush(Duration::from_secs(60)).unwrap();
    }
}

/// Waits until `holds`, at most `limit`.
pub(crate) fn wait_for(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    while !holds() {
        assert!(Instant::now() < end, "waited {} s in vain for {what}", limit.as_secs());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Ports that are free now; held together, so that they differ.
fn free_ports<const N: usize>() -> [u16; N] {
    [(); N].map(|()| TcpListener::bind(("127.0.0.1", 0)).unwrap()).map(|listener| listener.local_addr().unwrap().port())
}

fn properties(dir: &Path, port: u16, controller: u16) -> String {
    format!(
        "process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
log.dirs={}
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
num.network.threads=2
num.io.threads=4
",
        dir.join("data").display()
    )
}
