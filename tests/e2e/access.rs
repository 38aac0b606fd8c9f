//! TLS and SASL on a broker that has both: what is refused is named, what changes is taken over,
//! and no record is lost meanwhile.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use crate::feed::{Feeder, person};
use crate::kafka::{Kafka, libs};
use crate::oidc::{AUDIENCE, Issuer, SECRET};
use crate::operator::{SAID, await_unready};
use crate::ports::free_port;
use crate::sandbox::Sandbox;
use crate::sidecar::{Instance, text};

const USER: &str = "veilstream";
const PASSWORD: &str = "canary-password-1";
/// Tokens live so many seconds; a broker ends a connection that does not authenticate again in
/// time.
const TOKEN: u32 = 15;
const SCRAM_SESSION_MS: u32 = 4000;

/// A cluster of one with a listener for each way in. `stale` has an expired certificate.
struct Secured {
    kafka: Kafka,
    issuer: Issuer,
    pki: Pki,
    scram: String,
    oauth: String,
    tls: String,
    mutual: String,
    stale: String,
    /// OAUTHBEARER over TLS, as Amazon MSK has it.
    msk: String,
}

fn secured() -> &'static Secured {
    static SECURED: LazyLock<Secured> = LazyLock::new(Secured::start);
    &SECURED
}

impl Secured {
    fn start() -> Self {
        let issuer = Issuer::start(TOKEN);
        let pki = Pki::new(Path::new(env!("CARGO_TARGET_TMPDIR")));
        let names = ["SCRAM", "OAUTH", "TLS", "MUTUAL", "STALE", "MSK"];
        let ports = names.map(|_| free_port());
        let jwks = format!("{}/jwks", issuer.url);
        let more = |_: usize, [plain, controller, ..]: [u16; 4], _: &Path| {
            let ways: Vec<String> = names
                .iter()
                .zip(&ports)
                .map(|(name, port)| format!("{name}://127.0.0.1:{port}"))
                .collect();
            let ways = format!("PLAINTEXT://127.0.0.1:{plain},{}", ways.join(","));
            let mut text = format!(
                "listeners={ways},CONTROLLER://127.0.0.1:{controller}
advertised.listeners={ways}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SCRAM:SASL_PLAINTEXT,OAUTH:SASL_PLAINTEXT,TLS:SSL,MUTUAL:SSL,STALE:SSL,MSK:SASL_SSL
super.users=User:ANONYMOUS;User:{USER};User:CN={USER}
listener.name.scram.sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.scram.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.scram.scram-sha-512.connections.max.reauth.ms={SCRAM_SESSION_MS}
listener.name.oauth.sasl.enabled.mechanisms=OAUTHBEARER
listener.name.oauth.oauthbearer.sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;
listener.name.oauth.oauthbearer.sasl.server.callback.handler.class=org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallbackHandler
listener.name.oauth.oauthbearer.connections.max.reauth.ms=3600000
listener.name.msk.sasl.enabled.mechanisms=OAUTHBEARER
listener.name.msk.oauthbearer.sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;
listener.name.msk.oauthbearer.sasl.server.callback.handler.class=org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallbackHandler
sasl.oauthbearer.jwks.endpoint.url={jwks}
sasl.oauthbearer.expected.audience={AUDIENCE}
sasl.oauthbearer.expected.issuer={}
sasl.oauthbearer.clock.skew.seconds=0
",
                issuer.url
            );
            for (listener, certificate) in
                [("tls", "broker"), ("mutual", "broker"), ("msk", "broker"), ("stale", "expired")]
            {
                let store = pki.file(&format!("{certificate}.store.pem"));
                writeln!(text, "listener.name.{listener}.ssl.keystore.type=PEM\nlistener.name.{listener}.ssl.keystore.location={}", store.display()).unwrap();
            }
            writeln!(text, "listener.name.mutual.ssl.client.auth=required\nlistener.name.mutual.ssl.truststore.type=PEM").unwrap();
            writeln!(
                text,
                "listener.name.mutual.ssl.truststore.location={}",
                pki.file("ca.pem").display()
            )
            .unwrap();
            text
        };
        let kafka = Kafka::start_with(
            "secured",
            1,
            &format!("-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={jwks}"),
            more,
        );
        let at = |i: usize| format!("127.0.0.1:{}", ports[i]);
        let secured = Self {
            kafka,
            issuer,
            pki,
            scram: at(0),
            oauth: at(1),
            tls: at(2),
            mutual: at(3),
            stale: at(4),
            msk: at(5),
        };
        secured.set_password(USER, PASSWORD);
        secured
    }

    /// Kafka's own tool changes a password on the broker.
    fn set_password(&self, user: &str, password: &str) {
        let mut java = Command::new("java");
        java.args(["-Xmx128m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp"])
            .arg(libs().join("*"));
        java.args([
            "kafka.admin.ConfigCommand",
            "--bootstrap-server",
            &self.kafka.bootstrap,
            "--alter",
            "--entity-type",
            "users",
            "--entity-name",
            user,
        ]);
        let output = java
            .args(["--add-config", &format!("SCRAM-SHA-512=[iterations=4096,password={password}]")])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output));
    }

    /// An instance that speaks SCRAM, with its password in a file.
    fn scram(&self, sandbox: &Sandbox<'_>, file: &Path) -> Instance {
        let instance = sandbox.instance(0).set("KAFKA__BOOTSTRAP_SERVERS", &self.scram);
        with(
            instance,
            &[
                ("SECURITY_PROTOCOL", "SASL_PLAINTEXT"),
                ("SASL_MECHANISM", "SCRAM-SHA-512"),
                ("SASL_USERNAME", USER),
                ("SASL_PASSWORD_FILE", path(file)),
            ],
        )
    }

    /// An instance that gets its tokens from the OAuth server.
    fn oauth(&self, sandbox: &Sandbox<'_>) -> Instance {
        let instance = sandbox.instance(0).set("KAFKA__BOOTSTRAP_SERVERS", &self.oauth);
        let endpoint = format!("{}/token", self.issuer.url);
        let settings = [
            ("SECURITY_PROTOCOL", "SASL_PLAINTEXT"),
            ("SASL_MECHANISM", "OAUTHBEARER"),
            ("SASL_OAUTHBEARER_METHOD", "oidc"),
            ("SASL_OAUTHBEARER_CLIENT_ID", USER),
            ("SASL_OAUTHBEARER_CLIENT_SECRET", SECRET),
            ("SASL_OAUTHBEARER_SCOPE", "kafka"),
            ("SASL_OAUTHBEARER_TOKEN_ENDPOINT_URL", &endpoint),
        ];
        with(instance, &settings)
    }

    /// An instance that speaks TLS with the listener at `address`.
    fn tls(&self, sandbox: &Sandbox<'_>, address: &str, authority: &Path) -> Instance {
        with(
            sandbox.instance(0).set("KAFKA__BOOTSTRAP_SERVERS", address),
            &[("SECURITY_PROTOCOL", "SSL"), ("SSL_CA_LOCATION", path(authority))],
        )
    }
}

fn path(file: &Path) -> &str {
    file.to_str().unwrap()
}

fn with(instance: Instance, settings: &[(&str, &str)]) -> Instance {
    settings.iter().fold(instance, |instance, (name, value)| {
        instance.set(&format!("KAFKA__CLIENT__{name}"), value)
    })
}

/// Two authorities, and certificates that openssl makes.
struct Pki(PathBuf);

impl Pki {
    fn new(parent: &Path) -> Self {
        let pki = Self(parent.join(format!("pki-{}", std::process::id())));
        fs::create_dir_all(&pki.0).unwrap();
        for authority in ["ca", "stranger"] {
            let (key, certificate) = (format!("{authority}.key"), format!("{authority}.pem"));
            let subject = format!("/CN={authority}");
            pki.openssl(&[
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "30",
                "-subj",
                &subject,
                "-keyout",
                &key,
                "-out",
                &certificate,
            ]);
        }
        pki.issue("broker", "ca", "broker", 30);
        pki.issue("expired", "ca", "broker", -1);
        pki
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// `<name>.pem`, `<name>.key`, and both in `<name>.store.pem`.
    fn issue(&self, name: &str, authority: &str, subject: &str, days: i32) {
        let file = |end: &str| format!("{name}.{end}");
        fs::write(self.file(&file("ext")), "subjectAltName=IP:127.0.0.1\n").unwrap();
        self.openssl(&[
            "req",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            &format!("/CN={subject}"),
            "-keyout",
            &file("key"),
            "-out",
            &file("csr"),
        ]);
        let (ca, ca_key) = (format!("{authority}.pem"), format!("{authority}.key"));
        let days = days.to_string();
        self.openssl(&[
            "x509",
            "-req",
            "-in",
            &file("csr"),
            "-CA",
            &ca,
            "-CAkey",
            &ca_key,
            "-days",
            &days,
            "-extfile",
            &file("ext"),
            "-out",
            &file("pem"),
        ]);
        let both = fs::read_to_string(self.file(&file("key"))).unwrap()
            + &fs::read_to_string(self.file(&file("pem"))).unwrap();
        fs::write(self.file(&file("store.pem")), both).unwrap();
    }

    fn openssl(&self, arguments: &[&str]) {
        let output = Command::new("openssl").args(arguments).current_dir(&self.0).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
    }
}

impl Drop for Pki {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Renamed into place, as platforms do it: nobody sees half a file.
fn replace(file: &Path, content: &str) {
    let new = file.with_extension("new");
    fs::write(&new, content).unwrap();
    fs::rename(new, file).unwrap();
}

/// Both commands end with 4 and say `what`, and never a secret.
fn refused(instance: &Instance, what: &str) {
    for command in [&["run"][..], &["check", "--preflight"]] {
        let start = Instant::now();
        let output = instance.run(command);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(4), "{command:?}, {what}: {said}");
        assert!(said.contains(what), "{command:?}, {what}: {said}");
        assert!(!said.contains("canary"), "{said}");
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "{what} took {} s",
            start.elapsed().as_secs()
        );
    }
}

#[test]
fn what_a_broker_refuses_ends_the_start_with_4_and_is_named() {
    let cluster = secured();
    let sandbox = Sandbox::new(&cluster.kafka, "refused", 1);
    let ca = cluster.pki.file("ca.pem");
    let password = sandbox.dir.path().join("password");
    fs::write(&password, "canary-wrong\n").unwrap();
    let scram = cluster.scram(&sandbox, &password);
    refused(&scram, "(SCRAM-SHA-512 at 127.0.0.1:");
    refused(
        &scram,
        "the broker refuses user and password; correct sasl.username and sasl.password",
    );
    refused(
        &cluster.scram(&sandbox, &password).set("KAFKA__CLIENT__SASL_MECHANISM", "PLAIN"),
        "the broker does not offer this SASL mechanism",
    );
    refused(
        &cluster
            .oauth(&sandbox)
            .set("KAFKA__CLIENT__SASL_OAUTHBEARER_CLIENT_SECRET", "canary-other"),
        "there is no token; check sasl.oauthbearer.token.endpoint.url",
    );
    refused(&cluster.tls(&sandbox, &cluster.stale, &ca), "the broker's certificate has expired");
    refused(
        &cluster.tls(&sandbox, &cluster.tls, &cluster.pki.file("stranger.pem")),
        "no trusted authority made the broker's certificate",
    );
    let other_name = cluster.tls.replace("127.0.0.1", "localhost");
    refused(
        &cluster.tls(&sandbox, &other_name, &ca),
        "the broker's certificate is of another host name",
    );
    refused(
        &cluster.tls(&sandbox, &cluster.mutual, &ca),
        "the broker refuses our certificate: it is missing, expired or of an authority",
    );
    for (name, authority, days) in [("late", "ca", -1), ("foreign", "stranger", 30)] {
        cluster.pki.issue(name, authority, USER, days);
        let (certificate, key) =
            (cluster.pki.file(&format!("{name}.pem")), cluster.pki.file(&format!("{name}.key")));
        let instance = cluster.tls(&sandbox, &cluster.mutual, &ca);
        let instance = with(
            instance,
            &[("SSL_CERTIFICATE_LOCATION", path(&certificate)), ("SSL_KEY_LOCATION", path(&key))],
        );
        refused(&instance, "the broker refuses our certificate");
    }
    refused(
        &cluster.tls(&sandbox, &cluster.kafka.bootstrap, &ca),
        "the listener speaks another protocol; correct security.protocol or the port",
    );
    refused(
        &sandbox.instance(0).set("KAFKA__BOOTSTRAP_SERVERS", &cluster.tls),
        "the listener speaks another protocol; correct security.protocol or the port",
    );
}

#[test]
fn settings_that_cannot_work_are_2_before_a_broker_is_asked() {
    let cluster = secured();
    let sandbox = Sandbox::new(&cluster.kafka, "unfit", 1);
    let nowhere = cluster.tls(&sandbox, &cluster.tls, Path::new("/nowhere/ca.pem"));
    let half = cluster.oauth(&sandbox).set("KAFKA__CLIENT__SASL_OAUTHBEARER_METHOD", "default");
    for (instance, what) in [
        (nowhere, "ssl.ca.location: names /nowhere/ca.pem"),
        (half, "sasl.oauthbearer.method: must be \"oidc\""),
    ] {
        for command in ["run", "check"] {
            let output = instance.run(&[command]);
            assert_eq!(output.status.code(), Some(2), "{}", text(&output));
            assert!(text(&output).contains(what), "{}", text(&output));
        }
    }
}

/// Tokens end after [`TOKEN`] seconds, and the broker ends connections with them: lanes that had
/// nothing to do have new ones all the same.
#[test]
fn tokens_are_renewed_while_nothing_happens() {
    let cluster = secured();
    let sandbox = Sandbox::new(&cluster.kafka, "oauth", 4);
    let instance = cluster
        .oauth(&sandbox)
        .set("KEYS__STORE", "kafka:oauth.keys")
        .set("KEYS__LEDGER", "kafka:oauth.ledger");
    // Keys in topics too: their clients authenticate the same way.
    let init = instance.run(&["keys", "init"]);
    assert!(init.status.success(), "{}", text(&init));
    let mut running = instance.start();
    running.ready();
    sandbox.feed(0..400, person);
    running
        .wait_for(Duration::from_secs(60), "the first records", |_| sandbox.clean().len() == 400);
    let before = cluster.issuer.tokens();
    std::thread::sleep(Duration::from_secs(3 * u64::from(TOKEN)));
    // Consumer and two lanes, twice each at least, and the clients of the key store.
    let renewed = cluster.issuer.tokens() - before;
    assert!(renewed >= 6, "{renewed} tokens in three lifetimes");
    assert_eq!(running.get("/readyz").unwrap().0, 200, "{}", running.get("/readyz").unwrap().1);
    sandbox.feed(400..800, person);
    running.wait_for(Duration::from_secs(60), "the last records", |_| sandbox.clean().len() == 800);
    sandbox.assert_each_once(800);
    let errors = running.metric("veilstream_authentication_errors_total", "");
    assert_eq!((errors, running.stop()), (0.0, Some(0)), "{}", instance.tail());
    assert!(!instance.log().contains(SECRET));
}

/// First on the broker, then in the file; then the other way round. A connection lives
/// [`SCRAM_SESSION_MS`]: all have to authenticate with the new password.
#[test]
fn a_rotated_password_is_taken_over_under_load() {
    let cluster = secured();
    let sandbox = Sandbox::new(&cluster.kafka, "rotated", 4);
    let file = sandbox.dir.path().join("password");
    fs::write(&file, PASSWORD).unwrap();
    let instance = cluster.scram(&sandbox, &file);
    let mut running = instance.start();
    running.ready();
    let feeder = Feeder::new(&cluster.kafka);
    let mut fed = 0;
    let mut feed = |seconds: u64| {
        let end = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < end {
            for _ in 0..50 {
                feeder.number("rotated.raw", 4, fed, person(fed).as_bytes());
                fed += 1;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        fed
    };
    feed(3);
    cluster.set_password(USER, "canary-password-2");
    feed(8);
    await_unready(&mut running, &["authentication", "the broker refuses user and password"]);
    running.wait_for(SAID, "the refusal to be counted", |r| {
        r.metric("veilstream_authentication_errors_total", "credentials") > 0.0
    });
    replace(&file, "canary-password-2\n");
    running.wait_for(Duration::from_secs(60), "the new password", |_| {
        instance.log().matches("changed credentials taken over").count() == 1
    });
    running.ready();
    feed(5);
    replace(&file, "canary-password-3\n");
    running.wait_for(Duration::from_secs(60), "the refused password", |_| {
        instance.log().contains("changed credentials are refused; those in use stay")
    });
    running.ready();
    feed(3);
    cluster.set_password(USER, "canary-password-3");
    running.wait_for(Duration::from_secs(60), "the third password", |_| {
        instance.log().matches("changed credentials taken over").count() == 2
    });
    let all = feed(8);
    feeder.finish();
    running.wait_for(Duration::from_secs(120), "all records", |_| sandbox.clean().len() >= all);
    running.ready();
    sandbox.assert_each_once(all);
    assert_eq!(running.stop(), Some(0));
    assert!(!instance.log().contains("canary-password"), "a password is in the log");
    cluster.set_password(USER, PASSWORD);
}

/// librdkafka reads certificates when a client is made: lanes commit, and all clients are made
/// again.
#[test]
fn renewed_certificates_make_new_producers() {
    let cluster = secured();
    let sandbox = Sandbox::new(&cluster.kafka, "renewed", 2);
    cluster.pki.issue("client-1", "ca", USER, 30);
    cluster.pki.issue("client-2", "ca", USER, 30);
    let (certificate, key) =
        (sandbox.dir.path().join("client.pem"), sandbox.dir.path().join("client.key"));
    let take = |from: &str, end: &str| {
        fs::read_to_string(cluster.pki.file(&format!("{from}.{end}"))).unwrap()
    };
    replace(&certificate, &take("client-1", "pem"));
    replace(&key, &take("client-1", "key"));
    let instance = cluster.tls(&sandbox, &cluster.mutual, &cluster.pki.file("ca.pem"));
    let instance = with(
        instance,
        &[("SSL_CERTIFICATE_LOCATION", path(&certificate)), ("SSL_KEY_LOCATION", path(&key))],
    );
    let mut running = instance.start();
    running.ready();
    sandbox.feed(0..200, person);
    running
        .wait_for(Duration::from_secs(60), "the first records", |_| sandbox.clean().len() == 200);
    // Half of it fits nothing.
    replace(&certificate, &take("client-2", "pem"));
    running.wait_for(Duration::from_secs(60), "the misfit", |_| {
        instance.log().contains("changed credentials cannot be used; those in use stay")
    });
    assert_eq!(running.metric("veilstream_producer_recycles_total", "certificates_changed"), 0.0);
    replace(&key, &take("client-2", "key"));
    running.wait_for(Duration::from_secs(60), "new producers", |r| {
        r.metric("veilstream_producer_recycles_total", "certificates_changed") >= 2.0
    });
    sandbox.feed(200..400, person);
    running.wait_for(Duration::from_secs(60), "the last records", |_| sandbox.clean().len() == 400);
    sandbox.assert_each_once(400);
    assert_eq!(
        running.metric("veilstream_producer_recycles_total", "certificates_changed"),
        2.0,
        "{}",
        instance.tail()
    );
    assert_eq!((running.get("/readyz").unwrap().0, running.stop()), (200, Some(0)));
}

/// A broker that checks Amazon's signatures is Amazon's alone. This one shows that a token is made,
/// and sent as OAUTHBEARER: it refuses it, and without credentials it is not asked. (That the token
/// is right: src/kafka/access/msk_iam.rs.)
#[cfg(feature = "aws-kms")]
#[test]
fn a_token_of_amazon_msk_is_made_and_sent() {
    let cluster = secured();
    let sandbox = Sandbox::new(&cluster.kafka, "msk", 1);
    let instance = cluster.tls(&sandbox, &cluster.msk, &cluster.pki.file("ca.pem"));
    let instance =
        with(instance, &[("SECURITY_PROTOCOL", "SASL_SSL"), ("SASL_MECHANISM", "AWS_MSK_IAM")])
            .set("KAFKA__AWS_REGION", "eu-central-1");
    let run = |credentials: &[(&str, &str)]| {
        let mut command = instance.command(&["check", "--preflight"]);
        for name in
            ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"]
        {
            command.env_remove(name);
        }
        let output = command
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("HOME", sandbox.dir.path())
            .envs(credentials.iter().copied())
            .output()
            .unwrap();
        let said = text(&output);
        assert_eq!(output.status.code(), Some(4), "{said}");
        assert!(!said.contains("canary"), "{said}");
        said
    };
    let said = run(&[]);
    assert!(
        said.contains("(AWS_MSK_IAM): there is no token; give this process AWS credentials"),
        "{said}"
    );
    let said = run(&[
        ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
        ("AWS_SECRET_ACCESS_KEY", "canary-aws-secret"),
    ]);
    assert!(said.contains("Amazon MSK refuses the token; grant kafka-cluster:Connect"), "{said}");
    let output = instance
        .command(&["check"])
        .env("VEILSTREAM__KAFKA__AWS_REGION", "Frankfurt")
        .output()
        .unwrap();
    assert!(
        output.status.code() == Some(2) && text(&output).contains("is no AWS region"),
        "{}",
        text(&output)
    );
}

#[test]
fn the_broker_that_is_away_is_not_taken_for_a_refusal() {
    let cluster = secured();
    let sandbox = Sandbox::new(&cluster.kafka, "away", 1);
    let output = cluster
        .tls(&sandbox, "127.0.0.1:1", &cluster.pki.file("ca.pem"))
        .run(&["check", "--preflight"]);
    assert_eq!(output.status.code(), Some(5), "{}", text(&output));
    assert!(text(&output).contains("no broker answers"), "{}", text(&output));
}
