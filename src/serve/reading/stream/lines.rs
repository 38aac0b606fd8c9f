//! The lines of a stream, part by part, in bounded memory.

use std::time::Duration;

use axum::http::StatusCode;
use tokio::time::timeout;

use super::super::fault::RequestFault;
use super::super::request::MOST_ITEMS;
use crate::http::ProblemDetails;
use crate::serve::body::{BODY_MAX, RequestBody};

/// Bytes of the first line, with its end.
const FIRST_MAX: usize = 64 << 10;
/// A part that has items leaves when nothing came for so long: who sends slowly is answered too.
const PAUSE: Duration = Duration::from_millis(100);
/// What still comes after the last line is read for so long.
const DRAIN: Duration = Duration::from_secs(5);

/// A stream's body.
pub(super) struct StreamLines {
    body: RequestBody,
    held: Held,
    is_at_end: bool,
    /// Why nothing more comes, after what came whole.
    fault: Option<RequestFault>,
}

/// What came and is not answered yet.
#[derive(Default)]
struct Held {
    bytes: Vec<u8>,
    /// Up to here lines are counted.
    counted: usize,
    /// The end of the last whole line.
    whole: usize,
    /// Items among the whole lines.
    items: usize,
}

impl StreamLines {
    pub(super) fn new(body: RequestBody) -> Self {
        Self { body, held: Held::default(), is_at_end: false, fault: None }
    }

    /// The first line, which says what for.
    pub(super) async fn first(&mut self) -> Result<Vec<u8>, RequestFault> {
        loop {
            let length = self.held.bytes.iter().position(|byte| *byte == b'\n').map(|end| end + 1);
            // However much came at once.
            if length.unwrap_or(self.held.bytes.len()) > FIRST_MAX {
                let wanted = "must be at most 64 KiB";
                return Err(RequestFault::Member { name: "The first line", wanted });
            }
            if let Some(length) = length {
                return Ok(self.held.cut(length));
            }
            if !self.read().await? {
                let end = self.held.bytes.len();
                return Ok(self.held.cut(end));
            }
        }
    }

    /// The lines of the next part; `None`: there are no more.
    pub(super) async fn part(&mut self) -> Result<Option<Vec<u8>>, RequestFault> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        loop {
            self.held.count();
            if self.held.items >= MOST_ITEMS {
                return Ok(Some(self.held.cut(self.held.whole)));
            }
            if self.held.bytes.len() >= BODY_MAX {
                if self.held.whole == 0 {
                    return Err(RequestFault::Body(too_long()));
                }
                return Ok(Some(self.held.cut(self.held.whole)));
            }
            if self.is_at_end {
                let rest = self.held.cut(self.held.bytes.len());
                return Ok((!rest.is_empty()).then_some(rest));
            }
            if self.held.items == 0 {
                self.read().await?;
                continue;
            }
            match timeout(PAUSE, self.read()).await {
                Ok(Ok(_)) => continue,
                // What came whole is answered, then the fault is told.
                Ok(Err(fault)) => self.fault = Some(fault),
                Err(_) => {}
            }
            return Ok(Some(self.held.cut(self.held.whole)));
        }
    }

    /// Reads on for a while and keeps nothing. A connection that is closed with bytes unread is
    /// reset, and the caller may lose the last line.
    pub(super) async fn drain(&mut self) {
        let comes = async { while let Ok(Some(Ok(_))) = timeout(PAUSE, self.body.next()).await {} };
        // A caller that goes on is cut off.
        let _ = timeout(DRAIN, comes).await;
    }

    /// Takes the next bytes; `false`: there are none.
    async fn read(&mut self) -> Result<bool, RequestFault> {
        match self.body.next().await {
            Some(Ok(bytes)) => {
                self.held.bytes.extend_from_slice(&bytes);
                Ok(true)
            }
            Some(Err(problem)) => Err(RequestFault::Body(problem)),
            None => {
                self.is_at_end = true;
                Ok(false)
            }
        }
    }
}

impl Held {
    /// Counts the lines that came since.
    fn count(&mut self) {
        while self.items < MOST_ITEMS
            && let Some(length) = self.bytes[self.counted..].iter().position(|b| *b == b'\n')
        {
            let end = self.counted + length + 1;
            self.items += usize::from(is_item(&self.bytes[self.whole..end]));
            (self.counted, self.whole) = (end, end);
        }
        if self.items < MOST_ITEMS {
            self.counted = self.bytes.len();
        }
    }

    fn cut(&mut self, end: usize) -> Vec<u8> {
        let rest = self.bytes.split_off(end);
        *self = Self { counted: 0, whole: 0, items: 0, bytes: std::mem::take(&mut self.bytes) };
        std::mem::replace(&mut self.bytes, rest)
    }
}

/// The items of a part: its lines that are not blank.
pub(super) fn items(part: &[u8]) -> impl Iterator<Item = &[u8]> {
    part.split(|byte| *byte == b'\n').filter(|line| is_item(line))
}

fn is_item(line: &[u8]) -> bool {
    !line.trim_ascii().is_empty()
}

fn too_long() -> ProblemDetails {
    ProblemDetails::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "body_too_large",
        "A line is larger than 8 MiB; no item is.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_ends_with_a_line() {
        let mut held = Held::default();
        held.bytes.extend_from_slice(b"{}\n \n{");
        held.count();
        assert_eq!((held.items, held.whole), (1, 5));
        held.bytes.extend_from_slice(b"}\n{}");
        held.count();
        assert_eq!((held.items, held.whole), (2, 8));
        let part = held.cut(held.whole);
        assert_eq!(items(&part).collect::<Vec<_>>(), [b"{}", b"{}"]);
        assert_eq!((&held.bytes[..], held.items, held.whole), (&b"{}"[..], 0, 0));
    }

    #[test]
    fn a_part_has_a_thousand_items_at_most() {
        let mut held = Held { bytes: b"1\n".repeat(2 * MOST_ITEMS + 1), ..Held::default() };
        for expected in [MOST_ITEMS, MOST_ITEMS, 1] {
            held.count();
            assert_eq!(items(&held.cut(held.whole)).count(), expected);
        }
        assert!(held.bytes.is_empty());
    }
}
