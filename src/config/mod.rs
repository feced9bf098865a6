//! The configuration: read once from a file and the environment, checked, and made into types.
//!
//! **Invariant:** a [`Config`] that exists is usable: every path absolute, nothing of ours inside
//! the mount, every target named once. Nobody below this module knows it exists: the composition
//! root hands each module its own options.

mod calls;
mod check;
mod delete;
mod encryption;
mod environment;
mod error;
mod essentials;
mod keys;
mod paths;
mod policy;
mod raw;
mod source;
mod stitched;
mod target;

pub use calls::Calls;
pub use delete::Delete;
pub use encryption::Encryption;
pub use environment::Environment;
pub use error::ConfigError;
pub use essentials::Essentials;
pub use keys::{KEYS, Key, Kind};
pub use paths::{beneath, resolve};
pub use stitched::Stitched;
pub use target::{Scheme, Target};

use crate::codec::seal::Recipients;
use crate::policy::{Compress, Policy, SealTo, Timetable};
use crate::units::{Age, Percent};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the configuration is when nothing is said.
pub const DEFAULT_FILE: &str = "/etc/spoolfs/spoolfs.toml";

/// What the command line says against the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--mountpoint`.
    pub mountpoint: Option<PathBuf>,
}

/// Whether reads and writes of local files may bypass the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Where the kernel can.
    Auto,
    /// Never.
    Never,
}

/// `[write_back]`: from the local disk to the targets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteBack {
    /// Age after the last close at which a recording is archived.
    pub archive_after: Age,
    /// How long the local copy stays after it was archived.
    pub keep_local: Age,
    /// The same for files that were there before the first mount.
    pub adopt_keep_local: Age,
    /// Globs of paths below the mount to archive; empty: all.
    pub include: Vec<String>,
    /// Globs of paths below the mount never to archive.
    pub exclude: Vec<String>,
    /// Uploads in flight over all targets.
    pub uploads: usize,
    /// Bytes a second for all uploads together, by time of day.
    pub bandwidth: Timetable,
    /// Quiet time after the last close before a recording is hashed.
    pub settle: Duration,
    /// How soon after its close a recording is on the disk.
    pub sync_after: Age,
    /// How much of the catalog may be known to no target yet.
    pub journal_interval: Duration,
    /// Every archived object is read once in this time.
    pub scrub_every: Age,
    /// The archived copy of a cut call is given the sizes that its header lacks.
    pub repair_headers: bool,
    /// How recordings are stored smaller; none: they are not.
    pub compress: Option<Compress>,
    /// What would become smaller by less is stored as it is.
    pub compress_min_gain: Percent,
    /// Recordings are sealed to these; none: they are not.
    pub encrypt_to: Option<SealTo>,
    /// What is sealed has a name in the targets that tells nothing.
    pub hide_names: bool,
    /// Each target gets a snapshot of the catalog once in this time.
    pub snapshot_every: Age,
    /// How many snapshots a target keeps.
    pub snapshot_keep: usize,
}

/// `[space]`: room on the disk of the recordings directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Above it local copies are released early...
    pub high_water: Percent,
    /// ...until no more than this is used.
    pub low_water: Percent,
    /// Bytes left free for calls in progress by everything else.
    pub reserve: u64,
}

/// `[cache]`: bytes of released recordings that were read lately.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    /// Where it is.
    pub dir: PathBuf,
    /// Its bound, in bytes.
    pub max_size: u64,
}

/// `[read]`: reading released recordings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// How long a read waits for a target before it ends in an error.
    pub timeout: Duration,
    /// Released recordings that one process may begin to read in a minute; 0: any number.
    pub recordings_per_minute: u32,
    /// The secret keys that open sealed recordings.
    pub identity_file: Option<PathBuf>,
    /// A program with its arguments that prints them; empty: none.
    pub identity_command: Vec<String>,
}

/// `[holds]`: legal holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldTimes {
    /// How long after its last close a held recording may still be opened for writing.
    pub settle: Duration,
    /// How long after its last hold was lifted a recording is not expired.
    pub lift_grace: Duration,
    /// Two users must lift a hold.
    pub four_eyes: bool,
}

/// `[retention]`: how much may be deleted, and when lines leave the audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Of all files; more in a day stop until somebody confirms.
    pub max_delete_per_day: Percent,
    /// How long lines of the audit log stay.
    pub audit_keep: Age,
}

/// The configuration of one mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The file it was read from.
    pub file: PathBuf,
    /// What the command line said against it.
    pub overrides: Overrides,
    /// The recordings directory, mounted over itself.
    pub mountpoint: PathBuf,
    /// Catalog, control socket and, unless moved, the cache.
    pub state_dir: PathBuf,
    /// The operation log: lost at power-off, kept over a restart of the daemon.
    pub runtime_dir: PathBuf,
    /// The name of this machine in object keys and journals; none: one is made up when the
    /// catalog is, and kept.
    pub node: Option<String>,
    /// The name of the archive in its identity marker.
    pub archive: String,
    /// Whether the kernel may bypass the daemon.
    pub passthrough: Choice,
    /// Whether the kernel is relied upon to send requests again.
    pub resend: Choice,
    /// How long files that are open at a stop may still be written.
    pub drain_timeout: Duration,
    /// Where recordings are archived to; none: local only.
    pub targets: Vec<Target>,
    /// From the local disk to the targets.
    pub write_back: WriteBack,
    /// Room on the disk.
    pub space: Space,
    /// What `rm` does.
    pub delete: Delete,
    /// Bytes read lately.
    pub cache: Cache,
    /// Reading released recordings.
    pub read: Read,
    /// Legal holds.
    pub holds: HoldTimes,
    /// Joined calls.
    pub stitched: Stitched,
    /// Call records, if there is a source of them.
    pub calls: Option<Calls>,
    /// Where metrics are served; none: they are not.
    pub metrics: Option<SocketAddr>,
    /// How much may be deleted.
    pub retention: Retention,
    /// Rules for some of the recordings, in order: the first that fits wins.
    pub policies: Vec<Policy>,
    /// Encryption of the local disk.
    pub encryption: Encryption,
    /// What is legal but probably not meant, each a sentence.
    pub warnings: Vec<String>,
}

impl Config {
    /// Reads the file, then the environment, then the command line; the later wins.
    ///
    /// # Errors
    /// The first thing wrong, in one sentence with its place and its cure.
    pub fn load(
        file: &Path,
        environment: &Environment,
        overrides: &Overrides,
    ) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(file).map_err(|e| {
            ConfigError::new(
                file.display(),
                format!("cannot be read: {}", error::reason(&e)),
                "give the right file with --config",
            )
        })?;
        let mut config = Config::parse(file, &text, environment, overrides)?;
        config.warnings.extend(check::readable_secret(file, &config));
        Ok(config)
    }

    /// As [`Config::load`], with the text of the file given.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(
        file: &Path,
        text: &str,
        environment: &Environment,
        overrides: &Overrides,
    ) -> Result<Config, ConfigError> {
        let mut source = source::Source::read(file, text)?;
        let warnings = environment.apply(&mut source)?;
        let raw = source.raw()?;
        check::resolve(raw, &source, overrides, warnings)
    }

    /// Reads the same file again with the same command line, for `reload`.
    ///
    /// # Errors
    /// As [`Config::load`]; this configuration stays in force.
    pub fn reread(&self, environment: &Environment) -> Result<Config, ConfigError> {
        Config::load(&self.file, environment, &self.overrides)
    }

    /// Where the control socket is.
    pub fn socket(&self) -> PathBuf {
        self.state_dir.join("control.sock")
    }

    /// Whether some target must hold some recordings.
    pub fn has_needed_target(&self) -> bool {
        let of_rule = |p: &Policy| !p.treatment.targets.must(&[]).is_empty();
        self.targets.iter().any(|t| t.required) || self.policies.iter().any(of_rule)
    }

    /// Everything that recordings are sealed to, each once, with the place that says so.
    pub fn sealed_to(&self) -> Vec<(String, Recipients)> {
        let mount = ("[write_back]".to_owned(), &self.write_back.encrypt_to);
        let rules = self.policies.iter();
        let rules = rules.map(|p| (format!("policy {:?}", p.name), &p.treatment.seal_to));
        let mut all: Vec<(String, &SealTo)> = Vec::new();
        for (place, to) in std::iter::once(mount).chain(rules) {
            if let Some(to) = to.as_ref().filter(|to| all.iter().all(|(_, other)| other != to)) {
                all.push((place, to));
            }
        }
        // They were seen to be keys when this was read.
        let keys = |to: &SealTo| Recipients::parse(&to.keys()).ok().flatten();
        all.into_iter().filter_map(|(place, to)| Some((place, keys(to)?))).collect()
    }

    /// The keys whose change takes effect only at the next start.
    pub fn changes_needing_restart(&self, new: &Config) -> Vec<String> {
        let fixed = [
            ("mountpoint", self.mountpoint != new.mountpoint),
            ("state_dir", self.state_dir != new.state_dir),
            ("runtime_dir", self.runtime_dir != new.runtime_dir),
            ("node", self.node != new.node),
            ("archive", self.archive != new.archive),
            ("passthrough", self.passthrough != new.passthrough),
            ("target", self.targets != new.targets),
            ("space.reserve", self.space.reserve != new.space.reserve),
            ("cache", self.cache != new.cache),
            ("encryption", self.encryption != new.encryption),
            ("read", self.read != new.read),
            ("stitched", self.stitched != new.stitched),
            ("calls", self.calls != new.calls),
            ("metrics", self.metrics != new.metrics),
            ("write_back.uploads", self.write_back.uploads != new.write_back.uploads),
            (
                "write_back.journal_interval",
                self.write_back.journal_interval != new.write_back.journal_interval,
            ),
            ("write_back.scrub_every", self.write_back.scrub_every != new.write_back.scrub_every),
            (
                "write_back.snapshot_every",
                self.write_back.snapshot_every != new.write_back.snapshot_every,
            ),
            (
                "write_back.snapshot_keep",
                self.write_back.snapshot_keep != new.write_back.snapshot_keep,
            ),
            (
                "write_back.repair_headers",
                self.write_back.repair_headers != new.write_back.repair_headers,
            ),
        ];
        fixed.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key.to_owned()).collect()
    }
}
