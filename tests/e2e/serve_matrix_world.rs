//! A service with the four shipped schemas, every kind of credential, and questions to it that are
//! asked over HTTPS and of the policies themselves.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use rcgen::SanType;
use reqwest::blocking::{Client, Response};
use serde_json::{Value, json};
use veilstream::config::Purpose;
use veilstream::policy::cases::{Asker, PolicyCases, ask};
use veilstream::policy::{
    Action, Credential, PolicySet, Principal, PrincipalKind, RequestFacts, Want,
};
use veilstream::registry;
use veilstream_engine::compile::{Grants, SchemaSet};

use crate::instance::{Instance, ServeProcess, Setup, shipped};
use crate::testing::{Authority, TestIssuer};

pub(crate) const SCHEMAS: [&str; 4] =
    ["customers", "debezium-customers", "github-webhooks", "orders"];
/// The data subject of the records.
const SUBJECT: u64 = 17;
/// More data subjects than any shipped policy tells apart.
const MOST_SUBJECTS: u64 = 25;

pub(crate) fn schemas() -> Arc<SchemaSet> {
    let files = registry::documents_in(&shipped("schemas")).unwrap();
    registry::open_files(&files, &Grants::local()).unwrap().set
}

pub(crate) fn shipped_cases() -> Value {
    serde_json::from_slice(&std::fs::read(shipped("deploy/policies/cases.json")).unwrap()).unwrap()
}

pub(crate) fn purposes() -> Vec<Purpose> {
    PolicyCases::parse(shipped_cases().to_string().as_bytes()).unwrap().purposes().unwrap()
}

/// Who asks, for what and how.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) caller: Principal,
    pub(crate) person: Option<Principal>,
    pub(crate) auth: Credential,
    pub(crate) purpose: String,
    pub(crate) reason: Option<String>,
    pub(crate) ip: IpAddr,
    pub(crate) want: Want,
    pub(crate) subjects: u64,
    pub(crate) bare: bool,
}

/// A question as sent, and what policies hear of it.
pub(crate) struct Sent {
    body: Value,
    pub(crate) facts: RequestFacts,
    schemas: BTreeSet<&'static str>,
}

/// The service and what its callers have.
pub(crate) struct World {
    pub(crate) instance: Instance,
    pub(crate) servers: Authority,
    pub(crate) clients: Authority,
    pub(crate) issuer: TestIssuer,
    /// A record of each schema, as a pipeline writes it; of customers, more of other people.
    records: BTreeMap<&'static str, Vec<Value>>,
    /// Role of an API key to its text.
    pub(crate) keys: HashMap<String, String>,
    known: RefCell<HashMap<String, Client>>,
}

impl World {
    /// `roles`: what API keys are made for.
    pub(crate) fn new(roles: &[&str]) -> Self {
        let (servers, clients, issuer) = (Authority::new(), Authority::new(), TestIssuer::start());
        let (url, ca) = (&issuer.url, issuer.ca().display());
        let jwt = |name: &str, iss: &str, kind: &str| {
            format!(
                "[serve.jwt.{name}]\nissuer = \"{iss}\"\naudience = \"veilstream\"\njwks = \
                \"{url}\"\nca_file = \"{ca}\"\nkind = \"{kind}\"\n"
            )
        };
        let serve = format!(
            "principals = [\"certificate\", \"jwt\", \"key\"]\ncertificate_file = \
            \"server.pem\"\nkey_file = \"server.key\"\nclient_ca_file = \"clients.pem\"\nproxies = \
            [\"127.0.0.1\"]\nitems_per_second = 10000000\n[serve.clients]\n\"spiffe://corp/fraud\" = \
            [\"fraud\"]\n\"spiffe://corp/export\" = [\"export\"]\n{}{}",
            jwt("corp", "https://login.corp", "user"),
            jwt("batch", "batch", "service"),
        );
        let policy = sections(&purposes());
        let setup = Setup {
            serve: &serve,
            schemas: &SCHEMAS,
            policy: &policy,
            cedar: "",
            ..Setup::default()
        };
        let instance = Instance::of(&setup);
        let leaf = servers.server();
        instance.write("server.pem", &leaf.certificate);
        instance.write("server.key", &leaf.key);
        instance.write("clients.pem", &clients.pem());
        let keys = roles
            .iter()
            .map(|role| ((*role).to_owned(), instance.make_key_of(role, role).1))
            .collect();
        let records = SCHEMAS.iter().map(|schema| (*schema, sealed(&instance, schema))).collect();
        Self { instance, servers, clients, issuer, records, keys, known: RefCell::default() }
    }

    /// Puts the shipped policies into its folder.
    pub(crate) fn ship_policies(&self) {
        for name in ["auditor", "export", "fraud", "support"] {
            let name = format!("policies/{name}.cedar");
            self.instance
                .write(&name, &std::fs::read_to_string(shipped("deploy").join(&name)).unwrap());
        }
    }

    /// A question about these fields of a schema, as it goes over the wire.
    pub(crate) fn sent(&self, question: &Question, schema: &'static str, fields: &[&str]) -> Sent {
        let own = &self.records[schema][0];
        let token = token_in(own);
        let names: Vec<&str> =
            fields.iter().filter_map(|id| id.strip_prefix(&format!("{schema}."))).collect();
        let mut items =
            vec![json!({ "id": "r", "schema": schema, "fields": names, "record": own })];
        for field in fields.iter().filter(|id| id.contains('#')) {
            // A token of another field: nobody has the right one outside of Kafka.
            let item = json!({ "id": field, "field": field, "token": token, "subject": SUBJECT });
            items.push(item);
        }
        let mut schemas = BTreeSet::from([schema]);
        let mut subjects = question.subjects.min(MOST_SUBJECTS);
        for other in &self.records["customers"][1..=usize::try_from(subjects - 1).unwrap()] {
            schemas.insert("customers");
            items.push(json!({ "schema": "customers", "fields": [], "record": other }));
        }
        if question.bare {
            // A schema without a subject has no bare tokens: there it is somebody else's.
            let has_subject = schema != "github-webhooks";
            let of = if has_subject { schema } else { "customers" };
            let (field, token) = match of {
                "orders" => ("orders.buyer_email", token),
                "debezium-customers" => ("debezium-customers.email", token),
                _ => ("customers.email", token_in(&self.records["customers"][0])),
            };
            schemas.insert(of);
            subjects += u64::from(!has_subject);
            items.push(json!({ "id": "bare", "field": field, "token": token }));
        }
        let facts = RequestFacts {
            purpose: question.purpose.clone(),
            reason: question.reason.clone(),
            ip: question.ip,
            auth: question.auth,
            items: items.len() as u64,
            bare: question.bare,
            subjects,
        };
        let want = match question.want {
            Want::Auto => "auto",
            Want::Reveal => "reveal",
            Want::Mask => "mask",
        };
        let body = json!({ "purpose": question.purpose, "want": want, "items": items });
        Sent { body: with_reason(body, question), facts, schemas }
    }

    /// The answer of `path`.
    pub(crate) fn post(
        &self,
        running: &ServeProcess,
        question: &Question,
        path: &str,
        body: &Value,
    ) -> Value {
        let answer = self.send(running, question, path, "application/json", body.to_string());
        let status = answer.status();
        let answer: Value = answer.json().unwrap();
        assert_eq!(status, 200, "{question:?}: {answer}");
        answer
    }

    fn send(
        &self,
        running: &ServeProcess,
        question: &Question,
        path: &str,
        media: &str,
        body: String,
    ) -> Response {
        let (client, bearer) = self.caller(question);
        let asked = client.post(format!("https://{}{path}", running.address)).body(body);
        let asked = asked.header("content-type", media);
        let mut asked = asked.header("x-forwarded-for", question.ip.to_string());
        if let Some(token) = bearer {
            asked = asked.bearer_auth(token);
        }
        if let Some(person) = &question.person {
            asked = asked.header("veilstream-on-behalf-of", self.jwt(person));
        }
        asked.send().unwrap()
    }

    /// `/v1/reveal` as a stream: the answer's items. `None`: the request is too long for one packet,
    /// so that it may be answered in parts, and the facts of the first are others.
    pub(crate) fn stream(
        &self,
        running: &ServeProcess,
        question: &Question,
        sent: &Sent,
    ) -> Option<Vec<Value>> {
        let mut head = sent.body.clone();
        let items = head.as_object_mut().unwrap().remove("items").unwrap();
        let lines = std::iter::once(&head).chain(items.as_array().unwrap());
        let body: String = lines.map(|line| format!("{line}\n")).collect();
        if body.len() > 12 << 10 {
            return None;
        }
        let answer = self.send(running, question, "/v1/reveal", "application/x-ndjson", body);
        assert_eq!(answer.status(), 200, "{question:?}");
        let text = answer.text().unwrap();
        let mut lines: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(lines.pop().unwrap()["end"].get("summary").is_some(), "{text}");
        lines.retain(|line| line.get("part").is_none());
        Some(lines)
    }

    /// `/v1/seal` of a value of somebody: the status of each field.
    pub(crate) fn seal(
        &self,
        running: &ServeProcess,
        question: &Question,
        fields: &[&str],
    ) -> Vec<Value> {
        let item =
            |field| json!({ "field": field, "value": "ada@example.com", "subject": SUBJECT });
        let items: Vec<Value> = fields.iter().map(item).collect();
        let body = json!({ "purpose": question.purpose, "items": items });
        let answer = self.post(running, question, "/v1/seal", &with_reason(body, question));
        let items = answer["items"].as_array().unwrap();
        items.iter().map(|item| item["status"].clone()).collect()
    }

    /// `/v1/reveal` or `/v1/explain`: the answer, and the status of each field.
    pub(crate) fn read(
        &self,
        running: &ServeProcess,
        question: &Question,
        path: &str,
        sent: &Sent,
    ) -> (Value, BTreeMap<String, Value>) {
        let answer = self.post(running, question, path, &sent.body);
        let schema = sent.body["items"][0]["schema"].as_str().unwrap();
        let mut fields = BTreeMap::new();
        for (name, told) in answer["items"][0]["fields"].as_object().unwrap() {
            fields.insert(format!("{schema}.{name}"), told.clone());
        }
        for item in answer["items"].as_array().unwrap() {
            if let Some(id) = item["id"].as_str().filter(|id| id.contains('#')) {
                fields.insert(id.to_owned(), item.clone());
            }
        }
        (answer, fields)
    }

    /// `/v1/index`: whether each field may be searched.
    pub(crate) fn search(
        &self,
        running: &ServeProcess,
        question: &Question,
        fields: &[&str],
    ) -> Vec<bool> {
        let queries: Vec<Value> = fields
            .iter()
            .map(|field| match *field {
                "orders.buyer_name" => json!({ "field": field, "values": ["Ada", "90210"] }),
                _ => json!({ "field": field, "value": "ada@example.com" }),
            })
            .collect();
        let body = json!({ "purpose": question.purpose, "queries": queries });
        let answer = self.post(running, question, "/v1/index", &with_reason(body, question));
        let queries = answer["queries"].as_array().unwrap();
        queries.iter().map(|query| query["status"] != "denied").collect()
    }

    /// Whether the answer may say where in the audit log the request stands.
    pub(crate) fn shows_audit(policies: &PolicySet, question: &Question, sent: &Sent) -> bool {
        let person = question.person.as_ref();
        let mut asked = policies.request(&question.caller, person, &sent.facts, question.want);
        sent.schemas
            .iter()
            .all(|schema| asked.permits_on_schema(Action::AuditRead, schema).is_permitted())
    }

    fn caller(&self, question: &Question) -> (Client, Option<String>) {
        let id = &question.caller.id;
        let name = id.strip_prefix("mtls:").filter(|_| question.auth == Credential::Mtls);
        let name = name.unwrap_or_default();
        let make = || {
            let leaf = || self.clients.leaf(vec![SanType::URI(name.try_into().unwrap())], 7, false);
            self.servers.client((!name.is_empty()).then(leaf).as_ref())
        };
        let client = self.known.borrow_mut().entry(name.to_owned()).or_insert_with(make).clone();
        let bearer = match question.auth {
            Credential::Mtls => None,
            Credential::Key => Some(self.keys[&question.caller.roles[0]].clone()),
            Credential::Jwt => Some(self.jwt(&question.caller)),
        };
        (client, bearer)
    }

    fn jwt(&self, of: &Principal) -> String {
        let [_, issuer, sub] = of.id.split(':').collect::<Vec<_>>().try_into().unwrap();
        self.issuer.token(|claims| {
            let is_user = of.kind == PrincipalKind::User;
            assert_eq!(issuer, if is_user { "corp" } else { "batch" });
            claims["iss"] = if is_user { "https://login.corp" } else { "batch" }.into();
            (claims["sub"], claims["roles"]) = (sub.into(), json!(of.roles));
        })
    }
}

/// What `policy test` says of a question.
pub(crate) fn tested(
    policies: &PolicySet,
    question: &Question,
    facts: &RequestFacts,
    action: Action,
    field: &str,
) -> &'static str {
    let asker = Asker { caller: &question.caller, person: question.person.as_ref() };
    ask(policies, asker, facts, action, question.want, field).answer
}

/// `[[policy.purposes]]` and budgets without an end.
fn sections(purposes: &[Purpose]) -> String {
    let mut text = String::new();
    for Purpose { name, reason_required, pattern } in purposes {
        text += &format!(
            "[[policy.purposes]]\nname = \"{name}\"\nreason_required = {reason_required}\n"
        );
        if let Some(pattern) = pattern {
            text += &format!("pattern = '{}'\n", pattern.as_str());
        }
    }
    text + "[[policy.budgets]]\nsubjects = \"unlimited\"\nvalues = \"unlimited\"\n"
}

/// The first record of the schema's own cases that has the most of its fields.
fn sealed(instance: &Instance, schema: &str) -> Vec<Value> {
    let cases = std::fs::read(shipped(&format!("schemas/{schema}.cases.json"))).unwrap();
    let cases: Value = serde_json::from_slice(&cases).unwrap();
    let mut record = cases["cases"][0]["in"]["value"].clone();
    if schema == "github-webhooks" {
        record["organization_billing_email"] = "bills@octo.example".into();
        record["verification"] = json!({ "payload": "tree 9d3f signed by nobody" });
        record["package_version"] = json!({ "manifest": "a manifest that names somebody" });
    }
    let mut lines = record.to_string() + "\n";
    for id in 100..100 + MOST_SUBJECTS * u64::from(schema == "customers") {
        record["customer"]["id"] = id.into();
        lines += &(record.to_string() + "\n");
    }
    instance.seal(schema, &lines)
}

/// Any token of a record.
fn token_in(record: &Value) -> &str {
    let text = ["/customer/email", "/buyer/email", "/after/email", "/pusher/email"];
    text.iter().find_map(|path| record.pointer(path)?.as_str()).unwrap()
}

fn with_reason(mut body: Value, question: &Question) -> Value {
    if let Some(reason) = &question.reason {
        body["reason"] = reason.as_str().into();
    }
    body
}
