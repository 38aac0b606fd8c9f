//! The figures as Markdown.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::Args;
use crate::measure::Window;
use crate::system::{LANES, System};
use crate::workload::{EVENT_BYTES, INDEXED, PARTITIONS, SEALED};

/// What the sidecar is held to: beside which system, and by how much of its records a second at
/// least, or of its client's processor time at most.
const GOALS: [(System, Goal); 5] = [
    (System::Copier, Goal::Rate(0.80)),
    (System::Copier, Goal::Processor(2.1)),
    (System::SealingCopier, Goal::Rate(0.85)),
    (System::SealingCopier, Goal::Processor(1.30)),
    (System::JavaCopier, Goal::Rate(1.0)),
];

#[derive(Clone, Copy)]
enum Goal {
    Rate(f64),
    Processor(f64),
}

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
        let against = |f: &dyn Fn(&Window) -> f64| ratio(runs, system, base, f);
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
        writeln!(
            text,
            "| {} | {rate:.0} | {of_rate:.2} | {cpu:.2} | {times:.2} | {broker:.2} |",
            system.name()
        )?;
    }
    if base == System::Copier {
        text.push_str(&goals(runs)?);
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

/// The median over rounds of a figure, of another system's in the same round.
fn ratio(
    runs: &[(usize, System, Window)],
    system: System,
    base: System,
    figure: &dyn Fn(&Window) -> f64,
) -> Option<f64> {
    median(runs.iter().filter(|run| run.1 == system).filter_map(|run| {
        let beside = runs.iter().find(|other| other.0 == run.0 && other.1 == base)?;
        Some(figure(&run.2) / figure(&beside.2))
    }))
}

fn goals(runs: &[(usize, System, Window)]) -> Result<String, std::fmt::Error> {
    let mut text = String::from("\n| veilstream run | goal | measured | |\n|---|---|---|---|\n");
    for (base, goal) in GOALS {
        let (what, figure, bound): (_, &dyn Fn(&Window) -> f64, _) = match goal {
            Goal::Rate(least) => ("records/s", &Window::rate, least),
            Goal::Processor(most) => ("client CPU", &Window::client_per_million, most),
        };
        let Some(measured) = ratio(runs, System::Sidecar, base, figure) else { continue };
        let (sign, is_met) = match goal {
            Goal::Rate(least) => ("at least", measured >= least),
            Goal::Processor(most) => ("at most", measured <= most),
        };
        writeln!(
            text,
            "| {what}, of the {}'s | {sign} {bound:.2} | {measured:.2} | {} |",
            base.name(),
            if is_met { "met" } else { "missed" }
        )?;
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
