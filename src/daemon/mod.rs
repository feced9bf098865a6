//! The composition root: puts the rooms together, runs until told to stop, takes them apart.

pub(crate) mod alarm;
mod archive;
mod commands;
mod ground;
pub(crate) mod notify;
pub mod setup;
mod space;

pub use ground::GroundError;
pub use setup::target as target_options;

use crate::catalog::{self, Catalog};
use crate::clock::{SharedClock, SystemClock, Timestamp};
use crate::config::Config;
use crate::content::{self, Content};
use crate::control;
use crate::engine::{self, Engine};
use crate::fuse::Server;
use crate::limits;
use crate::lower::Lower;
use crate::store::{self, Store};
use crate::vfs::{Vfs, Workers};
use archive::EngineArchive;
use commands::Commands;
use notify::notify;
use parking_lot::RwLock;
use std::error::Error;
use std::fs::{DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

/// How long files may stay open after the mount was taken out of the tree at a stop; after that
/// their writers get an error.
const STOP_GRACE: Duration = Duration::from_secs(10);

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
}

impl Daemon {
    /// The address of an object for people.
    pub fn url(&self, target: &str, key: &str) -> String {
        let store = self.stores.iter().find(|s| s.name() == target);
        store.map_or_else(|| key.to_owned(), |s| s.url(key))
    }
}

/// Mounts, serves and unmounts. Returns after SIGTERM or SIGINT, or when somebody else unmounted.
///
/// # Errors
/// One sentence with the cure; nothing is mounted then.
pub fn run(config: Config) -> Result<()> {
    crate::sys::clear_umask();
    raise_file_limit();
    ground::inspect(&config.mountpoint, &outside(&config))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("spoolfs-net")
        .enable_all()
        .build()?;
    let daemon = assemble(config, &runtime)?;
    let mountpoint = daemon.config.read().mountpoint.clone();
    let server = Server::mount(daemon.vfs.clone(), &mountpoint)?;
    let mounted = server.mounted();
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
            let _the_error_matters_more = mounted.unmount();
            daemon.engine.stop();
            daemon.catalog.close();
            return Err(error.into());
        }
    };
    let space = space::watch(daemon.clone())?;
    notify("READY=1\nSTATUS=mounted");
    tracing::info!(mountpoint = %mountpoint.display(), "mounted");
    if let Some(alarm) = alarm::Alarm::clear(&daemon.config.read().runtime_dir) {
        tracing::warn!(
            seconds = alarm.since.age_at(daemon.clock.now()).as_secs(),
            reason = alarm.reason,
            "calls were recorded into the plain directory; what is there is adopted now"
        );
    }

    let unmounted_by_others = wait(&runtime, &end, || {
        notify("RELOADING=1");
        if let Err(failure) = commands::reload(&daemon) {
            tracing::error!(%failure, "the new configuration is not in force");
        }
        notify("READY=1");
    })?;
    notify("STOPPING=1");
    if !unmounted_by_others {
        let at_once = mounted.unmount()?;
        if !at_once {
            tracing::warn!(
                seconds = STOP_GRACE.as_secs(),
                "files are open; they can be finished within the grace time"
            );
        }
        if end.recv_timeout(STOP_GRACE).is_err() {
            tracing::error!(
                "files were still open: their writers get an error from now on, \
                what they wrote is on disk"
            );
        }
    }
    drop(space);
    control.stop();
    daemon.engine.stop();
    daemon.catalog.close();
    runtime.shutdown_timeout(Duration::from_secs(1));
    tracing::info!("stopped");
    Ok(())
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

fn assemble(config: Config, runtime: &Runtime) -> Result<Arc<Daemon>> {
    let clock: SharedClock = Arc::new(SystemClock);
    let rules = setup::rules(&config)?;
    let stores = config
        .targets
        .iter()
        .map(|target| store::open(&setup::target(target)))
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
    let lower = Lower::open(&config.mountpoint)?;
    let content = Content::new(
        content::Options {
            cache_dir: Some(config.cache.dir.clone()),
            cache_bytes_max: config.cache.max_size,
            read_timeout: config.read.timeout,
            ..content::Options::default()
        },
        catalog.clone(),
        stores.clone(),
        runtime.handle().clone(),
        clock.clone(),
    );
    let engine = Arc::new(Engine::start(
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
            bandwidth: config.write_back.bandwidth,
        },
        engine::Parts {
            catalog: catalog.clone(),
            lower: lower.clone(),
            content: content.clone(),
            stores: stores.clone(),
            runtime: runtime.handle().clone(),
            clock: clock.clone(),
        },
    )?);
    let archive = EngineArchive {
        content: content.clone(),
        engine: engine.clone(),
        stores: stores.clone(),
        read_timeout: config.read.timeout,
    };
    let workers = Workers::start(limits::WORKER_THREADS, limits::WORKER_QUEUE_MAX)?;
    let vfs = Arc::new(Vfs::new(
        lower.clone(),
        catalog.clone(),
        Arc::new(archive),
        clock.clone(),
        workers,
    ));
    let started = clock.now();
    let config = RwLock::new(config);
    Ok(Arc::new(Daemon { config, started, catalog, lower, engine, vfs, stores, content, clock }))
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

/// Waits for a signal to stop, or for the end of the mount. Tells whether it was the latter.
fn wait(
    runtime: &Runtime,
    end: &mpsc::Receiver<std::io::Result<()>>,
    reload: impl Fn(),
) -> Result<bool> {
    let _in_runtime = runtime.enter();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    loop {
        let again = runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => Some(false),
                _ = interrupt.recv() => Some(false),
                _ = hangup.recv() => { reload(); None }
                // The session's thread can not wake a task; once a second is often enough.
                () = tokio::time::sleep(Duration::from_secs(1)) => match end.try_recv() {
                    Err(mpsc::TryRecvError::Empty) => None,
                    _ => Some(true),
                },
            }
        });
        if let Some(unmounted) = again {
            if unmounted {
                tracing::warn!("unmounted by somebody else; stopping");
            }
            return Ok(unmounted);
        }
    }
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
