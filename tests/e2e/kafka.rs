//! The real broker. One serves the whole suite; a test that stops it starts its own.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use veilstream::config::{Config, Input};

/// Any 22 characters of base64 will do.
const CLUSTER: &str = "MkU3OEVBNTcwNTJENDM2Qg";
/// Who may only what ACLs say, and the password.
pub(crate) const LIMITED: (&str, &str) = ("limited", "limited-secret");

/// Kills the broker at a line or at the end of its input, that is whenever and however the test process ends; then the files go too.
/// (`trap ''` would not do: what a shell ignores its children ignore, and the broker with them.)
const SUPERVISOR: &str = r#"trap : INT TERM HUP
java -Xms256m -Xmx512m -XX:+UseSerialGC -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp "$1/*" kafka.Kafka "$2/server.properties" >> "$2/broker.log" 2>&1 &
broker=$!
read -r again
kill -KILL "$broker"
wait "$broker"
[ -n "$again" ] || rm -rf "$2""#;

/// A running broker with three listeners: open to all, the same behind a proxy that a test may put there, and one for [`LIMITED`].
pub(crate) struct Kafka {
    pub(crate) bootstrap: String,
    pub(crate) limited: String,
    /// Where the proxy's clients connect to, and the port behind it.
    pub(crate) proxied: (TcpListener, u16),
    dir: PathBuf,
    running: Mutex<Option<(Child, ChildStdin)>>,
}

/// The broker of this suite, started by whoever asks first.
pub(crate) fn kafka() -> &'static Kafka {
    static KAFKA: LazyLock<Kafka> = LazyLock::new(|| Kafka::start("kafka"));
    &KAFKA
}

impl Kafka {
    /// A new cluster of one; `name` is unique in the suite.
    pub(crate) fn start(name: &str) -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let [port, controller, behind, limited] = free_ports();
        let front = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let proxy = front.local_addr().unwrap().port();
        fs::write(dir.join("server.properties"), properties(&dir, &[port, controller, behind, limited], proxy)).unwrap();
        let format = Command::new("java")
            .args(["-Xmx128m", "-cp"])
            .arg(libs().join("*"))
            .args(["kafka.tools.StorageTool", "format", "--standalone", "-t", CLUSTER, "-c"])
            .arg(dir.join("server.properties"))
            .output()
            .unwrap();
        assert!(format.status.success(), "{}", String::from_utf8_lossy(&format.stderr));
        let address = |port| format!("127.0.0.1:{port}");
        let broker = Self { bootstrap: address(port), limited: address(limited), proxied: (front, behind), dir, running: Mutex::new(None) };
        broker.up();
        broker
    }

    /// Starts it, again after [`Kafka::down`], with the same data.
    pub(crate) fn up(&self) {
        let mut supervisor = Command::new("sh")
            .args(["-c", SUPERVISOR, "sh"])
            .args([&libs(), &self.dir])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stdin = supervisor.stdin.take().unwrap();
        // Not client errors but an answer says that it is up; the log says why not.
        wait_for(Duration::from_secs(90), "the broker to answer", || {
            assert!(supervisor.try_wait().unwrap().is_none(), "{}", fs::read_to_string(self.dir.join("broker.log")).unwrap_or_default());
            self.admin().inner().fetch_metadata(None, Duration::from_secs(2)).is_ok()
        });
        *self.running.lock().unwrap() = Some((supervisor, stdin));
    }

    /// Kills it; its data stay.
    pub(crate) fn down(&self) {
        let (mut supervisor, mut stdin) = self.running.lock().unwrap().take().unwrap();
        std::io::Write::write_all(&mut stdin, b"again\n").unwrap();
        supervisor.wait().unwrap();
    }

    /// How the product is told to reach it.
    pub(crate) fn config(&self) -> veilstream::config::Kafka {
        let text = format!("[kafka]\nbootstrap_servers = \"{}\"\n", self.bootstrap);
        Config::parse(&Input { text, host_name: "h".to_owned(), ..Input::default() }, &|_| unreachable!()).unwrap().kafka
    }

    /// A client for looking at things.
    pub(crate) fn admin(&self) -> AdminClient<DefaultClientContext> {
        let mut config = self.client();
        config.set("log_level", "0").create().unwrap()
    }

    /// Settings of a client.
    pub(crate) fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap);
        config
    }

    /// Creates a topic.
    pub(crate) fn create_topic(&self, name: &str, partitions: i32) {
        self.create_topic_with(name, partitions, &[("max.message.bytes", "4194304")]);
    }

    pub(crate) fn create_topic_with(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let topic = settings.iter().fold(NewTopic::new(name, partitions, TopicReplication::Fixed(1)), |new, (name, value)| new.set(name, value));
        let admin = self.admin();
        let results = runtime.block_on(admin.create_topics([&topic], &AdminOptions::new())).unwrap();
        results[0].as_ref().unwrap();
        wait_for(Duration::from_secs(10), "the new topic", || {
            let metadata = admin.inner().fetch_metadata(Some(name), Duration::from_secs(5)).unwrap();
            metadata.topics()[0].partitions().len() == usize::try_from(partitions).unwrap()
        });
    }

    /// Kafka's own console consumer, as the README starts it; it ends after so many records.
    pub(crate) fn console_consumer(&self, topic: &str, records: usize) -> Command {
        let mut java = Command::new("java");
        java.args(["-Xmx128m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp"]).arg(libs().join("*"));
        java.args(["org.apache.kafka.tools.consumer.ConsoleConsumer", "--bootstrap-server", &self.bootstrap, "--topic", topic]);
        java.args(["--isolation-level", "read_committed", "--from-beginning", "--max-messages", &records.to_string(), "--timeout-ms", "60000"]);
        java
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

/// Kafka's jars.
pub(crate) fn libs() -> PathBuf {
    let libs = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/kafka/libs");
    assert!(libs.is_dir(), "no broker in {}: run `make setup`", libs.display());
    libs
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

fn properties(dir: &Path, [port, controller, behind, limited]: &[u16; 4], proxy: u16) -> String {
    let (name, password) = LIMITED;
    format!(
        "process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://127.0.0.1:{port},PROXIED://127.0.0.1:{behind},LIMITED://127.0.0.1:{limited},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},PROXIED://127.0.0.1:{proxy},LIMITED://127.0.0.1:{limited}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,LIMITED:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
sasl.enabled.mechanisms=PLAIN
listener.name.limited.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_{name}=\"{password}\";
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
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
