//! The tables that a place of PostgreSQL needs.

/// The tables, for the owner of the database to make. The line alone is verified; the columns
/// beside it are for people.
pub const DDL: &str = r#"CREATE TABLE pii_access_logs (
    chain text NOT NULL,
    seq bigint NOT NULL,
    user_id text,
    accessed_by text,
    access_type text NOT NULL,
    fields_accessed jsonb NOT NULL,
    reason text,
    "timestamp" timestamptz NOT NULL,
    ip_address text,
    line text NOT NULL,
    UNIQUE (chain, seq)
);
CREATE INDEX pii_access_logs_user ON pii_access_logs (user_id, "timestamp");
CREATE TABLE pii_access_log_subjects (
    sha256 text PRIMARY KEY,
    refs bytea NOT NULL
);
"#;

/// What lets a role write the tables and do nothing else with them.
#[must_use]
pub fn grant(role: &str) -> String {
    let role = format!("\"{}\"", role.replace('"', "\"\""));
    format!(
        "REVOKE ALL ON pii_access_logs, pii_access_log_subjects FROM PUBLIC, {role};\n\
        GRANT INSERT ON pii_access_logs, pii_access_log_subjects TO {role};\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_a_role_is_a_name() {
        assert!(grant("o\"brien").contains("TO \"o\"\"brien\";"));
    }
}
