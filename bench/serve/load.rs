//! Load, and what it costs the server.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::connection::Request;

/// Processor seconds of a process, and of its threads of some name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cpu {
    pub(crate) all: f64,
    pub(crate) named: f64,
}

impl Cpu {
    pub(crate) fn of(pid: u32, thread: &str) -> Self {
        let mut named = 0.0;
        for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
            let path = task.unwrap().path();
            if std::fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == thread) {
                named += seconds(&path.join("stat").display().to_string());
            }
        }
        Self { all: seconds(&format!("/proc/{pid}/stat")), named }
    }

    fn since(self, before: Self) -> Self {
        Self { all: self.all - before.all, named: self.named - before.named }
    }
}

/// User and system time.
fn seconds(stat: &str) -> f64 {
    let text = std::fs::read_to_string(stat).unwrap();
    let (_, rest) = text.rsplit_once(')').unwrap();
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    // Ticks are of a hundredth of a second on every Linux.
    ticks as f64 / 100.0
}

/// What some seconds of load came to.
pub(crate) struct Measured {
    pub(crate) requests: u64,
    pub(crate) seconds: f64,
    pub(crate) cpu: Cpu,
    /// Seconds from when each was due to its last byte, sorted.
    pub(crate) latencies: Vec<f64>,
}

impl Measured {
    /// Requests for each second of the server's processor time.
    pub(crate) fn per_cpu_second(&self) -> f64 {
        self.requests as f64 / self.cpu.all
    }

    pub(crate) fn rate(&self) -> f64 {
        self.requests as f64 / self.seconds
    }

    /// Milliseconds that a part of the requests took at most.
    pub(crate) fn quantile(&self, part: f64) -> f64 {
        let last = self.latencies.len() - 1;
        self.latencies[(last as f64 * part) as usize] * 1000.0
    }
}

/// So many connections, each of which asks again when it is answered.
pub(crate) fn closed(
    pid: u32,
    thread: &str,
    requests: &[Request],
    connections: usize,
    time: Duration,
) -> Measured {
    let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut result = None;
    std::thread::scope(|scope| {
        for n in 0..connections {
            let (stop, count) = (&stop, &count);
            scope.spawn(move || {
                let mut connection = requests[n % requests.len()].connect();
                for request in requests.iter().cycle().skip(n) {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    connection.ask(request);
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // Keys are warm and threads are there.
        std::thread::sleep(Duration::from_millis(500));
        let (cpu, from, start) =
            (Cpu::of(pid, thread), count.load(Ordering::Relaxed), Instant::now());
        std::thread::sleep(time);
        let requests = count.load(Ordering::Relaxed) - from;
        let (seconds, cpu) = (start.elapsed().as_secs_f64(), Cpu::of(pid, thread).since(cpu));
        stop.store(true, Ordering::Relaxed);
        result = Some(Measured { requests, seconds, cpu, latencies: Vec::new() });
    });
    result.unwrap()
}

/// So many requests a second, due at even intervals whether or not those before are answered. What
/// waits for a connection waits in its latency too.
pub(crate) fn open(
    pid: u32,
    request: &Request,
    rate: f64,
    connections: usize,
    time: Duration,
) -> Measured {
    let (next, latencies) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let total = (rate * time.as_secs_f64()) as u64;
    let (before, start) = (Cpu::of(pid, ""), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..connections {
            scope.spawn(|| {
                let (mut connection, mut own) = (request.connect(), Vec::new());
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= total {
                        break;
                    }
                    let due = Duration::from_secs_f64(n as f64 / rate);
                    if let Some(early) = due.checked_sub(start.elapsed()) {
                        std::thread::sleep(early);
                    }
                    connection.ask(request);
                    own.push((start.elapsed() - due).as_secs_f64());
                }
                latencies.lock().unwrap().extend(own);
            });
        }
    });
    let (seconds, cpu) = (start.elapsed().as_secs_f64(), Cpu::of(pid, "").since(before));
    let mut latencies = latencies.into_inner().unwrap();
    latencies.sort_by(f64::total_cmp);
    Measured { requests: total, seconds, cpu, latencies }
}
