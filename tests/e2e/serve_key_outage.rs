//! Key store and key service go away under a running service: a real PostgreSQL that is stopped,
//! and a real OpenBao behind a proxy that closes every connection.

use std::time::{Duration, Instant};

use reqwest::Method;
use reqwest::blocking::Client;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;

use crate::feed::feed;
use crate::instance::{Instance, ServeProcess, Setup, corp, done, fed, veilstream};
use crate::key_states::{NOTES, kid};
use crate::postgres_server::{Database, Server};
use crate::proxy_http::{Mode, Proxy};
use crate::reload::shown_certificate;
use crate::servers::bao;
use crate::testing::{Authority, TestIssuer, until};

const CEDAR: &str = r#"
permit(principal in Role::"reader", action, resource);
"#;
/// Within what an operator is told.
const TOLD: Duration = Duration::from_secs(30);
/// A caller waits for 15 seconds (docs/reading.md); the rest is for a busy machine.
const DEADLINE: Duration = Duration::from_secs(20);

/// A service with a store on a server and a provider on another.
struct Desk {
    instance: Instance,
    database: Database,
    proxy: Proxy,
    issuer: TestIssuer,
    client: Client,
    key: String,
}

impl Desk {
    fn new() -> Self {
        let issuer = TestIssuer::start();
        let serve = format!("insecure = true\nprincipals = [\"jwt\"]\n{}", corp(&issuer));
        let instance = Instance::of(&Setup { serve: &serve, cedar: CEDAR, ..Setup::default() });
        // One that no other test needs.
        let server: &'static Server = Box::leak(Box::new(Server::start()));
        let (database, ledger) = (server.database(), server.database());
        bao().key("pipeline");
        let made =
            bao().api(Method::POST, "auth/token/create", &json!({ "policies": ["pipeline"] }));
        instance.write("bao.token", made["auth"]["client_token"].as_str().unwrap());
        let proxy = Proxy::before(&format!("127.0.0.1:{}", bao().port));
        let keys = format!(
            "store = \"{}\"\nledger = \"{}\"\nprovider = \"vault\"\n[keys.vault]\naddress = \
            \"{}\"\nkey = \"pipeline\"\ntoken_file = \"bao.token\"\ntimeout = \"1s\"\n",
            database.url(),
            ledger.url(),
            proxy.address
        );
        let text = instance.read("veilstream.toml");
        let (before, rest) = text.split_once("store = \"sqlite:keys/keys.db\"\n").unwrap();
        instance.write("veilstream.toml", &format!("{before}{keys}{rest}"));
        instance.write("direct.toml", &direct(&instance, &proxy));
        let desk =
            Self { instance, database, proxy, issuer, client: Client::new(), key: String::new() };
        desk.operate(&["keys", "init"]);
        let (_, key) = desk.instance.make_key_of("desk", "reader");
        Self { key, ..desk }
    }

    /// A command that reaches the key service beside the proxy.
    fn operate(&self, args: &[&str]) {
        done(veilstream(args).args(["--config", &self.instance.path("direct.toml")]));
    }

    fn customer(&self, id: u64) -> Value {
        let record = json!({ "type": "customer.updated",
            "customer": { "id": id, "email": format!("c{id}@example.com"), "ssn": "078-05-1120" } });
        let file = self.instance.path("schemas/customers.json");
        let config = self.instance.path("direct.toml");
        let args = ["transform", "--schema", &file, "--config", &config];
        let output = feed(veilstream(&args), record.to_string());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// A token of the issuer: nobody has to ask the store who that is.
    fn jwt(&self) -> String {
        self.issuer.token(|claims| claims["roles"] = json!(["reader"]))
    }

    fn post(&self, running: &ServeProcess, path: &str, items: &Value) -> (u16, Value) {
        let name = if path == "/v1/index" { "queries" } else { "items" };
        let body = json!({ "purpose": "support", name: items });
        running.post(&self.client, &self.jwt(), path, &body)
    }

    /// The status of a person's e-mail address, or the code of the refusal.
    fn reads(&self, running: &ServeProcess, record: &Value) -> (u16, Value) {
        let item = json!([{ "schema": "customers", "fields": ["email"], "record": record }]);
        let (status, answer) = self.post(running, "/v1/reveal", &item);
        match status {
            200 => (200, answer["items"][0]["fields"]["email"]["status"].clone()),
            _ => {
                assert!(!answer.to_string().contains("@example.com"), "{answer}");
                (status, answer["code"].clone())
            }
        }
    }
}

/// The configuration without the proxy.
fn direct(instance: &Instance, proxy: &Proxy) -> String {
    let address = format!("http://127.0.0.1:{}", bao().port);
    instance.read("veilstream.toml").replace(&proxy.address, &address)
}

impl Desk {
    /// What needs a key that is not in memory is refused in time, and everything else goes on.
    fn goes_on(&self, running: &ServeProcess, known: &Value, unknown: &Value) {
        let begun = Instant::now();
        assert_eq!(self.reads(running, unknown), (503, json!("keys_unavailable")));
        let took = begun.elapsed();
        assert!(took < DEADLINE, "refused after {took:?}");
        assert_eq!(self.reads(running, known), (200, json!("revealed")));
        let query = json!([{ "field": "customers.email", "value": "c17@example.com" }]);
        assert_eq!(self.post(running, "/v1/index", &query).0, 200);
        let person = json!([{ "schema": "customers", "subject": 17 }]);
        assert_eq!(self.post(running, "/v1/subject-ref", &person).0, 200);
    }

    /// What an operator sees while it is so, and when it is over.
    fn operator_sees(running: &ServeProcess, is_away: bool, why: &str) {
        let since = Instant::now();
        let get = |path: &str| {
            let answer = reqwest::blocking::get(format!("http://{}{path}", running.http)).unwrap();
            (answer.status().as_u16(), answer.text().unwrap())
        };
        until("the operator to see it", || {
            let (status, text) = get("/readyz");
            status == if is_away { 503 } else { 200 } && text.contains(why)
        });
        assert!(since.elapsed() < TOLD, "told after {:?}", since.elapsed());
        assert_eq!(get("/livez").0, 200);
    }
}

/// Reloads come into force within this time on a busy machine. The intervals are a second or two.
const SOON: Duration = Duration::from_secs(10);

/// Waits for what comes into force by itself.
fn soon(what: &str, is_so: impl FnMut() -> bool) {
    let since = Instant::now();
    until(what, is_so);
    assert!(since.elapsed() < SOON, "{what} took {:?}", since.elapsed());
}

impl Desk {
    /// One more service, that takes API keys, over TLS.
    fn second(&self, authority: &Authority) -> ServeProcess {
        let leaf = authority.server();
        self.instance.write("server.pem", &leaf.certificate);
        self.instance.write("server.key", &leaf.key);
        let text = self.instance.read("veilstream.toml");
        let files = "certificate_file = \"server.pem\"\nkey_file = \"server.key\"\n";
        let text = text.replace("insecure = true\n", files);
        self.instance.write("tls.toml", &text.replace("[\"jwt\"]", "[\"jwt\", \"key\"]"));
        let config = self.instance.path("tls.toml");
        self.instance.start_with(|command| *command = veilstream(&["serve", "--config", &config]))
    }
}

#[test]
fn what_hangs_holds_up_no_erasure_no_revocation_and_no_reload() {
    let desk = Desk::new();
    let [erased, compromised, known] = [17, 18, 19].map(|id| desk.customer(id));
    let mut running = desk.instance.start();
    let authority = Authority::new();
    let mut tls = desk.second(&authority);
    let client = authority.client(None);
    for record in [&erased, &compromised, &known] {
        assert_eq!(desk.reads(&running, record), (200, json!("revealed")));
    }
    let (id, key) = (desk.key.split('_').nth(1).unwrap(), &desk.key);
    assert_eq!(tls.status(&client, "https", key), 200);

    // A key service that hangs lets each new key wait for ten seconds. They are found at once, or
    // the first would be over before the others.
    for one in [&running, &tls] {
        one.signal(Signal::STOP);
    }
    desk.proxy.set(Mode::Slow(Duration::from_secs(60)));
    for new in ["--index", "--wrapping", "--wrapping"] {
        desk.operate(&["keys", "rotate", new]);
    }
    desk.proxy.requests();
    running.signal(Signal::CONT);
    until("it waits for the key service", || !desk.proxy.requests().is_empty());
    tls.signal(Signal::CONT);
    desk.operate(&["shred", "--subject", "17", "--reason", "a test"]);
    desk.operate(&["keys", "compromise", &kid(&compromised["customer"]["email"])]);
    desk.operate(&["serve", "keys", "revoke", id]);
    soon("the erasure to count", || desk.reads(&running, &erased).1 == "erased");
    soon("the mark to count", || desk.reads(&running, &compromised).1 == "key_unavailable");
    soon("the revocation to count", || tls.status(&client, "https", key) == 401);
    assert_eq!(desk.reads(&running, &known), (200, json!("revealed")));
    Desk::operator_sees(&running, true, "keys: ");
    desk.proxy.set(Mode::Pass);
    Desk::operator_sees(&running, false, "ready");

    // A store that hangs answers nobody.
    let paused = desk.database.server.pause();
    desk.instance.write("schemas/notes.json", NOTES);
    desk.instance.write("policies/all.cedar", "forbid(principal, action, resource);");
    let leaf = authority.server();
    desk.instance.write("server.pem", &leaf.certificate);
    desk.instance.write("server.key", &leaf.key);
    soon("the schema to be in force", || {
        running.told("schemas loaded").last().is_some_and(|l| l.to_string().contains("notes/1"))
    });
    soon("the policy to be in force", || desk.reads(&running, &known).1 == "denied");
    let new = CertificateDer::from_pem_slice(leaf.certificate.as_bytes()).unwrap();
    soon("the certificate to be shown", || {
        shown_certificate(&authority, &tls.address, &desk.jwt()) == *new
    });
    drop(paused);
    assert_eq!([running.stop(), tls.stop()], [0, 0]);
}

/// Whoever opens honey is denied in time, and the alarm stands in the log before.
#[test]
fn a_store_that_hangs_holds_up_no_alarm_and_no_suspension() {
    let desk = Desk::new();
    let record = desk.customer(17);
    let text = desk.instance.read("veilstream.toml");
    let suspends = text.replace("insecure = true\n", "insecure = true\nhoney_suspends = true\n");
    desk.instance.write("veilstream.toml", &suspends);
    let (schema, config) =
        (desk.instance.path("schemas/customers.json"), desk.instance.path("direct.toml"));
    let args = ["honey", "create", "--config", &config, "--schema", &schema, "--field", "email"];
    let mut create = veilstream(&args);
    let honey = fed(create.args(["--subject", "17", "--stdin"]), "mary.sample@example.org\n");
    let honey = json!([{ "field": "customers.email", "token": honey.trim(), "subject": 17 }]);
    let mut running = desk.instance.start();
    assert_eq!(desk.reads(&running, &record), (200, json!("revealed")));
    let paused = desk.database.server.pause();
    std::thread::scope(|scope| {
        let begun = Instant::now();
        let asked = scope.spawn(|| desk.post(&running, "/v1/reveal", &honey));
        let lines_of = |event: &str, reason: Option<&str>| {
            let lines = desk.instance.audited();
            lines.iter().filter(|l| l["event"] == event && l["reason"].as_str() == reason).count()
        };
        until("the alarm to stand in the log", || lines_of("honey", None) == 1);
        until("the suspension too", || lines_of("credentials", Some("suspend")) == 1);
        assert!(!asked.is_finished(), "the store is waited for");
        assert_eq!(desk.reads(&running, &record), (200, json!("denied")));
        let (status, answer) = asked.join().unwrap();
        assert_eq!((status, &answer["items"]), (200, &json!([{ "status": "denied" }])));
        assert!(begun.elapsed() < DEADLINE, "answered after {:?}", begun.elapsed());
    });
    drop(paused);
    let listed = || done(&mut desk.instance.keys(&["list", "--json"])).stdout;
    until("the store to have it", || {
        String::from_utf8(listed()).unwrap().contains("\"state\":\"suspended\"")
    });
    assert_eq!(running.stop(), 0);
}

#[test]
fn without_store_or_key_service_it_goes_on_with_what_it_holds() {
    let desk = Desk::new();
    let [known, unknown, other, last] = [17, 18, 19, 20].map(|id| desk.customer(id));
    let mut running = desk.instance.start();
    let revealed = (200, json!("revealed"));
    // One more, that takes API keys too.
    let keys_too = desk.instance.read("veilstream.toml").replace("[\"jwt\"]", "[\"jwt\", \"key\"]");
    desk.instance.write("keys.toml", &keys_too);
    let config = desk.instance.path("keys.toml");
    let mut with_keys = desk.instance.start_with(|command| {
        *command = veilstream(&["serve", "--config", &config]);
    });
    let finds = |token: &str| {
        let query = json!([{ "field": "customers.email", "value": "c17@example.com" }]);
        let body = json!({ "purpose": "support", "queries": query });
        with_keys.post(&desk.client, token, "/v1/index", &body).0
    };
    assert_eq!(desk.reads(&running, &known), revealed);
    Desk::operator_sees(&running, false, "ready");

    desk.database.server.stop();
    desk.goes_on(&running, &known, &unknown);
    let value = json!([{ "field": "customers.email", "value": "x", "subject": 21 }]);
    let (status, problem) = desk.post(&running, "/v1/seal", &value);
    assert_eq!((status, &problem["code"]), (503, &json!("keys_unavailable")));
    Desk::operator_sees(&running, true, "keys: key store postgres://");
    // Nobody knows any more which API keys are revoked, and who is suspended.
    for token in [&desk.key, &desk.jwt()] {
        until("callers to be refused", || finds(token) == 503);
    }
    Desk::operator_sees(&with_keys, true, "api_keys: key store postgres://");
    desk.database.server.up();
    until("an answer again", || desk.reads(&running, &unknown) == revealed);
    Desk::operator_sees(&running, false, "ready");
    Desk::operator_sees(&with_keys, false, "ready");
    assert_eq!([finds(&desk.key), finds(&desk.jwt())], [200, 200]);
    assert!(with_keys.log().contains("the key store tells its API keys again"));
    assert_eq!(with_keys.stop(), 0);

    // A key that only the key service opens: it was made while that is away from here.
    desk.proxy.set(Mode::Down);
    desk.operate(&["keys", "rotate", "--wrapping"]);
    let new = desk.customer(22);
    desk.goes_on(&running, &known, &new);
    assert_eq!(desk.reads(&running, &other), revealed, "under a wrapping key in memory");
    Desk::operator_sees(&running, true, "keys: key provider vault is not available");
    desk.proxy.set(Mode::Pass);
    until("an answer again", || desk.reads(&running, &new) == revealed);
    Desk::operator_sees(&running, false, "ready");

    // A store that hangs says nothing at all.
    let paused = desk.database.server.pause();
    desk.goes_on(&running, &known, &last);
    Desk::operator_sees(&running, true, "keys: ");
    drop(paused);
    until("an answer again", || desk.reads(&running, &last) == revealed);
    Desk::operator_sees(&running, false, "ready");
    let log = running.log();
    for said in
        ["keys could not be maintained", "keys are maintained again", "keys cannot be looked up"]
    {
        assert!(log.contains(said), "{said}: {log}");
    }
    let token = desk.instance.read("bao.token");
    assert!(!log.contains("@example.com") && !log.contains(&token), "{log}");
    until("the end is told", || !running.told("keys are looked up again").is_empty());
    let ends = running.told("keys are looked up again");
    assert!(ends.iter().all(|line| line["refused"].as_u64() > Some(0)), "{ends:?}");
    let failed = "veilstream_requests_failed_total{code=\"keys_unavailable\"} ";
    let metrics = running.metrics();
    assert!(metrics.contains(failed) && !metrics.contains(&format!("{failed}0\n")), "{metrics}");
    // And keeps nobody from ending.
    let paused = desk.database.server.pause();
    assert_eq!(running.stop(), 0);
    drop(paused);
    assert!(desk.instance.verify().status.success());
}
