//! The composition root: puts the rooms together, runs until told to stop, takes them apart.

pub(crate) mod alarm;
mod archive;
pub(crate) mod calls;
mod catch;
mod commands;
mod customer_keys;
mod drain;
pub(crate) mod elsewhere;
pub mod encryption;
mod ground;
mod handover;
mod holds;
mod identity;
mod joins;
mod known_calls;
mod lifting;
mod link;
mod locks;
mod lookup;
mod metrics;
mod named;
pub(crate) mod notify;
mod record;
mod refused;
mod rewrite;
mod rules;
mod secret;
pub(crate) mod settled;
pub mod setup;
mod signals;
mod space;
mod trash;
mod url;
mod watchdog;

pub use customer_keys::{customer_keys, target_options};
pub use ground::GroundError;
pub use identity::identities;
pub use named::find_left;

use crate::audit::{self, Audit};
use crate::calls::Calls;
use crate::catalog::{self, Catalog};
use crate::clock::{SharedClock, SystemClock, Timestamp};
use crate::config::{Choice, Config};
use crate::content::{self, Content};
use crate::control;
use crate::engine::{self, Engine};
use crate::fuse::{self, Connection, Server};
use crate::limits;
use crate::lower::Lower;
use crate::stitch::Stitched;
use crate::store::{self, Store};
use crate::vfs::{self, Vfs, Workers};
use archive::EngineArchive;
use commands::Commands;
use handover::Kept;
use link::Link;
use notify::notify;
use parking_lot::{Mutex, RwLock};
use signals::{Ending, Signals};
use std::error::Error;
use std::fs::{DirBuilder, Permissions};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::runtime::{Handle, Runtime};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// The parts of a running mount that commands talk to.
pub struct Daemon {
    /// What is in force.
    pub config: RwLock<Config>,
    /// When it was started.
    pub started: Timestamp,
    /// The catalog.
    pub catalog: Arc<Catalog>,
    /// The lower directory.
    pub lower: Arc<Lower>,
    /// The engine.
    pub engine: Arc<Engine>,
    /// The file system.
    pub vfs: Arc<Vfs>,
    /// The targets.
    pub stores: Vec<Arc<dyn Store>>,
    /// Bytes of released recordings.
    pub content: Content,
    /// Source of time.
    pub clock: SharedClock,
    /// Who did what.
    pub audit: Arc<Audit>,
    /// Where what is asked of targets runs.
    pub runtime: Handle,
    /// Joined calls, if they are shown.
    pub stitched: Option<Arc<Stitched>>,
    /// What was agreed on with the kernel, once it is.
    pub link: OnceLock<Link>,
    /// Call records, if they are configured.
    pub calls: Option<Arc<Calls>>,
    /// How far holds by call records have come.
    catching: Mutex<catch::Following>,
}

impl Daemon {
    /// The address of an object for people.
    pub fn url(&self, target: &str, key: &str) -> String {
        let store = self.stores.iter().find(|s| s.name() == target);
        store.map_or_else(|| key.to_owned(), |s| s.url(key))
    }
}

/// Mounts, serves and unmounts; or goes on with the mount of a daemon that died or was replaced.
/// Returns after SIGTERM or SIGINT, or when somebody else unmounted. After SIGUSR1 it returns too,
/// but leaves the mount to a successor.
///
/// # Errors
/// One sentence with the cure; nothing is mounted then.
pub fn run(config: Config) -> Result<()> {
    crate::sys::clear_umask();
    crate::sys::give_up_reserve();
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("spoolfs-net")
        .on_thread_start(|| crate::sys::stand_back(0))
        .enable_all()
        .build()?;
    let signals = Signals::new(&runtime)?;
    let mountpoint = config.mountpoint.clone();
    let kept = handover::kept(&mountpoint, &config.runtime_dir)?;
    if kept.is_none() {
        // No call waits for this start, and a large catalog may take its time.
        notify(&format!("EXTEND_TIMEOUT_USEC={}", limits::FRESH_START_WAIT.as_micros()));
    }
    let (daemon, server) = assemble(config, &runtime, kept)?;
    note_elsewhere(&daemon.config.read());
    let (mounted, watch) = (server.mounted(), server.watch());
    // What is taken over is kept already, and calls wait for it to be served.
    let kept = server.connection().taken_over > 0 || keep(&daemon, &server);
    let link = Link {
        connection: server.connection().clone(),
        kept,
        watch: watch.clone(),
        warnings: link::warnings(&mountpoint),
    };
    link.warnings.iter().for_each(|warning| tracing::error!("{warning}"));
    let _only_here = daemon.link.set(link);
    let (ended, end) = mpsc::channel();
    let serve = move || {
        let result = server.run();
        let _nobody_waits_any_more = ended.send(result);
    };
    std::thread::Builder::new().name("spoolfs-serve".to_owned()).spawn(serve)?;
    let socket = daemon.config.read().socket();
    let commands = Arc::new(Commands::new(daemon.clone()));
    let mut control = match control::Server::start(&socket, commands) {
        Ok(control) => control,
        Err(error) => {
            // A mount that is kept is left to the next try, or to whoever takes it away.
            if !kept {
                let _the_error_matters_more = mounted.unmount();
            }
            daemon.engine.stop();
            daemon.catalog.close();
            return Err(error.into());
        }
    };
    let space = space::watch(daemon.clone())?;
    let catching = catch::watch(daemon.clone())?;
    let refused = refused::watch(&daemon)?;
    let looking = daemon.stitched.clone().map(joins::look_ahead).transpose()?;
    watchdog::start(watch)?;
    if let Err(error) = settled::ready(&daemon.config.read().runtime_dir, daemon.clock.now()) {
        tracing::warn!(%error, "should it end by itself, that counts as a failure to start");
    }
    // Fed at once: a daemon that hangs right now must be missed, too.
    notify("READY=1\nWATCHDOG=1\nSTATUS=mounted");
    record::started(&daemon);
    metrics::serve(&daemon);
    tracing::info!(mountpoint = %mountpoint.display(), "mounted");
    end_alarm(&daemon);

    let ending = signals.wait(&runtime, &end, || {
        notify("RELOADING=1");
        if let Err(failure) = commands::reload(&daemon, None) {
            tracing::error!(%failure, "the new configuration is not in force");
        }
        notify("READY=1");
    });
    notify("STOPPING=1");
    match ending {
        Ending::HandOver if kept => {
            // As if killed, at once: the engine must stand that anyway, and stopping it would
            // answer those who wait for the archive with an error; unanswered, they ask again.
            tracing::info!("leaving the mount to a successor");
            refused.end();
            daemon.audit.stop();
            std::process::exit(0);
        }
        Ending::Unmounted => {
            tracing::warn!("unmounted by somebody else; stopping");
            // The connection may have been aborted with the mount still in its place.
            fuse::detach(&mountpoint)?;
        }
        Ending::HandOver | Ending::Stop => {
            if ending == Ending::HandOver {
                tracing::warn!("nobody keeps the connection for a successor: stopping instead");
            }
            // Of a mount before this one, and too late to be seen when this one was ready.
            end_alarm(&daemon);
            drain::unmount(&mounted, &end, daemon.config.read().drain_timeout)?;
        }
    }
    handover::forget();
    drop(space);
    drop(catching);
    refused.end();
    drop(looking);
    control.stop();
    daemon.calls.iter().for_each(|calls| calls.stop());
    daemon.engine.stop();
    daemon.audit.record(audit::Event::Stopped);
    daemon.audit.stop();
    daemon.catalog.close();
    // No successor does it. Calls do not wait for this: they have the plain directory.
    if let Err(error) = daemon.lower.sync_all() {
        tracing::error!(%error, "what was recorded last may not be on the disk; check the disk");
    }
    runtime.shutdown_timeout(Duration::from_secs(1));
    tracing::info!("stopped");
    Ok(())
}

/// The note of an emergency is over if the mount serves.
fn end_alarm(daemon: &Daemon) {
    let config = daemon.config.read().clone();
    let in_place = || fuse::own_mounts_at(&config.mountpoint).is_ok_and(|mounts| mounts > 0);
    if let Some(alarm) = alarm::Alarm::end(&config.runtime_dir, in_place) {
        tracing::warn!(
            seconds = alarm.since.age_at(daemon.clock.now()).as_secs(),
            reason = alarm.reason,
            "calls were recorded into the plain directory; what is there is adopted now"
        );
    }
}

/// Has the connection kept. Without it the daemon works, but its death ends calls in progress.
fn keep(daemon: &Daemon, server: &Server) -> bool {
    let runtime = daemon.config.read().runtime_dir.clone();
    handover::keep(server, &daemon.lower, &runtime).unwrap_or_else(|error| {
        tracing::error!(
            %error,
            "the connection can not be kept beyond this daemon: its death would end calls"
        );
        false
    })
}

/// Directories that must not be inside the mount: they would wait for themselves.
fn outside(config: &Config) -> Vec<(&'static str, PathBuf)> {
    let mut outside = vec![
        ("the state directory", config.state_dir.clone()),
        ("the runtime directory", config.runtime_dir.clone()),
        ("the cache directory", config.cache.dir.clone()),
    ];
    let targets = config.targets.iter().filter_map(|t| t.directory());
    outside.extend(targets.map(|path| ("a target's directory", path)));
    outside
}

/// Whether the configured directory can be worked on, with nothing mounted over it; the kernel is
/// given the key of what is encrypted.
///
/// # Errors
/// The first thing that is not as it must be.
pub fn check_ground(config: &Config) -> Result<()> {
    ground::inspect(&config.mountpoint, &outside(config))?;
    Ok(encryption::open(config, None)?)
}

/// What is known of the mount before there is a file system.
enum Start {
    Fresh,
    Takeover(OwnedFd, Connection),
}

/// The lower directory, and how to begin. A connection that belongs to another catalog is not
/// gone on with: its node numbers mean something else here.
fn begin(config: &Config, kept: Option<Kept>, catalog: &Catalog) -> Result<(Start, Arc<Lower>)> {
    let mountpoint = &config.mountpoint;
    if let Some(Kept { device, lower, connection }) = kept {
        let ours = handover::catalog_name(&catalog.identity());
        if connection.catalog == ours {
            let lower = Lower::resume(lower, mountpoint)?;
            return Ok((Start::Takeover(device, connection), lower));
        }
        tracing::error!(
            mount = connection.catalog,
            catalog = ours,
            "the catalog is not the one that the mount belongs to: it is mounted anew; files that \
             were open get errors, what was written is on disk"
        );
        drop(device);
        handover::begin_anew(mountpoint)?;
    }
    ground::inspect(mountpoint, &outside(config))?;
    Ok((Start::Fresh, Lower::open(mountpoint)?))
}

/// Before commands are answered, which are to speak of this mount.
fn note_elsewhere(config: &Config) {
    let given = config.overrides.mountpoint.as_ref().map(|_| &*config.mountpoint);
    if let Err(error) = elsewhere::note(&config.runtime_dir, given) {
        tracing::warn!(%error, "commands go by the configured mountpoint, not by --mountpoint");
    }
}

fn assemble(
    config: Config,
    runtime: &Runtime,
    kept: Option<Kept>,
) -> Result<(Arc<Daemon>, Server)> {
    if kept.is_none() {
        ground::inspect(&config.mountpoint, &outside(&config))?;
    }
    encryption::open(&config, kept.as_ref().map(|kept| kept.lower.as_fd()))?;
    let clock: SharedClock = Arc::new(SystemClock);
    let rules = setup::rules(&config)?;
    let stores = config
        .targets
        .iter()
        .map(|target| store::open(&customer_keys::target_options_at_once(target)))
        .collect::<store::Result<Vec<_>>>()?;
    for dir in [&config.state_dir, &config.runtime_dir] {
        private_directory(dir)?;
    }
    let catalog = Catalog::open(catalog::Options {
        state_dir: config.state_dir.clone(),
        runtime_dir: config.runtime_dir.clone(),
        clock: clock.clone(),
        node: config.node.clone().unwrap_or_else(made_up_node),
    })?;
    catalog.holds().set_times(config.holds.settle, config.holds.lift_grace);
    if kept.is_some() {
        catalog.usable_within(limits::HANDOVER_CATALOG_WAIT);
    }
    let (start, lower) = begin(&config, kept, &catalog)?;
    let identities = identity::identities_or_none(&config);
    let stored = joins::stored(&config);
    let content = Content::new(
        content::Options {
            cache_dir: Some(config.cache.dir.clone()),
            cache_bytes_max: config.cache.max_size,
            cache_free_min: config.space.reserve,
            read_timeout: config.read.timeout,
            recordings_per_minute: config.read.recordings_per_minute,
            identities: identities.clone(),
        },
        joins::objects(&catalog, stored.as_ref().ok().and_then(Option::as_ref)),
        stores.clone(),
        runtime.handle().clone(),
        clock.clone(),
    );
    let audit = Audit::start(audit::Options {
        state_dir: config.state_dir.clone(),
        node: catalog.identity().node,
        clock: clock.clone(),
    })?;
    let calls = calls::start(&config, &catalog, &clock);
    let engine =
        Arc::new(Engine::start(
            engine::Options {
                rules,
                required: config
                    .targets
                    .iter()
                    .filter(|t| t.required)
                    .map(|t| t.name.clone())
                    .collect(),
                archive_name: config.archive.clone(),
                journal_interval: config.write_back.journal_interval,
                uploads: config.write_back.uploads,
                scrub_every: config.write_back.scrub_every.duration(),
                repair_headers: config.write_back.repair_headers,
                identities,
                snapshots: config.write_back.snapshot_every.duration().map(|every| {
                    engine::Snapshots { every, keep: config.write_back.snapshot_keep }
                }),
                reserve: config.space.reserve,
            },
            engine::Parts {
                catalog: catalog.clone(),
                lower: lower.clone(),
                content: content.clone(),
                stores: stores.clone(),
                runtime: runtime.handle().clone(),
                clock: clock.clone(),
                audit: audit.clone(),
                calls: rules::source(calls.as_ref()),
                joins: stored.clone(),
            },
        )?);
    let archive = EngineArchive {
        content: content.clone(),
        engine: engine.clone(),
        stores: stores.clone(),
        read_timeout: config.read.timeout,
    };
    let workers =
        Workers::start(limits::WORKER_THREADS, limits::ARCHIVE_THREADS, limits::WORKER_QUEUE_MAX)?;
    let parts = vfs::Parts {
        lower: lower.clone(),
        catalog: catalog.clone(),
        archive: Arc::new(archive),
        clock: clock.clone(),
        workers,
        runtime: Some(config.runtime_dir.clone()),
    };
    let mountpoint = &config.mountpoint;
    let places =
        joins::Places { lower: lower.clone(), catalog: catalog.clone(), content: content.clone() };
    let resume = matches!(start, Start::Takeover(..));
    let known = known_calls::source(calls.as_ref(), &catalog);
    let stitched = joins::directory(&config, places, known, resume);
    if let (Some(stitched), Ok(Some(stored))) = (&stitched, stored) {
        stitched.keep(stored);
    }
    engine.keep_joins(engine::JoinOptions {
        maker: stitched.clone().filter(|_| config.stitched.archive),
        keep_expired: config.stitched.keep_expired,
        scrub_every: config.write_back.scrub_every.duration(),
    })?;
    let deletion = setup::deletion(&config)?;
    let show = |vfs: &Vfs| {
        stitched.iter().for_each(|s| joins::show(vfs, s));
        vfs.set_deletion(deletion.clone());
    };
    let (vfs, server) = match start {
        Start::Fresh => {
            let vfs = Arc::new(Vfs::new(parts)?);
            show(&vfs);
            let options = fuse::Options {
                passthrough: config.passthrough == Choice::Auto,
                resend: config.resend == Choice::Auto,
                catalog: handover::catalog_name(&catalog.identity()),
                mark: catalog.mark(),
                runtime: config.runtime_dir.clone(),
            };
            (vfs.clone(), Server::mount(vfs, mountpoint, &options)?)
        }
        Start::Takeover(device, connection) => {
            let (vfs, resumption) = Vfs::resumed(parts, connection.mark)?;
            let vfs = Arc::new(vfs);
            show(&vfs);
            tracing::info!(open = resumption.len(), "going on with the mount of the daemon before");
            let server = Server::take_over(
                &vfs,
                mountpoint,
                device,
                connection,
                resumption,
                &config.runtime_dir,
            )?;
            (vfs, server)
        }
    };
    let started = clock.now();
    let config = RwLock::new(config);
    let link = OnceLock::new();
    let runtime = runtime.handle().clone();
    let daemon = Daemon {
        config,
        started,
        catalog,
        lower,
        engine,
        vfs,
        stores,
        content,
        clock,
        audit,
        runtime,
        stitched,
        link,
        calls,
        catching: Mutex::default(),
    };
    Ok((Arc::new(daemon), server))
}

/// Catalog, log and cache hold what recordings are about: root's alone.
fn private_directory(path: &Path) -> Result<()> {
    let explain = |e: std::io::Error| format!("{} can not be made private: {e}", path.display());
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(explain)?;
    Ok(std::fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(explain)?)
}

/// A name for this machine in the archive: the host's, and six random digits, because two trees of
/// one machine, or two machines called `pbx`, may share a bucket.
fn made_up_node() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' };
    let host: String = host.chars().map(plain).take(40).collect();
    format!("{host}-{:06x}", fastrand::u32(..1 << 24))
}

/// Each recording in progress takes a descriptor.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(errno) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%errno, "the limit of open files could not be raised");
    }
}
