//! A snapshot of the catalog in each target now and then, so that a rebuild need not read the
//! journal of years.
//!
//! **Invariant:** a snapshot's key is written down before anything is put under it, and only keys
//! that were written down are ever deleted: those older than the newest `keep` that were proved.

use super::contain::contained;
use super::error::{EngineError, Result};
use super::hash;
use super::recall::check_room;
use super::shared::Shared;
use super::space::Pressure;
use super::target::Target;
use crate::clock::Timestamp;
use crate::codec::seal::{self, Identities, Sealer};
use crate::recording::Sha256;
use crate::store::snapshot::{self, Given, Header, Known, Writer};
use crate::store::{self, Body, ObjectMeta, StoreError, StoreErrorKind, key};
use crate::{faults, limits};
use std::fs::File;
use std::future::Future;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the thread looks whether one is due. Also what a test waits at most.
const POLL: Duration = Duration::from_millis(500);
/// Others get a turn, however short the work was.
const SHORTEST_REST: Duration = Duration::from_millis(1);

/// How snapshots are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshots {
    /// Time between two.
    pub every: Duration,
    /// How many a target keeps.
    pub keep: usize,
}

/// Rests as long as it works, so that half of a processor and of the disk at most is taken from those
/// who record.
struct Easy {
    lines: u32,
    since: Instant,
}

impl Easy {
    fn begin() -> Easy {
        Easy { lines: 0, since: Instant::now() }
    }

    /// How long to rest, if it is time to.
    fn rest(&mut self) -> Option<Duration> {
        self.lines += 1;
        let is_time = self.lines.is_multiple_of(limits::SNAPSHOT_BATCH_LINES);
        is_time.then(|| self.since.elapsed().clamp(SHORTEST_REST, limits::SNAPSHOT_REST_MAX))
    }

    /// After each line that was read. An error if the engine stops.
    fn line(&mut self, shared: &Shared) -> std::io::Result<()> {
        let Some(rest) = self.rest() else { return Ok(()) };
        if shared.stop.wait(rest) {
            return Err(std::io::ErrorKind::Interrupted.into());
        }
        self.since = Instant::now();
        Ok(())
    }
}

/// Where a snapshot is written to.
enum Sink {
    Plain(BufWriter<File>),
    Sealed(Box<Sealer<BufWriter<File>>>),
}

impl Sink {
    /// Writes the rest; what opens it, if it is sealed.
    fn finish(self) -> io::Result<Option<Identities>> {
        let (file, key) = match self {
            Sink::Plain(file) => (file, None),
            Sink::Sealed(sealer) => sealer.finish().map(|(file, key)| (file, Some(key)))?,
        };
        file.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok(key)
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Sink::Plain(file) => file.write(bytes),
            Sink::Sealed(sealer) => sealer.push(bytes).map(|()| bytes.len()),
        }
    }

    /// All is written when it is finished.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A snapshot to be given, in a file without a name.
struct Made {
    header: Header,
    sealed: bool,
    file: Arc<File>,
    size: u64,
    sha256: Sha256,
}

/// Makes and gives snapshots until the engine stops.
pub(super) fn run(shared: &Shared, options: Snapshots) {
    let mut again = Timestamp(i64::MIN);
    loop {
        if shared.now() >= again {
            match contained("taking a snapshot of the catalog", || step(shared, options)) {
                Ok(()) => {}
                Err(EngineError::Stopping) => return,
                Err(error) => {
                    tracing::warn!(%error, "no snapshot of the catalog; it is tried again");
                    again = shared.now().plus(limits::SNAPSHOT_RETRY);
                }
            }
        }
        if shared.stop.wait(POLL) {
            return;
        }
    }
}

fn step(shared: &Shared, options: Snapshots) -> Result<()> {
    let due = due(shared, options.every)?;
    if due.is_empty() || shared.uploads_are_off() || shared.space.pressure() != Pressure::None {
        return Ok(());
    }
    let Some(made) = make(shared)? else { return Ok(()) };
    let mut failed = Ok(());
    for target in due {
        let given = give(shared, &target, &made);
        let given = given.and_then(|()| shared.name_key_stays(&target));
        match given.and_then(|()| prune(shared, &target, options.keep)) {
            Err(EngineError::Stopping) => return Err(EngineError::Stopping),
            Err(error) => failed = Err(error),
            Ok(()) => {}
        }
    }
    failed
}

fn known(shared: &Shared, target: &Target) -> Result<Known> {
    let known = Known::parse(shared.catalog.setting(&Known::setting(target.name()))?);
    tell(target, &known);
    Ok(known)
}

fn keep(shared: &Shared, target: &Target, known: &Known) -> Result<()> {
    shared.catalog.set_setting(&Known::setting(target.name()), &known.text())?;
    tell(target, known);
    Ok(())
}

/// For `status`.
fn tell(target: &Target, known: &Known) {
    let bytes = |given: &Given| given.bytes.map(|(size, _)| size);
    target.has_snapshot(known.newest().map(|newest| (newest.at, bytes(newest))));
}

/// The targets that are up and have none that is young enough. Nothing is due of a catalog that
/// lacks something, or of which there is nothing to tell that was not told.
fn due(shared: &Shared, every: Duration) -> Result<Vec<Arc<Target>>> {
    let (now, epoch) = (shared.now(), shared.catalog.identity().epoch);
    let mut due = Vec::new();
    let Some(last) = shared.catalog.told_so_far()?.filter(|last| *last > 0) else {
        return Ok(due);
    };
    for target in &shared.targets {
        // Also for `status`, whether it is up or not.
        let mut known = known(shared, target)?;
        if !target.is_up() {
            continue;
        }
        if known.newest().is_none() && known.since.is_none() {
            known.since = Some(now);
            keep(shared, target, &known)?;
        }
        if !known.is_due(now, every, epoch) {
            continue;
        }
        match known.given.iter_mut().rev().find(|g| g.proved) {
            Some(same) if (same.epoch, same.seq) == (epoch, last) => {
                same.at = now;
                keep(shared, target, &known)?;
            }
            _ => due.push(Arc::clone(target)),
        }
    }
    Ok(due)
}

/// Writes a snapshot into a file, and reads it back as a rebuild would.
fn make(shared: &Shared) -> Result<Option<Made>> {
    let file = shared.lower.scratch()?;
    // Shorter than the database, as a rule; what is too long for the disk fails by itself.
    check_room(shared, Path::new(".spl/stage"), shared.catalog.database_bytes())?;
    let to = shared.told_to()?;
    let begin = |summary: &crate::catalog::Summary| {
        // After everything that is in it.
        let now = shared.now();
        let (identity, segments) = (&summary.identity, summary.segments.clone());
        let names = (identity.node.as_str(), identity.instance.as_str());
        let header = Header::new(names, (identity.epoch, summary.seq), now.0, segments);
        let header = if summary.flac { header.with_flac() } else { header };
        let header = if summary.holds { header.with_holds() } else { header };
        let header = if summary.sealed { header.with_sealed() } else { header };
        let file = BufWriter::new(file.try_clone()?);
        let sink = match &to {
            Some(to) => Sink::Sealed(Box::new(Sealer::begin(to, file)?)),
            None => Sink::Plain(file),
        };
        let writer = Writer::begin(sink, &header)?;
        Ok((header, writer, Easy::begin()))
    };
    let line = |to: &mut (Header, Writer<Sink>, Easy), text: &str| {
        to.1.line(text)?;
        to.2.line(shared)
    };
    let told = shared.catalog.summarise(begin, line);
    shared.check_stop()?;
    let Some((_, (header, writer, mut easy))) = told? else { return Ok(None) };
    let failed = |e: std::io::Error| StoreError::unreadable("any", "a snapshot", &e);
    let (written, size, sha256) = writer.finish().map_err(failed)?;
    let own = written.finish().map_err(failed)?;
    let (size, sha256) = match &own {
        Some(_) => {
            let size = file.metadata().map_err(failed)?.len();
            (size, hash::read(shared, &file, Path::new(".spl/stage"), size)?.finish().0)
        }
        None => (size, sha256),
    };
    let mut copy = file.try_clone().map_err(failed)?;
    copy.seek(SeekFrom::Start(0)).map_err(failed)?;
    let copy: Box<dyn Read> = match &own {
        Some(key) => {
            let opened = seal::open_reader(BufReader::new(copy), key);
            Box::new(opened.map_err(|e| corrupt(&e))?)
        }
        None => Box::new(copy),
    };
    let read = snapshot::read(copy, &mut |text| {
        crate::catalog::Told::parse(text)?;
        easy.line(shared).map_err(|e| e.to_string())
    });
    shared.check_stop()?;
    match read {
        Ok(found) if found == header => {}
        other => return Err(corrupt(&format_args!("{other:?}"))),
    }
    // A power cut must not take back rows that a target has: their numbers would be given again.
    shared.catalog.sync()?;
    faults::point("snapshot.after_made");
    Ok(Some(Made { header, sealed: own.is_some(), file: Arc::new(file), size, sha256 }))
}

fn corrupt(why: &dyn std::fmt::Display) -> EngineError {
    let detail = format!("the snapshot that was written can not be read back: {why}");
    EngineError::Corrupt { path: "a snapshot".into(), detail }
}

fn give(shared: &Shared, target: &Target, made: &Made) -> Result<()> {
    let key = snapshot::key_of(target.store.prefix(), &made.header, fastrand::u32(..));
    let (key, kind) = match made.sealed {
        true => (key::sealed(&key), "application/octet-stream"),
        false => (key, "application/zstd"),
    };
    let mut known = known(shared, target)?;
    let Header { epoch, seq, at, .. } = made.header;
    let (at, bytes) = (Timestamp(at), Some((made.size, made.sha256)));
    let given = Given { key: key.clone(), epoch, seq, at, proved: false, bytes };
    known.given.push(given);
    let forgotten = known.given.len().saturating_sub(limits::SNAPSHOTS_REMEMBERED);
    known.given.drain(..forgotten);
    keep(shared, target, &known)?;
    faults::point("snapshot.after_key");
    if !shared.keep_pace(made.size) {
        return Err(EngineError::Stopping);
    }
    let body = Body::File { file: Arc::clone(&made.file), len: made.size };
    let meta = ObjectMeta { content_type: kind.into(), ..ObjectMeta::default() };
    ask(shared, target, target.store.put(&key, body, made.sha256, &meta))?;
    faults::point("snapshot.after_put");
    ask(shared, target, store::verify(&*target.store, &key, made.size, made.sha256))?;
    if let Some(last) = known.given.last_mut() {
        last.proved = true;
    }
    keep(shared, target, &known)?;
    faults::point("snapshot.after_proof");
    tracing::info!(
        target = target.name(),
        key,
        bytes = made.size,
        "the target has a snapshot of the catalog"
    );
    Ok(())
}

fn prune(shared: &Shared, target: &Target, newest: usize) -> Result<()> {
    let mut known = known(shared, target)?;
    let old = known.too_old(newest);
    if old.is_empty() {
        return Ok(());
    }
    // From now on nobody is to miss them.
    known.given.iter_mut().filter(|g| old.contains(&g.key)).for_each(|g| g.proved = false);
    keep(shared, target, &known)?;
    faults::point("snapshot.before_delete");
    for key in old {
        match ask(shared, target, target.store.delete(&key)) {
            Ok(()) => {}
            // An archive that nobody may delete from keeps them all.
            Err(EngineError::Store(e)) if e.kind == StoreErrorKind::Denied => {
                tracing::info!(target = target.name(), key, "an old snapshot may not be deleted");
                continue;
            }
            Err(error) => return Err(error),
        }
        faults::point("snapshot.after_delete");
        known.given.retain(|g| g.key != key);
        keep(shared, target, &known)?;
    }
    Ok(())
}

/// The answer, in turn with uploads.
pub(super) fn ask<T>(
    shared: &Shared,
    target: &Target,
    request: impl Future<Output = store::Result<T>>,
) -> Result<T> {
    shared.ask(target, async {
        // Never closed.
        let _permit = shared.uploads.acquire().await;
        request.await
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_rest_after_each_batch_of_lines_and_none_is_long() {
        let mut easy = Easy::begin();
        for batch in 0..3 {
            for line in 1..limits::SNAPSHOT_BATCH_LINES {
                assert_eq!(easy.rest(), None, "{batch} {line}");
            }
            let rest = easy.rest().unwrap();
            assert!((SHORTEST_REST..=limits::SNAPSHOT_REST_MAX).contains(&rest), "{rest:?}");
        }
    }
}
