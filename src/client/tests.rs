use super::*;

fn args(server: &str, dir: &tempfile::TempDir) -> ServerArgs {
    let token = dir.path().join("token");
    std::fs::write(&token, "vsk_x\n").unwrap();
    ServerArgs {
        server: Some(server.to_owned()),
        token_file: Some(token),
        ca_file: None,
        purpose: Some("support".to_owned()),
        reason: None,
    }
}

#[test]
fn only_https_leaves_this_machine() {
    let dir = tempfile::tempdir().unwrap();
    for server in
        ["https://reveal.corp", "https://10.0.0.7:8788/", "http://127.0.0.1:1", "http://[::1]:1"]
    {
        let client = args(server, &dir).client().unwrap().unwrap();
        assert_eq!(client.base, server.trim_end_matches('/'));
    }
    for (server, why) in [
        ("http://reveal.corp", "is not https"),
        ("http://127.0.0.1.corp:1", "is not https"),
        ("ftp://127.0.0.1", "is not https"),
        ("reveal.corp", "is no address"),
        ("https://reveal.corp/?x=1", "has a query"),
        ("https://ana:secret@reveal.corp", "has a user"),
    ] {
        let error = args(server, &dir).client().err().unwrap();
        assert_eq!(Exit::of(&error), Exit::Usage);
        let text = error.to_string();
        assert!(text.contains(why) && !text.contains("secret"), "{text}");
    }
}

#[test]
fn a_credential_is_one_line_of_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let args = args("https://reveal.corp", &dir);
    let token = args.token_file.clone().unwrap();
    let client = args.client().unwrap().unwrap();
    assert!(client.authorization.is_sensitive());
    assert_eq!(client.authorization, "Bearer vsk_x");
    for text in ["", "\n", "vsk_a\nvsk_secret\n"] {
        std::fs::write(&token, text).unwrap();
        let text = args.client().err().unwrap().to_string();
        assert!(text.contains("--token-file") && !text.contains("vsk_secret"), "{text}");
    }
    std::fs::remove_file(&token).unwrap();
    assert!(args.client().err().unwrap().to_string().contains("cannot be read"));
}
