//! Dead letters: the records that could not be protected, sealed, bound to where they came from
//! (docs/formats.md, "Dead letters").

mod error;
pub mod letter;
mod origin;
pub mod read;
pub mod replay;

pub use error::{DeadLetterError, LetterFault};
