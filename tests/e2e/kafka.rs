//! The real broker. One serves the whole suite; a test that stops it starts its own.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rustix::process::{Pid, Signal, kill_process};
use veilstream::config::{Config, Input};

use crate::ports::free_port;

/// Any 22 characters of base64 will do.
const CLUSTER: &str = "MkU3OEVBNTcwNTJENDM2Qg";
/// Who may only what ACLs say, and the password.
pub(crate) const LIMITED: (&str, &str) = ("limited", "limited-secret");

/// Kills the broker at a line or at the end of its input, that is whenever and however the test
/// process ends; then the files go too. (`trap ''` would not do: what a shell ignores its children
/// ignore, and the broker with them.)
const SUPERVISOR: &str = r#"trap : INT TERM HUP
java -Xms256m -Xmx512m -XX:+UseSerialGC -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp "$1/*" kafka.Kafka "$2/server.properties" >> "$2/broker.log" 2>&1 &
broker=$!
read -r again
kill -KILL "$broker"
wait "$broker"
[ -n "$again" ] || rm -rf "$2""#;

/// A running cluster with three listeners: open to all, the same behind a proxy that a test may put
/// there, and one for [`LIMITED`].
pub(crate) struct Kafka {
    pub(crate) bootstrap: String,
    pub(crate) limited: String,
    /// Where the proxy's clients connect to, and the port behind it.
    pub(crate) proxied: (TcpListener, u16),
    nodes: Vec<Node>,
}

struct Node {
    address: String,
    dir: PathBuf,
    /// Of the Java machine.
    options: String,
    running: Mutex<Option<(Child, ChildStdin)>>,
}

/// The broker of this suite, started by the first test that asks.
pub(crate) fn kafka() -> &'static Kafka {
    static KAFKA: LazyLock<Kafka> = LazyLock::new(|| Kafka::start("kafka", 1));
    &KAFKA
}

impl Kafka {
    /// A new cluster of so many, with a replica of everything on each; `name` is for those who look
    /// at its folders.
    pub(crate) fn start(name: &str, size: usize) -> Self {
        Self::start_with(name, size, "", |_, _, _| String::new())
    }

    /// [`Kafka::start`], with settings of the brokers on top, made of a broker's number from 1 on,
    /// its ports (PLAINTEXT, CONTROLLER, PROXIED, LIMITED) and folder; and options of Java.
    pub(crate) fn start_with(
        name: &str,
        size: usize,
        options: &str,
        more: impl Fn(usize, [u16; 4], &Path) -> String,
    ) -> Self {
        static CLUSTERS: AtomicUsize = AtomicUsize::new(0);
        let number = CLUSTERS.fetch_add(1, Ordering::Relaxed);
        let front = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let proxy = front.local_addr().unwrap().port();
        let ports: Vec<[u16; 4]> = (0..size).map(|_| [(); 4].map(|()| free_port())).collect();
        let controllers = |entry: &dyn Fn(usize, u16) -> String| -> String {
            let entries: Vec<String> =
                (1..).zip(&ports).map(|(id, [_, controller, ..])| entry(id, *controller)).collect();
            entries.join(",")
        };
        let initial =
            controllers(&|id, port| format!("{id}@127.0.0.1:{port}:{id}{}", &CLUSTER[1..]));
        let quorum = controllers(&|_, port| format!("127.0.0.1:{port}"));
        let node = |(id, ports): (usize, &[u16; 4])| {
            let dir = Path::new(env!("CARGO_TARGET_TMPDIR"))
                .join(format!("{name}-{}-{number}-{id}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            let settings =
                properties(&dir, id, size, *ports, proxy, &quorum) + &more(id, *ports, &dir);
            fs::write(dir.join("server.properties"), settings).unwrap();
            let format = Command::new("java")
                .args(["-Xmx128m", "-cp"])
                .arg(libs().join("*"))
                .args([
                    "kafka.tools.StorageTool",
                    "format",
                    "-t",
                    CLUSTER,
                    "--initial-controllers",
                    &initial,
                    "-c",
                ])
                .arg(dir.join("server.properties"))
                .output()
                .unwrap();
            assert!(format.status.success(), "{}", String::from_utf8_lossy(&format.stderr));
            Node {
                address: format!("127.0.0.1:{}", ports[0]),
                dir,
                options: options.to_owned(),
                running: Mutex::new(None),
            }
        };
        let nodes: Vec<Node> = (1..).zip(&ports).map(node).collect();
        let addresses: Vec<&str> = nodes.iter().map(|node| &*node.address).collect();
        let (bootstrap, limited) = (addresses.join(","), format!("127.0.0.1:{}", ports[0][3]));
        let cluster = Self { bootstrap, limited, proxied: (front, ports[0][2]), nodes };
        for node in &cluster.nodes {
            node.start();
        }
        for node in 0..size {
            cluster.answers(node);
        }
        cluster
    }

    /// Starts a broker again after [`Kafka::down`], with the same data.
    pub(crate) fn up(&self, node: usize) {
        self.nodes[node].start();
        self.answers(node);
    }

    /// Not client errors but an answer says that it is up.
    fn answers(&self, node: usize) {
        let node = &self.nodes[node];
        let client: BaseConsumer = self
            .client()
            .set("bootstrap.servers", &node.address)
            .set("log_level", "0")
            .create()
            .unwrap();
        let what = format!("{} to answer, and to know all brokers", node.address);
        self.await_brokers(Duration::from_secs(90), &what, || {
            client
                .fetch_metadata(None, Duration::from_secs(2))
                .is_ok_and(|metadata| metadata.brokers().len() == self.nodes.len())
        });
    }

    /// Waits until `holds`. A broker that ended by itself is not waited for; the logs say why.
    fn await_brokers(&self, limit: Duration, what: &str, mut holds: impl FnMut() -> bool) {
        let end = Instant::now() + limit;
        while !holds() {
            let ended = self.nodes.iter().filter(|node| node.has_ended());
            let ended: Vec<&str> = ended.map(|node| &*node.address).collect();
            assert!(
                ended.is_empty() && Instant::now() < end,
                "{what}: does not come within {} s; ended by themselves: {ended:?}\n{}",
                limit.as_secs(),
                self.nodes.iter().map(Node::tail).collect::<String>()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until every partition has all its replicas.
    pub(crate) fn await_in_sync(&self, limit: Duration, admin: &AdminClient<DefaultClientContext>) {
        self.await_brokers(limit, "all replicas", || self.is_in_sync(admin));
    }

    /// Kills a broker; its data stay.
    pub(crate) fn down(&self, node: usize) {
        let (mut supervisor, mut stdin) = self.nodes[node].running.lock().unwrap().take().unwrap();
        std::io::Write::write_all(&mut stdin, b"again\n").unwrap();
        supervisor.wait().unwrap();
    }

    /// Lets a broker hang: its connections stay, and nothing is answered.
    pub(crate) fn pause(&self, node: usize) {
        self.signal(node, Signal::STOP);
    }

    /// Lets it go on.
    pub(crate) fn resume(&self, node: usize) {
        self.signal(node, Signal::CONT);
    }

    fn signal(&self, node: usize, signal: Signal) {
        let running = self.nodes[node].running.lock().unwrap();
        let supervisor = running.as_ref().unwrap().0.id();
        for broker in children(supervisor) {
            kill_process(Pid::from_raw(broker).unwrap(), signal).unwrap();
        }
    }

    /// Whether every partition has all its replicas.
    pub(crate) fn is_in_sync(&self, admin: &AdminClient<DefaultClientContext>) -> bool {
        let metadata = admin.inner().fetch_metadata(None, Duration::from_secs(5));
        metadata.is_ok_and(|m| {
            m.topics()
                .iter()
                .flat_map(|topic| topic.partitions())
                .all(|p| p.isr().len() == self.nodes.len())
        })
    }

    /// How the product is told to reach it.
    pub(crate) fn config(&self) -> veilstream::config::Kafka {
        let text = format!("[kafka]\nbootstrap_servers = \"{}\"\n", self.bootstrap);
        Config::parse(
            &Input { text, host_name: "h".to_owned(), ..Input::default() },
            &|_| unreachable!(),
        )
        .unwrap()
        .kafka
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
        let topic = settings.iter().fold(
            NewTopic::new(name, partitions, TopicReplication::Fixed(-1)),
            |new, (name, value)| new.set(name, value),
        );
        let admin = self.admin();
        let results =
            runtime.block_on(admin.create_topics([&topic], &AdminOptions::new())).unwrap();
        assert!(
            results[0].is_ok(),
            "{name} cannot be created: {:?}; each test has topic names of its own",
            results[0]
        );
        wait_for(Duration::from_secs(10), "the new topic", || {
            let metadata =
                admin.inner().fetch_metadata(Some(name), Duration::from_secs(5)).unwrap();
            metadata.topics()[0].partitions().len() == usize::try_from(partitions).unwrap()
        });
    }

    /// Kafka's own console consumer, as docs/usage.md starts it; it ends after so many records.
    pub(crate) fn console_consumer(&self, topic: &str, records: usize) -> Command {
        let mut java = Command::new("java");
        java.args(["-Xmx128m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp"])
            .arg(libs().join("*"));
        java.args([
            "org.apache.kafka.tools.consumer.ConsoleConsumer",
            "--bootstrap-server",
            &self.bootstrap,
            "--topic",
            topic,
        ]);
        java.args([
            "--isolation-level",
            "read_committed",
            "--from-beginning",
            "--max-messages",
            &records.to_string(),
            "--timeout-ms",
            "60000",
        ]);
        java
    }

    /// The bytes of a partition's only segment on a broker.
    pub(crate) fn segment_bytes(&self, node: usize, topic: &str, partition: i32) -> u64 {
        fs::metadata(self.segment(node, topic, partition)).unwrap().len()
    }

    /// Takes from the end of a stopped broker's only segment what lies beyond so many bytes: what a
    /// machine loses that had not written it to disk.
    pub(crate) fn truncate(&self, node: usize, topic: &str, partition: i32, bytes: u64) {
        assert!(self.nodes[node].running.lock().unwrap().is_none(), "broker {node} is running");
        let path = self.segment(node, topic, partition);
        assert!(
            fs::metadata(&path).unwrap().len() > bytes,
            "there is nothing to truncate in {}",
            path.display()
        );
        File::options().write(true).open(path).unwrap().set_len(bytes).unwrap();
    }

    fn segment(&self, node: usize, topic: &str, partition: i32) -> PathBuf {
        self.nodes[node].dir.join(format!("data/{topic}-{partition}/00000000000000000000.log"))
    }

    /// How many requests of a kind and a client a broker's log tells of, where its
    /// `kafka.request.logger` is at debug.
    pub(crate) fn requests(&self, node: usize, kind: &str, client: &str) -> usize {
        let log = fs::read_to_string(self.nodes[node].dir.join("broker.log")).unwrap();
        let (kind, client) =
            (format!("\"requestApiKeyName\":\"{kind}\""), format!("\"clientId\":\"{client}\""));
        log.lines().filter(|line| line.contains(&kind) && line.contains(&client)).count()
    }

    /// Lines with this text in the brokers' logs.
    pub(crate) fn logged(&self, text: &str) -> Vec<String> {
        let logs = self.nodes.iter().map(|node| fs::read_to_string(node.dir.join("broker.log")));
        let with = |log: String| {
            log.lines().filter(|line| line.contains(text)).map(str::to_owned).collect::<Vec<_>>()
        };
        logs.map(Result::unwrap).flat_map(with).collect()
    }

    /// All bytes the first broker has on disk for a topic.
    pub(crate) fn segments(&self, topic: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        for entry in fs::read_dir(self.nodes[0].dir.join("data")).unwrap().map(Result::unwrap) {
            if entry
                .file_name()
                .to_string_lossy()
                .rsplit_once('-')
                .is_some_and(|(name, _)| name == topic)
            {
                for file in fs::read_dir(entry.path())
                    .unwrap()
                    .map(Result::unwrap)
                    .filter(|f| f.path().extension().is_some_and(|e| e == "log"))
                {
                    bytes.extend(fs::read(file.path()).unwrap());
                }
            }
        }
        assert!(!bytes.is_empty(), "{topic} has no segment on disk");
        bytes
    }
}

impl Node {
    fn start(&self) {
        let mut supervisor = Command::new("sh")
            .args(["-c", SUPERVISOR, "sh"])
            .args([&libs(), &self.dir])
            .env("JAVA_TOOL_OPTIONS", &self.options)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stdin = supervisor.stdin.take().unwrap();
        *self.running.lock().unwrap() = Some((supervisor, stdin));
    }

    /// The end of its log.
    fn tail(&self) -> String {
        let log = fs::read_to_string(self.dir.join("broker.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let end = &lines[lines.len().saturating_sub(40)..];
        format!("log of {}:\n{}\n", self.address, end.join("\n"))
    }

    /// Whether the broker's process ended by itself: its supervisor waits to be told.
    fn has_ended(&self) -> bool {
        let mut running = self.running.lock().unwrap();
        let Some((supervisor, _)) = &mut *running else { return false };
        let ended = |pid: &i32| {
            fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
        };
        supervisor.try_wait().unwrap().is_some() || children(supervisor.id()).iter().any(ended)
    }
}

/// The processes that a process has started.
fn children(parent: u32) -> Vec<i32> {
    let listed = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
    listed.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
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
        assert!(
            Instant::now() < end,
            "waited {} s for {what}, which did not come",
            limit.as_secs()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn properties(
    dir: &Path,
    id: usize,
    size: usize,
    [port, controller, behind, limited]: [u16; 4],
    proxy: u16,
    quorum: &str,
) -> String {
    let (name, password) = LIMITED;
    // The proxy stands before the first.
    let proxy = if id == 1 { proxy } else { behind };
    let in_sync = size.min(2);
    format!(
        "process.roles=broker,controller
node.id={id}
listeners=PLAINTEXT://127.0.0.1:{port},PROXIED://127.0.0.1:{behind},LIMITED://127.0.0.1:{limited},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},PROXIED://127.0.0.1:{proxy},LIMITED://127.0.0.1:{limited}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,LIMITED:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
controller.quorum.bootstrap.servers={quorum}
sasl.enabled.mechanisms=PLAIN
listener.name.limited.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_{name}=\"{password}\";
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
log.dirs={}
default.replication.factor={size}
min.insync.replicas={in_sync}
offsets.topic.replication.factor={size}
offsets.topic.num.partitions=4
transaction.state.log.replication.factor={size}
transaction.state.log.min.isr={in_sync}
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
group.consumer.min.heartbeat.interval.ms=500
group.consumer.heartbeat.interval.ms=500
group.consumer.min.session.timeout.ms=6000
group.consumer.session.timeout.ms=6000
broker.heartbeat.interval.ms=500
broker.rack=rack-{id}
replica.selector.class=org.apache.kafka.common.replica.RackAwareReplicaSelector
broker.session.timeout.ms=3000
auto.create.topics.enable=false
num.network.threads=2
num.io.threads=4
",
        dir.join("data").display()
    )
}
