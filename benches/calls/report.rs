//! The figures, and what is asked of them.

use crate::Scale;
use crate::systems::System;
use crate::writers::{Times, no_times};
use std::time::Duration;

/// What one run of a case gave.
pub struct Taken {
    /// What was timed.
    pub label: &'static str,
    /// How long each call took.
    pub times: Times,
    /// Part of the calls that were due and were made.
    pub kept_pace: f64,
}

impl Taken {
    pub fn of(label: &'static str, times: Times) -> Taken {
        Taken { label, times, kept_pace: 1.0 }
    }
}

/// What was timed, and for whom in which rounds.
struct Table {
    label: String,
    rows: Vec<Row>,
}

struct Row {
    name: String,
    rounds: Vec<Round>,
}

struct Round {
    number: usize,
    times: Times,
    kept_pace: f64,
    cpu: Option<Duration>,
}

/// All that was measured.
#[derive(Default)]
pub struct Results {
    tables: Vec<Table>,
}

const QUANTILES: [f64; 3] = [0.5, 0.99, 0.999];

impl Round {
    fn quantile(&self, quantile: f64) -> u64 {
        self.times.value_at_quantile(quantile)
    }
}

impl Row {
    /// The times of all rounds together.
    fn all(&self) -> Times {
        let mut all = no_times();
        for round in &self.rounds {
            all.add(&round.times).expect("the bounds are the same");
        }
        all
    }

    /// How many times as long as `base` a call took, in each round that both were in.
    fn ratios(&self, base: &Row, quantile: f64) -> Vec<f64> {
        let in_round = |number| base.rounds.iter().find(|round| round.number == number);
        let ratio = |round: &Round| {
            let base = in_round(round.number)?.quantile(quantile);
            (base > 0).then(|| round.quantile(quantile) as f64 / base as f64)
        };
        let mut ratios: Vec<f64> = self.rounds.iter().filter_map(ratio).collect();
        ratios.sort_by(f64::total_cmp);
        ratios
    }

    fn show(&self, base: &Row) {
        let all = self.all();
        let [p50, p99, p999] = QUANTILES.map(|q| shown(all.value_at_quantile(q)));
        let cpu: Option<Duration> = self.rounds.iter().map(|round| round.cpu).sum();
        let cpu = cpu.map(|cpu| format!("{:.2}", cpu.as_secs_f64() / self.rounds.len() as f64));
        let ratios = QUANTILES
            .map(|q| median(&self.ratios(base, q)).map_or_else(|| "-".into(), ratio_shown));
        let kept = self.rounds.iter().map(|round| round.kept_pace).fold(1.0, f64::min);
        print!(
            "{:<24}{:>9}{p50:>9}{p99:>9}{p999:>9}{:>9}{:>8}{:>8}{:>8}{:>8}",
            self.name,
            all.len(),
            shown(all.max()),
            cpu.as_deref().unwrap_or("-"),
            ratios[0],
            ratios[1],
            ratios[2],
        );
        println!(
            "{}",
            if kept < 0.995 {
                format!("  kept {:.0} % of the pace", kept * 100.0)
            } else {
                String::new()
            }
        );
    }
}

impl Table {
    fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }

    fn show(&self) {
        println!("\n{}", self.label);
        println!(
            "{:<24}{:>9}{:>9}{:>9}{:>9}{:>9}{:>8}{:>8}{:>8}{:>8}",
            "", "calls", "p50", "p99", "p99.9", "max", "CPU s", "x p50", "x p99", "x p99.9"
        );
        for row in &self.rows {
            row.show(&self.rows[0]);
        }
    }
}

impl Results {
    pub fn len(&self) -> usize {
        self.tables.len()
    }

    /// What a system gave in a round.
    pub fn add(&mut self, system: System, round: usize, taken: Taken, cpu: Option<Duration>) {
        let label = taken.label;
        self.add_row(label, &system.to_string(), round, taken, cpu);
    }

    /// The same for what is no system; the row added first is what the others are compared with.
    pub fn add_row(
        &mut self,
        label: &str,
        name: &str,
        number: usize,
        taken: Taken,
        cpu: Option<Duration>,
    ) {
        let at = self.tables.iter().position(|table| table.label == label).unwrap_or_else(|| {
            self.tables.push(Table { label: label.into(), rows: Vec::new() });
            self.tables.len() - 1
        });
        let rows = &mut self.tables[at].rows;
        let row = rows.iter().position(|row| row.name == name).unwrap_or_else(|| {
            rows.push(Row { name: name.into(), rounds: Vec::new() });
            rows.len() - 1
        });
        let Taken { times, kept_pace, .. } = taken;
        rows[row].rounds.push(Round { number, times, kept_pace, cpu });
    }

    /// Prints what was added from `first` on.
    pub fn show_from(&self, first: usize) {
        self.tables.iter().skip(first).for_each(Table::show);
    }

    /// Holds the figures against what is asked of spoolfs.
    pub fn judge(&self) {
        let mut asked = Vec::new();
        for table in &self.tables {
            for system in [System::Passthrough, System::Plain] {
                if let Some(row) = table.row(&system.to_string())
                    && let Some(base) = table.row(&System::Raw.to_string())
                {
                    asked.extend(asked_of(system, &table.label, row, base));
                }
                for (ill, well, what) in [
                    ("silent", "answering", "with a silent target, of that with a good one"),
                    (
                        "stalled",
                        "unheard",
                        "with 50 listeners of a target that hangs, of that without",
                    ),
                    (
                        "stalled",
                        "heard from disk",
                        "with those, of that with 50 of files on the disk",
                    ),
                    ("synced", "unsynced", "with `sync_after`, of that without"),
                    ("as FLAC", "not due", "while others are encoded, of that without"),
                    ("as FLAC", "encoded by another", "while others are, of another's doing it"),
                    ("as they are", "not due", "while others are archived, of that without"),
                    ("as they are", "copied by another", "while others are, of another's copying"),
                ] {
                    if let Some(row) = table.row(&format!("{system}, {ill}"))
                        && let Some(well) = table.row(&format!("{system}, {well}"))
                        && let ratios = row.ratios(well, 0.999)
                        && let Some(ratio) = median(&ratios)
                    {
                        let what = format!("{system}: p99.9 {what}");
                        asked.push((what, format!("{ratio:.2}"), "<= 1.1", ratio <= 1.1));
                    }
                }
            }
        }
        if asked.is_empty() {
            return;
        }
        println!("\nAsked of spoolfs");
        for (what, figure, bound, met) in asked {
            println!("{what:<72}{figure:>10}  {bound:<9}{}", if met { "" } else { "MISSED" });
        }
    }
}

type Asked = (String, String, &'static str, bool);

fn asked_of(system: System, label: &str, row: &Row, base: &Row) -> Vec<Asked> {
    let all = row.all();
    let at_most = |quantile: f64, bound: Duration, word| {
        let value = all.value_at_quantile(quantile);
        let met = u128::from(value) <= bound.as_nanos();
        let name = format!("p{}", quantile * 100.0);
        (format!("{system}: {name}, {label}"), shown(value), word, met)
    };
    let paced = label.contains("500 recordings") && label.contains("every");
    let ms = Duration::from_millis;
    match (system, label) {
        (System::Passthrough, _) if paced => {
            let ratio = median(&row.ratios(base, 0.99)).unwrap_or(f64::NAN);
            let what = format!("{system}: p99 of the raw directory's, {label}");
            vec![(what, format!("{ratio:.2}"), "<= 1.2", ratio <= 1.2)]
        }
        (System::Plain, _) if paced && label.starts_with("320 B") => {
            vec![at_most(0.999, ms(1), "<= 1 ms")]
        }
        (System::Plain, _) if paced => vec![at_most(0.999, ms(2), "<= 2 ms")],
        (System::Passthrough, label) if label.contains("flat out") => {
            let raw = base.all().value_at_quantile(0.5);
            let more = all.value_at_quantile(0.5).saturating_sub(raw);
            let what = format!("{system}: p50 above the raw directory's, {label}");
            vec![(what, shown(more), "<= 3 us", more <= 3_000)]
        }
        (_, "create and first write" | "close") => vec![at_most(0.99, ms(2), "<= 2 ms")],
        _ => Vec::new(),
    }
}

/// The upper one of two in the middle: never kinder than the truth.
fn median(sorted: &[f64]) -> Option<f64> {
    sorted.get(sorted.len() / 2).copied()
}

fn ratio_shown(ratio: f64) -> String {
    if ratio < 100.0 { format!("{ratio:.2}") } else { format!("{ratio:.0}") }
}

fn shown(nanoseconds: u64) -> String {
    let ns = nanoseconds as f64;
    match nanoseconds {
        0..100_000 => format!("{:.1}us", ns / 1e3),
        100_000..1_000_000 => format!("{:.0}us", ns / 1e3),
        1_000_000..100_000_000 => format!("{:.1}ms", ns / 1e6),
        100_000_000..1_000_000_000 => format!("{:.0}ms", ns / 1e6),
        _ => format!("{:.1}s", ns / 1e9),
    }
}

/// Where and how it was measured.
pub fn head(scale: &Scale, systems: &[System]) {
    let uname = rustix::system::uname();
    let cores = std::thread::available_parallelism().map_or(0, |n| n.get());
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default().to_owned();
    println!(
        "Linux {}, {cores} cores, load {load} before; {} rounds, {} s each; files in {}",
        uname.release().to_string_lossy(),
        scale.rounds,
        scale.lasting.as_secs(),
        std::env::temp_dir().display(),
    );
    let names: Vec<String> = systems.iter().map(System::to_string).collect();
    println!("by turns: {}", names.join(", "));
    println!(
        "Times of all rounds together; CPU: seconds the daemon used for the whole case in one round; \
         x: times that of the first line in the same round, median of the rounds."
    );
}
