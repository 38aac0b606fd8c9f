//! Lines on their way to the writer's thread.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::Durable;
use crate::audit::AuditError;
use crate::audit::line::Drafts;

/// Requests that wait at most; the deadline of each would pass before its turn.
const MOST: usize = 10_000;

/// Requests that wait for the writer's thread.
#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    requests: VecDeque<Request>,
    /// Who waits for the end.
    stop: Option<Arc<Ticket>>,
    /// The thread has something to write of its own.
    is_nudged: bool,
    /// The thread waits for so many requests; 0: it does not. To wake it is a system call.
    wanted: usize,
    /// Requests that the thread took last.
    taken: usize,
    /// The thread has ended.
    is_closed: bool,
}

/// Lines, and who waits for them.
pub(super) struct Request {
    pub(super) lines: Drafts,
    pub(super) ticket: Arc<Ticket>,
}

/// What the thread has to do.
pub(super) enum Work {
    /// Make these durable; none: it is time to look at the chain.
    Requests(Vec<Request>),
    /// End the chain.
    Stop(Arc<Ticket>),
}

/// Why a request does not wait.
#[derive(Clone, Copy)]
pub(super) enum Refused {
    Stopped,
    Full,
}

impl Refused {
    pub(super) fn to_error(self, place: &Path) -> AuditError {
        match self {
            Self::Stopped => AuditError::Stopped,
            Self::Full => {
                AuditError::unavailable(place, format_args!("{MOST} requests wait for it already"))
            }
        }
    }
}

impl Queue {
    pub(super) fn push(&self, lines: Drafts) -> Result<Arc<Ticket>, Refused> {
        let mut waiting = self.waiting();
        if waiting.is_closed || waiting.stop.is_some() {
            return Err(Refused::Stopped);
        }
        if waiting.requests.len() >= MOST {
            return Err(Refused::Full);
        }
        let ticket = Arc::new(Ticket::default());
        waiting.requests.push_back(Request { lines, ticket: ticket.clone() });
        if waiting.requests.len() >= waiting.wanted {
            self.wake(waiting);
        }
        Ok(ticket)
    }

    /// Lets the thread look at its chain now.
    pub(super) fn nudge(&self) {
        let mut waiting = self.waiting();
        waiting.is_nudged = true;
        self.wake(waiting);
    }

    /// Asks the thread to end, once what waits is done.
    pub(super) fn stop(&self) -> Arc<Ticket> {
        let mut waiting = self.waiting();
        let ticket = waiting.stop.get_or_insert_default().clone();
        if waiting.is_closed {
            ticket.finish(Err(AuditError::Stopped));
        }
        self.wake(waiting);
        ticket
    }

    fn wake(&self, mut waiting: MutexGuard<'_, Waiting>) {
        let is_idle = std::mem::take(&mut waiting.wanted) > 0;
        drop(waiting);
        if is_idle {
            self.changed.notify_one();
        }
    }

    /// What is to be done, at the latest at `until`. Takes up to `most` requests.
    ///
    /// One fsync serves all that it takes. So it waits up to `pause` for as many as are under way:
    /// those that were taken last, and those that came meanwhile.
    pub(super) fn next(&self, until: Instant, pause: Duration, most: usize) -> Work {
        let mut waiting = self.waiting();
        let crowd = (waiting.taken + waiting.requests.len()).min(most);
        let mut gathered = None;
        loop {
            let now = Instant::now();
            let is_asked = waiting.is_nudged || waiting.stop.is_some();
            let (wanted, end) = match (waiting.requests.is_empty(), &waiting.stop) {
                (true, Some(ticket)) => return Work::Stop(ticket.clone()),
                (true, None) => (1, until),
                (false, _) => (crowd, *gathered.get_or_insert(now + pause)),
            };
            if waiting.requests.len() >= wanted || now >= end || is_asked {
                waiting.taken = waiting.requests.len().min(most);
                if waiting.taken == 0 {
                    waiting.is_nudged = false;
                }
                let count = waiting.taken;
                let taken = waiting.requests.drain(..count).filter(|r| r.ticket.take()).collect();
                return Work::Requests(taken);
            }
            waiting.wanted = wanted;
            waiting = self
                .changed
                .wait_timeout(waiting, end - now)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            waiting.wanted = 0;
        }
    }

    /// Closes the queue when what it returns is dropped, by a panic too.
    pub(super) fn close_at_end(self: &Arc<Self>) -> impl Drop + use<> {
        struct Closer(Arc<Queue>);
        impl Drop for Closer {
            fn drop(&mut self) {
                let mut waiting = self.0.waiting();
                waiting.is_closed = true;
                let stop = waiting.stop.take();
                for ticket in waiting.requests.drain(..).map(|request| request.ticket).chain(stop) {
                    ticket.finish(Err(AuditError::Stopped));
                }
            }
        }
        Closer(self.clone())
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a request stands.
#[derive(Default)]
pub(super) struct Ticket {
    state: Mutex<TicketState>,
    /// For a thread that waits; a task has a waker.
    changed: Condvar,
}

#[derive(Default)]
struct TicketState {
    stage: Stage,
    waker: Option<Waker>,
    /// A thread waits.
    is_waited_for: bool,
}

#[derive(Default)]
enum Stage {
    #[default]
    Waiting,
    /// The thread writes it.
    Taken,
    /// Nobody waits any more.
    Abandoned,
    Done(Result<Durable, AuditError>),
}

impl Ticket {
    /// Whether it is still wanted.
    fn take(&self) -> bool {
        let mut state = self.state();
        let is_wanted = matches!(state.stage, Stage::Waiting);
        if is_wanted {
            state.stage = Stage::Taken;
        }
        is_wanted
    }

    /// Says what became of it; what was said first stays.
    pub(super) fn finish(&self, result: Result<Durable, AuditError>) {
        let mut state = self.state();
        if !matches!(state.stage, Stage::Done(_)) {
            state.stage = Stage::Done(result);
        }
        let (waker, is_waited_for) = (state.waker.take(), state.is_waited_for);
        drop(state);
        if is_waited_for {
            self.changed.notify_all();
        }
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// What became of it; `None`: nothing until then.
    pub(super) fn wait(&self, until: Instant) -> Option<Result<Durable, AuditError>> {
        let mut state = self.state();
        loop {
            if let Stage::Done(result) = &state.stage {
                return Some(result.clone());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.abandon();
                return None;
            }
            state.is_waited_for = true;
            state =
                self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// What became of it, for a task.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<Result<Durable, AuditError>> {
        let mut state = self.state();
        if let Stage::Done(result) = &state.stage {
            return Poll::Ready(result.clone());
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Nobody waits any more: what the thread has not taken yet is not written.
    pub(super) fn abandon(&self) {
        self.state().abandon();
    }

    fn state(&self) -> MutexGuard<'_, TicketState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TicketState {
    fn abandon(&mut self) {
        if matches!(self.stage, Stage::Waiting) {
            self.stage = Stage::Abandoned;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn taken(queue: &Queue, pause: Duration) -> usize {
        match queue.next(Instant::now() + LONG, pause, 100) {
            Work::Requests(requests) => requests.len(),
            Work::Stop(_) => panic!("nobody stopped it"),
        }
    }

    fn push(queue: &Queue) {
        assert!(queue.push(Drafts::default()).is_ok());
    }

    /// What is taken where `act` follows once so many requests are waited for.
    fn taken_after(queue: &Queue, wanted: usize, act: impl FnOnce(&Queue)) -> usize {
        std::thread::scope(|scope| {
            let next = scope.spawn(|| taken(queue, LONG));
            while queue.waiting().wanted != wanted {
                std::thread::yield_now();
            }
            act(queue);
            next.join().unwrap()
        })
    }

    #[test]
    fn requests_that_are_under_way_are_waited_for() {
        let queue = Queue::default();
        push(&queue);
        assert_eq!(taken(&queue, LONG), 1, "nobody else is known of");
        push(&queue);
        assert_eq!(taken_after(&queue, 2, push), 2);
        push(&queue);
        assert_eq!(taken(&queue, Duration::ZERO), 1, "no longer than that");
    }

    #[test]
    fn who_is_asked_to_stop_or_to_look_waits_for_nobody() {
        let queue = Queue::default();
        for ask in [|queue: &Queue| queue.nudge(), |queue: &Queue| drop(queue.stop())] {
            queue.waiting().taken = 5;
            push(&queue);
            assert_eq!(taken_after(&queue, 6, ask), 1);
            if queue.waiting().stop.is_none() {
                assert_eq!(taken(&queue, LONG), 0, "it looks");
            }
        }
    }
}
