//! Waits for room on the disk: the engine archives and releases meanwhile.

use super::walk::Item;
use crate::cli::output::ProgressLine;
use crate::cli::{Context, Exit};
use crate::control::{DiskPressure, DiskUse, Progress, Request, StatusReport, WirePath};
use crate::limits;
use crate::units::humane_size;
use std::time::Instant;

/// What is known to fit without asking again.
#[derive(Debug, Default)]
pub(super) struct Room {
    bytes: u64,
    files: usize,
}

impl Room {
    /// Returns when the file has room below the high mark and beside what is left free for calls.
    pub fn wait(
        &mut self,
        context: &Context,
        item: &Item,
        line: &mut ProgressLine,
    ) -> Result<(), Exit> {
        if self.files == 0 || self.bytes < item.size {
            let disk = wait(context, item, line)?;
            let beside = disk.free.saturating_sub(context.config.space.reserve);
            (self.bytes, self.files) = (beside / 64, limits::IMPORT_BATCH);
        }
        self.bytes = self.bytes.saturating_sub(item.size);
        self.files -= 1;
        Ok(())
    }
}

fn wait(context: &Context, item: &Item, line: &mut ProgressLine) -> Result<DiskUse, Exit> {
    let mut stuck: Option<Instant> = None;
    loop {
        let status: StatusReport = context.ask(&Request::Status { path: None }, "")?;
        if has_room(context, &status.disk, item.size) {
            return Ok(status.disk);
        }
        let since = match status.disk.pressure {
            // It is too full and nothing can be released, or nothing is even tried.
            DiskPressure::Stuck | DiskPressure::None => *stuck.get_or_insert_with(Instant::now),
            DiskPressure::High => {
                stuck = None;
                Instant::now()
            }
        };
        if since.elapsed() > limits::IMPORT_STUCK {
            return Err(Exit::failed(format!(
                "there is no room for {} ({}): {} are free, and nothing more can be released now; \
                 \"spoolfs status\" tells why. What was imported is there; begin again later",
                item.source.display(),
                humane_size(item.size),
                humane_size(status.disk.free)
            )));
        }
        line.show(&Progress {
            current: Some(WirePath("(waits for room)".into())),
            ..Progress::default()
        });
        std::thread::sleep(limits::IMPORT_LOOK);
    }
}

fn has_room(context: &Context, disk: &DiskUse, size: u64) -> bool {
    let space = &context.config.space;
    let fits = disk.free > size.saturating_add(space.reserve);
    let mark = space.high_water.0;
    fits && (mark >= 100 || disk.used_percent < mark)
}
