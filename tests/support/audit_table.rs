//! The audit log's second place in a real PostgreSQL.

use std::path::Path;
use std::process::Command;

use crate::postgres_server::{Database, Server};

/// A database with the tables of `audit ddl`, and what the configuration says of it.
pub(crate) fn audit_table(server: &'static Server, delivery: &str) -> (Database, String) {
    let database = server.database();
    let role = format!("writer_{}", database.name);
    database.sql(&format!("CREATE ROLE {role} LOGIN PASSWORD 's3cr3t'"));
    database.sql(&printed(&["audit", "ddl", "--role", &role]));
    let url = database.url();
    let (_, place) = url.split_once('@').unwrap();
    let audit = format!(
        "postgres = \"postgres://{role}:s3cr3t@{place}\"\npostgres_delivery = \"{delivery}\"\n\
        queue = 5\n"
    );
    (database, audit)
}

/// The table's lines, by an auditor who may read it. `folder`: of the configuration.
pub(crate) fn copies_in_table(folder: &Path, database: &Database) -> String {
    let (config, auditor) = (folder.join("veilstream.toml"), folder.join("auditor.url"));
    let url = database.url();
    let (_, place) = url.split_once('@').unwrap();
    std::fs::write(&auditor, format!("postgres://postgres@{place}\n")).unwrap();
    let [config, auditor] = [&config, &auditor].map(|path| path.to_str().unwrap());
    printed(&["audit", "copies", "--config", config, "--postgres-file", auditor])
}

fn printed(args: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_veilstream"));
    let output = command.args(args).env_remove("VEILSTREAM_KEYS").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
