//! What `veilstream serve` answers beyond single requests: the built binary, with keys and a policy
//! of its own. Needs no Kafka, so it is a binary of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod keys {
    pub(crate) use veilstream::keys::{CredentialSource, KeyFault, now};
}
#[path = "serve_client.rs"]
mod client;
#[path = "serve_honey.rs"]
mod honey;
#[allow(dead_code, reason = "shared with the tests of the matrix")]
#[path = "serve_instance.rs"]
mod instance;
#[path = "serve_interop.rs"]
mod interop;
#[path = "serve_seal.rs"]
mod seal;
#[path = "serve_stream.rs"]
mod stream;
#[allow(dead_code, reason = "shared with the tests of the service")]
#[path = "../../src/serve/testing.rs"]
mod testing;
