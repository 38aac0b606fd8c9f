//! Panics are reported by their place alone.

use std::io::{self, Write};
use std::panic::{self, Location, PanicHookInfo};

/// From now on a panic prints where it happened and nothing else: the message of a failed slice or
/// parse quotes the text it failed on, which may be personal data. That holds for panics that are
/// caught, too (the engine catches those of the telephone number library).
pub fn hide_messages() {
    panic::set_hook(Box::new(|info| {
        // Nobody is left to tell when standard error is closed.
        let _ = writeln!(io::stderr(), "{}", describe(info));
    }));
}

fn describe(info: &PanicHookInfo<'_>) -> String {
    let place = info.location().map_or_else(|| "an unknown place".to_owned(), Location::to_string);
    format!("veilstream: panicked at {place}; the message is withheld, it may quote an event")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn the_message_is_not_in_the_report() {
        let secret = "jane@example.com";
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (reports, before) = (seen.clone(), panic::take_hook());
        panic::set_hook(Box::new(move |info| reports.lock().unwrap().push(describe(info))));
        let caught = panic::catch_unwind(|| drop("\u{e9}".repeat(2)[1..].to_owned() + secret));
        let sliced = panic::catch_unwind(|| panic!("cannot read {secret}"));
        panic::set_hook(before);
        assert!(caught.is_err() && sliced.is_err());
        let seen = seen.lock().unwrap();
        let ours: Vec<&String> = seen.iter().filter(|report| report.contains(file!())).collect();
        assert_eq!(ours.len(), 2, "{seen:?}");
        assert!(
            ours.iter().all(|report| !report.contains("jane") && !report.contains('\u{e9}')),
            "{ours:?}"
        );
    }
}
