//! The core against a simulated cluster: processes come, go and crash, logs are cut, deleted and
//! made again, answers come late or not at all. Checked is what users are promised: each record
//! once, or reported. A failure replays by its seed.

mod cluster;
mod process;
mod random;

use super::mutant::{self, Mutant};
use crate::config::{OnMissingOffset, OnOffsetLost};
use cluster::Cluster;
use process::Process;
use random::Random;

const PARTITIONS: usize = 4;
const PROCESSES: usize = 2;
/// Steps with faults; then the world heals and everything must arrive.
const STEPS: usize = 1000;
/// Steps after which a healed world must have come to rest.
const PATIENCE: usize = 60_000;

/// What one seed found.
#[derive(Debug, Default)]
struct Seen {
    records: usize,
    aborts: usize,
    losses: usize,
    crashes: usize,
    blocks: usize,
}

struct World {
    random: Random,
    cluster: Cluster,
    processes: Vec<Process>,
    seen: Seen,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let on_lost = if random.one_in(2) { OnOffsetLost::Continue } else { OnOffsetLost::Stop };
        let on_missing =
            if random.one_in(8) { OnMissingOffset::Latest } else { OnMissingOffset::Earliest };
        let mut cluster = Cluster::new(PARTITIONS, on_missing, on_lost);
        for _ in 0..random.below(30) {
            cluster.append(random.below(PARTITIONS), false);
        }
        let processes = (0..PROCESSES).map(|i| Process::start(i, &mut cluster)).collect();
        Self { random, cluster, processes, seen: Seen::default() }
    }

    fn step(&mut self, has_faults: bool) -> Result<(), String> {
        self.cluster.pass(self.random.below(40));
        if self.random.one_in(50) {
            self.cluster.pass(1500);
        }
        if has_faults {
            self.fault();
            for _ in 0..self.random.below(3) {
                self.cluster.append(self.random.below(PARTITIONS), self.random.one_in(40));
            }
        }
        let i = self.random.below(PROCESSES);
        match self.random.below(4) {
            0 => self.processes[i].poll(&mut self.cluster, &mut self.random, has_faults),
            1 => self.processes[i].fetch(&mut self.cluster, &mut self.random),
            _ => self.processes[i].work(&mut self.cluster, &mut self.random, has_faults),
        }
        self.seen.blocks += self.processes[i].take_blocks();
        self.cluster.check()
    }

    fn fault(&mut self) {
        let partition = self.random.below(PARTITIONS);
        match self.random.below(300) {
            0..3 => self.rebalance(),
            3 => {
                let i = self.random.below(PROCESSES);
                self.seen.crashes += 1;
                self.cluster.leave(i);
                self.processes[i] = Process::start(i, &mut self.cluster);
                self.rebalance();
            }
            4 => {
                self.seen.losses +=
                    usize::from(self.cluster.expire(partition, self.random.below(6)))
            }
            5 => {
                self.seen.losses +=
                    usize::from(self.cluster.truncate(partition, self.random.below(6)))
            }
            6 => self.seen.losses += usize::from(self.cluster.recreate(partition)),
            7 => self.cluster.deny(partition),
            8 | 9 => self.cluster.allow(),
            10..20 => self.cluster.deliver_late_frame(),
            20..23 => self.cluster.accept_losses(),
            23 => self.cluster.toggle_keys(),
            _ => {}
        }
    }

    /// The group gives each partition to some process: who loses one hears of it first, or too
    /// late.
    fn rebalance(&mut self) {
        let owners: Vec<usize> = (0..PARTITIONS).map(|_| self.random.below(PROCESSES)).collect();
        let is_lost = self.random.one_in(5);
        for i in 0..PROCESSES {
            let gone =
                self.cluster.owned(i).into_iter().filter(|p| owners[*p] != i).collect::<Vec<_>>();
            if !is_lost && !gone.is_empty() {
                self.processes[i].revoked(&gone, &mut self.cluster, &mut self.random);
            }
        }
        let before: Vec<Vec<usize>> = (0..PROCESSES).map(|i| self.cluster.owned(i)).collect();
        self.cluster.assign(&owners);
        for (i, before) in before.iter().enumerate() {
            let gone: Vec<usize> = before.iter().copied().filter(|p| owners[*p] != i).collect();
            if is_lost && !gone.is_empty() {
                // It goes on working for a while before it hears that it is no member any more.
                for _ in 0..self.random.below(6) {
                    self.processes[i].work(&mut self.cluster, &mut self.random, true);
                }
                self.processes[i].lost(&mut self.cluster, &mut self.random);
                let all: Vec<usize> = (0..PARTITIONS).filter(|p| owners[*p] == i).collect();
                self.processes[i].assigned(&all, &mut self.cluster);
            } else {
                let new: Vec<usize> =
                    (0..PARTITIONS).filter(|p| owners[*p] == i && !before.contains(p)).collect();
                self.processes[i].assigned(&new, &mut self.cluster);
            }
        }
    }

    fn run(&mut self) -> Result<(), String> {
        self.rebalance();
        for step in 0..STEPS {
            self.step(true).map_err(|why| format!("step {step}: {why}"))?;
        }
        self.cluster.heal();
        for step in 0..PATIENCE {
            if step % 50 == 0 {
                self.cluster.accept_losses();
            }
            self.step(false).map_err(|why| format!("healed, step {step}: {why}"))?;
            if step % 20 == 0 && self.cluster.is_at_rest() {
                break;
            }
        }
        (self.seen.records, self.seen.aborts) = (self.cluster.outputs(), self.cluster.aborts());
        self.cluster.check_end()
    }
}

fn run(seed: u64) -> Result<Seen, String> {
    let mut world = World::new(seed);
    world.run().map_err(|why| format!("seed {seed}: {why}"))?;
    Ok(world.seen)
}

/// The first seed, and how many: `VEILSTREAM_SIMULATE=seed,count`.
fn seeds() -> (u64, u64) {
    let given = std::env::var("VEILSTREAM_SIMULATE").ok();
    let parsed = given
        .as_deref()
        .and_then(|text| text.split_once(','))
        .and_then(|(seed, count)| Some((seed.parse().ok()?, count.parse().ok()?)));
    let now = || {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
            * 1_000_000
    };
    parsed.unwrap_or_else(|| (now(), 1000))
}

#[test]
fn each_record_once_or_reported() {
    let (first, count) = seeds();
    println!("simulator: VEILSTREAM_SIMULATE={first},{count}");
    let mut all = Seen::default();
    for seed in first..first + count {
        let seen =
            run(seed).unwrap_or_else(|why| panic!("{why}; again: VEILSTREAM_SIMULATE={seed},1"));
        all.records += seen.records;
        all.aborts += seen.aborts;
        all.losses += seen.losses;
        all.crashes += seen.crashes;
        all.blocks += seen.blocks;
    }
    println!("simulator: {count} seeds, {all:?}");
    assert!(
        count < 100 || (all.aborts > 0 && all.losses > 0 && all.crashes > 0 && all.blocks > 0),
        "it met nothing: {all:?}"
    );
}

/// The simulator sees each way of being wrong.
#[test]
fn mutants_are_caught() {
    use Mutant as M;
    for mutant in [
        M::SkipFence,
        M::KeepTainted,
        M::KeepBlocked,
        M::CommitPosition,
        M::ForgetEpoch,
        M::SkipRewind,
        M::SilentReset,
        M::IgnoreTopicId,
        M::AnswerEarly,
        M::ReadMoving,
        M::ReadAnnounced,
    ] {
        mutant::set(Some(mutant));
        let caught = (0..400).find_map(|seed| {
            std::panic::catch_unwind(|| run(seed)).unwrap_or_else(|_| Err("panic".to_owned())).err()
        });
        mutant::set(None);
        let caught = caught.unwrap_or_else(|| panic!("{mutant:?} was not caught"));
        println!("{mutant:?}: {caught}");
    }
}
