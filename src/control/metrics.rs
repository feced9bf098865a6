//! What `status` knows, for Prometheus: its text exposition format
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>), which node_exporter's textfile
//! collector takes as well. No family names a recording, a number or a person.

use super::calls::CallsReport;
use super::report::{DiskPressure, JoinsReport, StatusReport, TargetState};
use crate::clock::Timestamp;
use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, GaugeVec, IntCounter, IntCounterVec, Opts, Registry, TextEncoder,
};

/// `Content-Type` of what [`text`] makes.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// The exposition. Families that do not apply, such as call records where none are configured,
/// are left out.
///
/// # Errors
/// If the library refuses a family, which would be a fault of spoolfs.
pub fn text(report: &StatusReport) -> Result<String, prometheus::Error> {
    let page = Page(Registry::new());
    page.daemon(report)?;
    page.recordings(report)?;
    page.targets(report)?;
    page.reads(report)?;
    page.disk(report)?;
    if let Some(calls) = &report.calls {
        page.calls(calls)?;
    }
    let mut bytes = Vec::new();
    TextEncoder::new().encode(&page.0.gather(), &mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

type Done = Result<(), prometheus::Error>;

struct Page(Registry);

impl Page {
    fn add<C: Collector + Clone + 'static>(&self, family: C) -> Result<C, prometheus::Error> {
        self.0.register(Box::new(family.clone()))?;
        Ok(family)
    }

    fn gauge(&self, name: &str, help: &str, value: f64) -> Done {
        self.add(Gauge::with_opts(opts(name, help))?)?.set(value);
        Ok(())
    }

    fn count(&self, name: &str, help: &str, value: u64) -> Done {
        self.add(IntCounter::with_opts(opts(name, help))?)?.inc_by(value);
        Ok(())
    }

    fn time(&self, name: &str, help: &str, at: Option<Timestamp>) -> Done {
        at.map_or(Ok(()), |at| self.gauge(name, help, at.secs() as f64))
    }

    fn gauges(&self, name: &str, help: &str, label: &str) -> Result<GaugeVec, prometheus::Error> {
        self.add(GaugeVec::new(opts(name, help), &[label])?)
    }

    fn counts(&self, name: &str, help: &str, label: &str, values: &[(&str, u64)]) -> Done {
        let family = self.add(IntCounterVec::new(opts(name, help), &[label])?)?;
        values.iter().for_each(|(of, value)| family.with_label_values(&[*of]).inc_by(*value));
        Ok(())
    }

    fn daemon(&self, report: &StatusReport) -> Done {
        let labels = ["version", "mode", "node"];
        let info = GaugeVec::new(opts("info", "Always 1; what runs, in its labels."), &labels)?;
        let info = self.add(info)?;
        info.with_label_values(&[&report.version, &report.mode, &report.node]).set(1.0);
        let uptime = report.uptime_seconds as f64;
        self.gauge("uptime_seconds", "Time since the daemon started.", uptime)?;
        self.gauge(
            "warnings",
            "Things an operator should know; `spoolfs status` says which.",
            report.warnings.len() as f64,
        )?;
        self.gauge(
            "catalog_up",
            "1 if the catalog can be used, 0 if not.",
            flag(report.catalog_trouble.is_none()),
        )?;
        self.count(
            "catalog_reads_total",
            "Reads of the catalog's database.",
            report.catalog_reads,
        )?;
        let link = &report.link;
        self.count(
            "takeovers_total",
            "How often a daemon went on with this mount.",
            link.taken_over,
        )?;
        self.count("faults_total", "Requests that failed by a fault of spoolfs.", link.faults)
    }

    fn recordings(&self, report: &StatusReport) -> Done {
        let files = self.gauges("recordings", "Recordings in each state.", "state")?;
        let bytes = self.gauges("recordings_bytes", "Their length.", "state")?;
        for count in &report.states {
            let state = count.state.to_string();
            files.with_label_values(&[&state]).set(count.files as f64);
            bytes.with_label_values(&[&state]).set(count.bytes as f64);
        }
        let backlog = &report.backlog;
        self.gauge("backlog_files", "Recordings not archived yet.", backlog.files as f64)?;
        self.gauge("backlog_bytes", "Their length.", backlog.bytes as f64)?;
        self.time(
            "backlog_oldest_timestamp_seconds",
            "When the one was closed that has waited longest; absent if none waits.",
            backlog.oldest.as_ref().map(|oldest| oldest.since),
        )?;
        let failing = report.failing as f64;
        self.gauge("failing_recordings", "Recordings whose last try failed.", failing)?;
        self.gauge(
            "suspect_recordings",
            "Recordings that may not be on the disk, because syncing them failed.",
            report.suspect as f64,
        )?;
        self.gauge(
            "bad_copies",
            "Archived copies that are gone or damaged, and were not replaced.",
            report.bad_copies as f64,
        )?;
        self.gauge(
            "unopened_copies",
            "Archived copies that no key of SSE-C opens, so that they can not be checked.",
            report.unopened_copies as f64,
        )?;
        self.time(
            "durable_until_timestamp_seconds",
            "All that happened up to then survives a power cut.",
            report.durable_until,
        )?;
        let done = &report.counters;
        self.count("archived_files_total", "Files archived.", done.archived.files)?;
        self.count("archived_bytes_total", "Their length.", done.archived.bytes)?;
        self.count("synced_files_total", "Files synced to the disk.", done.synced)?;
        self.gauge("trash_files", "Recordings in the trash.", report.trash.files as f64)?;
        self.gauge("trash_bytes", "Their length.", report.trash.bytes as f64)?;
        self.gauge("legal_holds", "Legal holds.", report.holds.holds as f64)?;
        let held = report.holds.recordings as f64;
        self.gauge("held_recordings", "Recordings on legal hold.", held)?;
        let unarchived = report.holds.unarchived as f64;
        self.gauge("held_unarchived_recordings", "Those not known to be archived.", unarchived)?;
        self.joins(&report.joins.unwrap_or_default())
    }

    fn joins(&self, joins: &JoinsReport) -> Done {
        let family = self.gauges("joins", "Stored joins of calls, and calls without.", "state")?;
        for (state, count) in [
            ("stored", joins.stored),
            ("waiting", joins.waiting),
            ("failing", joins.failing),
            ("leaving", joins.leaving),
            ("unopened", joins.unopened),
        ] {
            family.with_label_values(&[state]).set(count as f64);
        }
        let bad = "Objects of stored joins found damaged or gone.";
        self.count("bad_joins_total", bad, joins.bad)
    }

    fn targets(&self, report: &StatusReport) -> Done {
        let up = self.gauges("target_up", "1 if it last answered as asked, 0 if not.", "target")?;
        let required =
            self.gauges("target_required", "1 if all recordings must be there.", "target")?;
        let last = "When the target last did as asked; absent while it does not.";
        let last = self.gauges("target_last_success_timestamp_seconds", last, "target")?;
        let snapshot = "When the newest snapshot of the catalog was taken that it holds.";
        let snapshot = self.gauges("target_snapshot_timestamp_seconds", snapshot, "target")?;
        for target in &report.targets {
            let name = [target.name.as_str()];
            // Not asked yet is neither; a gap, not an alarm at each start.
            if target.state != TargetState::Unknown {
                up.with_label_values(&name).set(flag(target.state == TargetState::Reachable));
            }
            required.with_label_values(&name).set(flag(target.required));
            for (family, at) in [(&last, target.last_ok), (&snapshot, target.last_snapshot)] {
                if let Some(at) = at {
                    family.with_label_values(&name).set(at.secs() as f64);
                }
            }
        }
        Ok(())
    }

    fn reads(&self, report: &StatusReport) -> Done {
        let done = &report.counters;
        let from =
            [("memory", done.memory_hits), ("cache", done.disk_hits), ("target", done.fetched)];
        let help = "Chunks of released recordings, by where they came from.";
        self.counts("read_chunks_total", help, "from", &from)?;
        let help = "Requests to targets for them.";
        self.count("read_requests_total", help, done.requests)?;
        let failed = [
            ("unavailable", done.failed),
            ("corrupt", done.corrupt),
            ("gone", done.gone),
            ("cache", done.cache_dropped),
        ];
        let help = "What could not be had, was not what was archived, was not there, or was torn \
                    in the cache.";
        self.counts("read_failures_total", help, "what", &failed)?;
        self.count(
            "reads_held_back_total",
            "Reads that waited because their process reads through the archive.",
            done.held_back,
        )?;
        self.gauge("cache_bytes", "Bytes in the cache on disk.", report.cache.used as f64)?;
        self.gauge("cache_limit_bytes", "Its bound.", report.cache.max as f64)
    }

    fn disk(&self, report: &StatusReport) -> Done {
        let disk = &report.disk;
        self.gauge("disk_free_bytes", "Free on the disk of the recordings.", disk.free as f64)?;
        self.gauge("disk_size_bytes", "Its size.", disk.size as f64)?;
        let pressure = match disk.pressure {
            DiskPressure::None => 0.0,
            DiskPressure::High => 1.0,
            DiskPressure::Stuck => 2.0,
        };
        self.gauge(
            "disk_pressure",
            "0: there is room; 1: local copies are released early; 2: nothing is left to release.",
            pressure,
        )
    }

    fn calls(&self, calls: &CallsReport) -> Done {
        let working = calls.sources.iter().filter(|source| source.trouble.is_none()).count();
        let sources = calls.sources.len() as f64;
        self.gauge("call_record_sources", "Sources of call records.", sources)?;
        self.gauge("call_record_sources_up", "Those that answer.", working as f64)?;
        let rows = calls.sources.iter().map(|source| source.rows).sum();
        let bad = calls.sources.iter().map(|source| source.bad_rows).sum();
        self.count("call_records_total", "Rows read.", rows)?;
        self.count("call_records_bad_total", "Rows that are none.", bad)?;
        self.gauge(
            "awaited_recordings",
            "Recordings not archived yet because no record of their call has come.",
            calls.awaited as f64,
        )
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("spoolfs")
}

fn flag(is: bool) -> f64 {
    f64::from(u8::from(is))
}
