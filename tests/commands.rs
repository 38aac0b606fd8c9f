//! What a user sees: transcripts in `tests/cmd`. `TRYCMD=overwrite cargo test --test commands`
//! writes them again; read the difference.

#[test]
fn transcripts() {
    trycmd::TestCases::new()
        .case("tests/cmd/*.toml")
        // The transcripts must not depend on who runs them.
        .env("NO_COLOR", "1")
        .env("COLUMNS", "100");
}
