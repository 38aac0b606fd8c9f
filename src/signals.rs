//! Signals of the operating system as messages.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::exit::Exit;

/// What an operator asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// SIGTERM or SIGINT, by name: drain and stop.
    Stop(&'static str),
    /// SIGHUP: look at the schemas now.
    Reload,
}

/// Sends requests to `receive`, from a thread of its own, as long as it answers `true`. A second
/// SIGTERM or SIGINT ends the process at once, whatever its threads do: the next start aborts what
/// it left open.
///
/// # Errors
/// The handlers or the thread cannot be made.
pub fn watch(receive: impl Fn(Request) -> bool + Send + 'static) -> io::Result<()> {
    let asked = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        // Order matters: the first signal finds the flag down, puts it up; the second finds it up.
        signal_hook::flag::register_conditional_shutdown(
            signal,
            Exit::Failed as i32,
            asked.clone(),
        )?;
        signal_hook::flag::register(signal, asked.clone())?;
    }
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in &mut signals {
            let request = match signal {
                SIGTERM => Request::Stop("SIGTERM"),
                SIGINT => Request::Stop("SIGINT"),
                _ => Request::Reload,
            };
            if !receive(request) {
                break;
            }
        }
    })?;
    Ok(())
}
