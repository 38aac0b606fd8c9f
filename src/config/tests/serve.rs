//! `[serve]`.

use super::*;

/// The example with the settings of `[serve]`, which stand there as a comment: the section alone
/// asks for more than has a default.
pub(super) fn with_serve(example: &str) -> String {
    let (before, after) = example.split_once("# [serve]\n").unwrap();
    let (serve, after) = after.split_once("\n\n").unwrap();
    let serve: Vec<&str> = serve.lines().map(|line| line.strip_prefix("# ").unwrap()).collect();
    format!("{before}[serve]\n{}\n\n{after}", serve.join("\n"))
}

#[test]
fn the_example_holds_the_defaults_of_serve() {
    let example = with_serve(include_str!("../../../deploy/veilstream.example.toml"));
    let serve = |text: &str| {
        let (config, faults) = examine(text, &[]);
        assert_eq!(faults.len(), 1, "no certificate: {faults:?}");
        format!("{:?}", config.serve.unwrap())
    };
    assert_eq!(serve(&example), serve("[serve]"));
}

const SERVE: &str = r#"
    [serve]
    listen = "0.0.0.0:8788"
    principals = ["certificate", "jwt", "key"]
    certificate_file = "server.pem"
    key_file = "server.key"
    client_ca_file = "clients.pem"
    client_crl_file = "revoked.pem"
    proxies = ["10.0.0.0/8", "fd00::1"]
    clients = { "spiffe://corp/Fraud" = ["fraud"], "Reports.Corp" = ["analyst", "export"] }
    [serve.jwt.corp]
    issuer = "https://login.corp"
    audience = "veilstream"
    jwks = "https://login.corp/keys"
    ca_file = "corp.pem"
    [serve.jwt.batch]
    issuer = "batch"
    audience = "veilstream"
    jwks = "http://127.0.0.1:8000/keys"
    roles_claim = "realm.roles"
    kind = "service"
"#;

#[test]
fn serve_is_read() {
    let serve = good(SERVE, &[("VEILSTREAM__SERVE__INSTANCES", "3")]).serve.unwrap();
    assert_eq!((serve.principals.len(), serve.instances, serve.reveal), (3, 3, true));
    assert_eq!(serve.client_ca_file, Some("conf/clients.pem".into()));
    // The case of a DNS name does not count, that of a URI does.
    assert_eq!(serve.clients["spiffe://corp/Fraud"], ["fraud"]);
    assert_eq!(serve.clients["reports.corp"], ["analyst", "export"]);
    let names: Vec<&str> = serve.issuers.iter().map(|issuer| issuer.name.as_str()).collect();
    assert_eq!(names, ["batch", "corp"]);
    assert_eq!(serve.issuers[0].kind, PrincipalKind::Service);
    assert_eq!(serve.issuers[0].roles_claim, "realm.roles");
    assert_eq!(serve.issuers[1].ca_file, Some("conf/corp.pem".into()));
    let inside = |address: &str| {
        serve.proxies.iter().any(|network| network.contains(address.parse().unwrap()))
    };
    assert!(inside("10.1.2.3") && inside("::ffff:10.1.2.3") && inside("fd00::1"));
    assert!(!inside("11.0.0.1") && !inside("fd00::2") && !inside("::1"));
    assert!(Network::parse("0.0.0.0/0").unwrap().contains([192, 0, 2, 1].into()));
    assert!(good("", &[]).serve.is_none(), "without the section there is no service");
}

#[test]
fn serve_tells_every_fault_at_once() {
    let text = r#"
        [serve]
        listen = "0.0.0.0:8788"
        principals = ["certificate", "password"]
        insecure = true
        key_file = "server.key"
        client_crl = "x"
        proxies = ["10.0.0.0/33", "proxy.corp"]
        instances = 0
        clients = { "CN=fraud" = ["fraud"], "a.corp" = ["1"], "b.corp" = 5 }
        [serve.jwt.Corp]
        issuer = "https://login.corp"
        jwks = "http://login.corp/keys"
        kind = "robot"
        [serve.jwt.corp]
        issuer = "https://login.corp"
        audience = "veilstream"
        jwks = "https://login.corp/keys"
    "#;
    let expected = r#"
conf/veilstream.toml: serve.certificate_file: is missing; name the certificate of key_file
conf/veilstream.toml: serve.client_ca_file: is missing; name who may sign client certificates
conf/veilstream.toml: serve.client_crl: is unknown; did you mean client_crl_file?
conf/veilstream.toml: serve.clients."CN=fraud": is no name of a certificate; write its URI ("spiffe://corp/fraud") or its DNS name ("fraud.corp"), in quotes
conf/veilstream.toml: serve.clients."a.corp": "1" is no role; write up to 64 of a-z, A-Z, 0-9, ., _, : and -, a letter first
conf/veilstream.toml: serve.clients.b.corp: is not a list of texts; write ["one", "two"]
conf/veilstream.toml: serve.insecure: is true, but listen is no address of the loopback; credentials and values would cross the network in clear
conf/veilstream.toml: serve.instances: "0" is not allowed; write a number from 1 to 1000
conf/veilstream.toml: serve.jwt.Corp.audience: is missing; write the "aud" that tokens for this service have
conf/veilstream.toml: serve.jwt.Corp.issuer: stands below "Corp", which is no name; write up to 64 of a-z, 0-9, _ and -, a letter first
conf/veilstream.toml: serve.jwt.Corp.jwks: "http://login.corp/keys" is no https address; write one, because anyone who changes keys on their way signs as anybody
conf/veilstream.toml: serve.jwt.Corp.kind: "robot" is no kind; write user or service
conf/veilstream.toml: serve.jwt.corp.issuer: stands twice; a token would belong to two issuers
conf/veilstream.toml: serve.principals: "password" is none; write certificate, jwt or key
conf/veilstream.toml: serve.principals: has certificate, which there is none of without TLS
conf/veilstream.toml: serve.proxies: "10.0.0.0/33" is no address; write "10.0.0.7", "10.0.0.0/8" or "fd00::/8"
conf/veilstream.toml: serve.proxies: "proxy.corp" is no address; write "10.0.0.7", "10.0.0.0/8" or "fd00::/8"
"#;
    assert_eq!(faults(text, &[]).join("\n"), expected.trim());
    let missing = |text: &str| faults(text, &[]).join("\n");
    assert!(missing("[serve]").contains("serve.certificate_file: is missing; name the server's"));
    assert!(
        missing("[serve]\ninsecure = true\nprincipals = [\"jwt\"]").contains("[serve.jwt.<name>]")
    );
    let useless = missing("[serve]\ninsecure = true\nclient_ca_file = \"x\"");
    assert!(useless.contains("client_ca_file: has no effect"), "{useless}");
    let both = missing("[serve]\ninsecure = true\ncertificate_file = \"x\"\nkey_file = \"y\"");
    assert!(both.contains("serve.insecure: is true, but there is a certificate"), "{both}");
}
