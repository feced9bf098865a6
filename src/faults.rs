//! Places where a test lets the daemon die, or a call fail. In a build without the feature
//! `faults` both hooks are empty.
//!
//! | variable | value |
//! |---|---|
//! | `SPOOLFS_CRASH_AT` | `name` or `name:N`: abort at the Nth passing of a point of [`POINTS`]; several with commas: one after the other, each in another life |
//! | `SPOOLFS_CRASH_MARK` | a file that is made at the abort; if it is there, nothing aborts. For the second of several the name ends in `.2`, and so on |
//! | `SPOOLFS_AHEAD` | seconds that the clock is ahead |
//! | `SPOOLFS_LATE` | milliseconds by which each close of a file is heard of later than it was |
//! | `SPOOLFS_SLOW` | milliseconds for which every fourth passing of a point of [`POINTS`] stands still |
//! | `SPOOLFS_FAIL` | `site:N:ERRNO[:once\|forever]`, several with commas: the Nth call at a site of [`SITES`] fails, and with `forever` all after it |
//!
//! Tests in the same process use `set` instead. Each name stands once in the source and once in a
//! list here; `tests/architecture.rs` compares them.

use rustix::io::Errno;

/// Every point where the daemon can be made to die, sorted.
#[rustfmt::skip]
pub const POINTS: &[&str] = &[
    "adopt.after_identity",
    "adopt.after_record",
    "anew.after_install",
    "archive.after_commit",
    "archive.after_key",
    "archive.after_proof",
    "archive.after_put",
    "archive.after_verified",
    "archive.before_commit",
    "attach.after_marker",
    "attach.after_setting",
    "catalog.after_checkpoint",
    "catalog.after_commit",
    "catalog.before_checkpoint",
    "catalog.before_commit",
    "close.after_record",
    "close.before_record",
    "create.after_identity",
    "create.after_intent",
    "create.after_make",
    "create.after_record",
    "encode.after_copy",
    "encode.after_flac",
    "exchange.after_move",
    "expiry.after_delete",
    "expiry.after_emptied",
    "expiry.after_mark",
    "expiry.after_name",
    "expiry.after_object",
    "expiry.after_record",
    "handover.after_closing",
    "handover.after_connection",
    "handover.after_handle",
    "handover.after_kept",
    "handover.after_resend",
    "handover.after_resume",
    "handover.before_answer",
    "handover.before_connection",
    "handover.before_resume",
    "hash.after_commit",
    "hash.after_read",
    "joins.after_bad",
    "joins.after_begin",
    "joins.after_delete",
    "joins.after_emptied",
    "joins.after_forget",
    "joins.after_found",
    "joins.after_key",
    "joins.after_mend",
    "joins.after_note",
    "joins.after_proof",
    "joins.after_put",
    "joins.after_record",
    "joins.after_retire",
    "joins.after_show",
    "joins.after_stored",
    "journal.after_commit",
    "journal.after_put",
    "journal.before_put",
    "kept.after_copy",
    "kept.after_exchange",
    "kept.after_finish",
    "kept.after_hold",
    "kept.after_move",
    "kept.before_exchange",
    "lines.after_aside",
    "lines.after_forget",
    "lines.after_left",
    "lines.after_object",
    "lines.after_record",
    "lines.after_removal",
    "lines.after_told",
    "log.after_rotation",
    "log.before_removal",
    "make.after_intent",
    "make.after_make",
    "partial.after_bytes",
    "partial.after_commit",
    "partial.after_cut",
    "partial.after_make",
    "partial.after_place",
    "partial.after_sync",
    "partial.after_write",
    "purge.after_removal",
    "purge.before_removal",
    "recall.after_bytes",
    "recall.after_commit",
    "recall.after_install",
    "recall.after_stage",
    "recall.after_sync",
    "reconcile.after_missing",
    "reconcile.after_moved",
    "reconcile.after_restored_dir",
    "reconcile.before_gone",
    "relay.after_answer",
    "relay.before_answer",
    "release.after_commit",
    "release.after_gone",
    "release.after_permit",
    "release.after_retire",
    "rename.after_done",
    "rename.after_intent",
    "rename.after_move",
    "rename.after_trash_link",
    "restore.after_move",
    "restore.after_record",
    "rewrite.after_delete",
    "rewrite.after_key",
    "rewrite.after_move",
    "rewrite.after_proof",
    "rewrite.after_put",
    "rmdir.after_removal",
    "scrub.after_alarm",
    "scrub.after_clear",
    "scrub.after_given_up",
    "scrub.after_key",
    "scrub.after_proof",
    "scrub.after_put",
    "scrub.after_round",
    "seal.after_attempt",
    "seal.after_sealed",
    "setup.after_aside",
    "setup.after_copy",
    "setup.after_dir",
    "setup.after_exchange",
    "setup.after_file",
    "setup.after_policy",
    "setup.after_wipe",
    "setup.before_end",
    "snapshot.after_delete",
    "snapshot.after_key",
    "snapshot.after_made",
    "snapshot.after_proof",
    "snapshot.after_put",
    "snapshot.before_delete",
    "sync.after_commit",
    "sync.after_files",
    "sync.before_files",
    "trash.after_commit",
    "trash.after_found",
    "trash.after_permit",
    "trash.after_retire",
    "undecided.after_settled",
    "unlink.after_done",
    "unlink.after_hold",
    "unlink.after_intent",
    "unlink.after_removal",
];

/// Every call that can be made to fail, sorted.
#[rustfmt::skip]
pub const SITES: &[&str] = &[
    "audit.sync",
    "audit.sync_dir",
    "audit.write",
    "kept.fill",
    "kept.write",
    "lower.adopt",
    "lower.chmod",
    "lower.identify",
    "lower.identity",
    "lower.link",
    "lower.list",
    "lower.mkdir",
    "lower.open",
    "lower.persist",
    "lower.persist_left_out",
    "lower.persist_name",
    "lower.read",
    "lower.rename",
    "lower.stage_sync",
    "lower.stat",
    "lower.sync_all",
    "lower.sync_dir",
    "lower.sync_file",
    "lower.truncate",
    "lower.unlink",
    "lower.write",
    "lower.write_out",
    "partial.read",
    "partial.sync",
    "partial.write",
    "sqlite.open",
    "sqlite.read",
    "sqlite.truncate",
    "sqlite.write",
    "store.sync_dir",
    "vfs.fsync",
];

/// Whether a variable of the environment is one of these, and heeded.
pub fn is_heeded(variable: &str) -> bool {
    let known = ["AHEAD", "CRASH_AT", "CRASH_MARK", "FAIL", "LATE", "SLOW"];
    let name = variable.strip_prefix("SPOOLFS_");
    cfg!(feature = "faults") && name.is_some_and(|name| known.contains(&name))
}

/// How far the clock is ahead of the machine's, if the environment asks for it.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub fn ahead() -> std::time::Duration {
    std::time::Duration::ZERO
}

/// A close is heard of: later, if the environment asks for it.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub fn close() {}

/// Dies here, if the environment asks for it.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub fn point(_name: &'static str) {}

/// Fails, if the environment or a test asks for it. Stands before the call that it stands for:
/// `faults::fail("lower.stage_sync")?;`
///
/// # Errors
/// The error number that was asked for.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub fn fail(_site: &'static str) -> Result<(), Errno> {
    Ok(())
}

#[cfg(feature = "faults")]
pub use chosen::{clear, fail, fired, passed, point, set};

/// How far the clock is ahead of the machine's, if the environment asks for it.
#[cfg(feature = "faults")]
pub fn ahead() -> std::time::Duration {
    static AHEAD: std::sync::OnceLock<std::time::Duration> = std::sync::OnceLock::new();
    *AHEAD.get_or_init(|| {
        let text = std::env::var("SPOOLFS_AHEAD").unwrap_or_default();
        std::time::Duration::from_secs(text.parse().unwrap_or(0))
    })
}

/// A close is heard of: later, if the environment asks for it.
#[cfg(feature = "faults")]
pub fn close() {
    static LATE: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    stand_still(*LATE.get_or_init(|| millis("SPOOLFS_LATE")));
}

/// Every fourth step of the engine and the file system takes its time, if the environment asks for
/// it: what follows a step comes late for who does not await it.
#[cfg(feature = "faults")]
fn slow() {
    static SLOW: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    static PASSED: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let slow = *SLOW.get_or_init(|| millis("SPOOLFS_SLOW"));
    if slow > 0 && PASSED.fetch_add(1, std::sync::atomic::Ordering::Relaxed).is_multiple_of(4) {
        stand_still(slow);
    }
}

#[cfg(feature = "faults")]
fn millis(variable: &str) -> u64 {
    std::env::var(variable).unwrap_or_default().parse().unwrap_or(0)
}

#[cfg(feature = "faults")]
fn stand_still(millis: u64) {
    if millis > 0 {
        std::thread::sleep(std::time::Duration::from_millis(millis));
    }
}

#[cfg(feature = "faults")]
mod chosen {
    use super::Errno;
    use super::{POINTS, SITES};
    use parking_lot::Mutex;
    use std::collections::HashMap;
    use std::path::PathBuf;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// One call that shall fail.
    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Fault {
        site: String,
        nth: u64,
        errno: i32,
        forever: bool,
    }

    #[derive(Debug, Default)]
    struct Chosen {
        /// One after the other.
        crashes: Vec<(String, u64)>,
        mark: Option<PathBuf>,
        faults: Vec<Fault>,
        /// How often each name was passed.
        passed: HashMap<&'static str, u64>,
        fired: u64,
    }

    /// Something is chosen: without it nothing is counted.
    static ARMED: AtomicBool = AtomicBool::new(false);

    static CHOSEN: LazyLock<Mutex<Chosen>> = LazyLock::new(|| {
        let chosen = from_environment().unwrap_or_else(|wrong| {
            eprintln!("spoolfs: {wrong}");
            std::process::abort();
        });
        if !chosen.crashes.is_empty() || !chosen.faults.is_empty() {
            ARMED.store(true, Ordering::Relaxed);
        }
        Mutex::new(chosen)
    });

    fn from_environment() -> Result<Chosen, String> {
        let text = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
        let crashes =
            text("SPOOLFS_CRASH_AT").map(|t| crashes_at(&t)).transpose()?.unwrap_or_default();
        let faults = text("SPOOLFS_FAIL").map(|t| faults_of(&t)).transpose()?.unwrap_or_default();
        let mark = text("SPOOLFS_CRASH_MARK").map(PathBuf::from);
        Ok(Chosen { crashes, mark, faults, ..Chosen::default() })
    }

    fn crashes_at(text: &str) -> Result<Vec<(String, u64)>, String> {
        text.split(',').map(crash_at).collect()
    }

    fn crash_at(text: &str) -> Result<(String, u64), String> {
        let (name, nth) = match text.split_once(':') {
            Some((name, nth)) => (name, count(nth)?),
            None => (text, 1),
        };
        known(name, POINTS)?;
        Ok((name.to_owned(), nth))
    }

    fn faults_of(text: &str) -> Result<Vec<Fault>, String> {
        text.split(',').map(fault_of).collect()
    }

    fn fault_of(text: &str) -> Result<Fault, String> {
        let parts: Vec<&str> = text.trim().split(':').collect();
        let (site, nth, errno, how) = match parts.as_slice() {
            [site, nth, errno] => (site, nth, errno, "once"),
            [site, nth, errno, how] => (site, nth, errno, *how),
            _ => return Err(format!("{text:?} is not site:N:ERRNO[:once|forever]")),
        };
        known(site, SITES)?;
        let forever = match how {
            "once" => false,
            "forever" => true,
            _ => return Err(format!("{how:?} is neither once nor forever")),
        };
        let errno = errno_of(errno).ok_or_else(|| format!("{errno:?} is no known error"))?;
        Ok(Fault { site: (*site).to_owned(), nth: count(nth)?, errno, forever })
    }

    fn known(name: &str, names: &[&str]) -> Result<(), String> {
        let found = names.contains(&name);
        found.then_some(()).ok_or_else(|| format!("{name:?} is in no list of src/faults.rs"))
    }

    fn count(text: &str) -> Result<u64, String> {
        let nth = text.parse().ok().filter(|nth| *nth > 0);
        nth.ok_or_else(|| format!("{text:?} is no count from 1 up"))
    }

    fn errno_of(text: &str) -> Option<i32> {
        let errno = match text {
            "EACCES" => libc::EACCES,
            "EAGAIN" => libc::EAGAIN,
            "EDQUOT" => libc::EDQUOT,
            "EIO" => libc::EIO,
            "EMFILE" => libc::EMFILE,
            "ENOENT" => libc::ENOENT,
            "ENOMEM" => libc::ENOMEM,
            "ENOSPC" => libc::ENOSPC,
            "EPERM" => libc::EPERM,
            "EROFS" => libc::EROFS,
            "ESTALE" => libc::ESTALE,
            "ETIMEDOUT" => libc::ETIMEDOUT,
            number => number.parse().ok().filter(|n| (1..4096).contains(n))?,
        };
        Some(errno)
    }

    fn armed() -> bool {
        LazyLock::force(&CHOSEN);
        ARMED.load(Ordering::Relaxed)
    }

    fn pass(chosen: &mut Chosen, name: &'static str) -> u64 {
        let passed = chosen.passed.entry(name).or_default();
        *passed += 1;
        *passed
    }

    /// Dies here, if the environment asks for it.
    pub fn point(name: &'static str) {
        super::slow();
        if !armed() {
            return;
        }
        let mut chosen = CHOSEN.lock();
        let passed = pass(&mut chosen, name);
        if chosen.is_to_die(name, passed) {
            eprintln!("spoolfs: dies at crash point {name}");
            let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
            let _only_a_core_file =
                rustix::process::setrlimit(rustix::process::Resource::Core, none);
            std::process::abort();
        }
    }

    impl Chosen {
        /// Whether the next death is here. Without a mark nobody knows of those before.
        fn is_to_die(&self, name: &str, passed: u64) -> bool {
            let here = self.crashes.iter().any(|(at, nth)| at == name && *nth == passed);
            let Some(mark) = self.mark.as_ref().filter(|_| here) else { return here };
            let mark_of = |n: usize| match n {
                0 => mark.clone(),
                n => PathBuf::from(format!("{}.{}", mark.display(), n + 1)),
            };
            let next = (0..).zip(&self.crashes).find(|(n, _)| !mark_of(*n).exists());
            next.is_some_and(|(n, (at, nth))| at == name && *nth == passed && make(&mark_of(n)))
        }
    }

    fn make(mark: &std::path::Path) -> bool {
        std::fs::OpenOptions::new().write(true).create_new(true).open(mark).is_ok()
    }

    /// Fails, if the environment or a test asks for it. Stands before the call that it stands
    /// for: `faults::fail("lower.stage_sync")?;`
    ///
    /// # Errors
    /// The error number that was asked for.
    pub fn fail(site: &'static str) -> Result<(), Errno> {
        if !armed() {
            return Ok(());
        }
        let mut chosen = CHOSEN.lock();
        let passed = pass(&mut chosen, site);
        let hits =
            |f: &&Fault| f.site == site && (passed == f.nth || (f.forever && passed > f.nth));
        let Some(errno) = chosen.faults.iter().find(hits).map(|f| f.errno) else { return Ok(()) };
        chosen.fired += 1;
        if chosen.fired == 1 {
            eprintln!("spoolfs: call {passed} of {site} fails with error {errno}");
        }
        Err(Errno::from_raw_os_error(errno))
    }

    /// Makes calls of this process fail as `SPOOLFS_FAIL` would, from now on and instead of what
    /// was chosen before; counting begins anew. With an empty text nothing fails, but passings
    /// are counted. All threads share it: such tests stand in a binary of their own or take turns.
    ///
    /// # Errors
    /// The text can not be read, or names a site that is not in [`SITES`].
    pub fn set(text: &str) -> Result<(), String> {
        let faults = if text.is_empty() { Vec::new() } else { faults_of(text)? };
        *CHOSEN.lock() = Chosen { faults, ..Chosen::default() };
        ARMED.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Nothing fails any more, and nothing is counted.
    pub fn clear() {
        *CHOSEN.lock() = Chosen::default();
        ARMED.store(false, Ordering::Relaxed);
    }

    /// How often a point or site was passed since something was chosen.
    pub fn passed(name: &str) -> u64 {
        CHOSEN.lock().passed.get(name).copied().unwrap_or(0)
    }

    /// How many calls failed since something was chosen.
    pub fn fired() -> u64 {
        CHOSEN.lock().fired
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn several_deaths_come_one_after_the_other() {
            let dir = tempfile::tempdir().unwrap();
            let mark = dir.path().join("died");
            let crashes = crashes_at("archive.after_put:2,archive.after_key").unwrap();
            let chosen = Chosen { crashes, mark: Some(mark.clone()), ..Chosen::default() };
            assert!(!chosen.is_to_die("archive.after_key", 1), "not before the first");
            assert!(!chosen.is_to_die("archive.after_put", 1));
            assert!(chosen.is_to_die("archive.after_put", 2) && mark.exists());
            assert!(!chosen.is_to_die("archive.after_put", 2), "once");
            assert!(chosen.is_to_die("archive.after_key", 1));
            assert!(dir.path().join("died.2").exists());
            assert!(!chosen.is_to_die("archive.after_key", 1));
        }

        #[test]
        fn what_is_chosen_is_read_or_refused() {
            assert_eq!(crash_at("archive.after_put"), Ok(("archive.after_put".into(), 1)));
            assert_eq!(crash_at("archive.after_put:3"), Ok(("archive.after_put".into(), 3)));
            let fault = Fault {
                site: "lower.stage_sync".into(),
                nth: 2,
                errno: libc::ENOSPC,
                forever: true,
            };
            assert_eq!(fault_of("lower.stage_sync:2:ENOSPC:forever"), Ok(fault.clone()));
            let once = Fault { forever: false, errno: 5, ..fault };
            assert_eq!(faults_of("lower.stage_sync:2:5"), Ok(vec![once]));
            for wrong in ["nowhere", "archive.after_put:0", "archive.after_put:x"] {
                assert!(crash_at(wrong).is_err(), "{wrong}");
            }
            let both = crashes_at("archive.after_put,release.after_gone:2").unwrap();
            assert_eq!(both, [("archive.after_put".into(), 1), ("release.after_gone".into(), 2)]);
            assert!(crashes_at("archive.after_put,").is_err());
            for wrong in [
                "",
                "nowhere:1:EIO",
                "lower.stage_sync:0:EIO",
                "lower.stage_sync:1:EWHAT",
                "lower.stage_sync:1:EIO:twice",
                "lower.stage_sync:1",
            ] {
                assert!(faults_of(wrong).is_err(), "{wrong}");
            }
        }
    }
}
