//! The figures as Markdown.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::Args;
use crate::measure::Window;
use crate::system::{LANES, System};
use crate::workload::{EVENT_BYTES, INDEXED, PARTITIONS, SEALED};

/// Records a second, of the copier's.
const GOAL_RATE: f64 = 0.80;
/// Client processor time, times the copier's.
const GOAL_CPU: f64 = 2.1;
/// More than this many cores busy elsewhere: the run was disturbed.
const QUIET: f64 = 0.2;

/// One run in one line of a table.
pub(crate) fn line(round: usize, system: System, w: &Window) -> String {
    let disturbed = if w.elsewhere > QUIET { " (disturbed)" } else { "" };
    format!(
        "| {round} | {} | {:.0} | {:.1} | {:.0} | {:.2} | {:.2} | {:.0} | {:.2}{disturbed} |",
        system.name(),
        w.records / 1000.0,
        w.seconds,
        w.rate(),
        w.client_per_million(),
        w.broker_per_million(),
        w.out_bytes,
        w.elsewhere
    )
}

/// Everything: machine, medians with ratios, runs.
pub(crate) fn report(
    root: &Path,
    args: &Args,
    runs: &[(usize, System, Window)],
) -> anyhow::Result<String> {
    let base = if args.other.is_some() { System::OtherSidecar } else { System::Copier };
    let mut text = format!("# Pipeline beside the {}\n\n{}\n\n", base.name(), machine(root));
    writeln!(
        text,
        "{} events of {EVENT_BYTES} bytes (seed {}), {PARTITIONS} partitions, {LANES} lanes, \
        {SEALED} fields sealed and {INDEXED} indexed; {} rounds. Ratios are to the {} of the same \
        round; medians.\n",
        args.records,
        args.seed,
        args.runs,
        base.name()
    )?;
    if args.smoke {
        writeln!(text, "**A smoke run: the figures mean nothing.**\n")?;
    }
    writeln!(
        text,
        "| system | records/s | ratio | client CPU-s per million | ratio | broker CPU-s per \
        million |"
    )?;
    writeln!(text, "|---|---|---|---|---|---|")?;
    for system in System::ALL {
        let of = |f: &dyn Fn(&Window) -> f64| {
            median(runs.iter().filter(|r| r.1 == system).map(|r| f(&r.2)))
        };
        let against = |f: &dyn Fn(&Window) -> f64| {
            median(runs.iter().filter(|r| r.1 == system).filter_map(|r| {
                let beside = runs.iter().find(|b| b.0 == r.0 && b.1 == base)?;
                Some(f(&r.2) / f(&beside.2))
            }))
        };
        let (Some(rate), Some(cpu), Some(broker)) =
            (of(&Window::rate), of(&Window::client_per_million), of(&Window::broker_per_million))
        else {
            continue;
        };
        let (Some(of_rate), Some(times)) =
            (against(&Window::rate), against(&Window::client_per_million))
        else {
            continue;
        };
        let judged = system == System::Sidecar && base == System::Copier;
        let goal = |met: bool, goal: String| {
            if judged {
                format!(" (goal {goal}: {})", if met { "met" } else { "missed" })
            } else {
                String::new()
            }
        };
        let (rate_goal, cpu_goal) = (
            goal(of_rate >= GOAL_RATE, format!("{GOAL_RATE:.2}")),
            goal(times <= GOAL_CPU, format!("{GOAL_CPU:.1}")),
        );
        writeln!(
            text,
            "| {} | {rate:.0} | {of_rate:.2}{rate_goal} | {cpu:.2} | {times:.2}{cpu_goal} | \
            {broker:.2} |",
            system.name()
        )?;
    }
    writeln!(
        text,
        "\n| round | system | thousand records | seconds | records/s | client CPU-s/M | broker \
        CPU-s/M | bytes out | cores busy elsewhere |"
    )?;
    writeln!(text, "|---|---|---|---|---|---|---|---|---|")?;
    for (round, system, window) in runs {
        writeln!(text, "{}", line(*round, *system, window))?;
    }
    Ok(text)
}

pub(crate) fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

fn machine(root: &Path) -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|l| l.strip_prefix("model name"))
        .map_or("unknown processor", |l| l.trim_start_matches([' ', '\t', ':']));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let libs = fs::read_dir(root.join("target/kafka/libs")).into_iter().flatten().flatten();
    let kafka = libs
        .filter_map(|f| {
            f.file_name()
                .to_str()?
                .strip_prefix("kafka_2.13-")?
                .strip_suffix(".jar")
                .map(str::to_owned)
        })
        .next()
        .unwrap_or_default();
    format!(
        "{cores} cores ({model}), shared by broker, client and bench; Apache Kafka {kafka}, one \
        node; librdkafka {}.",
        rdkafka::util::get_rdkafka_version().1
    )
}
