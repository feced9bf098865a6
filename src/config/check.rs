//! From what is written to what is meant: defaults, and the checks that need more than one key.

use super::error::ConfigError;
use super::paths::{beneath, resolve as real};
use super::policy::OfMount;
use super::raw::{Raw, RawHolds, RawMetrics, RawRetention, RawSpace, RawWriteBack};
use super::source::Source;
use super::{
    Cache, Choice, Config, HoldTimes, Overrides, Read, Retention, Space, Target, WriteBack, calls,
    target,
};
use crate::codec::seal::Recipients;
use crate::limits;
use crate::policy::{Compress, Policy, SealTo, Timetable};
use crate::recording::Sha256;
use crate::units::{Age, Percent, Span, duration_text};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

type Result<T> = std::result::Result<T, ConfigError>;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

pub(super) fn resolve(
    raw: Raw,
    source: &Source,
    overrides: &Overrides,
    mut warnings: Vec<String>,
) -> Result<Config> {
    let mountpoint = mountpoint(&raw, source, overrides)?;
    let state_dir = raw.state_dir.clone().ok_or_else(|| {
        source.fault(
            "state_dir",
            "is missing",
            "set it to a directory on a local disk, such as state_dir = \"/var/lib/spoolfs/monitor\"",
        )
    })?;
    absolute(source, "state_dir", &state_dir)?;
    let runtime_dir = raw.runtime_dir.clone().unwrap_or_else(|| default_runtime_dir(&state_dir));
    absolute(source, "runtime_dir", &runtime_dir)?;
    let cache = Cache {
        dir: raw.cache.dir.clone().unwrap_or_else(|| state_dir.join("cache")),
        max_size: raw.cache.max_size.map_or(10 << 30, |s| s.0),
    };
    absolute(source, "cache.dir", &cache.dir)?;
    for (key, dir) in
        [("state_dir", &state_dir), ("runtime_dir", &runtime_dir), ("cache.dir", &cache.dir)]
    {
        outside_the_mount(source, key, dir, &mountpoint)?;
    }
    let encryption =
        super::encryption::resolve(raw.encryption, source, &mountpoint, [&state_dir, &cache.dir])?;
    let node = raw.node.clone();
    if let Some(node) = &node {
        word(source, "node", node)?;
    }
    let archive = raw.archive.clone().unwrap_or_else(|| "default".to_owned());
    word(source, "archive", &archive)?;
    let passthrough = auto_or_never("passthrough", raw.passthrough.as_deref(), source)?;
    let resend = auto_or_never("resend", raw.resend.as_deref(), source)?;
    let drain = raw.drain_timeout.map_or(MINUTE, |s| s.0);
    let drain_timeout = within(source, "drain_timeout", drain, Duration::ZERO..=60 * MINUTE)?;
    let read = Read {
        timeout: read_timeout(raw.read.read_timeout, source)?,
        recordings_per_minute: raw
            .read
            .recordings_per_minute
            .map_or(limits::RECORDINGS_PER_MINUTE, |n| u32::try_from(n).unwrap_or(u32::MAX)),
        identity_file: raw.read.identity_file.clone(),
        identity_command: raw.read.identity_command.clone(),
    };
    if let Some(file) = &read.identity_file {
        absolute(source, "read.identity_file", file)?;
        outside_the_mount(source, "read.identity_file", file, &mountpoint)?;
    }
    if let Some(program) = read.identity_command.first() {
        absolute(source, "read.identity_command", Path::new(program))?;
        if read.identity_file.is_some() {
            let message = "is set, and so is read.identity_file";
            return Err(source.fault("read.identity_command", message, "leave one of the two out"));
        }
    }
    let holds = hold_times(&raw.holds, source)?;
    let space = space(&raw.space, source)?;
    let delete = super::delete::resolve(&raw.delete, source)?;
    let stitched = super::stitched::resolve(&raw.stitched, raw.calls.preset.as_deref(), source)?;
    let write_back = write_back(raw.write_back, source)?;
    let targets = targets(raw.target, source, &mountpoint, &state_dir)?;
    let calls = calls::resolve(raw.calls, source, &mut warnings)?;
    let of_mount = OfMount {
        write_back: &write_back,
        delete: &delete,
        targets: &targets,
        calls: calls.as_ref(),
    };
    let policies = super::policy::resolve(raw.policy, source, &of_mount, &mut warnings)?;
    let sealing = policies.iter().any(|p| p.treatment.seal_to.is_some());
    if write_back.hide_names && write_back.encrypt_to.is_none() && !sealing {
        let message = "hides the names of what is sealed, and nothing is";
        return Err(source.fault("write_back.hide_names", message, "set write_back.encrypt_to"));
    }
    let of_rule = policies.iter().find(|p| !p.treatment.targets.are_usual());
    if let (true, Some(rule)) = (stitched.archive, of_rule) {
        let message = format_args!(
            "stores joins in all targets, and policy {:?} keeps its recordings out of some",
            rule.name
        );
        return Err(source.fault("stitched.archive", message, "leave one of the two out"));
    }
    warnings.extend(doubtful(&targets, of_rule.is_some()));
    let metrics = metrics(&raw.metrics, source)?;
    let retention = retention(&raw.retention, &policies, source)?;
    if retention.audit_keep.duration().is_some() && targets.is_empty() {
        let why = "there is no target to be told of it first; configure a [[target]]";
        warnings.push(format!("retention.audit_keep lets no line leave the audit log: {why}"));
    }
    Ok(Config {
        file: source.file.clone(),
        overrides: overrides.clone(),
        mountpoint,
        state_dir,
        runtime_dir,
        node,
        archive,
        passthrough,
        resend,
        drain_timeout,
        targets,
        write_back,
        space,
        delete,
        cache,
        read,
        holds,
        stitched,
        calls,
        policies,
        metrics,
        retention,
        encryption,
        warnings,
    })
}

fn metrics(raw: &RawMetrics, source: &Source) -> Result<Option<SocketAddr>> {
    let Some(text) = &raw.listen else { return Ok(None) };
    text.parse().map(Some).map_err(|_| {
        let message = format_args!("{text:?} is no address and port");
        let cure = "write one such as \"127.0.0.1:9779\", or leave it out";
        source.fault("metrics.listen", message, cure)
    })
}

fn retention(raw: &RawRetention, policies: &[Policy], source: &Source) -> Result<Retention> {
    let per_day = raw.max_delete_per_day.unwrap_or(Percent(limits::DELETED_IN_A_DAY_PERCENT));
    let audit_keep = raw.audit_keep.unwrap_or(Age::Forever);
    if let Some(keep) = audit_keep.duration() {
        let key = "retention.audit_keep";
        let least = limits::AUDIT_KEEP_LEAST;
        if keep < least {
            let message = format_args!("\"{}\" is too short for evidence", duration_text(keep));
            let cure = format!("write at least \"{}\", or \"forever\"", duration_text(least));
            return Err(source.fault(key, message, cure));
        }
        let expiry = |p: &Policy| Some((p.treatment.expire?.after, p.name.clone()));
        let longest = policies.iter().filter_map(expiry).max();
        if let Some((after, name)) = longest.filter(|(after, _)| keep < *after) {
            let message = format_args!(
                "\"{}\" is shorter than expire_after of policy {name:?}: lines would leave before the \
                 recordings that they tell of",
                duration_text(keep)
            );
            let cure =
                format!("write at least \"{}\", better some years more", duration_text(after));
            return Err(source.fault(key, message, cure));
        }
    }
    Ok(Retention { max_delete_per_day: per_day, audit_keep })
}

fn hold_times(raw: &RawHolds, source: &Source) -> Result<HoldTimes> {
    let settle = raw.hold_settle.map_or(DAY, |s| s.0);
    let grace = raw.hold_lift_grace.map_or(7 * DAY, |s| s.0);
    Ok(HoldTimes {
        settle: within(source, "holds.hold_settle", settle, Duration::ZERO..=30 * DAY)?,
        lift_grace: within(source, "holds.hold_lift_grace", grace, Duration::ZERO..=365 * DAY)?,
        four_eyes: raw.four_eyes.unwrap_or(false),
    })
}

fn mountpoint(raw: &Raw, source: &Source, overrides: &Overrides) -> Result<PathBuf> {
    if let Some(given) = &overrides.mountpoint {
        // A command line speaks of the directory it was typed in.
        return std::path::absolute(given).map_err(|e| {
            ConfigError::new("--mountpoint", super::error::reason(&e), "give a directory")
        });
    }
    let path = raw.mountpoint.clone().ok_or_else(|| {
        source.fault(
            "mountpoint",
            "is missing",
            "set it to the recordings directory, such as mountpoint = \"/var/spool/asterisk/monitor\"",
        )
    })?;
    absolute(source, "mountpoint", &path)?;
    if real(&path) == Path::new("/") {
        let cure = "set it to the recordings directory";
        return Err(source.fault("mountpoint", "is the root of the file system", cure));
    }
    Ok(path)
}

pub(super) fn absolute(source: &Source, key: &str, path: &Path) -> Result<()> {
    if path.is_absolute() {
        return Ok(());
    }
    let message = format_args!("{path:?} is not an absolute path");
    Err(source.fault(key, message, "begin it with \"/\""))
}

pub(super) fn outside_the_mount(
    source: &Source,
    key: &str,
    dir: &Path,
    mountpoint: &Path,
) -> Result<()> {
    if !beneath(dir, mountpoint) {
        return Ok(());
    }
    let message = format_args!("{dir:?} lies inside the mountpoint {mountpoint:?}");
    Err(source.fault(key, message, "choose a directory outside of it"))
}

/// A name that can be part of an object key, a file name and a log line.
pub(super) fn word(source: &Source, key: &str, text: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if !text.is_empty() && text.len() <= 64 && text.bytes().all(plain) && !text.starts_with('.') {
        return Ok(());
    }
    let message = format_args!("{text:?} can not be used as a name");
    let cure = "use up to 64 letters, digits, \"-\", \"_\" and \".\", not beginning with \".\"";
    Err(source.fault(key, message, cure))
}

/// `/run/spoolfs/monitor` for `/var/lib/spoolfs/monitor`. Any other place gets a few digits of
/// its own, so that two of them that end in the same name do not share an operation log.
pub(super) fn default_runtime_dir(state_dir: &Path) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    let usual = state_dir.strip_prefix("/var/lib/spoolfs").ok();
    let name = match (usual.map(|rest| rest.components().count()), state_dir.file_name()) {
        (Some(1), Some(name)) => name.to_owned(),
        (_, name) => {
            let digest = Sha256::of(real(state_dir).as_os_str().as_bytes()).to_string();
            let mut unique = name.unwrap_or("state".as_ref()).to_owned();
            unique.push("-");
            unique.push(digest.get(..8).unwrap_or_default());
            unique
        }
    };
    Path::new("/run/spoolfs").join(name)
}

fn auto_or_never(key: &str, text: Option<&str>, source: &Source) -> Result<Choice> {
    match text {
        None | Some("auto") => Ok(Choice::Auto),
        Some("never") => Ok(Choice::Never),
        Some(other) => {
            let message = format_args!("{other:?} is neither \"auto\" nor \"never\"");
            Err(source.fault(key, message, "write one of them"))
        }
    }
}

pub(super) fn within(
    source: &Source,
    key: &str,
    value: Duration,
    range: RangeInclusive<Duration>,
) -> Result<Duration> {
    if range.contains(&value) {
        return Ok(value);
    }
    let (low, high) = (duration_text(*range.start()), duration_text(*range.end()));
    let message = format_args!("\"{}\" is out of bounds", duration_text(value));
    Err(source.fault(key, message, format!("choose from \"{low}\" to \"{high}\"")))
}

/// How recordings are stored smaller, as written under `key`.
pub(super) fn compress(
    text: Option<&str>,
    min_gain: Percent,
    key: &str,
    source: &Source,
) -> Result<Option<Compress>> {
    match text {
        None | Some("none") => Ok(None),
        Some("flac") => Ok(Some(Compress::Flac { min_gain })),
        Some(other) => {
            let message = format_args!("{other:?} is no way to store recordings");
            Err(source.fault(key, message, "write \"flac\" or \"none\""))
        }
    }
}

/// Whom recordings are sealed to, as written under `key`.
pub(super) fn seal_to(words: &[String], key: &str, source: &Source) -> Result<Option<SealTo>> {
    Recipients::parse(words).map_err(|error| {
        let cure = "write public keys, such as [\"age1...\", \"ssh-ed25519 ...\"]";
        source.fault(key, error, cure)
    })?;
    Ok(SealTo::new(words))
}

fn read_timeout(span: Option<Span>, source: &Source) -> Result<Duration> {
    let timeout = span.map_or(Duration::from_secs(15), |s| s.0);
    within(source, "read.read_timeout", timeout, Duration::from_millis(100)..=10 * MINUTE)
}

fn space(raw: &RawSpace, source: &Source) -> Result<Space> {
    let high_water = raw.high_water.unwrap_or(Percent(90));
    let usual = Percent(high_water.0.saturating_sub(5));
    let low_water = raw.low_water.unwrap_or(usual);
    if low_water > high_water {
        let message = format_args!("\"{low_water}\" is above high_water \"{high_water}\"");
        return Err(source.fault("space.low_water", message, "choose at most high_water"));
    }
    let reserve = raw.reserve.map_or(limits::RESERVE_BYTES, |s| s.0);
    Ok(Space { high_water, low_water, reserve })
}

fn write_back(raw: RawWriteBack, source: &Source) -> Result<WriteBack> {
    globs(&raw.include, "write_back.include", source)?;
    globs(&raw.exclude, "write_back.exclude", source)?;
    let uploads =
        raw.uploads.map_or(limits::UPLOADS_IN_FLIGHT, |n| usize::try_from(n).unwrap_or(usize::MAX));
    if !(1..=64).contains(&uploads) {
        let message = format_args!("{uploads} is out of bounds");
        return Err(source.fault("write_back.uploads", message, "choose from 1 to 64"));
    }
    let bandwidth = match raw.bandwidth.as_deref().map(str::parse) {
        None => Timetable::default(),
        Some(Ok(table)) => table,
        Some(Err(error)) => {
            let cure = "write bytes a second, such as \"2MiB\", or times of the day, such as \
                        \"08:00,512KiB 12:00,off 18:00,unlimited\", or of days of the week, such as \
                        \"mon-fri-08:00,512KiB mon-fri-18:00,unlimited\"";
            return Err(source.fault("write_back.bandwidth", error, cure));
        }
    };
    let settle = raw.settle.map_or(limits::SETTLE, |s| s.0);
    let sync_after = raw.sync_after.unwrap_or(Age::For(limits::SYNC_AFTER));
    if let Some(time) = sync_after.duration() {
        within(source, "write_back.sync_after", time, Duration::from_secs(1)..=MINUTE)?;
    }
    let snapshot_every = raw.snapshot_every.unwrap_or(Age::For(DAY));
    if let Some(time) = snapshot_every.duration() {
        within(source, "write_back.snapshot_every", time, Duration::from_secs(1)..=365 * DAY)?;
    }
    let snapshot_keep = raw.snapshot_keep.map_or(7, |n| usize::try_from(n).unwrap_or(usize::MAX));
    if !(1..=365).contains(&snapshot_keep) {
        let message = format_args!("{snapshot_keep} is out of bounds");
        return Err(source.fault("write_back.snapshot_keep", message, "choose from 1 to 365"));
    }
    let interval = raw.journal_interval.map_or(MINUTE, |s| s.0);
    let min_gain = raw.compress_min_gain.unwrap_or(Percent(10));
    let compress = compress(raw.compress.as_deref(), min_gain, "write_back.compress", source)?;
    let encrypt_to = seal_to(&raw.encrypt_to, "write_back.encrypt_to", source)?;
    Ok(WriteBack {
        archive_after: raw.archive_after.unwrap_or(Age::For(5 * MINUTE)),
        keep_local: raw.keep_local.unwrap_or(Age::For(DAY)),
        adopt_keep_local: raw.adopt_keep_local.unwrap_or(Age::For(7 * DAY)),
        include: raw.include,
        exclude: raw.exclude,
        uploads,
        bandwidth,
        sync_after,
        settle: within(source, "write_back.settle", settle, Duration::ZERO..=MINUTE)?,
        journal_interval: within(
            source,
            "write_back.journal_interval",
            interval,
            Duration::from_millis(100)..=HOUR,
        )?,
        scrub_every: raw.scrub_every.unwrap_or(Age::For(90 * DAY)),
        repair_headers: raw.repair_headers.unwrap_or(false),
        compress,
        compress_min_gain: min_gain,
        encrypt_to,
        hide_names: raw.hide_names.unwrap_or(false),
        snapshot_every,
        snapshot_keep,
    })
}

fn globs(globs: &[String], key: &str, source: &Source) -> Result<()> {
    for text in globs {
        if let Err(e) = globset::Glob::new(text) {
            let message = format_args!("{text:?} is not a pattern: {}", e.kind());
            return Err(source.fault(key, message, "write for example \"2024/**/*.wav\""));
        }
    }
    Ok(())
}

fn targets(
    raw: Vec<super::raw::RawTarget>,
    source: &Source,
    mountpoint: &Path,
    state_dir: &Path,
) -> Result<Vec<Target>> {
    let mut targets: Vec<Target> = Vec::new();
    for (index, raw) in raw.into_iter().enumerate() {
        let target = target::resolve(raw, index, source)?;
        if targets.iter().any(|t| t.name == target.name) {
            let message = format_args!("{:?} is the name of another target", target.name);
            let key = format!("target.{index}.name");
            return Err(source.fault(&key, message, "give each target its own"));
        }
        if let Some(file) = &target.sse_c_key_file {
            outside_the_mount(source, &format!("target.{index}.sse_c_key_file"), file, mountpoint)?;
        }
        if let Some(dir) = target.directory() {
            let key = format!("target.{index}.url");
            outside_the_mount(source, &key, &dir, mountpoint)?;
            if beneath(&dir, state_dir) {
                let message = format_args!("{dir:?} lies inside the state_dir {state_dir:?}");
                return Err(source.fault(&key, message, "choose a directory outside of it"));
            }
            if beneath(mountpoint, &dir) {
                let message = format_args!("{dir:?} contains the mountpoint {mountpoint:?}");
                return Err(source.fault(&key, message, "choose a directory beside it"));
            }
        }
        targets.push(target);
    }
    Ok(targets)
}

/// Targets that are legal but probably not meant.
fn doubtful(targets: &[Target], rules_name_some: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    for (i, target) in targets.iter().enumerate() {
        let same = |t: &&Target| t.url == target.url && t.endpoint == target.endpoint;
        if let Some(other) = targets.iter().take(i).find(same) {
            warnings.push(format!(
                "targets {:?} and {:?} are the same place: that is one copy, not two",
                other.name, target.name
            ));
        }
    }
    if !targets.is_empty() && !targets.iter().any(|t| t.required) && !rules_name_some {
        warnings.push("no target is required, so no local copy is ever released".to_owned());
    }
    warnings
}

/// A warning if the file holds a secret that others may read.
pub(super) fn readable_secret(file: &Path, config: &Config) -> Option<String> {
    use std::os::unix::fs::PermissionsExt;
    let of_target = config.targets.iter().any(|t| t.secret_access_key.is_some());
    let of_calls = config.calls.as_ref().is_some_and(|c| c.password_given);
    if !of_target && !of_calls {
        return None;
    }
    let mode = std::fs::metadata(file).ok()?.permissions().mode();
    // A secret from the environment is not in the file, but then 0600 does no harm either.
    (mode & 0o044 != 0).then(|| {
        format!(
            "{} may hold a secret and can be read by other users: chmod 600 {}",
            file.display(),
            file.display()
        )
    })
}
